"""Features: unit rows that depend on the picture alone, and that tell concepts apart."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from base_models import make_tokenizer
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

import stamina_lite.measures.features as module
from stamina_lite.diffusion.concepts import concepts as concepts_of
from stamina_lite.diffusion.evaluation import Evaluation, reference_features
from stamina_lite.errors import UserError
from stamina_lite.measures.accuracy import concept_accuracy
from stamina_lite.measures.alignment import image_alignment, text_alignment
from stamina_lite.measures.features import Clip, features, prepare
from stamina_lite.measures.mmd import mmd2

CONCEPTS = Path(module.__file__).parents[1] / "assets" / "concepts" / "mini50"


@pytest.fixture(scope="module")
def lite0():
    return features("lite0")


@pytest.fixture(scope="module")
def concepts():
    """Pictures of two people and two waterfalls: four of (8, 3, 128, 128) in [-1, 1]."""
    folders = [CONCEPTS / name for name in ("falls-01", "falls-02", "person-01", "person-09")]
    return [torch.stack([read(file) for file in sorted(folder.glob("*.webp"))[:8]]) for folder in folders]


def read(file):
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


def test_lite0_gives_unit_rows(lite0, concepts):
    rows = lite0(concepts[0])
    assert (lite0.name, lite0.dim) == ("lite0", 1280)
    assert rows.shape == (8, 1280) and rows.dtype == torch.float32 and not rows.requires_grad
    assert torch.allclose(rows.norm(dim=1), torch.ones(8), atol=1e-5)
    assert (rows[0] - rows[1]).norm() > 0.1


def test_lite0_depends_on_the_picture_and_not_on_its_batch(lite0, concepts, monkeypatch):
    pictures = torch.cat(concepts)[::6]
    rows = lite0(pictures)
    assert torch.equal(rows, lite0(pictures))
    monkeypatch.setattr(module, "BATCH", 4)
    assert (rows - lite0(pictures)).abs().max() < 1e-5
    assert (rows - lite0(pictures.flip(0)).flip(0)).abs().max() < 1e-5


def test_lite0_holds_imagenet_weights_in_the_right_places(lite0):
    """Recorded from the source package's own network in fp32; data_scripts/lite0.py compares on many pictures."""
    ramp = torch.linspace(-1, 1, 112)
    picture = torch.stack([ramp.expand(112, 112), ramp.expand(112, 112).T, torch.zeros(112, 112)])[None]
    with torch.no_grad():
        row = torch.nn.functional.normalize(lite0.network(picture))[0]
    assert row[[897, 113, 755, 425, 245]].tolist() == pytest.approx([0.2918, 0.2738, 0.2737, 0.2488, 0.2014], abs=5e-3)
    assert row.argmax() == 897


def test_concepts_are_told_apart(lite0, concepts):
    rows = [lite0(pictures) for pictures in concepts]
    seen, held_out = [r[:4] for r in rows], [r[4:] for r in rows]
    assert concept_accuracy(held_out, seen)[0] > 0.8  # chance 0.25
    same = max(mmd2(a, b) for a, b in zip(seen, held_out, strict=True))
    other = min(mmd2(rows[i], rows[j]) for i in range(4) for j in range(i))
    assert other > 1 > same


def test_greyscale_features_do_not_see_colour(concepts):
    grey = features("lite0", greyscale=True)
    pictures = concepts[0][:3]
    luma = (pictures * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True).expand_as(pictures)
    assert grey.name == "lite0-grey"
    assert (grey(pictures) - grey(luma)).abs().max() < 1e-4
    assert (features("lite0")(pictures) - grey(pictures)).norm(dim=1).min() > 0.05


def test_prepare_keeps_range_and_brings_to_size():
    checks = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2) * 2.0 - 1
    out = prepare(checks.expand(2, 3, 8, 8), 20, greyscale=False)
    assert out.shape == (2, 3, 20, 20)
    assert out.min() == -1 and out.max() == 1


@pytest.fixture
def clip_folder(tmp_path):
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_clip_from_a_folder_is_transformers_own(clip_folder):
    pictures = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = features(str(clip_folder))(pictures)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (module.OPENAI_CLIP_MEAN, module.OPENAI_CLIP_STD))
    with torch.no_grad():
        model = CLIPVisionModelWithProjection.from_pretrained(clip_folder).eval()
        expected = model(((pictures + 1) / 2 - mean) / std).image_embeds
    assert rows.shape == (5, 16)
    assert torch.allclose(rows, torch.nn.functional.normalize(expected), atol=1e-5)
    assert (rows[0] - rows[1]).norm() > 1e-3
    assert (rows - features(str(clip_folder), greyscale=True)(pictures)).norm() > 1e-3


@pytest.mark.parametrize("kind", [(ViTConfig, ViTModel), (Dinov2Config, Dinov2Model)], ids=["DINO", "DINOv2"])
def test_dino_from_a_folder_is_transformers_class_token(tmp_path, kind):
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    network = kind[1](kind[0](**shape, image_size=56, patch_size=28)).eval()
    network.save_pretrained(tmp_path / "dino")
    pictures = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = features(str(tmp_path / "dino"))(pictures)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (module.IMAGENET_DEFAULT_MEAN, module.IMAGENET_DEFAULT_STD))
    options = {"interpolate_pos_encoding": True} if kind[1] is ViTModel else {}
    with torch.no_grad():
        expected = network(((pictures + 1) / 2 - mean) / std, **options).last_hidden_state[:, 0]
    assert rows.shape == (3, 24) and torch.allclose(rows, torch.nn.functional.normalize(expected), atol=1e-5)
    assert (rows[0] - rows[1]).norm() > 1e-3
    assert (rows - features(str(tmp_path / "dino"), greyscale=True)(pictures)).norm() > 1e-3


def test_texts_and_images_are_in_one_space_of_clip(tmp_path):
    """As transformers' own CLIPModel puts them there."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(["a photo of a red person"], tmp_path / "clip")
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "eos_token_id": tokenizer.eos_token_id, "projection_dim": 16}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8, "projection_dim": 16}  # fmt: skip
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    whole.save_pretrained(tmp_path / "clip")
    clip = features(str(tmp_path / "clip"))
    prompts, pictures = ["a photo", "a red person"], torch.rand(2, 3, 32, 32) * 2 - 1
    ids = tokenizer(prompts, padding=True, return_tensors="pt")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (module.OPENAI_CLIP_MEAN, module.OPENAI_CLIP_STD))
    with torch.no_grad():
        expected = whole(**ids, pixel_values=((pictures + 1) / 2 - mean) / std)
    assert torch.allclose(clip.text(prompts), expected.text_embeds, atol=1e-5)
    assert torch.allclose(clip(pictures), expected.image_embeds, atol=1e-5)
    cosines = expected.text_embeds @ expected.image_embeds.T
    assert text_alignment(clip(pictures), clip.text(prompts)) == pytest.approx(
        cosines.diagonal().mean().item(), abs=1e-5
    )
    assert image_alignment(clip(pictures), clip.text(prompts)) == pytest.approx(cosines.mean().item(), abs=1e-5)
    assert cosines.diagonal().mean() != pytest.approx(cosines.mean().item(), abs=1e-4)


def test_a_model_of_another_kind_gives_no_features(tmp_path):
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="no CLIP or DINO weights"):
        features(str(tmp_path / "bert"))


def test_cached_features_are_those_of_the_weights_in_use(clip_folder, tmp_path, monkeypatch):
    """The folder's name stays, its weights change: the features on disk are the old model's and must not be taken."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    concept = concepts_of("tune5")[0]
    first = reference_features(concept, Clip(str(clip_folder)), 32)
    assert torch.equal(reference_features(concept, Clip(str(clip_folder)), 32), first)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1
    network = CLIPVisionModelWithProjection.from_pretrained(clip_folder)
    torch.nn.init.normal_(network.visual_projection.weight, generator=torch.Generator().manual_seed(1))
    network.save_pretrained(clip_folder)
    revised = Clip(str(clip_folder))
    assert torch.equal(reference_features(concept, revised, 32), revised(concept.load_references(32)))
    assert (reference_features(concept, revised, 32) - first).norm() > 0.1


def test_features_that_could_not_be_saved_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    concept, extractor = concepts_of("tune5")[0], features("lite0")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("os.replace", full_disk)
        reference_features(concept, extractor, 32)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(reference_features(concept, extractor, 32)) == len(concept.references)


def test_an_evaluation_keeps_the_features_of_each_extractor_and_size_apart(clip_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    colour, grey = Clip(str(clip_folder)), Clip(str(clip_folder), greyscale=True)
    evaluation = Evaluation(concepts_of("tune5")[:1], colour, grey)
    found = [evaluation.real(extractor, size)[0] for extractor in (colour, grey) for size in (32, 64)]
    assert all((a - b).norm() > 1e-3 for a, b in itertools.combinations(found, 2))
    assert evaluation.real(colour, 32)[0] is found[0]


def test_the_key_of_cached_features_holds_the_preprocessing(clip_folder, monkeypatch):
    keys = {Clip(str(clip_folder)).key, Clip(str(clip_folder), greyscale=True).key, features("lite0").key}
    monkeypatch.setattr(module, "LITE0_SIZE", 64)
    monkeypatch.setattr(module, "OPENAI_CLIP_MEAN", (0.5, 0.5, 0.5))
    assert len(keys | {Clip(str(clip_folder)).key, features("lite0").key}) == 5


def test_clip_that_is_not_there_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="no CLIP or DINO weights"):
        features(str(tmp_path / "nowhere"))


def test_a_folder_that_lacks_image_weights_is_refused(clip_folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(clip_folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, clip_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 image weights are missing"):
        Clip(str(clip_folder))
