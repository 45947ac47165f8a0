"""Maps of words: what they are in numbers, and that looking changes nothing."""

import matplotlib.pyplot as plt
import torch

from stamina_lite import ContinualLearner, concepts, plots
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


def test_the_figure_shows_the_image_and_every_word(tiny):
    image, maps = word_maps(Inference(tiny), "a red photo", steps=1)
    figure = plots.word_figure(image, maps)
    assert [axis.get_title() for axis in figure.axes] == ["image", "a", "red", "photo"]
    assert [len(axis.images) for axis in figure.axes] == [1, 2, 2, 2]
    assert torch.equal(torch.as_tensor(figure.axes[2].images[1].get_array()), maps[1][1])
    plt.close(figure)


def test_denoising_ends_in_the_generated_image(tiny):
    model = Inference(tiny)
    found = model.denoising("a red photo", seed=5, steps=4)
    timesteps = [timestep for timestep, _ in found]
    assert len(found) == 4 and timesteps == sorted(timesteps, reverse=True)
    images = model.decode(torch.stack([latents for _, latents in found]))
    expected = model.generate(["a red photo"], [5], steps=4)[0]
    assert torch.allclose(images[-1].clamp(-1, 1), expected, atol=1e-4)
    assert (images[0] - images[-1]).abs().max() > 0.05
    assert type(model.pipe.scheduler).__name__ == "DDIMScheduler"
    latents = model.encode(expected[None])
    assert model.encode(model.decode(latents)).shape == latents.shape
