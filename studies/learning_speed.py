"""How many steps a method needs: likeness along training, at early and at late tasks of a finished run.

    python studies/learning_speed.py runs/claim50 --rows c-lora stamina --seeds 0 1 --out results/learning_speed.json
    python studies/learning_speed.py runs/frontier --rows c-lora@10 stamina@10 --tasks 1 2 3 4 22 23 24 25 --out X.json

Each run is put where it stood before a task, the task's concept is learned again as it was then, and pictures are drawn
from one noise on the way. A method has come 90 % of its way at the step where the MMD² to the real pictures has fallen
by 90 % of what it falls in all, between two looks on a straight line. Resumable: what is in --out is kept.
"""

import argparse
import itertools
from pathlib import Path

import torch
from steps import learn_and_look

from stamina_lite import concepts, measures
from stamina_lite.core import tokens
from stamina_lite.core.seeds import seeded
from stamina_lite.diffusion.bases import load_recorded
from stamina_lite.diffusion.captions import PROMPT
from stamina_lite.diffusion.evaluation import evaluation_seed, reference_features
from stamina_lite.diffusion.learner import open_run
from stamina_lite.measures.features import features
from stamina_lite.measures.intervals import number
from stamina_lite.reproduction.grids import verify_checksum
from stamina_lite.reproduction.speed import fewer_steps, steps_needed, steps_to
from stamina_lite.reproduction.tables import shown, table
from stamina_lite.runs.files import read_json, write_json
from stamina_lite.runs.versions import versions

LOOKS = (0, 5, 10, 15, 20, 30, 40, 50, 60)  # steps trained when pictures are drawn


def likeness(run: Path, task: int, n: int, extractor) -> list[float]:
    """MMD² at every look while the run's `task` is learned again."""
    about = read_json(run / "run.json")
    order = concepts(about["set"], about["order"], shuffle=about["shuffle"])
    concept = order[task - 1]
    learner = open_run(run, load_recorded, tasks=task - 1)
    real = reference_features(concept, extractor, learner.model.size)
    seeds = [evaluation_seed(about["seed"], concept.name, k) for k in range(n)]
    found = []

    def look() -> None:
        found.append(measures.mmd2(real, extractor(learner.model.generate([PROMPT.format(concept.token)] * n, seeds))))

    begin = tokens.random_start(learner.model.embedding, learner.model.vocabulary_size, seeded(about["seed"], task, 0))
    learner.model.add_token(concept.token, begin)
    look()
    learn_and_look(learner.model, concept, learner.method, about["seed"], task, LOOKS[1:], look)
    return found


def speed_table(report: dict) -> str:
    """Steps to 90 % of the final likeness of tasks that were learned again, then every row less the first."""
    lines = []
    for row, seeds in report["rows"].items():
        gained = [steps_needed(report, row, late) for late in (False, True)]
        every = sum(len(run) for run in seeds.values())
        lines.append([row, f"{sum(map(len, gained))} of {every}", *(shown(number(steps), 0) for steps in gained)])
    first, *others = report["rows"]
    for row in others:
        less = [fewer_steps(report, row, first, late) for late in (False, True)]
        lines.append([f"{row} minus {first}", "", *(shown(n, 0) for n in less)])
    return table(["row", "tasks that gained likeness", "steps, early tasks", "steps, late tasks"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--rows", nargs="+", default=["ti++", "lora", "c-lora", "stamina"])
    parser.add_argument("--tasks", nargs="+", type=int, default=[1, 2, 3, 4, 37, 38, 39, 40])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the runs")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    extractor = features("lite0")
    report = read_json(args.out) if args.out.exists() else {"looks": LOOKS, "pictures": args.pictures, "rows": {}}
    if report["pictures"] != args.pictures:
        parser.error(f"results of {report['pictures']} pictures are there: give --pictures so, or another --out")
    report |= versions(torch.device("cpu"))
    for row, seed in itertools.product(args.rows, args.seeds):
        run = args.runs / f"{row}.alternate.{seed}"
        verify_checksum(run)
        there = report["rows"].setdefault(row, {}).setdefault(str(seed), {})
        for task in args.tasks:
            if str(task) not in there:
                there[str(task)] = likeness(run, task, args.pictures, extractor)
                write_json(args.out, report)
            said = " ".join(f"{v:.2f}" for v in there[str(task)])
            steps = steps_to(0.9, LOOKS, there[str(task)])
            print(f"{row:12s} seed {seed} task {task:2d}: {said}  90 % after {steps:.0f} steps", flush=True)


if __name__ == "__main__":
    main()
