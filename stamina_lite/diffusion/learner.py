"""Concepts in sequence: learn, fold, store, generate, measure. A run that was killed goes on where it was."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from tqdm.auto import tqdm

from ..core.seeds import image_seed
from ..errors import UserError
from ..images import grid, to_pil, write_png
from ..methods.registry import make_method
from ..runs import distributed
from ..runs.checkpoint import Checkpoint
from ..runs.files import load_task, read_record, write_json
from ..runs.folder import records_of, refuse_another_base, shown, tasks_of
from ..runs.interrupts import Interrupts, Stopped
from ..runs.sequence import Sequence, precision_record
from ..runs.state import load_state, memory_size, state_tensors
from .captions import PROMPT
from .concepts import Concept, set_hash
from .evaluation import Evaluation
from .model import Learned, TextToImage
from .pictures import from_folder
from .vocabulary import check_tokens

OnStep = Callable[[int, dict], None]
SAVE_EVERY, LARGE = 100, 256  # steps, px
N_SAMPLES = 4  # images of a concept while it is learned


class ContinualLearner(Sequence):
    """Teaches a StableDiffusionPipeline concepts one after another and keeps no images of them.

    Args:
        pipe: any stock pipeline, changed in place. After every `learn` it is a stock pipeline with one token more.
        method: a name of `METHODS`.
        seed: all that random draws depend on, with the number of the task.
        out: a run folder. If it has a run with the same settings, that run goes on.
        about: more facts that identify the run.
        save_every: steps between checkpoints within a task, 0 for none but where training is stopped; by default
            SAVE_EVERY for bases of LARGE px or more, where a task takes long, and 0 for smaller ones.
        sample_every: steps between images of the concept that is being learned, in images/during-TTT; 0 for none.
        settings: see `Settings`.

    Raises:
        UserError: `out` has another run, or a setting is wrong.
    """

    needed = ("concept", "pictures")

    def __init__(
        self, pipe, method: str = "stamina", seed: int = 0, out=None, about: dict | None = None,
        save_every: int | None = None, sample_every: int = 0, **settings,
    ):  # fmt: skip
        self.pipe, self.method, self.seed = pipe, make_method(method, **settings), seed
        self.sample_every = sample_every
        self.model = TextToImage(pipe, self.method.full_finetuning)
        self.save_every = save_every if save_every is not None else SAVE_EVERY * (self.model.size >= LARGE)
        self.unet_weights = count_parameters(pipe.unet)
        identity = {
            "method": method,
            "settings": self.method.settings.as_dict(),
            "seed": seed,
            "base": fingerprint(pipe),
            "base_weights": fingerprint(pipe, whole=True),
            **precision_record(pipe.unet.dtype),
            **(about or {}),
        }
        if out:
            refuse_a_used_pipeline(Path(out), pipe)
        self.start(out, identity)

    def learn(self, concept: Concept, progress: bool = True, on_step: OnStep | None = None) -> dict:
        """Learn one concept and return its record. A concept that the run has learned is not learned again.

        Ctrl-C and a notebook's stop button end it after the present step. If the learner has a folder, the next call
        goes on from there.

        Args:
            on_step: called after every step with its number, from 0, and {"loss", "diffusion"}.

        Raises:
            UserError: the concept was learned from other images, or its token is in the tokenizer already.
            Stopped: it was interrupted.
        """
        for record in self.records:
            if record["concept"] == concept.name:
                if record["pictures"] != set_hash([concept]):
                    raise UserError(
                        f"{concept.name} was learned from other pictures, captions or crops: "
                        "choose another name or another --out"
                    )
                return record
        if self.method.joint:
            raise UserError(f"{self.method.name} learns all concepts at once: use learn_jointly, or stamina-lite bench")
        check_tokens([concept], self.pipe.tokenizer)
        return self._learn([concept], concept.name, progress, on_step)

    def learn_jointly(self, concepts: list[Concept], progress: bool = True) -> list[dict]:
        """Learn all concepts at once, in as many rounds as there are concepts; returns a record a round."""
        for record in self.records:
            if record["pictures"] != set_hash(concepts):
                raise UserError("this run has learned other concepts, pictures or captions: choose another --out")
        if not self.records:
            check_tokens(concepts, self.pipe.tokenizer)
        for k in range(len(self.records), len(concepts)):
            self._learn(concepts, f"round {k + 1}", progress)
        return self.records

    def _learn(self, concepts: list[Concept], name: str, progress: bool, on_step: OnStep | None = None) -> dict:
        task, pictures, checkpoint = len(self.records) + 1, set_hash(concepts), None
        with Interrupts() as interrupts:
            if self.out:
                about = {"number": task, "pictures": pictures}
                checkpoint = Checkpoint(self.out, about, self.save_every, interrupts, distributed.first())
            learned = self._train(concepts, name, progress, on_step, interrupts, checkpoint)
            percent = 100 / self.unet_weights
            adapted = sum(layer.start.numel() for layer in self.model.layers)
            stored = count_parameters(self.model.unet) - self.unet_weights + memory_size(self.model.layers)
            if self.method.separate_models:
                stored += task * adapted
            shares = {"train": percent * learned.trained, "store": percent * stored, "adapted": percent * adapted}
            record = {
                "task": task,
                "concept": name,
                "pictures": pictures,
                "n_param": shares,
                "loss": mean_of_last(learned.steps),
            }
            return self.finish(record, learned)

    def _train(
        self, concepts: list[Concept], name: str, progress: bool, on_step: OnStep | None, interrupts: Interrupts,
        checkpoint: Checkpoint | None,
    ) -> Learned:  # fmt: skip
        """Train the next task, with a bar, until it is learned or an interrupt is due."""
        task = len(self.records) + 1
        with self.steps(f"{task:3d} {name}", self.method.settings.steps, progress and distributed.first()) as bar:

            def after_step(step: int, numbers: dict) -> None:
                bar(step, numbers)
                if on_step:
                    on_step(step, numbers)
                if self.out and self.sample_every and (step + 1) % self.sample_every == 0 and distributed.first():
                    folder = self.out / "images" / f"during-{task:03d}"
                    self._sample(concepts[0], folder / f"step-{step + 1:05d}.png")
                if interrupts.due and not checkpoint:
                    raise Stopped("Stopped. Without a folder (out) no step is kept: the next call begins anew.")

            return self.model.learn(concepts, self.method, self.seed, task, after_step, checkpoint)

    def _sample(self, concept: Concept, file: Path) -> None:
        """Write images of the concept that is being learned, always from the same noise, side by side."""
        seeds = [image_seed(self.seed, k) for k in range(N_SAMPLES)]
        with self.model.as_folded():
            images = self.model.generate(
                [PROMPT.format(concept.token)] * N_SAMPLES, seeds, guidance=self.method.settings.guidance
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_png(file, grid(to_pil(images), N_SAMPLES))

    def recall(self, name: str) -> None:
        """Load the model of one concept, where every concept has its own."""
        if self.method.separate_models and len(self.records) > 1:
            if not self.home:
                raise UserError(f"{self.method.name} keeps a model a concept: give the run a folder, out")
            task = [record["concept"] for record in self.records].index(name) + 1
            restore(self.model, load_task(self.home / "tasks" / f"{task:03d}")[0])

    def generate(self, prompt: str, n: int = 4, seed: int = 0, **options) -> list[Image.Image]:
        """Generate n images of a prompt; image k depends on (seed, k) alone.

        Args:
            options: of `Inference.generate`; guidance is by default the run's.
        """
        named = [r["concept"] for r in self.records if f"<{r['concept']}>" in prompt]
        if self.method.separate_models and len(named) > 1:
            raise UserError(f"{self.method.name} has no model that knows {' and '.join(named)}: name one of them")
        if named:
            self.recall(named[0])
        options = {"guidance": self.method.settings.guidance, **options}
        return to_pil(self.model.generate([prompt] * n, [image_seed(seed, k) for k in range(n)], **options))

    def tensors(self) -> dict:
        rows = self.model.embedding.weight.detach().float()
        tokens = {f"token.{token}": rows[index].clone() for token, index in self.model.token_ids.items()}
        return state_tensors(self.model.layers) | tokens

    def load_tensors(self, tensors: dict) -> None:
        in_order = [f"token.<{record['concept']}>" for record in self.records]
        restore(self.model, {key: tensors[key] for key in in_order if key in tensors} | tensors)


def refuse_a_used_pipeline(run: Path, pipe) -> None:
    """Raise UserError if the pipeline has learned this run's concepts already, as when a cell is run twice."""
    names = [record["concept"] for record in records_of(tasks_of(run), "concept")]
    if names and f"<{names[0]}>" in pipe.tokenizer.get_vocab():
        raise UserError(
            f"this pipeline has learned <{names[0]}> already: load the base again, then make the learner, which goes on"
        )


def restore(model: TextToImage, tensors: dict) -> None:
    """Put a stored task's weights, memory and token rows into the model."""
    load_state(model.layers, tensors)
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "token":
            model.add_token(name, tensor)


def run_sequence(
    learner: ContinualLearner, concepts: list[Concept], evaluation: Evaluation, progress: bool = True
) -> dict:
    """Learn all concepts in order; measure each after it was learned, and all at the end.

    results.json is written after every task, images to images/after-TTT/. Of several processes only the first measures.

    Returns:
        The contents of results.json; in other processes than the first nothing.

    Raises:
        UserError: the learner has no folder.
    """
    if learner.out is None:
        raise UserError("a measured sequence needs a folder for its pictures and results: give the learner an out")
    measure, table = distributed.first(), learner.out / "results.json"
    check_tokens([c for c in concepts if c.token not in learner.model.token_ids], learner.pipe.tokenizer)
    silent, done = not (progress and measure), len(learner.records)
    bar = tqdm([] if learner.method.joint else concepts, desc="concepts", unit="concept", **shown(not silent))
    for task, concept in enumerate(bar, 1):
        record = learner.learn(concept, progress)
        bar.set_postfix(loss=f"{record['loss']:.4f}")
        if measure:
            evaluation.after(learner, task, concepts[:task] if task in evaluation.stages else [concept])
            results = evaluation.results(learner)
            write_json(table, results)
            if task > done:
                drawn = from_folder(learner.out / "images" / f"after-{task:03d}" / concept.name)[:N_SAMPLES]
                learner.events.scalars({"mmd2": results["mmd"][task][task]}, task, "just_learned")
                learner.events.images(to_pil(drawn), task, concept.name)
    if learner.method.joint:
        learner.learn_jointly(concepts, progress)
    if not measure:
        return {}
    evaluation.after(learner, len(concepts), concepts)
    results = evaluation.results(learner)
    write_json(table, results)
    learner.events.scalars(results, len(concepts), "final")
    learner.events.flush()
    return results


def open_run(run: Path, load, tasks: int | None = None) -> ContinualLearner:
    """Open a stored run to generate images or to export it. Nothing is written to it.

    Args:
        run: the run's folder.
        load: contents of run.json -> the pipeline of the base that it names.
        tasks: the state after this number of tasks; by default after all.

    Raises:
        UserError: the run is damaged, began on another base, or has not learned so many tasks.
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
    learner.resume(Path(run), folders[:tasks])
    return learner


def fingerprint(pipe, whole: bool = False) -> str:
    """A short sha256 of a base's K and V weights, by which results name it.

    whole: of all weights of the pipeline, in their precision. A run goes on only on a base with the same hash.
    """
    digest = hashlib.sha256()
    for model in (pipe.unet, pipe.vae, pipe.text_encoder) if whole else (pipe.unet,):
        for name, weight in sorted(model.state_dict().items()):
            if whole:
                digest.update(name.encode() + weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
            elif ".attn2.to_" in name:
                digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def count_parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def mean_of_last(steps: list[dict], n: int = 20) -> float:
    """Mean diffusion loss of the last n steps."""
    last = [s["diffusion"] for s in steps[-n:]]
    return sum(last) / len(last)
