"""How well identity can be measured at all: the accuracy that real pictures reach, the ceiling of every generated one.

    python studies/ceiling.py --out results/ceiling.json

A concept's training pictures, which no reference repeats, are classified by the nearest class mean of the references.
"""

import argparse
from pathlib import Path

from stamina_lite import concepts, load_base, measures
from stamina_lite.diffusion.evaluation import reference_features
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.measures.features import features
from stamina_lite.runs.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", default="mini50")
    parser.add_argument("--base", default="mini", help="whose size the pictures have")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found, rows, size = concepts(args.set), {}, TextToImage(load_base(args.base)).size
    for name, extractor in {"colour": features("lite0"), "greyscale": features("lite0", greyscale=True)}.items():
        real = [reference_features(c, extractor, size) for c in found]
        accuracy, each = measures.concept_accuracy([extractor(c.load(size)) for c in found], real)
        rows[name] = {"accuracy": accuracy, "worst": found[each.argmin()].name, "worst_accuracy": each.min().item()}
        print(
            f"{name:10s} {100 * accuracy:.1f} % of real pictures; worst {rows[name]['worst']}, {100 * each.min():.0f} %"
        )
    if args.out:
        write_json(args.out, {"command": "python studies/ceiling.py", "set": args.set, "rows": rows})


if __name__ == "__main__":
    main()
