"""Predictions of a stored run: the classes of image files, with probabilities. No dataset is needed."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..images import SUFFIXES
from ..methods.heads import TRAINED, make_heads
from ..methods.registry import WITH_HEAD, make_class_method
from ..runs.devices import precision_of
from ..runs.files import load_task, read_record
from ..runs.folder import records_of, refuse_another_base, tasks_of
from .backbones import load_backbone
from .image_files import ImageFiles
from .kept_heads import KeptHeads
from .learner import fingerprint
from .model import Classifier

BATCH = 64  # images at a time


class Predictor:
    """The classifier that a run has stored after its last task.

    Args:
        run: the run's folder.
        head: one of the run's heads, by default its first.
        base: where the backbone of the run is now, if it has been moved.
        device: by default cuda if it is available, else cpu.

    Attributes:
        names: the classes that were learned, in the order in which they were learned.
        model, head: features of images, and logits of features.
        about, base: the contents of run.json, and where the backbone was found.

    Raises:
        UserError: the run has learned nothing or no classes, is damaged, has no such head, or was begun on another
            base.
    """

    def __init__(
        self, run: Path | str, head: str | None = None, base: Path | str | None = None, device: str | None = None
    ):
        run = Path(run)
        self.about = about = read_record(run / "run.json", "method", "settings", "seed", "base", "tasks")
        if about.get("half") != "classification":
            raise UserError(f"{run} has learned concepts, not classes: see stamina-lite generate")
        folders = tasks_of(run)
        if not folders:
            raise UserError(f"{run} has learned nothing yet: give its bench command again, and wait for a first task")
        records = records_of(folders, "classes", "names")
        heads = WITH_HEAD[about["method"]][1:] if about["method"] in WITH_HEAD else about.get("heads", [TRAINED])
        self.head_name = head or heads[0]
        if self.head_name not in heads:
            raise UserError(f"{run} has no head {self.head_name}: choose {', '.join(heads)}")
        tensors, _ = load_task(folders[-1])
        self.base = base or about.get("base_model", "mini")
        vit = load_backbone(self.base, device)
        refuse_another_base(run, about, {**about, "base": fingerprint(vit)})
        classes, method = len(tensors["head.weight"]), make_class_method(about["method"], **about["settings"])
        self.model = Classifier(vit, classes, method, about["tasks"], about["seed"], precision_of(about))
        self.model.restore(tensors, [label for record in records for label in record["classes"]])
        kept = make_heads((self.head_name,), vit.embed_dim, classes, about["seed"])
        KeptHeads(kept).load(run, records[-1])
        self.head = kept[self.head_name].to(self.model.device) if kept else self.model.head
        self.names: list[str] = [name for record in records for name in record["names"]]

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Logits of the classes of `names`: images (n, 3, S, S) in [0, 1] -> (n, classes)."""
        return self.head(self.model.features(x.to(self.model.device)))[:, self.model.seen]

    def predict_files(self, files: Sequence[Path], top: int = 5) -> Iterator[dict]:
        """Yield {"file", "classes": [{"name", "probability"}]} of every file, the most probable classes first.

        Probabilities are the softmax of the head's logits. Images are resized and cropped as test images are.

        Args:
            top: number of classes of each, at most.

        Raises:
            UserError: a file cannot be read.
        """
        size = self.model.vit.pretrained_cfg["input_size"][-1]
        images = ImageFiles(files, torch.zeros(len(files), dtype=torch.long), size)
        parts = torch.arange(len(files)).split(BATCH)
        for part, x in zip(parts, images.stream(parts), strict=True):
            best = self.logits(x).softmax(1).topk(min(top, len(self.names)))
            for k, probabilities, places in zip(
                part.tolist(), best.values.tolist(), best.indices.tolist(), strict=True
            ):
                pairs = zip(places, probabilities, strict=True)
                yield {"file": str(files[k]), "classes": [{"name": self.names[i], "probability": p} for i, p in pairs]}


def picture_files(paths: Iterable[Path]) -> list[Path]:
    """Image files, and those in folders and their sub-folders, sorted by name within each folder.

    Raises:
        UserError: a path does not exist, or a folder has no images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            walk = [Path(home, name) for home, _, names in os.walk(path) for name in names if name[0] != "."]
            found = sorted(file for file in walk if file.suffix.lower() in SUFFIXES)
            if not found:
                raise UserError(f"{path} has no image files: give images, or folders of them")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path} does not exist: give images, or folders of them")
    return files


def as_text(predictions: Iterable[dict]) -> Iterator[str]:
    for prediction in predictions:
        classes = (f"{c['name']} {c['probability']:.3f}" for c in prediction["classes"])
        yield f"{prediction['file']}: {', '.join(classes)}"


def as_json(predictions: Iterable[dict]) -> Iterator[str]:
    yield json.dumps(list(predictions), indent=1)


def as_csv(predictions: Iterable[dict]) -> Iterator[str]:
    """Columns file, rank (from 1), class, probability."""
    yield "file,rank,class,probability"
    for prediction in predictions:
        for rank, c in enumerate(prediction["classes"], 1):
            line = io.StringIO()
            csv.writer(line, lineterminator="").writerow(
                [prediction["file"], rank, c["name"], f"{c['probability']:.6f}"]
            )
            yield line.getvalue()


FORMATS: dict[str, Callable[[Iterable[dict]], Iterator[str]]] = {"text": as_text, "json": as_json, "csv": as_csv}
