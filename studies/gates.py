"""Does the base make the problem visible? Each concept alone: attribute prompt, token alone, LoRA; 50-way accuracy.

    python studies/gates.py --set mini50 --concepts 50 --out results/gates.json

Every concept is learned by itself on a fresh base; pictures are counted as right when their features lie nearest to the
mean of that concept's references among all concepts of mini50. One row a method, resumable: rows found in --out stay.
"""

import argparse
import json
import re
from pathlib import Path

import torch
from tqdm.auto import tqdm

from stamina_lite import concepts, load_base, make_method, measures
from stamina_lite.core.layers import layers_of
from stamina_lite.core.settings import GUIDANCE
from stamina_lite.diffusion.concepts import ASSETS
from stamina_lite.diffusion.evaluation import evaluation_seed, reference_features
from stamina_lite.diffusion.learner import fingerprint
from stamina_lite.diffusion.model import CROSS_ATTENTION, TextToImage
from stamina_lite.diffusion.pictures import save_pictures
from stamina_lite.images import to_pil
from stamina_lite.measures.features import features
from stamina_lite.runs.files import write_json


def attribute_prompt(name: str) -> str:
    """The best the base's language can say about a concept: the caption of its identity, without view."""
    return (
        "a photo of " + json.loads((ASSETS / "manifest.json").read_text(encoding="utf-8"))["concepts"][name]["prompt"]
    )


def pictures(base: str, concept, method: str, n: int, seed: int, settings: dict, trained: tuple, guidance: float):
    """n pictures of a concept; `trained`: ends of the names of the layers whose weights may change."""
    model = TextToImage(load_base(base))
    model.layers = layers_of(model.unet, trained)
    prompt = attribute_prompt(concept.name)
    if method != "attribute prompt":
        model.learn(concept, make_method(method, **settings), seed, 1)
        prompt = f"a photo of {concept.token}"
    return model.generate([prompt] * n, [evaluation_seed(seed, concept.name, k) for k in range(n)], guidance=guidance)


def interval(hits: torch.Tensor) -> list[float]:
    """95 % bootstrap interval of the accuracy in per cent, over concepts: the unit that was drawn."""
    return [round(100 * bound, 1) for bound in measures.mean_interval(hits.tolist())]


def begun(file: Path, about: dict) -> dict:
    """The report in a file, to go on with, or a new one. Raises SystemExit if the file's is about something else."""
    report = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {**about, "methods": {}}
    other = [key for key, value in about.items() if report.get(key) != value]
    if other:
        raise SystemExit(f"{file} has another {', '.join(other)}: choose another --out, or delete it")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="mini")
    parser.add_argument("--set", default="mini50")
    parser.add_argument("--concepts", type=int, default=50, help="how many of the set, in its order")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=["attribute prompt", "ti", "ti++", "lora"])
    parser.add_argument("--setting", nargs="*", default=[], help="e.g. steps=200 lr=0.005")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--self-attention", action="store_true", help="K and V of self-attention may change too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep what is drawn, to be looked at")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    settings = {k: json.loads(v) for k, v in (re.split("=", s, maxsplit=1) for s in args.setting)}
    every, extractor = concepts(args.set), features("lite0")
    trained = CROSS_ATTENTION + (("attn1.to_k", "attn1.to_v") if args.self_attention else ())
    chosen = every[: args.concepts]
    base = TextToImage(load_base(args.base))
    real = [reference_features(c, extractor, base.size) for c in every]
    means = torch.nn.functional.normalize(torch.stack([r.mean(0) for r in real]), dim=1)
    about = {"base": fingerprint(base.pipe), "pictures": args.pictures, "seed": args.seed}
    about |= {
        "guidance": args.guidance,
        "layers": list(trained),
        "settings": make_method("lora", **settings).settings.as_dict(),
    }
    report = begun(args.out, about)
    for method in args.methods:
        rows = report["methods"].setdefault(method, {"each": {}})["each"]
        for j, concept in enumerate(tqdm(chosen, desc=method)):
            if concept.name in rows:
                continue
            drawn = pictures(args.base, concept, method, args.pictures, args.seed, settings, trained, args.guidance)
            if args.keep:
                save_pictures(args.keep / method.replace(" ", "-") / concept.name, to_pil(drawn))
            x = extractor(drawn)
            hits = (x @ means.T).argmax(1) == j
            rows[concept.name] = {"accuracy": hits.float().mean().item(), "mmd": measures.mmd2(real[j], x)}
            write_json(args.out, report)
        hits = torch.tensor([r["accuracy"] for r in rows.values()])
        report["methods"][method] |= {
            "accuracy": round(100 * hits.mean().item(), 1),
            "interval": interval(hits),
            "mmd": sum(r["mmd"] for r in rows.values()) / len(rows),
            "concepts": len(rows),
        }
        write_json(args.out, report)
        row = report["methods"][method]
        print(f"{method:18s} {row['accuracy']:5.1f} %  {row['interval']}  mmd {row['mmd']:.2f}", flush=True)
    if {"lora", "ti"} <= set(report["methods"]):
        lora, token = (report["methods"][m]["each"] for m in ("lora", "ti"))
        gap = torch.tensor([lora[name]["accuracy"] - token[name]["accuracy"] for name in lora if name in token])
        found = {"points": round(100 * gap.mean().item(), 1), "interval": interval(gap), "concepts": len(gap)}
        write_json(args.out, report | {"lora minus ti": found})
        print(f"LoRA minus token alone: {found['points']} points  {found['interval']}", flush=True)


if __name__ == "__main__":
    main()
