"""Evaluation after a task: generated images of the concepts, their features, and the measures."""

import hashlib
import os
from collections.abc import Iterable

from safetensors.torch import load_file
from torch import Tensor

from .. import measures
from ..core.settings import GUIDANCE
from ..errors import UserError
from ..images import to_pil
from ..measures.features import Features
from ..runs.files import cache_folder, write_tensors
from .captions import PROMPT
from .concepts import Concept
from .pictures import from_folder, save_pictures
from .sampling import DRAWING_STEPS

N_SHARED_NOISE = 4  # images of a concept that are generated from the same noise after every task


class Evaluation:
    """Generates n images of concepts after a task and compares them with the concepts' references.

    Of X_{i,j}, the images of concept j after task i, the first N_SHARED_NOISE are generated from the same noise for
    every i, so that they can be compared by eye; the others are generated from different noise. MMD² of two such sets
    omits the pairs of equal index from its cross term (`paired=True`) and is therefore unbiased.

    Args:
        concepts: in the order in which they are learned.
        features, grey: feature extractors for images in colour and in greyscale.
        n: number of images.
        steps, guidance: of the sampler.
        stages: numbers of tasks after which all concepts so far are measured, and not only the newest.

    Raises:
        UserError: a concept has fewer than two references.
    """

    def __init__(
        self, concepts: list[Concept], features: Features, grey: Features, n: int = 16,
        steps: int = DRAWING_STEPS, guidance: float = GUIDANCE, stages: Iterable[int] = (),
    ):  # fmt: skip
        too_few = [c.name for c in concepts if len(c.references) < 2]
        if too_few:
            raise UserError(f"{too_few[0]} has one picture to measure with: give it two or more")
        self.concepts, self.features, self.grey, self.n = concepts, features, grey, n
        self.stages = sorted(set(stages) | {len(concepts)})
        self.sampling_options = {"steps": steps, "guidance": guidance}
        self.index = {c.name: j for j, c in enumerate(concepts)}
        self.generated: dict[tuple[int, int], Tensor] = {}  # (i, j) -> features of X_{i,j}, (n, d)
        self.generated_grey: dict[tuple[int, int], Tensor] = {}
        self._real: dict[tuple[str, int], list[Tensor]] = {}  # (extractor's key, size) -> of every concept

    def after(self, learner, task: int, concepts: list[Concept]) -> None:
        """Generate, store and measure images of concepts after `task`; stored images are not generated again."""
        new = [c for c in concepts if (task, self.index[c.name]) not in self.generated]
        folder = learner.out / "images" / f"after-{task:03d}"
        missing = [c for c in new if len(list((folder / c.name).glob("*.png"))) < self.n]
        groups = [[c] for c in missing] if learner.method.separate_models else [missing] if missing else []
        for group in groups:
            learner.recall(group[0].name)
            prompts: list[str] = []
            seeds: list[int] = []
            for concept in group:
                prompts += [PROMPT.format(concept.token)] * self.n
                seeds += [evaluation_seed(learner.seed, concept.name, k, task) for k in range(self.n)]
            images = to_pil(learner.model.generate(prompts, seeds, **self.sampling_options))
            for m, concept in enumerate(group):
                save_pictures(folder / concept.name, images[m * self.n : (m + 1) * self.n])
        for concept in new:
            j, stored = self.index[concept.name], from_folder(folder / concept.name)
            self.generated[task, j] = self.features(stored)
            self.generated_grey[task, j] = self.grey(stored)

    def results(self, learner) -> dict:
        """The contents of results.json; measures over all concepts are added after the last task."""
        records, last = learner.records, len(self.concepts)
        names = [c.name for c in self.concepts][: len(records)]
        real = self.real(self.features, learner.model.size)
        mmd: dict[int, dict] = {i: {} for i in sorted({i for i, _ in self.generated})}
        for (i, j), x in self.generated.items():
            mmd[i][j + 1] = measures.mmd2(real[j], x)
        series = ("weight_change", "step_change", "touched", "alignment", "mask_density", "mask_overlap", "seconds")
        results = {
            "method": learner.method.name,
            "seed": learner.seed,
            "tasks": names,
            "mmd": mmd,
            "plasticity": [None if learner.method.joint else mmd.get(t, {}).get(t) for t in range(1, len(records) + 1)],
            **{key: [r[key] for r in records] for key in series},  # mask_overlap: with the mask of the previous task
            "n_param": {**records[0]["n_param"], "store": records[-1]["n_param"]["store"]} if records else None,
            "peak_memory": [r["peak_memory"] for r in records],
            "stages": {n: self._stage(real, n) for n in self.stages if self._complete(n)},
        }
        if self._complete(last):
            results |= self._final(learner, real, self.real(self.grey, learner.model.size), last)
        return results

    def _complete(self, n: int) -> bool:
        return all((n, j) in self.generated for j in range(n))

    def _stage(self, real: list[Tensor], n: int) -> dict:
        """The measures after task n, over the n concepts learned so far."""
        current, real = [self.generated[n, j] for j in range(n)], real[:n]
        when_learned = {j: self.generated[j + 1, j] for j in range(n - 1) if (j + 1, j) in self.generated}
        drift = [measures.mmd2(x, current[j], paired=True) for j, x in when_learned.items()]
        each = [measures.mmd2(r, x) for r, x in zip(real, current, strict=True)]
        accuracy, hits = measures.concept_accuracy(current, real)
        return {
            "a_mmd": measures.a_mmd(each),
            "a_mmd_each": each,
            "f_mmd": measures.f_mmd(drift) if drift else None,
            "f_mmd_each": drift,  # of all concepts but the last
            "kid": sum(measures.kid(r, x) for r, x in zip(real, current, strict=True)) / n,
            "image_alignment": sum(map(measures.image_alignment, current, real)) / n,
            "concept_accuracy": accuracy,
            "concept_accuracy_each": hits.tolist(),
        }

    def real(self, extractor: Features, size: int) -> list[Tensor]:
        """Features of every concept's references, computed once: N tensors (m, d)."""
        key = extractor.key, size
        if key not in self._real:
            self._real[key] = [reference_features(c, extractor, size) for c in self.concepts]
        return self._real[key]

    def _final(self, learner, real: list[Tensor], real_grey: list[Tensor], last: int) -> dict:
        """The measures after the last task: those of `_stage`, and others that are computed only once."""
        final = [self.generated[last, j] for j in range(last)]
        intervals = [measures.bootstrap(r, x) for r, x in zip(real, final, strict=True)]
        grey, _ = measures.concept_accuracy([self.generated_grey[last, j] for j in range(last)], real_grey)
        learned, learned_each = None, None
        if not learner.method.joint:
            learned, learned_each = measures.concept_accuracy([self.generated[j + 1, j] for j in range(last)], real)
        return self._stage(real, last) | {
            "a_mmd_intervals": intervals,  # 95 %, of each concept, over images
            "recognised_as": measures.nearest_concepts(final, real),
            "concept_accuracy_grey": grey,
            "concept_accuracy_when_learned": learned,
            "concept_accuracy_when_learned_each": learned_each.tolist() if learned_each is not None else None,
        }


def reference_features(concept: Concept, features: Features, size: int) -> Tensor:
    """Features of a concept's references, (n, d), cached on disk by the hash of the images and the extractor.

    Args:
        size: side in px of the images that are given to the extractor.
    """
    digest = hashlib.sha256(f"{features.key} {size} {concept.crop}".encode())
    for file in concept.references:
        digest.update(file.read_bytes())
    cache = cache_folder()
    file = cache / f"{digest.hexdigest()[:32]}.safetensors"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        try:
            write_tensors(temporary, {"features": features(concept.load_references(size))})
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    return load_file(file)["features"]


def evaluation_seed(seed: int, concept: str, k: int, task: int = 0) -> int:
    """The seed of image k of a concept after a task. The first N_SHARED_NOISE seeds are the same after every task."""
    suffix = f" {task}" if k >= N_SHARED_NOISE else ""
    return int.from_bytes(hashlib.sha256(f"{seed} {concept} {k}{suffix}".encode()).digest()[:7], "big")
