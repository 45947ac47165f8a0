"""Classes in sequence: learn a task, test all classes so far, store. A run that was killed goes on where it was."""

import hashlib
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .. import measures
from ..errors import UserError
from ..methods.registry import make_class_method
from ..runs.devices import precision_of
from ..runs.files import read_record, write_json
from ..runs.folder import shown
from ..runs.sequence import RECORDED, Sequence, precision_record
from ..runs.state import load_state, memory_size, state_tensors
from .backbones import precision
from .datasets import ClassDataset, class_tasks, of_classes, task_images
from .model import Classifier


class ContinualClassifier(Sequence):
    """Teaches a timm VisionTransformer the classes of a dataset task by task and keeps no images of them.

    Args:
        vit: as timm.create_model returns it, changed in place.
        data: the classes, their training and their test images.
        method: a name of `CLASS_METHODS`.
        tasks: number of tasks; the classes are divided in an order that the seed decides (`datasets.class_tasks`).
        seed: all that random draws depend on, with the number of the task.
        out: a run folder. If it has a run with the same settings, that run goes on.
        about: more facts that identify the run.
        dtype: the ViT computes in it; by default that of the stored run, or `backbones.precision`.
        settings: see `ClassSettings`.

    Raises:
        UserError: `out` has another run, a setting is wrong, or the ViT takes images of another size.
    """

    needed = ("classes", "right", "accuracy")

    def __init__(
        self, vit, data: ClassDataset, method: str = "stamina", tasks: int = 10, seed: int = 0, out=None,
        about: dict | None = None, dtype: torch.dtype | None = None, **settings,
    ):  # fmt: skip
        self.data, self.seed, self.name = data, seed, method
        self.tasks = class_tasks(len(data.classes), tasks, seed)
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
        self.model = Classifier(vit, len(data.classes), self.method, tasks, seed, dtype)
        identity = {
            "half": "classification",
            "method": method,
            "settings": self.method.settings.as_dict(),
            "seed": seed,
            "set": data.name,
            "set_hash": data.hash(),
            "tasks": tasks,
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
        percent, right = 100 / self.weights, self.test()
        stored = memory_size(self.model.layers) + sum(p.numel() for p in self.model.head.parameters())
        if self.model.pool is not None:
            stored += sum(p.numel() for p in self.model.pool.parameters())
        record = {
            "task": task,
            "classes": self.rounds[task - 1],
            "right": right,
            "accuracy": measures.accuracy_by_task(right, self.asked, len(self.tasks[0])),
            "n_param": {"train": percent * learned.trained, "store": percent * stored},
        }
        self.finish(record, learned)
        if self.run:
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

    def test(self) -> list[int]:
        """Correct predictions on the test images of all classes seen, a count for each class in learning order."""
        images, seen = self.data.test, self.model.seen
        indices = of_classes(images, seen)
        predictions = torch.cat([self.model.predict(x) for x in images.stream(indices.split(128))])
        right = predictions == images.labels[indices]
        return torch.bincount(images.labels[indices][right], minlength=len(self.data.classes))[seen].tolist()

    def results(self) -> dict:
        """The contents of results.json.

        accuracy[i][j]: percent on task j after task i, one row for a joint method. right[i]: the result of `test` after
        task i. asked: the number of test images of every class, in the same order.
        """
        rows, R = self.records, [r["accuracy"] for r in self.records]
        several = len(R) > 1
        return {
            "method": self.name,
            "seed": self.seed,
            "set": self.data.name,
            "tasks": self.tasks,
            "accuracy": R,
            "right": [r["right"] for r in rows],
            "asked": self.asked,
            "a_n": measures.final_mean(R) if R else None,
            "a_n_running": measures.mean_of_running_means(R) if several else None,
            "f_n": measures.forgetting_coda(R) if several else None,
            "f_n_chaudhry": measures.forgetting_chaudhry(R) if several else None,
            "n_param": rows[-1]["n_param"] if rows else None,
            **{key: [r[key] for r in rows] for key in RECORDED},
        }

    def tensors(self) -> dict:
        model = self.model
        tensors = {f"head.{name}": p for name, p in model.head.named_parameters()} | state_tensors(model.layers)
        if model.pool is not None:
            tensors |= {f"prompt.{name}": value for name, value in model.pool.state_dict().items()}
        return tensors

    def load_tensors(self, tensors: dict) -> None:
        model = self.model
        if len(self.records) > len(self.rounds):
            raise UserError(f"{self.home}/tasks/{len(self.records):03d} is of no task of this run: delete it")
        model.seen = [label for record in self.records for label in record["classes"]]
        model.restore_head(tensors["head.weight"], tensors["head.bias"])
        load_state(model.layers, tensors)
        if model.pool is not None:
            prompts = {k.removeprefix("prompt."): v for k, v in tensors.items() if k.startswith("prompt.")}
            model.pool.load_state_dict(prompts)


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
