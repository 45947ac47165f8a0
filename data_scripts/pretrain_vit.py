"""Train the small Vision Transformer of the classification half and write it as an ordinary timm folder.

    python data_scripts/renditions.py --pretraining build/renditions-pretraining
    python data_scripts/pretrain_vit.py --data build/renditions-pretraining --work build/vit --out build/vit/shipped

It learns the classes that `renditions` does not have, and at the same time to foretell the features of the shipped
lite0, an ImageNet network, of the same pictures (distillation), as a large ViT brings what ImageNet-21k taught it. The
number watched is nearest class mean on the tuning classes, never on the test classes. It goes on where it was killed,
and two cores are used better by two processes than by two threads: once the teacher's features are there, begin or go
on with OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 instead of python.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from rendition_tables import ICON_SETS
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm
from training_state import Budget, Run, rank, workers

from stamina_lite.classification.datasets import TensorImages, renditions, resized_crop
from stamina_lite.measures.features import features

ARCHITECTURE = "vit_tiny_patch16_224"
SHAPE = {"img_size": 64, "patch_size": 16, "embed_dim": 192, "depth": 6, "num_heads": 3, "num_classes": 0}
MEAN = STD = (0.5, 0.5, 0.5)
LOG = "training.json"


def make_vit() -> torch.nn.Module:
    return timm.create_model(ARCHITECTURE, **SHAPE)


def read(folder: Path) -> tuple[TensorImages, int]:
    """The pre-training pictures of data_scripts/renditions.py, without the share-alike sets, and how many classes."""
    about = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    kept = [k for k, icon_set in enumerate(about["icon_sets"]) if not ICON_SETS[icon_set].share_alike]
    images = np.load(folder / "images.npy", mmap_mode="r")[kept]
    labels = torch.tensor(about["labels"])[kept]
    return TensorImages(torch.from_numpy(images).permute(0, 3, 1, 2), labels), len(about["names"])


def teach(pictures: TensorImages, work: Path) -> Tensor:
    """lite0's features of every picture, (n, 1280) fp16, computed once."""
    file = work / "teacher.npy"
    if not file.exists():
        teacher = features("lite0")
        parts = [
            teacher(pictures.load(places) * 2 - 1).half()
            for places in tqdm(torch.arange(len(pictures.labels)).split(256), desc="teacher")
        ]
        np.save(file, torch.cat(parts).numpy())
    return torch.from_numpy(np.load(file))


def normalised(x: Tensor) -> Tensor:
    """Pictures in [0, 1] as the network takes them."""
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def nearest_mean(vit, train: TensorImages, test: TensorImages) -> float:
    """Share of test pictures whose nearest class mean of the training pictures' features is that of their class."""
    vit.eval()
    known, asked = (
        torch.cat([F.normalize(vit(normalised(half.load(p)))) for p in torch.arange(len(half.labels)).split(128)])
        for half in (train, test)
    )
    vit.train()
    means = torch.stack([known[train.labels == k].mean(0) for k in range(int(train.labels.max()) + 1)])
    return ((asked @ F.normalize(means).T).argmax(1) == test.labels).float().mean().item()


def train(pictures: TensorImages, classes: int, teacher: Tensor, work: Path, steps: int, batch: int, watched) -> tuple:
    """Class and teacher's features from one vector: cross-entropy (smoothed) and 1 - cosine; the ViT and its log.

    The features are told less their mean, which all pictures share. watched: a set whose nearest-class-mean accuracy is
    logged now and then.
    """
    torch.manual_seed(0)
    common = teacher.float().mean(0)
    vit = make_vit()
    width = vit.num_features
    heads = torch.nn.ModuleDict(
        {"classes": torch.nn.Linear(width, classes), "teacher": torch.nn.Linear(width, teacher.shape[1])}
    )
    run = Run(work, "vit", {"vit": vit, "heads": heads}, Budget(steps), 1e-3, batch, "cpu", decay=0.999, log=[])

    def loss(draw):
        places = torch.randint(len(pictures.labels), (batch // workers(),), generator=draw)
        x = resized_crop(pictures.images[places].float() / 255, draw)
        seen = vit(normalised(x))
        wrong = F.cross_entropy(heads["classes"](seen), pictures.labels[places], label_smoothing=0.1)
        apart = 1 - F.cosine_similarity(heads["teacher"](seen), teacher[places].float() - common).mean()
        return wrong + 4 * apart, {"cross_entropy": wrong.detach(), "apart": apart.detach()}

    def look(step):
        share = nearest_mean(vit, watched.train, watched.test)
        run.log.append({"step": step, "tuning_nearest_mean": round(share, 4)})
        print(f"\nstep {step}: nearest mean knows {100 * share:.1f} % of the tuning classes' test pictures", flush=True)

    run.train(loss, look, save_seconds=600)
    return vit.eval(), run.log


def write(vit, log: list, out: Path) -> None:
    """A folder that timm reads: timm.create_model("local-dir:OUT", pretrained=True). Weights are fp16."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    size = {"input_size": [3, SHAPE["img_size"], SHAPE["img_size"]], "num_classes": 0, "mean": MEAN, "std": STD}
    config = {"architecture": ARCHITECTURE, "model_args": SHAPE, "pretrained_cfg": {**size, "license": "apache-2.0"}}
    (part / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    save_file({k: v.half().contiguous() for k, v in vit.state_dict().items()}, part / "model.safetensors")
    (part / LOG).write_text(json.dumps(log) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    if torch.distributed.is_torchelastic_launched():
        torch.distributed.init_process_group("gloo")
    args.work.mkdir(parents=True, exist_ok=True)
    pictures, classes = read(args.data)
    if rank() == 0:
        print(f"{len(pictures.labels)} pictures of {classes} classes")
    vit, log = train(
        pictures, classes, teach(pictures, args.work), args.work, args.steps, args.batch, renditions("tuning")
    )
    if rank() == 0:
        write(vit, log, args.out)


if __name__ == "__main__":
    main()
