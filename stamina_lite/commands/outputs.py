"""predict, export, report: what is made of finished runs."""

from ..errors import UserError
from ..options import DEVICE, MOVED, at_least, folder, refuse_options, word
from .concepts import quiet

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def add(verb) -> None:
    """Add the verbs."""
    p = verb(predict)
    p.add_argument("folder", metavar="RUN", type=folder, help="the folder of a run of classes")
    p.add_argument("pictures", nargs="+", metavar="PICTURE", type=folder, help="image files, or folders of them")
    p.add_argument("--top", type=at_least(1), default=5, metavar="K", help="the K most probable classes of each (5)")
    p.add_argument("--format", choices=("text", "json", "csv"), default="text", help="of what is printed (text)")
    p.add_argument("--head", metavar="NAME", help="one of the run's heads (its first)")
    p.add_argument("--base", type=word, help=MOVED)
    p.add_argument("--device", help=DEVICE)

    p = verb(export)
    p.add_argument("folder", metavar="RUN", type=folder, help="a run's folder")
    p.add_argument("--to", required=True, choices=("diffusers", "lora", "tokens", "timm"), help="what it becomes")
    p.add_argument("--out", required=True, type=folder, metavar="DIR", help="a new folder")
    p.add_argument("--rank", type=at_least(1), metavar="R", help="of the LoRA (as high as the update's own: exact)")
    p.add_argument("--concept", metavar="NAME", help="lora, tokens: this concept alone, a LoRA with its token")
    p.add_argument("--dtype", choices=DTYPES, help="of the files (that of the run)")
    p.add_argument("--head", metavar="NAME", help="timm: one of the run's heads (its first)")
    p.add_argument("--base", type=word, help=MOVED)
    p.add_argument("--device", help=DEVICE)

    p = verb(report)
    p.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or one that holds runs")
    p.add_argument("--out", required=True, type=folder, metavar="FILE", help="the HTML file")
    p.add_argument("--tables", type=folder, metavar="DIR", help="also write the measures as CSV, Markdown and LaTeX")


def predict(args) -> None:
    """Name the classes of pictures, with probabilities, by what a run has learned."""
    from ..classification.prediction import FORMATS, Predictor, picture_files

    files = picture_files(args.pictures)
    predictor = Predictor(args.folder, args.head, args.base, args.device)
    for text in FORMATS[args.format](predictor.predict_files(files, args.top)):
        print(text)


def export(args) -> None:
    """Write what a run has learned as files that other tools load, and check that they do."""
    import torch

    from ..diffusion.bases import load_recorded
    from ..diffusion.export import export as write
    from ..diffusion.learner import open_run
    from ..runs.distributed import refuse
    from ..runs.files import read_record

    refuse()
    quiet()
    about = read_record(args.folder / "run.json")
    if about.get("half") == "classification":
        export_classes(args)
        return
    refuse_options(args, ["head"], "runs of classes, and this is one of concepts")

    def base():
        return load_recorded(about, args.device, args.base)

    learner = open_run(args.folder, lambda _: base())
    dtype = getattr(torch, DTYPES[args.dtype]) if args.dtype else None
    print(write(learner, args.to, args.out, base, args.rank, args.concept, dtype))
    print(args.out)


def report(args) -> None:
    """Compare runs in one HTML file."""
    from ..reproduction.report import write_report

    write_report(args.runs, args.out, args.tables)


def export_classes(args) -> None:
    """Classes, as a folder for timm and transformers."""
    from ..classification.export import export_timm
    from ..classification.prediction import Predictor

    if args.to != "timm":
        raise UserError(f"--to {args.to} is for concepts, and this run has learned classes: give --to timm")
    refuse_options(args, ["rank", "concept", "dtype"], "concepts, and this run has learned classes")
    print(export_timm(Predictor(args.folder, args.head, args.base, args.device), args.out))
    print(args.out)
