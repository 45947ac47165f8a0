"""What is saved in any precision can be drawn with by stock diffusers that is given no dtype."""

import json
import subprocess
import sys

import pytest
import torch

from stamina_lite import ContinualLearner, concepts, load_base
from stamina_lite.diffusion.export import export

FEW = {"steps": 2, "batch": 2, "rank": 2, "mask_rank": 2, "lr": 0.05}
STOCK = """
import json, sys
from diffusers import StableDiffusionPipeline
found = {}
for folder in sys.argv[1:]:
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a photo of <amber>", num_inference_steps=2, output_type="np").images[0]
    found[folder] = [picture.shape, float(picture.std()), pipe.tokenizer.convert_tokens_to_ids("<amber>")]
assert not any(name.startswith("stamina_lite") for name in sys.modules)
print(json.dumps(found))
"""


def drawn_by_stock_code(*folders) -> dict:
    """folder -> shape and deviation of a picture drawn in a fresh process, and the row of <amber>."""
    asked = subprocess.run([sys.executable, "-c", STOCK, *map(str, folders)], capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout.splitlines()[-1])


def test_stock_code_draws_with_what_every_precision_saved(tiny_folder, photos, tmp_path):
    folders = []
    for precision in (torch.float32, torch.float16, torch.bfloat16):
        learner = ContinualLearner(load_base(tiny_folder, "cpu", precision), "stamina", **FEW)
        learner.learn(concepts(photos)[0], progress=False)
        saved, exported = (tmp_path / f"{how}-{precision}" for how in ("saved", "exported"))
        learner.pipe.save_pretrained(saved)
        export(learner, "diffusers", exported, lambda p=precision: load_base(tiny_folder, "cpu", p))
        assert learner.pipe.text_encoder.dtype == precision  # the learner's own stays as it was
        folders += [saved, exported]
    row = learner.model.token_ids["<amber>"]
    for shape, deviation, token in drawn_by_stock_code(*folders).values():
        assert shape == [32, 32, 3] and deviation > 0.01 and token == row


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_embedded_base_is_saved_as_it_was_loaded(dtype, tmp_path):
    """Its weights, rounded to its precision and not further, in the class that it has."""
    pipe = load_base("mini", "cpu", dtype)
    pipe.text_encoder.save_pretrained(tmp_path)
    again = type(pipe.text_encoder).from_pretrained(tmp_path)
    assert again.dtype == torch.float32
    for name, weight in pipe.text_encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight.float()), name
