"""Two learned concepts in one picture, of every stored run's final model: how often both are there.

    python studies/pairs.py runs/claim50 --rows ti++ lora c-lora stamina --out results/pairs

Two people side by side, and a person before a waterfall, eight pairs each, early and late concepts mixed; the ceiling
is that of real pictures pasted together. Writes pairs.json, resumable row by row, and a sheet a row.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

from stamina_lite import concepts, load_base, measures, plots
from stamina_lite.diffusion.bases import load_recorded
from stamina_lite.diffusion.composition import Pair, detect, paste_pair
from stamina_lite.diffusion.evaluation import evaluation_seed, reference_features
from stamina_lite.diffusion.learner import open_run
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.errors import UserError
from stamina_lite.images import to_pil
from stamina_lite.measures.features import features
from stamina_lite.measures.intervals import Number
from stamina_lite.reproduction.grids import verify_checksum
from stamina_lite.reproduction.tables import shown, table
from stamina_lite.runs.files import read_json, write_json
from stamina_lite.runs.versions import versions

KINDS = {"two people": False, "a person before a waterfall": True}
SHOWN = 6  # pictures of a pair on a sheet


def pairs_of(order: list) -> dict[str, list[Pair]]:
    """Eight pairs of each kind: every third person with the one half a set later, and with a waterfall."""
    people = [c for c in order if c.name.startswith("person")]
    falls = [c for c in order if c.name.startswith("falls")]
    first = people[::3][:8]
    later = [people[(3 * k + len(people) // 2) % len(people)] for k in range(8)]
    return {
        "two people": [Pair(a, b) for a, b in zip(first, later, strict=True)],
        "a person before a waterfall": [Pair(a, b, scene=True) for a, b in zip(first, falls[1::3], strict=True)],
    }


def measure(draw, kinds: dict[str, list[Pair]], real: dict, extractor) -> dict:
    """Shares by kind: draw(pair) gives pictures (n, 3, H, W)."""
    falls = {name: x for name, x in real.items() if name.startswith("falls")}
    found = {}
    for kind, pairs in kinds.items():
        each = [detect(draw(p), p, real, falls if p.scene else real, extractor) for p in pairs]
        both = [e["both"] for e in each]
        low, high = measures.mean_interval(both)
        means = {key: sum(e[key] for e in each) / len(each) for key in ("both", "one", "nearer")}
        nearer = measures.mean_interval([e["nearer"] for e in each])
        found[kind] = means | {"both_interval": (low, high), "nearer_interval": nearer, "each": each}
    return found


def together_table(report: dict) -> str:
    """Two concepts in one picture: how often both, or at least one, are nearest to their part, and how many are nearer.

    `composition.detect` says what is measured; intervals are over pairs.
    """
    lines = []
    for row, kinds in report["rows"].items():
        for kind, found in kinds.items():
            nearer = Number(found["nearer"], *found["nearer_interval"])
            lines.append([row, kind, f"{100 * found['both']:.0f}", f"{100 * found['one']:.0f}", shown(nearer)])
    return table(
        ["row", "pictures of", "both there, %", "one or both, %", "other concepts that are nearer, share"], lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--rows", nargs="+", default=["ti++", "lora", "c-lora", "stamina"])
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("results/pairs"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file, extractor = args.out / "pairs.json", features("lite0")
    order = concepts("mini50")
    size = TextToImage(load_base("mini")).size
    kinds, real = pairs_of(order), {c.name: reference_features(c, extractor, size) for c in order}
    report = read_json(file) if file.exists() else {"pictures": args.pictures, "rows": {}}
    if report["pictures"] != args.pictures:
        parser.error(f"results of {report['pictures']} pictures are there: give --pictures so, or another --out")
    report |= versions(torch.device("cpu"))
    if "real, pasted" not in report["rows"]:

        def pasted(pair: Pair) -> torch.Tensor:
            return paste_pair(pair.first.load(size), pair.second.load(size), pair.scene)

        ceiling = measure(pasted, kinds, real, extractor)
        report["rows"]["real, pasted"] = ceiling
    for row in args.rows:
        if row in report["rows"]:
            continue
        run, drawn = args.runs / f"{row}.alternate.0", {}
        verify_checksum(run)
        learner = open_run(run, load_recorded)

        def draw(pair, learner=learner, drawn=drawn):
            seeds = [evaluation_seed(0, pair.prompt, k) for k in range(args.pictures)]
            drawn[pair.prompt] = learner.model.generate([pair.prompt] * args.pictures, seeds)
            return drawn[pair.prompt]

        if learner.method.separate_models:
            raise UserError(f"{row} has no model that knows two concepts: leave it out")
        report["rows"][row] = measure(draw, kinds, real, extractor)
        write_json(file, report)
        pictures = [to_pil(x[:SHOWN]) for x in drawn.values()]
        sheet = args.out / f"{row}.png"
        plots.sheet(pictures, [p.removeprefix("a photo of ") for p in drawn]).savefig(sheet)
        Image.open(sheet).quantize(128).save(sheet, optimize=True)
        plt.close("all")
    write_json(file, report)
    for row, found in report["rows"].items():
        for kind, f in found.items():
            shares = f"both {100 * f['both']:3.0f} %, one {100 * f['one']:3.0f} %, nearer {f['nearer']:.2f}"
            print(f"{row:14s} {kind:28s} {shares}")


if __name__ == "__main__":
    main()
