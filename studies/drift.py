"""Draw concepts of a run as its model drew them after earlier and later tasks, all from the same noise.

    python studies/drift.py runs/frontier/{c-lora@{1,10,1000},stamina@10,lora-ewc@100000}.* --concepts 2 --every 6

Every task of a run is stored, so that the model after task t can be opened at any time. The images are laid out as in
a run's folder, images/after-TTT/CONCEPT/: `stamina_lite.plots.gallery` shows them.
"""

import argparse
from pathlib import Path

from PIL import Image

from stamina_lite.diffusion.bases import load_recorded
from stamina_lite.diffusion.learner import ContinualLearner, open_run


def draw(run: Path, to: Path, n_concepts: int, every: int, n_images: int) -> None:
    """Images of the first concepts after their own task, after every `every` tasks and after the last one."""
    names = [record["concept"] for record in opened(run).records]
    n_tasks, names = len(names), names[:n_concepts]
    own = range(1, n_concepts + 1)
    for after in sorted({*own, *range(every, n_tasks, every), n_tasks}):
        learner = opened(run, after)
        for task, name in enumerate(names, 1):
            if task == after or (task < after and after > n_concepts):
                home = to / "images" / f"after-{after:03d}" / name
                home.mkdir(parents=True, exist_ok=True)
                for k, image in enumerate(learner.generate(f"a photo of <{name}>", n_images, 0, guidance=1.5)):
                    packed = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
                    packed.save(home / f"{k:02d}.png", optimize=True)
        print(run.name, "after", after, flush=True)


def opened(run: Path, tasks: int | None = None) -> ContinualLearner:
    return open_run(run, lambda about: load_recorded(about, None), tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs with all their tasks")
    parser.add_argument("--out", type=Path, default=Path("results/drift"))
    parser.add_argument("--concepts", type=int, default=4, help="the first of a sequence (4)")
    parser.add_argument("--every", type=int, default=5, help="tasks between two looks (5)")
    parser.add_argument("--images", type=int, default=4)
    args = parser.parse_args()
    for run in args.runs:
        draw(run, args.out / run.name.partition(".alternate")[0], args.concepts, args.every, args.images)


if __name__ == "__main__":
    main()
