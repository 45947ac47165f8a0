"""The continual loop of the classification half: a task's classes after another, measured after each; resumable."""

import hashlib
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .. import measures
from ..core import adaptation
from ..core.adaptation import Change
from ..errors import UserError
from ..methods.registry import make_class_method
from ..runs.devices import peak_memory, precision_of
from ..runs.files import load_task, read_record, write_json
from ..runs.folder import Run, records_of, shown
from .backbones import precision
from .datasets import ClassDataset, class_tasks, of_classes, task_pictures
from .model import Classifier, LearnedClasses


class ContinualClassifier:
    """Teaches a timm VisionTransformer the classes of a set, a task after another, keeping no pictures.

    vit: as timm.create_model gives it, changed in place. tasks: how many the classes are shared out to, in an order
    that the seed decides (`datasets.class_tasks`). method: a name of `CLASS_METHODS`; settings: see
    `ClassSettings`. out: a run folder. If it holds a run with the same settings, that run goes on;
    another run is refused (UserError). dtype: what the ViT computes in (`backbones.precision`); a run keeps its own.
    """

    def __init__(
        self, vit, data: ClassDataset, method: str = "stamina", tasks: int = 10, seed: int = 0, out=None,
        about: dict | None = None, dtype: torch.dtype | None = None, **settings,
    ):  # fmt: skip
        self.data, self.seed, self.name = data, seed, method
        self.tasks = class_tasks(len(data.classes), tasks, seed)
        self.method = make_class_method(method, **settings)
        counts = torch.bincount(data.test.labels, minlength=len(data.classes))
        self.asked: list[int] = counts[sum(self.tasks, [])].tolist()  # test pictures of every class, as they come
        self.rounds = [sum(self.tasks, [])] if self.method.joint else self.tasks  # what is learned at a time
        wanted = vit.pretrained_cfg["input_size"][-1]
        if data.train.size != wanted:
            raise UserError(
                f"{data.name} has pictures of {data.train.size} px, this ViT wants {wanted}: give another base"
            )
        base, self.weights = fingerprint(vit), sum(p.numel() for p in vit.parameters())
        self.out = Path(out) if out else None
        if self.out and (self.out / "run.json").is_file():
            dtype = dtype or precision_of(read_record(self.out / "run.json"))
        dtype = dtype or precision(next(vit.parameters()).device)
        self.model = Classifier(vit, len(data.classes), self.method, tasks, seed, dtype)
        self.records: list[dict] = []
        self.masks: dict[str, torch.Tensor] = {}
        self.identity = {
            "half": "classification",
            "method": method,
            "settings": self.method.settings.as_dict(),
            "seed": seed,
            "set": data.name,
            "set_hash": data.hash(),
            "tasks": tasks,
            "base": base,
            **({} if dtype == torch.float32 else {"precision": str(dtype).removeprefix("torch.")}),
            **(about or {}),
        }
        self.run = Run(self.out, self.identity, self.model.device) if self.out else None
        if self.run and self.run.tasks():
            self._take_up(self.run.tasks())

    @property
    def left(self) -> int:
        """Tasks that are still to be learned."""
        return len(self.rounds) - len(self.records)

    def learn(self, progress: bool = True) -> dict:
        """Learn the next task and test all classes seen so far; returns the task's record."""
        if not self.left:
            raise UserError(f"all {len(self.tasks)} tasks are learned: there is no next one")
        task = len(self.records) + 1
        pictures = task_pictures(self.data.train, self.rounds[task - 1])
        s = self.method.settings
        total = s.epochs * -(-len(pictures.places) // s.batch)
        with tqdm(total=total, desc=f"task {task}", unit="step", leave=False, **shown(progress)) as bar:

            def on_step(step, numbers):
                bar.update()
                bar.set_postfix(loss=f"{numbers['loss']:.3f}", refresh=False)

            learned = self.model.learn(pictures, task, on_step)
        record = self._record(task, learned)
        self.records.append(record)
        self.masks = learned.masks
        if self.run:
            self.run.save(record, self._tensors(), learned.steps)
            write_json(self.run.folder / "results.json", self.results())
        return record

    def learn_all(self, progress: bool = True) -> dict:
        """Learn what is left, and return the results."""
        with tqdm(total=len(self.rounds), initial=len(self.records), desc=self.name, **shown(progress)) as bar:
            while self.left:
                record = self.learn(progress)
                bar.set_postfix(accuracy=f"{measures.final_mean([record['accuracy']]):.1f} %")
                bar.update()
        results = self.results()
        if self.run:  # the last task may have been kept, and its results not
            write_json(self.run.folder / "results.json", results)
        return results

    def test(self) -> list[int]:
        """Test pictures told right among all classes seen, no task given: a count a class, as they were learned."""
        half, seen = self.data.test, self.model.seen
        places = of_classes(half, seen)
        told = torch.cat([self.model.predict(x) for x in half.stream(places.split(128))])
        right = told == half.labels[places]
        return torch.bincount(half.labels[places][right], minlength=len(self.data.classes))[seen].tolist()

    def results(self) -> dict:
        """What results.json holds. accuracy[i][j]: percent on task j after task i; of a joint method one row.

        right[i]: what `test` counted after task i; asked: test pictures of every class, in the same order.
        """
        rows, R = self.records, [r["accuracy"] for r in self.records]
        forgets = len(R) > 1
        return {
            "method": self.name,
            "seed": self.seed,
            "set": self.data.name,
            "tasks": self.tasks,
            "accuracy": R,
            "right": [r["right"] for r in rows],
            "asked": self.asked,
            "a_n": measures.final_mean(R) if R else None,
            "a_n_running": measures.mean_of_running_means(R) if forgets else None,
            "f_n": measures.forgetting_coda(R) if forgets else None,
            "f_n_chaudhry": measures.forgetting_chaudhry(R) if forgets else None,
            "n_param": rows[-1]["n_param"] if rows else None,
            **{key: [r[key] for r in rows] for key in KEPT},
        }

    def _record(self, task: int, learned: LearnedClasses) -> dict:
        percent, right = 100 / self.weights, self.test()
        stored = adaptation.kept_beside(self.model.layers) + sum(p.numel() for p in self.model.head.parameters())
        if self.model.pool is not None:
            stored += sum(p.numel() for p in self.model.pool.parameters())
        return {
            "task": task,
            "classes": self.rounds[task - 1],
            "right": right,
            "accuracy": measures.accuracy_by_task(right, self.asked, len(self.tasks[0])),
            "n_param": {"train": percent * learned.trained, "store": percent * stored},
            **learned.numbers(),
            "mask_overlap": adaptation.mean_overlap(self.masks, learned.masks),
            "seconds": learned.seconds,
            "peak_memory": peak_memory(self.model.device),
        }

    def _tensors(self) -> dict:
        """What is saved after a task: head, layers and what is kept beside them, prompts, and the newest masks."""
        model = self.model
        tensors = {f"head.{name}": p for name, p in model.head.named_parameters()}
        tensors |= adaptation.tensors_of(model.layers)
        if model.pool is not None:
            tensors |= {f"prompt.{name}": kept for name, kept in model.pool.state_dict().items()}
        return tensors | {f"mask.{name}": mask for name, mask in self.masks.items()}

    def _take_up(self, folders: list[Path]) -> None:
        """Stand where a run stood after the last of these tasks; nothing is written."""
        if len(folders) > len(self.rounds):
            raise UserError(f"{folders[-1]} is of no task of this run: delete it")
        self.records = records_of(folders, "classes", "right", "accuracy")
        tensors, model = load_task(folders[-1])[0], self.model
        model.seen = [label for record in self.records for label in record["classes"]]
        model.restore_head(tensors["head.weight"], tensors["head.bias"])
        adaptation.restore(model.layers, tensors)
        if model.pool is not None:
            own = {k.removeprefix("prompt."): v for k, v in tensors.items() if k.startswith("prompt.")}
            model.pool.load_state_dict(own)
        self.masks = {k.removeprefix("mask."): v for k, v in tensors.items() if k.startswith("mask.")}


# key in results.json -> name and meaning, in the order of a table
MEASURES = {
    "a_n": ("A_N %", "mean over tasks of the accuracy at the end, among all classes; higher is better"),
    "a_n_running": ("running A %", "the same after every task, averaged (iCaRL)"),
    "f_n": ("F_N", "points lost from task to task, mean (as CODA-Prompt's code has it); lower is better"),
    "f_n_chaudhry": ("F_N Chaudhry", "points lost since a task was known best; lower is better"),
}
KEPT = (*Change().numbers(), "mask_overlap", "seconds", "peak_memory")  # of a task's record, beside those above


def fingerprint(vit) -> str:
    """A short hash of a ViT's weights, its head left out: a run goes on only on the base it began with."""
    digest = hashlib.sha256()
    for name, weight in sorted(vit.state_dict().items()):
        if not name.startswith("head."):
            digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
