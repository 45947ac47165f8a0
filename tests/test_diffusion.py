import pytest
import torch
from torch import nn

from stamina_lite import concepts, load_base
from stamina_lite.classification.datasets import task_images
from stamina_lite.classification.model import Classifier
from stamina_lite.core.adaptation import Adaptation
from stamina_lite.core.layers import AdaptedWeight
from stamina_lite.core.masks import Mask
from stamina_lite.core.seeds import seeded
from stamina_lite.core.settings import Settings
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.errors import UserError
from stamina_lite.methods.registry import METHODS, make_class_method, make_method

FEW = {"steps": 3, "batch": 2, "rank": 2, "mask_rank": 2, "n_prior": 4}


def snapshot(pipe):
    """Every parameter of the three models, by name."""
    models = {"unet": pipe.unet, "vae": pipe.vae, "text": pipe.text_encoder}
    return {f"{m}.{n}": p.detach().clone() for m, model in models.items() for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", METHODS)
def test_only_what_a_method_trains_and_the_new_row_change(tiny, photos, name):
    before, rows = snapshot(tiny), len(tiny.tokenizer)
    method = make_method(name, **FEW)
    model = TextToImage(tiny, method.full_finetuning)
    concept = concepts(photos)[0]
    learned = model.learn(concept, method, seed=0, task=1)
    after = snapshot(tiny)
    table = next(k for k in after if "token_embedding" in k)
    changed = {k for k in before if k != table and not torch.equal(before[k], after[k])}
    assert torch.equal(after[table][:rows], before[table]) and len(after[table]) == rows + 1
    assert torch.equal(after[table][rows], learned.rows[concept.token]) and after[table][rows].abs().sum() > 0
    if name == "dreambooth":
        assert changed == {k for k in before if k.startswith("unet.")}
    elif name in ("ti", "ti++"):
        assert changed == set()
    else:
        assert changed == {f"unet.{layer.name}.weight" for layer in model.layers} and len(changed) == 8
    assert set(after) == set(before), "an adapter was left in the model"


def test_masks_learn_from_the_pictures_alone_and_their_noise_cools(tiny_folder, photos, monkeypatch):
    """Without a penalty the logits move, though the U-Net is in eval mode; half the steps draw, half are as folded."""
    seen, cache = [], Mask.cache

    def look(mask):
        if mask is model.layers[0].adapter.mask:
            strength = mask.noise.abs().mean().item()
            cache(mask)
            assert mask.noise is None  # it is used up, and its memory free
            seen.append((torch.cat(mask.logits()).detach().clone(), strength, mask().detach().bool()))
        else:
            cache(mask)

    monkeypatch.setattr(Mask, "cache", look)
    for cool, noisy in ((0.5, [True] * 3 + [False] * 3), (0.0, [True] * 6)):
        model = TextToImage(load_base(tiny_folder, device="cpu"))
        method = make_method(
            "stamina", lr=0.05, **{**FEW, "steps": 6}, lambda_sparse=0.0, lambda_forget=0.0, noise_anneal=cool
        )
        learned = model.learn(concepts(photos)[0], method, 0, 1)
        first, last = seen[0][0], seen[-1][0]
        assert (last - first).abs().mean() > 0.01  # the first step moves no logit: A is zero, and so is the gradient
        open_at_last = torch.gt(*last.chunk(2))
        same = learned.masks[model.layers[0].name] == open_at_last
        assert 0.9 < same.float().mean() and 0.1 < open_at_last.float().mean() < 0.9  # one step lies between
        as_folded = [torch.equal(drawn, torch.gt(*logits.chunk(2))) for logits, _, drawn in seen]
        assert as_folded == [not n for n in noisy]
        strengths = [strength for _, strength, _ in seen]
        expected = [1, 2 / 3, 1 / 3, 0, 0, 0] if cool == 0.5 else [1] * 6
        assert strengths == pytest.approx([1.386 * e for e in expected], abs=0.1)  # E|logistic| = 2 ln 2
        seen.clear()


@pytest.mark.parametrize("name", ["stamina", "stamina-random-mask", "c-lora"])
def test_an_update_is_computed_once_a_step(tiny, photos, name, monkeypatch):
    """For the model and all penalties; with gradients as if each computed its own, and again at every step."""
    method, model, concept = make_method(name, **{**FEW, "lambda_sparse": 0.3}), TextToImage(tiny), concepts(photos)[0]
    model.learn(concept, method, 0, 1)
    adaptation = Adaptation(model.layers, method, seeded(3))
    layer = model.layers[0]
    with torch.no_grad():
        for p in layer.adapter.parameters():
            p.normal_(std=0.1, generator=seeded(4))
    x, words = torch.randn(2, 4, layer.start.shape[1], generator=seeded(6)), list(layer.adapter.parameters())

    def gradients():
        loss = layer.module(x).square().sum() + method.penalty(layer)
        return torch.autograd.grad(loss, [p for p in words if p.requires_grad], allow_unused=True)

    adaptation.sample_noise(0.0, seeded(5))
    apart, calls, delta = gradients(), [], type(layer.adapter).delta
    monkeypatch.setattr(type(layer.adapter), "delta", lambda self: calls.append(self) or delta(self))
    for _ in range(2):
        adaptation.sample_noise(0.0, seeded(5))
        with adaptation.cached():
            together = gradients()
    assert calls.count(layer.adapter) == 2
    assert len(apart) >= 1 and all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(apart, together, strict=True)
    )
    assert any(g.abs().max() > 1e-2 for g in apart)
    with pytest.raises(KeyError), adaptation.cached():
        raise KeyError
    assert layer.adapter.cached is None and getattr(layer.adapter, "mask", layer.adapter).cached is None


def test_gradients_are_the_same_every_time_on_several_threads(tiny, photos):
    """Those of a caption that many pictures share too: added up in any order, a run would end otherwise each time."""
    model, told, found = TextToImage(tiny), torch.zeros(64, dtype=torch.long), []
    model.embedding.weight.requires_grad_()
    x, captions = model.encode(concepts(photos)[0].load(model.size))[:1].expand(64, -1, -1, -1), ["a photo of a person"]
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for _ in range(12):
            loss = model.errors(x, model.tokenize(captions), told, seeded(3)).sum()
            found.append(torch.autograd.grad(loss, model.embedding.weight)[0])
    finally:
        torch.set_num_threads(threads)
    assert found[0].any() and all(torch.equal(gradient, found[0]) for gradient in found)


@pytest.mark.parametrize("name", ["stamina", "ti++", "dreambooth"])
def test_gradient_checkpointing_learns_the_same(tiny_folder, photos, name):
    """With less kept for the backward pass, and the masks of the step in what is computed again."""
    ends, kept, method = [], [], make_method(name, **FEW)
    for checkpointing in (False, True):
        model, sizes = TextToImage(load_base(tiny_folder, device="cpu"), method.full_finetuning), {}
        if checkpointing:
            model.unet.enable_gradient_checkpointing()

        def keep(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            learned = [model.learn(c, method, 0, t) for t, c in enumerate(concepts(photos)[:2], 1)]
        ends.append([*(layer.current for layer in model.layers), *learned[1].rows.values()])
        kept.append(sum(sizes.values()))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*ends, strict=True))
    assert kept[1] < 0.7 * kept[0]


def test_prior_pictures_pull_on_the_weights_and_are_the_bases(tiny_folder, photos):
    """The same pictures whatever was learned before, and another weight of their loss gives other weights."""

    ends, priors = [], []
    for weight in (1.0, 0.0, 1.0):
        model = TextToImage(load_base(tiny_folder, device="cpu"))
        if len(ends) == 2:  # drawn after a task, they must be the base's all the same
            model.learn(concepts(photos)[1], make_method("lora", lr=0.5, **FEW), seed=0, task=1)
            untouched = [layer.current for layer in model.layers]
            model.base_images(Settings(n_prior=4, prior_prompts="a photo of person; a photo of waterfall"))
            assert all(torch.equal(a, layer.module.weight) for a, layer in zip(untouched, model.layers, strict=True))
        prompts = "a photo of person; a photo of waterfall"
        method = make_method("custom-diffusion", lambda_prior=weight, prior_prompts=prompts, **FEW)
        model.learn(concepts(photos)[0], method, seed=0, task=1)
        ends.append(model.layers[0].current)
        priors.append(model.prior)
    assert priors[1] is None and not torch.equal(ends[0], ends[1])
    assert torch.equal(priors[0].latents, priors[2].latents) and priors[0].latents.shape == (4, 4, 16, 16)
    assert priors[0].captions == prompts.split("; ") and priors[0].caption_ids.flatten().tolist() == [0, 1, 0, 1]


def test_pictures_a_method_draws_for_itself_have_its_guidance(tiny, photos):
    model, drawn = TextToImage(tiny), {}
    model.add_token(concepts(photos)[0].token, torch.zeros(32))
    model.add_token(concepts(photos)[1].token, torch.zeros(32))
    for name in ("custom-diffusion", "replay"):
        for guidance in (1.0, 1.0, 6.0):
            model.prior = None
            made = make_method(name, **{**FEW, "n_prior": 2}, guidance=guidance).prior_images(model, seeded(1))
            drawn.setdefault(name, []).append(made.latents)
    for first, again, guided in drawn.values():
        assert torch.equal(first, again) and not torch.allclose(first, guided, atol=1e-3)


def test_replay_draws_past_concepts_with_the_model_as_it_is(tiny, photos):
    method, model = make_method("replay", **{**FEW, "n_prior": 6}), TextToImage(tiny)
    first, second, third = concepts(photos)
    model.learn(first, method, 0, 1)
    model.add_token(second.token, torch.zeros(32))
    seen = method.prior_images(model, seeded(1))
    assert [seen.captions[k] for k in seen.caption_ids[:, 0]] == [f"a photo of {first.token}"] * 6
    model.learn(second, method, 0, 2)
    model.add_token(third.token, torch.zeros(32))
    later = method.prior_images(model, seeded(1))
    expected = [f"a photo of {c.token}" for c in (first, second)] * 3
    assert [later.captions[k] for k in later.caption_ids[:, 0]] == expected
    assert not torch.equal(seen.latents[0], later.latents[0])  # the model has moved between


def test_learning_all_at_once_moves_every_token_and_goes_on_from_round_to_round(tiny, photos):
    method, model, found = make_method("offline", lr_token=1e-3, **FEW), TextToImage(tiny), concepts(photos)
    rounds = [model.learn(found, method, 0, task).rows for task in (1, 2)]
    assert [*rounds[0]] == [c.token for c in found]
    for token in rounds[0]:
        step, size = (rounds[1][token] - rounds[0][token]).norm(), rounds[0][token].norm()
        assert 0 < step < 0.5 * size  # a round goes on from where the last one stopped
        assert torch.equal(model.embedding.weight[model.token_ids[token]], rounds[1][token])


def test_a_model_alone_starts_from_the_base_and_a_merge_remembers_every_concept(tiny, photos):
    start = [layer.start.clone() for layer in TextToImage(tiny).layers]
    model, found = TextToImage(tiny), concepts(photos)
    for task, concept in enumerate(found[:2], 1):
        alone = model.learn(concept, make_method("lora-alone", **FEW), 0, task)
    assert alone.step_change == pytest.approx(alone.weight_change) and alone.touched is None
    merging = make_method("custom-diffusion-merge", lr=0.05, **FEW)
    for task, concept in enumerate(found, 1):
        model.learn(concept, merging, 0, task)
    for layer, first in zip(model.layers, start, strict=True):
        keys, values = layer.memory["keys"], layer.memory["values"]
        assert keys.shape == (6, 32) and values.shape == (6, len(first))
        own, base = ((weight @ keys.T - values.T).norm() for weight in (layer.current, first))
        assert own < 0.2 * base and torch.equal(layer.start, first)


def test_the_fisher_information_grows_from_task_to_task(tiny, photos):
    method, model = make_method("custom-diffusion-ewc", **FEW), TextToImage(tiny)
    sums = []
    for task, concept in enumerate(concepts(photos)[:2], 1):
        model.learn(concept, method, 0, task)
        assert all((layer.memory["fisher"] >= 0).all() for layer in model.layers)
        assert not any(p.requires_grad for p in tiny.unet.parameters())
        sums.append(sum(layer.memory["fisher"].sum().item() for layer in model.layers))
    assert 0 < sums[0] < sums[1]


def test_the_embedded_layout_has_two_matrices_a_cross_attention(tiny):
    names = [layer.name for layer in TextToImage(tiny).layers]
    assert len(names) == 8 and all(n.endswith(("attn2.to_k", "attn2.to_v")) for n in names)


def test_learning_lowers_the_loss_on_the_concept(tiny, photos):
    model, method = TextToImage(tiny), make_method("lora", steps=80, batch=4, rank=4, lr=1e-2)
    steps = model.learn(concepts(photos)[0], method, seed=0, task=1).steps
    first, last = (sum(s["diffusion"] for s in part) / 15 for part in (steps[:15], steps[-15:]))
    assert last < 0.97 * first


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny_folder, photos):

    results = []
    for seed in (0, 0, 1):
        model = TextToImage(load_base(tiny_folder, device="cpu"))
        model.learn(concepts(photos)[0], make_method("stamina", **FEW), seed=seed, task=1)
        results.append(model.layers[0].current)
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_looking_does_not_change_training(tiny_folder, photos):

    ends = []
    for look in (False, True):
        model = TextToImage(load_base(tiny_folder, device="cpu"))

        def on_step(step, numbers, model=model, look=look):
            if look and step == 1:
                torch.randn(3)
                model.generate(["a photo of person"], [0], steps=1)

        model.learn(concepts(photos)[0], make_method("stamina", **FEW), 0, 1, on_step)
        ends.append(model.layers[0].current)
    assert torch.equal(*ends)


def test_both_halves_call_back_after_every_step_from_0(tiny, photos, vit, patches):
    """With the number that the log has, and its losses."""
    calls: dict[str, list] = {"diffusion": [], "cross_entropy": []}
    learned = TextToImage(tiny).learn(
        concepts(photos)[0], make_method("stamina", **FEW), 0, 1, lambda *call: calls["diffusion"].append(call)
    )
    classifier = Classifier(vit, 6, make_class_method("stamina", epochs=2, batch=8, rank=2, mask_rank=2), 3, 0)
    images = task_images(patches.train, [0, 1])
    classes = classifier.learn(images, 1, lambda *call: calls["cross_entropy"].append(call))
    for name, outcome in (("diffusion", learned), ("cross_entropy", classes)):
        steps = [{"step": step, **numbers} for step, numbers in calls[name]]
        assert steps == outcome.steps and [row["step"] for row in steps] == list(range(len(steps)))
        assert len(steps) >= 3 and all(row["loss"] > row[name] for row in steps)  # L_sparse is added


def test_an_interrupted_task_leaves_the_model_as_it_was(tiny, photos):
    model, before = TextToImage(tiny), snapshot(tiny)

    def stop(step, numbers):
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.learn(concepts(photos)[0], make_method("stamina", **FEW), 0, 1, stop)
    after = snapshot(tiny)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert "<amber>" not in tiny.tokenizer.get_vocab() and not model.token_ids
    again = model.learn(concepts(photos)[0], make_method("stamina", **FEW), 0, 1)
    assert again.step_change > 0


def test_an_interruption_while_prior_pictures_are_drawn_costs_no_weights(tiny, photos, monkeypatch):
    """They are drawn with the base's weights; what was learned must be back when drawing is broken off."""
    first, second = concepts(photos)[:2]
    model = TextToImage(tiny)
    model.learn(first, make_method("lora", lr=0.5, **FEW), 0, 1)
    learned = [layer.current.clone() for layer in model.layers]

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(tiny), "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        model.learn(second, make_method("custom-diffusion", **FEW), 0, 2)
    for layer, weight in zip(model.layers, learned, strict=True):
        assert torch.equal(layer.module.weight, weight) and not torch.equal(weight, layer.start)


def test_a_picture_depends_on_its_own_seed_not_on_the_batch(tiny):
    model = TextToImage(tiny)
    prompts = ["a photo of person", "a photo of waterfall", "a photo of person"]
    together = model.generate(prompts, [5, 6, 7], steps=2)
    apart = torch.cat([model.generate([p], [s], steps=2) for p, s in zip(prompts, [5, 6, 7], strict=True)])
    assert torch.allclose(together, apart, atol=1e-4)
    assert not torch.allclose(together[0], together[2], atol=1e-2)
    assert together.shape == (3, 3, 32, 32)


def test_both_prediction_types_train_towards_their_target(tmp_path, photos):
    from conftest import build_tiny_pipeline

    from stamina_lite.diffusion.training_noise import target

    pipe = load_base(build_tiny_pipeline(tmp_path, "v_prediction"), device="cpu")
    x, noise, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    velocity = target(pipe.scheduler, x, noise, t)
    alpha = pipe.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    assert torch.allclose(velocity, alpha.sqrt() * noise - (1 - alpha).sqrt() * x, atol=1e-5)
    pipe.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(UserError, match="predicts sample: expected epsilon or v_prediction"):
        TextToImage(pipe).learn(concepts(photos)[0], make_method("lora", **FEW), 0, 1)


def test_parameter_counts_at_the_shape_of_stable_diffusion_1():
    """Oracle 9, on the meta device: 32 matrices, 19,169,280 weights, 792,576 at rank 16, in % of 859,520,964."""
    from diffusers import UNet2DConditionModel

    from stamina_lite.diffusion.model import CROSS_ATTENTION

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    kv = [m for n, m in unet.named_modules() if n.endswith(CROSS_ATTENTION) and isinstance(m, nn.Linear)]
    assert len(kv) == 32 and sum(m.weight.numel() for m in kv) == 19_169_280
    layers = [AdaptedWeight("", nn.Linear(m.in_features, m.out_features, bias=False)) for m in kv]
    adapters = [make_method("lora", rank=16).adapter(layer, seeded(0)) for layer in layers]
    assert sum(p.numel() for a in adapters for p in a.parameters()) == 792_576
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
