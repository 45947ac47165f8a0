"""The picture at the top of the README: real pictures of a run's concepts, and what the run's model draws.

python studies/overview.py runs/quick/runs/quick-start/run --set mini10 --out results/overview.png
"""

import argparse
from pathlib import Path

from PIL import Image

from stamina_lite import concepts
from stamina_lite.diffusion.bases import load_recorded
from stamina_lite.diffusion.learner import open_run
from stamina_lite.images import to_pil


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--set", default="mini10")
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    learner = open_run(args.run, load_recorded)
    learned = {record["concept"] for record in learner.records}
    rows = []
    for concept in (c for c in concepts(args.set) if c.name in learned):
        rows.append(to_pil(concept.load(learner.model.size)[: args.columns]))
        rows.append(learner.generate(f"a photo of {concept.token}", args.columns))
    size, gap = learner.model.size, 8
    canvas = Image.new("RGB", (size * args.columns, size * len(rows) + gap * (len(rows) // 2 - 1)), "white")
    for k, row in enumerate(rows):
        for column, picture in enumerate(row):
            canvas.paste(picture, (column * size, k * size + k // 2 * gap))
    canvas.save(args.out, optimize=True)


if __name__ == "__main__":
    main()
