"""The continual loop: for each concept train, fold, save, generate, measure; killed, it goes on where it was."""

import hashlib
from pathlib import Path

import torch
from PIL import Image
from tqdm.auto import tqdm

from ..core import adaptation
from ..errors import UserError
from ..images import to_pil
from ..methods.registry import make_method
from ..runs import distributed
from ..runs.devices import peak_memory
from ..runs.files import load_task, read_record, write_json
from ..runs.folder import Run, records_of, refuse_another_base, shown, tasks_of
from .concepts import Concept, set_hash
from .evaluation import Evaluation
from .model import Learned, TextToImage
from .vocabulary import check_tokens


class ContinualLearner:
    """Teaches a StableDiffusionPipeline concepts one after another, keeping no pictures.

    pipe: any stock pipeline, changed in place; after every `learn` it is a stock pipeline that knows one token more.
    method: a name of `METHODS`; settings: see `Settings`.
    out: a run folder. If it holds a run with the same settings, that run goes on; another run is refused (UserError).
    """

    def __init__(self, pipe, method: str = "stamina", seed: int = 0, out=None, about: dict | None = None, **settings):
        self.pipe, self.method, self.seed = pipe, make_method(method, **settings), seed
        self.model = TextToImage(pipe, self.method.full_finetuning)
        self.unet_weights = weights_of(pipe.unet)
        self.out = self.home = Path(out) if out else None  # saved tasks are read at home, written to out
        self.records: list[dict] = []
        self.masks: dict[str, torch.Tensor] = {}  # those of the newest task, to see how far the next ones overlap
        self.identity = {
            "method": method,
            "settings": self.method.settings.as_dict(),
            "seed": seed,
            "base": fingerprint(pipe),
            "base_weights": fingerprint(pipe, whole=True),
            **({} if pipe.unet.dtype == torch.float32 else {"precision": str(pipe.unet.dtype).removeprefix("torch.")}),
            **(about or {}),
        }
        self.run = Run(self.out, self.identity, self.model.device) if self.out and distributed.first() else None
        distributed.wait()
        if self.out:
            self._take_up(self.out, tasks_of(self.out))

    def learn(self, concept: Concept, progress: bool = True) -> dict:
        """Learn one concept and return its record; a concept this run has learned already is not learned again."""
        for record in self.records:
            if record["concept"] == concept.name:
                if record["pictures"] != set_hash([concept]):
                    raise UserError(
                        f"{concept.name} was learned from other pictures: choose another name or another --out"
                    )
                return record
        if self.method.joint:
            raise UserError(f"{self.method.name} learns all concepts at once: use learn_jointly, or stamina-lite bench")
        check_tokens([concept], self.pipe.tokenizer)
        return self._learn([concept], concept.name, progress)

    def learn_jointly(self, concepts: list[Concept], progress: bool = True) -> list[dict]:
        """Learn all concepts at once, in as many rounds as there are concepts; returns a record a round."""
        for done in self.records:
            if done["pictures"] != set_hash(concepts):
                raise UserError("this run has learned other concepts, or other pictures of them: choose another --out")
        if not self.records:
            check_tokens(concepts, self.pipe.tokenizer)
        for k in range(len(self.records), len(concepts)):
            self._learn(concepts, f"round {k + 1}", progress)
        return self.records

    def _learn(self, concepts: list[Concept], name: str, progress: bool) -> dict:
        task = len(self.records) + 1
        silent = not (progress and distributed.first())
        steps, told = self.method.settings.steps, f"{task:3d} {name}"
        with tqdm(total=steps, desc=told, unit="step", leave=False, **shown(not silent)) as bar:

            def on_step(step, numbers):
                bar.update()
                bar.set_postfix(loss=f"{numbers['loss']:.4f}", refresh=False)

            learned = self.model.learn(concepts, self.method, self.seed, task, on_step)
        record = self._record(concepts, name, learned, task)
        self.records.append(record)
        self.masks = learned.masks
        if self.run:
            self.run.save(record, self._tensors(learned), learned.steps)
        return record

    def recall(self, name: str) -> None:
        """Where every concept has a model of its own, take up that of one; elsewhere nothing is to be done."""
        if self.method.separate_models and len(self.records) > 1:
            if not self.home:
                raise UserError(f"{self.method.name} keeps a model a concept: give the run a folder, out")
            task = [record["concept"] for record in self.records].index(name) + 1
            restore(self.model, load_task(self.home / "tasks" / f"{task:03d}")[0])

    def generate(self, prompt: str, n: int = 4, seed: int = 0, **options) -> list[Image.Image]:
        """n pictures of a prompt; picture k depends on (seed, k) alone.

        options: steps, guidance (the run's), batch, sampler (a name of `sampling.SAMPLERS`).
        """
        named = [r["concept"] for r in self.records if f"<{r['concept']}>" in prompt]
        if self.method.separate_models and len(named) > 1:
            raise UserError(f"{self.method.name} has no model that knows {' and '.join(named)}: name one of them")
        if named:
            self.recall(named[0])
        options = {"guidance": self.method.settings.guidance, **options}
        seeds = [(seed * 100_003 + k) % 2**63 for k in range(n)]  # as large as a generator takes
        return to_pil(self.model.draw([prompt] * n, seeds, **options))

    def _record(self, concepts: list[Concept], name: str, learned: Learned, task: int) -> dict:
        percent = 100 / self.unet_weights
        adapted = sum(layer.start.numel() for layer in self.model.layers)
        added = weights_of(self.model.unet) - self.unet_weights + (task * adapted if self.method.separate_models else 0)
        added += adaptation.kept_beside(self.model.layers)
        return {
            "task": task,
            "concept": name,
            "pictures": set_hash(concepts),
            **learned.numbers(),
            "mask_overlap": adaptation.mean_overlap(self.masks, learned.masks),
            "n_param": {"train": percent * learned.trained, "store": percent * added, "adapted": percent * adapted},
            "loss": mean_of_last(learned.steps),
            "seconds": learned.seconds,
            "peak_memory": peak_memory(self.model.device),
        }

    def _tensors(self, learned: Learned) -> dict:
        """What is saved after a task: the layers, what is kept beside them, all token rows and the newest masks."""
        rows = self.model.table.weight.detach().float()
        tensors = {f"token.{token}": rows[index].clone() for token, index in self.model.custom.items()}
        tensors |= {f"mask.{name}": mask for name, mask in learned.masks.items()}
        return adaptation.tensors_of(self.model.layers) | tensors

    def _take_up(self, run: Path, folders: list[Path]) -> None:
        """Stand where a run stood after the last of these tasks; nothing is written."""
        self.home, self.records = run, records_of(folders, "concept", "pictures")
        if folders:
            tensors, _ = load_task(folders[-1])
            learned = [f"token.<{record['concept']}>" for record in self.records]
            restore(self.model, {k: tensors[k] for k in learned if k in tensors} | tensors)  # tokens in their order
            self.masks = {k.removeprefix("mask."): v for k, v in tensors.items() if k.startswith("mask.")}


def restore(model: TextToImage, tensors: dict) -> None:
    """Put a saved task's weights, what was kept beside them, and token rows into the model."""
    adaptation.restore(model.layers, tensors)
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "token":
            model.add_token(name, tensor)


def run_sequence(
    learner: ContinualLearner, concepts: list[Concept], evaluation: Evaluation, progress: bool = True
) -> dict:
    """Learn all concepts in order, measure each just after it was learned and all at the end; returns the results.

    results.json is rewritten after every task; pictures are kept under images/after-TTT/. Of several processes the
    first measures; the others return nothing. Raises UserError where the learner has no folder.
    """
    if learner.out is None:
        raise UserError("a measured sequence needs a folder for its pictures and results: give the learner an out")
    measure, table = distributed.first(), learner.out / "results.json"
    check_tokens([c for c in concepts if c.token not in learner.model.custom], learner.pipe.tokenizer)
    silent = not (progress and measure)
    bar = tqdm([] if learner.method.joint else concepts, desc="concepts", unit="concept", **shown(not silent))
    for task, concept in enumerate(bar, 1):
        record = learner.learn(concept, progress)
        bar.set_postfix(loss=f"{record['loss']:.4f}")
        if measure:
            evaluation.after(learner, task, concepts[:task] if task in evaluation.stages else [concept])
            write_json(table, evaluation.results(learner))
    if learner.method.joint:
        learner.learn_jointly(concepts, progress)
    if not measure:
        return {}
    evaluation.after(learner, len(concepts), concepts)
    results = evaluation.results(learner)
    write_json(table, results)
    return results


def open_run(run: Path, load, tasks: int | None = None) -> ContinualLearner:
    """A learner that knows what a run folder has learned, to draw with; it writes nothing there.

    load(about) gives the base pipeline that run.json names. tasks: as it stood after so many of its tasks, all of them
    where not said. Raises UserError for a damaged run, another base, or a task that was not learned yet.
    """
    about = read_record(Path(run) / "run.json", "method", "settings", "seed", "base")
    if about.get("half") == "classification":
        raise UserError(f"{run} has learned classes, which cannot be drawn or exported: see stamina-lite report")
    if not isinstance(about["settings"], dict):
        raise UserError(f"{run}/run.json is damaged (settings): restore it, or start the run anew with another --out")
    learner = ContinualLearner(load(about), about["method"], about["seed"], **about["settings"])
    refuse_another_base(Path(run), about, {"base_model": about.get("base_model", ""), **learner.identity})
    if learner.identity["base_weights"] != about.get("base_weights", learner.identity["base_weights"]):
        raise UserError(f"{run} was learned on another base, or in another precision, than it is opened with")
    folders = tasks_of(Path(run))
    if tasks is not None and not 0 <= tasks <= len(folders):
        raise UserError(f"{run} has learned {len(folders)} tasks: {tasks} cannot be opened")
    learner._take_up(Path(run), folders[:tasks])
    return learner


def fingerprint(pipe, whole: bool = False) -> str:
    """A short hash of the base's K and V weights, or of all it draws with: a run goes on only on the base it began
    with. The first is the base's name in results; that of all weights knows their precision too.
    """
    digest = hashlib.sha256()
    for model in (pipe.unet, pipe.vae, pipe.text_encoder) if whole else (pipe.unet,):
        for name, weight in sorted(model.state_dict().items()):
            if whole:
                digest.update(name.encode() + weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
            elif ".attn2.to_" in name:
                digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_of(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def mean_of_last(steps: list[dict], n: int = 20) -> float:
    """Mean diffusion loss of the last n steps."""
    last = [s["diffusion"] for s in steps[-n:]]
    return sum(last) / len(last)
