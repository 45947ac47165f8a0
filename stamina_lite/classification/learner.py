"""Classes in sequence: learn a task, test all classes so far, store. A run that was killed goes on where it was."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from .. import measures
from ..errors import UserError
from ..methods.heads import TRAINED, make_heads
from ..methods.registry import WITH_HEAD, make_class_method
from ..runs.devices import precision_of
from ..runs.files import read_record, write_json
from ..runs.folder import shown
from ..runs.sequence import RECORDED, Sequence, precision_record
from ..runs.state import memory_size, state_tensors
from .backbones import precision
from .datasets import ClassDataset, class_tasks, of_classes, task_images
from .kept_heads import KeptHeads
from .model import Classifier


class ContinualClassifier(Sequence):
    """Teaches a timm VisionTransformer the classes of a dataset task by task and keeps no images of them.

    Args:
        vit: as timm.create_model returns it, changed in place.
        data: the classes, their training and their test images.
        method: a name of `CLASS_METHODS`.
        tasks: number of tasks, or the number of classes of each (`datasets.class_tasks`).
        seed: all that random draws depend on, with the number of the task.
        out: a run folder. If it has a run with the same settings, that run goes on.
        about: more facts that identify the run.
        dtype: the ViT computes in it; by default that of the stored run, or `backbones.precision`.
        order: the labels in the order in which they are learned; by default the seed decides it.
        heads: "trained", or names of `heads.HEADS`. The first is that of the run's measures; all are tested, and only
            the trained one influences the training.
        settings: see `ClassSettings`.

    Raises:
        UserError: `out` has another run, a setting is wrong, or the ViT takes images of another size.
    """

    needed = ("classes", "right", "accuracy")

    def __init__(
        self, vit, data: ClassDataset, method: str = "stamina", tasks: int | Iterable[int] = 10, seed: int = 0,
        out=None, about: dict | None = None, dtype: torch.dtype | None = None, order: Iterable[int] | None = None,
        heads: Iterable[str] = (TRAINED,), **settings,
    ):  # fmt: skip
        self.data, self.seed, self.name = data, seed, method
        order, sizes = list(order) if order else None, tasks if isinstance(tasks, int) else list(tasks)
        self.tasks = class_tasks(len(data.classes), sizes, seed, order)
        self.method = make_class_method(method, **settings)
        counts = torch.bincount(data.test.labels, minlength=len(data.classes))
        self.asked: list[int] = counts[sum(self.tasks, [])].tolist()  # test images of every class, in learning order
        self.rounds = [sum(self.tasks, [])] if self.method.joint else self.tasks  # classes that are learned together
        size = vit.pretrained_cfg["input_size"][-1]
        if data.train.size != size:
            raise UserError(
                f"{data.name} has pictures of {data.train.size} px, this ViT wants {size}: give another base"
            )
        base, self.weights = fingerprint(vit), sum(p.numel() for p in vit.parameters())
        if out and (Path(out) / "run.json").is_file():
            dtype = dtype or precision_of(read_record(Path(out) / "run.json"))
        dtype = dtype or precision(next(vit.parameters()).device)
        n_classes, names = len(data.classes), tuple(heads)
        own_head = WITH_HEAD[method][1:] if method in WITH_HEAD else names
        made = make_heads(own_head, vit.embed_dim, n_classes, seed)  # a wrong name is refused before the ViT is changed
        self.model = Classifier(vit, n_classes, self.method, len(self.tasks), seed, dtype)
        made = {name: head.to(self.model.device) for name, head in made.items()}
        self.heads: dict[str, Any] = {name: made.get(name, self.model.head) for name in own_head}
        self.kept = KeptHeads(made)
        identity = {
            "half": "classification",
            "method": method,
            "settings": self.method.settings.as_dict(),
            "seed": seed,
            "set": data.name,
            "set_hash": data.hash(),
            "tasks": len(self.tasks),
            **({} if isinstance(sizes, int) else {"sizes": sizes}),
            **({"order": hashlib.sha256(str(order).encode()).hexdigest()[:16]} if order else {}),
            **({} if names == (TRAINED,) else {"heads": [*names]}),
            "base": base,
            **precision_record(dtype),
            **(about or {}),
        }
        self.start(out, identity)

    @property
    def left(self) -> int:
        """The number of tasks that are not learned yet."""
        return len(self.rounds) - len(self.records)

    def learn(self, progress: bool = True) -> dict:
        """Learn the next task, test all classes seen so far and return the task's record."""
        if not self.left:
            raise UserError(f"all {len(self.tasks)} tasks are learned: there is no next one")
        task = len(self.records) + 1
        images, s = task_images(self.data.train, self.rounds[task - 1]), self.method.settings
        n_steps = s.epochs * -(-len(images.indices) // s.batch)
        with self.steps(f"task {task}", n_steps, progress) as on_step:
            learned = self.model.learn(images, task, on_step)
        self.kept.learn(self.model, images, self.rounds[:task])
        percent, right, main = 100 / self.weights, self.test(), next(iter(self.heads))
        stored = memory_size(self.model.layers) + sum(p.numel() for p in self.heads[main].state_dict().values())
        if self.model.pool is not None:
            stored += sum(p.numel() for p in self.model.pool.parameters())
        record = {
            "task": task,
            "classes": self.rounds[task - 1],
            "names": [self.data.classes[label] for label in self.rounds[task - 1]],
            "right": right[main],
            "accuracy": self.accuracy(right[main]),
            "n_param": {"train": percent * learned.trained, "store": percent * stored},
        }
        if len(right) > 1:
            record["heads"] = {name: {"right": r, "accuracy": self.accuracy(r)} for name, r in right.items()}
        if self.run:
            record |= self.kept.save(self.run.folder, task, finished=task == len(self.rounds))
        self.finish(record, learned)
        if self.run:
            self.kept.remove(self.run.folder, task - 1)
            results = self.results()
            write_json(self.run.folder / "results.json", results)
            self.events.scalars({key: results[key] for key in MEASURES}, task, "all_seen")
            self.events.flush()
        return record

    def learn_all(self, progress: bool = True) -> dict:
        """Learn all remaining tasks and return the results."""
        with tqdm(total=len(self.rounds), initial=len(self.records), desc=self.name, **shown(progress)) as bar:
            while self.left:
                record = self.learn(progress)
                bar.set_postfix(accuracy=f"{measures.final_mean([record['accuracy']]):.1f} %")
                bar.update()
        results = self.results()
        if self.run:  # after a kill the last task may be stored, and its results not
            write_json(self.run.folder / "results.json", results)
        return results

    def test(self) -> dict[str, list[int]]:
        """Correct predictions of every head on the test images of all classes seen, a count for each class.

        Classes are in the order in which they were learned.
        """
        images, seen = self.data.test, self.model.seen
        indices = of_classes(images, seen)
        labels, batches = images.labels[indices], images.stream(indices.split(128))
        predictions = [self.model.predict_by(self.heads, x) for x in batches]
        counts = {}
        for name in self.heads:
            right = torch.cat([predicted[name] for predicted in predictions]) == labels
            counts[name] = torch.bincount(labels[right], minlength=len(self.data.classes))[seen].tolist()
        return counts

    def accuracy(self, right: list[int]) -> list[float]:
        """Percent on every task, of the counts of `test`."""
        return measures.accuracy_by_task(right, self.asked, [len(task) for task in self.tasks])

    def results(self) -> dict:
        """The contents of results.json.

        accuracy[i][j]: percent on task j after task i, one row for a joint method. right[i]: the result of `test` after
        task i. asked: the number of test images of every class, in the same order. head: that of the measures, if it is
        not the trained one. heads: accuracy, right and measures of every head, if there are several. n_param: "store"
        has the numbers that the first head keeps.
        """
        rows, heads = self.records, [*self.heads]
        of_heads: dict = {} if heads == [TRAINED] else {"head": heads[0]}
        if len(heads) > 1:
            of_heads["heads"] = {name: summary([row["heads"][name] for row in rows]) for name in heads}
        return {
            "method": self.name,
            "seed": self.seed,
            "set": self.data.name,
            "tasks": self.tasks,
            "accuracy": [],  # holds the place that it has in files of earlier versions, which are checked by their hash
            "right": [],
            "asked": self.asked,
            **summary(rows),
            "n_param": rows[-1]["n_param"] if rows else None,
            **{key: [r[key] for r in rows] for key in RECORDED},
            **of_heads,
        }

    def tensors(self) -> dict:
        model = self.model
        tensors = {f"head.{name}": p for name, p in model.head.named_parameters()} | state_tensors(model.layers)
        if model.pool is not None:
            tensors |= {f"prompt.{name}": value for name, value in model.pool.state_dict().items()}
        return tensors

    def load_tensors(self, tensors: dict) -> None:
        if len(self.records) > len(self.rounds):
            raise UserError(f"{self.home}/tasks/{len(self.records):03d} is of no task of this run: delete it")
        self.model.restore(tensors, [label for record in self.records for label in record["classes"]])
        if self.left or "heads_sha256" in self.records[-1]:  # finished runs of earlier versions have no such file
            self.kept.load(self.home, self.records[-1])


def summary(rows: list[dict]) -> dict:
    """Accuracies and measures of the tasks' "right" and "accuracy"."""
    R = [row["accuracy"] for row in rows]
    several = len(R) > 1
    return {
        "accuracy": R,
        "right": [row["right"] for row in rows],
        "a_n": measures.final_mean(R) if R else None,
        "a_n_running": measures.mean_of_running_means(R) if several else None,
        "f_n": measures.forgetting_coda(R) if several else None,
        "f_n_chaudhry": measures.forgetting_chaudhry(R) if several else None,
    }


# key in results.json -> name and meaning, in the order of a table
MEASURES = {
    "a_n": ("A_N %", "mean over tasks of the accuracy at the end, among all classes; higher is better"),
    "a_n_running": ("running A %", "the same after every task, averaged (iCaRL)"),
    "f_n": ("F_N", "points lost from task to task, mean (as CODA-Prompt's code has it); lower is better"),
    "f_n_chaudhry": ("F_N Chaudhry", "points lost since a task was known best; lower is better"),
}


def fingerprint(vit) -> str:
    """A short sha256 of a ViT's weights without its head. A run goes on only on a base with the same hash."""
    digest = hashlib.sha256()
    for name, weight in sorted(vit.state_dict().items()):
        if not name.startswith("head."):
            digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
