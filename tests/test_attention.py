"""Maps of words: what they are in numbers, and that looking changes nothing."""

import torch

from stamina_lite import ContinualLearner, concepts
from stamina_lite.diffusion.attention import word_maps, words_of
from stamina_lite.diffusion.sampling import Inference


def test_every_word_has_a_map_and_the_image_is_the_one_without_looking(tiny):
    model = Inference(tiny)
    before = model.unet.attn_processors
    image, maps = word_maps(model, "a photo of a red person", seed=3, steps=4)
    assert [word for word, _ in maps] == ["a", "photo", "of", "a", "red", "person"]
    assert all(m.shape == (16, 16) and 0 < m.min() and m.max() < 1 for _, m in maps)
    assert sum(m for _, m in maps).max() < 1  # start, end and padding have the rest
    assert (maps[1][1] - maps[4][1]).abs().max() > 1e-4
    plain = model.generate(["a photo of a red person"], [3], steps=4)[0]
    assert torch.allclose(image, plain, atol=1e-4) and image.shape == (3, 32, 32)
    assert {type(p) for p in model.unet.attn_processors.values()} == {type(p) for p in before.values()}
    assert not any("get_attention_scores" in vars(module) for module in model.unet.modules())


def test_a_map_is_the_softmax_of_queries_and_keys(tiny):
    """By hand, for a single step: the inputs of every cross-attention are caught on the way."""
    model, caught = Inference(tiny), []
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, kwargs: caught.append((m, args[0], kwargs["encoder_hidden_states"])), with_kwargs=True
        )
        for name, module in model.unet.named_modules()
        if name.endswith("attn2")
    ]
    _, maps = word_maps(model, "a red photo", steps=1, guidance=1.0)
    for handle in handles:
        handle.remove()
    total = torch.zeros(40, 16, 16)
    with torch.no_grad():
        for attention, x, text in caught:
            q, k = (attention.head_to_batch_dim(p) for p in (attention.to_q(x), attention.to_k(text)))
            scores = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1).mean(0)  # (positions, tokens)
            side = round(len(scores) ** 0.5)
            total += torch.nn.functional.interpolate(scores.T.reshape(1, 40, side, side), (16, 16), mode="bilinear")[0]
    assert len(caught) == 4
    for (_, found), position in zip(maps, (1, 2, 3), strict=True):
        assert torch.allclose(found, total[position] / 4, atol=1e-5) and found.std() > 0


def test_the_tokens_of_a_word_are_one_word_and_a_concept_is_one(tiny, photos):
    learner = ContinualLearner(tiny, "ti", steps=1, batch=1)
    learner.learn(concepts(photos)[0], progress=False)
    tokenizer = learner.pipe.tokenizer
    ids = learner.model.tokenize(["a photograph of <amber> red"])[0].tolist()
    words = words_of(tokenizer, ids)
    assert [word for word, _ in words] == ["a", "photograph", "of", "<amber>", "red"]
    assert sum((places for _, places in words), []) == list(range(1, ids.index(tokenizer.eos_token_id)))
    assert len(dict(words)["photograph"]) > 1 and len(dict(words)["<amber>"]) == 1
    _, maps = word_maps(learner.model, "a photo of <amber>", steps=1)
    assert maps[-1][0] == "<amber>"
