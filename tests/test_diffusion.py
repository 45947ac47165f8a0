import pytest
import torch
from torch import nn

from stamina_lite import concepts
from stamina_lite.adapters import Layer
from stamina_lite.data import UserError
from stamina_lite.diffusion import TextToImage, seeded
from stamina_lite.methods import METHODS, make_method

FEW = {"steps": 3, "batch": 2, "rank": 2, "mask_rank": 2}


def snapshot(pipe):
    """Every parameter of the three models, by name."""
    models = {"unet": pipe.unet, "vae": pipe.vae, "text": pipe.text_encoder}
    return {f"{m}.{n}": p.detach().clone() for m, model in models.items() for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", METHODS)
def test_only_k_v_and_the_new_row_change(tiny, photos, name):
    before, rows = snapshot(tiny), len(tiny.tokenizer)
    model = TextToImage(tiny)
    learned = model.learn(concepts(photos)[0], make_method(name, **FEW), seed=0, task=1)
    after = snapshot(tiny)
    table = next(k for k in after if "token_embedding" in k)
    changed = {k for k in before if k != table and not torch.equal(before[k], after[k])}
    assert torch.equal(after[table][:rows], before[table]) and len(after[table]) == rows + 1
    assert torch.equal(after[table][rows], learned.row) and learned.row.abs().sum() > 0
    expected = {f"unet.{layer.name}.weight" for layer in model.layers} if not name.startswith("ti") else set()
    assert changed == expected
    assert set(after) == set(before), "an adapter was left in the model"


def test_the_embedded_layout_has_two_matrices_a_cross_attention(tiny):
    names = [layer.name for layer in TextToImage(tiny).layers]
    assert len(names) == 8 and all(n.endswith(("attn2.to_k", "attn2.to_v")) for n in names)


def test_learning_lowers_the_loss_on_the_concept(tiny, photos):
    model, method = TextToImage(tiny), make_method("lora", steps=80, batch=4, rank=4, lr=1e-2)
    steps = model.learn(concepts(photos)[0], method, seed=0, task=1).steps
    first, last = (sum(s["diffusion"] for s in part) / 15 for part in (steps[:15], steps[-15:]))
    assert last < 0.97 * first


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny_folder, photos):
    from stamina_lite import load_base

    results = []
    for seed in (0, 0, 1):
        model = TextToImage(load_base(tiny_folder, device="cpu"))
        model.learn(concepts(photos)[0], make_method("stamina", **FEW), seed=seed, task=1)
        results.append(model.layers[0].current)
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_looking_does_not_change_training(tiny_folder, photos):
    from stamina_lite import load_base

    ends = []
    for look in (False, True):
        model = TextToImage(load_base(tiny_folder, device="cpu"))

        def on_step(step, numbers, model=model, look=look):
            if look and step == 1:
                torch.randn(3)
                model.draw(["a photo of person"], [0], steps=1)

        model.learn(concepts(photos)[0], make_method("stamina", **FEW), 0, 1, on_step)
        ends.append(model.layers[0].current)
    assert torch.equal(*ends)


def test_an_interrupted_task_leaves_the_model_as_it_was(tiny, photos):
    model, before = TextToImage(tiny), snapshot(tiny)

    def stop(step, numbers):
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.learn(concepts(photos)[0], make_method("stamina", **FEW), 0, 1, stop)
    after = snapshot(tiny)
    assert all(torch.equal(before[k], after[k]) for k in before if "token_embedding" not in k)
    again = model.learn(concepts(photos)[0], make_method("stamina", **FEW), 0, 1)
    assert again.step_change > 0


def test_a_picture_depends_on_its_own_seed_not_on_the_batch(tiny):
    model = TextToImage(tiny)
    prompts = ["a photo of person", "a photo of waterfall", "a photo of person"]
    together = model.draw(prompts, [5, 6, 7], steps=2)
    apart = torch.cat([model.draw([p], [s], steps=2) for p, s in zip(prompts, [5, 6, 7], strict=True)])
    assert torch.allclose(together, apart, atol=1e-4)
    assert not torch.allclose(together[0], together[2], atol=1e-2)
    assert together.shape == (3, 3, 32, 32)


def test_both_prediction_types_train_towards_their_target(tmp_path, photos):
    from conftest import build_tiny_pipeline

    from stamina_lite import load_base
    from stamina_lite.diffusion import target

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

    from stamina_lite.diffusion import CROSS_ATTENTION

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    kv = [m for n, m in unet.named_modules() if n.endswith(CROSS_ATTENTION) and isinstance(m, nn.Linear)]
    assert len(kv) == 32 and sum(m.weight.numel() for m in kv) == 19_169_280
    layers = [Layer("", nn.Linear(m.in_features, m.out_features, bias=False)) for m in kv]
    adapters = [make_method("lora", rank=16).adapter(layer.current, seeded(0)) for layer in layers]
    assert sum(p.numel() for a in adapters for p in a.parameters()) == 792_576
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
