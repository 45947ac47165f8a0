"""Pictures on disk: how they are cut, that threads change nothing, and what happens where one cannot be read."""

import os
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from stamina_lite.classification import image_files
from stamina_lite.classification.image_files import ImageFiles, crop_box, cut
from stamina_lite.errors import UserError


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures of noise, wide and narrow ones among them."""
    noise, files = np.random.default_rng(0), [tmp_path / f"{k}.png" for k in range(12)]
    for k, file in enumerate(files):
        Image.fromarray(noise.integers(256, size=(30 + k, 24 + 7 * (k % 4), 3), dtype=np.uint8)).save(file)
    return ImageFiles(files, torch.arange(12), size=16)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(30, 40), (224, 224), (10, 300), (300, 10)])
def test_what_is_cut_is_what_torchvision_would_cut(shape):
    """From the same seed, for pictures so narrow that the middle is taken too."""
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8))
    theirs, boxes = v2.RandomResizedCrop(16), set()
    flip = v2.RandomHorizontalFlip()
    for seed in range(40):
        torch.manual_seed(seed)
        expected = theirs.make_params([image])
        box = crop_box(*shape, seeded(seed))
        assert box == tuple(expected[k] for k in ("top", "left", "height", "width"))
        boxes.add(box)
        torch.manual_seed(seed)
        assert torch.equal(pil_to_tensor(flip(theirs(image))), pil_to_tensor(cut(image, 16, seeded(seed))))
    assert len(boxes) == 1 if max(shape) == 300 else len(boxes) == 40


def test_test_pictures_are_scaled_and_cut_from_the_middle(pictures):
    plain = v2.Compose([v2.Resize(18), v2.CenterCrop(16)])
    expected = [pil_to_tensor(plain(Image.open(file))) / 255 for file in pictures.files]
    found = pictures.load(torch.arange(12))
    assert torch.equal(found, torch.stack(expected)) and found.std() > 0.1


def test_training_pictures_are_cut_anew_and_follow_their_generator(pictures):
    same_file = torch.zeros(12, dtype=torch.long)
    state = torch.random.get_rng_state()
    one, same = (pictures.load(same_file, seeded(3)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)  # looking at pictures never changes training
    assert torch.equal(one, same) and len({tuple(x.flatten().tolist()) for x in one}) == 12


def test_neither_threads_nor_parts_change_what_is_read(pictures, monkeypatch):
    """One thread, and many of which the first picture's is the slowest."""
    order, wanted, fill = torch.randperm(12, generator=seeded(1)), [], ImageFiles._fill

    def slow(self, x, file, seed):
        time.sleep(0.02 * (file == self.files[order[0]]))
        fill(self, x, file, seed)

    for cores, how in ((1, fill), (8, slow)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        monkeypatch.setattr(ImageFiles, "_fill", how)
        wanted += [torch.cat([*pictures.stream(order.split(n), seeded(5))]) for n in (1, 5, 12)]
    assert all(torch.equal(found, wanted[0]) for found in wanted)
    apart = pictures.load(order, seeded(6))
    assert apart.shape == (12, 3, 16, 16) and not torch.equal(apart, wanted[0])


def test_the_next_part_is_read_while_one_is_used(pictures, monkeypatch):
    read, fill = [], ImageFiles._fill
    monkeypatch.setattr(ImageFiles, "_fill", lambda self, x, file, seed: (fill(self, x, file, seed), read.append(file)))
    stream = pictures.stream(torch.arange(12).split(4))
    next(stream)
    until = time.monotonic() + 20
    while len(read) < 8 and time.monotonic() < until:
        time.sleep(0.01)
    assert sorted(read) == sorted(pictures.files[:8])  # and no more: memory holds two parts
    stream.close()
    assert not any("pictures" in thread.name for thread in threading.enumerate())


def test_an_unreadable_picture_is_named(pictures):
    pictures.files[9].write_bytes(pictures.files[9].read_bytes()[:200])
    stream = pictures.stream(torch.arange(12).split(4))
    assert len(next(stream)) == len(next(stream)) == 4
    with pytest.raises(UserError, match="cannot read .*9.png"):
        next(stream)
    assert not any("pictures" in thread.name for thread in threading.enumerate())


def test_grey_pictures_of_sixteen_bits_keep_their_greys(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    found = np.asarray(image_files.read(tmp_path / "grey.png"))
    assert found.shape == (32, 32, 3) and found.min() == 0 and found.max() == 255 and 120 < found.mean() < 135
