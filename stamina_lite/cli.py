"""The command line: `stamina-lite VERB`. A verb's imports are inside its function, so that --help answers at once.

Exit codes: 0 done, 2 a user's mistake (one line on stderr), 130 interrupted, 141 the output's reader has left, 1 a bug
(a traceback).
"""

import io
import os
import shlex
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

from .errors import UserError, UserNotice
from .options import (
    DEVICE,
    MOVED,
    Parser,
    add_run_options,
    at_least,
    folder,
    given_settings,
    name_and_value,
    refuse_options,
    scale,
    share,
    word,
)

OUT_OF_MEMORY = (
    "out of GPU memory: make room and give the same command, a run goes on from its last finished task; "
    "or add --gradient-checkpointing, lower --batch with another --out (drawing: --batch), or give --device cpu"
)
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):  # code pages that lack λ or ² must not end hours of work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    args = parser().parse_args(argv)
    warnings.formatwarning = one_line
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds")  # Pillow's, of a panorama
    try:
        code = args.run(args) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as in `stamina-lite methods | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports it again at its end
        return 141
    except KeyboardInterrupt:
        print("stamina-lite: interrupted; the same command goes on where this one was", file=sys.stderr)
        return 130
    except UserError as error:
        print("stamina-lite:", *str(error).split(), file=sys.stderr)
        return 2
    except RuntimeError as error:
        from torch import OutOfMemoryError

        if not isinstance(error, OutOfMemoryError):
            raise
        print(f"stamina-lite: {OUT_OF_MEMORY}", file=sys.stderr)
        return 2
    except OSError as error:
        if not error.filename:
            raise
        summary = f"cannot read or write {error.filename} ({error.strerror})"
        print(f"stamina-lite: {summary}: see who may, and whether there is room", file=sys.stderr)
        return 2


def one_line(message, category, filename, lineno, line=None) -> str:
    """Our own warnings as one line, as errors are; those of libraries with their place."""
    return f"stamina-lite: {message}\n" if category is UserNotice else f"{filename}:{lineno}: {message}\n"


def parser() -> Parser:
    top = Parser(prog="stamina-lite", description="Continual text-to-image customisation: STAMINA and C-LoRA.")
    top.add_argument("--version", action="version", version=f"stamina-lite {version('stamina-lite')}")
    verbs = top.add_subparsers(metavar="VERB", required=True)

    def verb(run, **options) -> Parser:
        added = verbs.add_parser(run.__name__, help=run.__doc__, description=run.__doc__, **options)
        added.set_defaults(run=run)
        return added

    p = verb(learn)
    p.add_argument(
        "folders", nargs="+", metavar="DIR", help="a folder of concepts (one sub-folder each) or of pictures"
    )
    add_run_options(p)

    p = verb(generate)
    p.add_argument("folder", metavar="RUN", type=folder, help="a run's folder")
    p.add_argument("--prompt", required=True, help='for instance "a photo of <person-03>"')
    p.add_argument("--negative-prompt", metavar="TEXT", help="what the pictures should not show")
    p.add_argument("-n", type=at_least(1), default=8, help="how many pictures (8)")
    p.add_argument("--seed", type=at_least(0), default=0, help="picture k depends on the seed and k alone (0)")
    p.add_argument("--guidance", type=scale, metavar="W", help="scale of guidance, from 1 (as the run was learned)")
    p.add_argument("--sampler", choices=("unipc", "dpm++", "ddim"), default="unipc", help="(unipc: the fewest steps)")
    p.add_argument("--steps", type=at_least(1), default=10, help="of the sampler (10; ddim wants 20 or more)")
    p.add_argument("--width", type=at_least(1), metavar="PX", help="a multiple of 8 (the base's own size)")
    p.add_argument("--height", type=at_least(1), metavar="PX", help="a multiple of 8 (the base's own size)")
    p.add_argument("--batch", type=at_least(1), default=64, help="pictures at a time (64); they are the same pictures")
    p.add_argument("--grid", action="store_true", help="all of them in one picture too")
    p.add_argument("--out", type=folder, metavar="DIR", help="where to (RUN/images/generated)")
    p.add_argument("--base", type=word, help=MOVED)
    p.add_argument("--device", help=DEVICE)

    p = verb(bench)
    p.add_argument(
        "set",
        metavar="SET",
        help="mini50, people25, falls25, mini25, mini10, tune5, tune20, celeba-landmarks50, or a folder of concepts; "
        "classes: renditions, tuning, imagenet-r, imagenet-a, cifar100, cub200, domainnet, or a folder with "
        "train/CLASS and test/CLASS, or with --test-share one with a sub-folder for each class",
    )
    p.add_argument("--concepts", type=at_least(1), metavar="N", help="only the first N concepts, or classes")
    p.add_argument("--tasks", type=at_least(1), metavar="N", help="classes: how many tasks they make (10)")
    p.add_argument("--increment", type=at_least(1), metavar="N", help="classes: classes of a task, instead of --tasks")
    p.add_argument("--first", type=at_least(1), metavar="N", help="classes: those of the first task (--increment)")
    p.add_argument("--test-share", type=share, metavar="S", help="classes: the part of a folder that is for testing")
    p.add_argument(
        "--head",
        nargs="+",
        metavar="NAME",
        help="classes: trained, means, ranpac or aligned; of several, the first gives the measures (trained)",
    )
    p.add_argument(
        "--data", type=folder, metavar="DIR", help="where celeba-landmarks50 or a public set of classes was unpacked"
    )
    p.add_argument("--stages", type=at_least(1), nargs="+", metavar="N", help="measure after N concepts too")
    p.add_argument("--pictures", type=at_least(2), metavar="N", help="pictures drawn of a concept (16)")
    p.add_argument("--features", metavar="NAME", help="what pictures are compared in: clip, dino, or a folder (lite0)")
    p.add_argument(
        "--order",
        type=word,
        help="alternate, people-first or waterfalls-first; classes: a file with a class name on each line",
    )
    p.add_argument("--shuffle", type=at_least(0), metavar="S", help="mix the order within each kind (0: no)")
    add_run_options(p, classes=True)

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

    verb(methods)
    verb(info)

    p = verb(reproduce)
    p.add_argument("preset", metavar="PRESET", help="a name in notebooks/params, or a YAML file")
    p.add_argument("--out", required=True, type=folder, metavar="DIR", help="where notebooks and runs go")
    p.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="names, or shell patterns such as 'lora*'")
    p.add_argument("--seeds", type=at_least(0), nargs="+", default=[], metavar="N", help="grids: runs with these seeds")
    p.add_argument(
        "--set",
        type=name_and_value,
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of notebooks, or an option that all rows of a grid share",
    )
    p.add_argument("--dry-run", action="store_true", help="print what is left to run, its hours and its space")
    p.add_argument("--engine", default="local", choices=("local", "ray"), help="what runs them (local)")
    p.add_argument("--address", type=word, help="of a Ray cluster: auto or ray://HOST:PORT (one on this machine)")
    p.add_argument("--workers", type=at_least(1), metavar="N", help="runs at a time (1; ray: as many as have room)")

    p = verb(verify)
    p.add_argument("runs", nargs="+", type=folder, metavar="RUN", help="a run's folder, or one that holds runs")
    p.add_argument("--retrain", action="store_true", help="train the run anew, in a temporary folder, and compare")
    return top


def learn(args) -> None:
    """Learn folders of pictures, one concept after another; a run that exists goes on."""
    from .diffusion.concepts import concepts
    from .methods.registry import make_method

    settings = checked_settings(args)
    with_defaults = make_method(args.method, **settings).settings
    if with_defaults.lambda_prior and "prior_prompts" not in settings:
        message = (
            f"prior images show {with_defaults.prior_prompts!r}: name the kind of your concepts by --prior-prompts"
        )
        warnings.warn(message, UserNotice, stacklevel=1)
    found = [concept for folder in args.folders for concept in concepts(folder, crop=args.crop or "centre")]
    if any(args.out.resolve() == Path(folder).resolve() for folder in args.folders):
        raise UserError(f"{args.out} holds the pictures: choose another --out for the run")
    names = [concept.name.lower() for concept in found]
    for concept in found:
        if names.count(concept.name.lower()) > 1:
            raise UserError(f"{concept.name} is in two of the folders: rename one of them")
    learner = open_learner(args, found, settings, {"set": None})
    if learner.method.joint:
        for record in learner.learn_jointly(found):
            print(f"{record['concept']}  loss {record['loss']:.4f}  {record['seconds']:.0f} s", flush=True)
    for concept in [] if learner.method.joint else found:
        new = all(record["concept"] != concept.name for record in learner.records)
        record = learner.learn(concept)
        how = f"loss {record['loss']:.4f}  {record['seconds']:.0f} s" if new else "learned already"
        print(f"{record['task']:3d}  {concept.token}  {how}", flush=True)
    print(f'next: stamina-lite generate {shlex.quote(str(args.out))} --prompt "a photo of {found[-1].token}"')


def generate(args) -> None:
    """Draw pictures of a prompt with what a run has learned."""
    from .diffusion.bases import load_recorded
    from .diffusion.learner import open_run
    from .diffusion.pictures import save_described
    from .runs.distributed import refuse

    refuse()
    quiet()
    learner = open_run(args.folder, lambda about: load_recorded(about, args.device, args.base))
    how = {"guidance": args.guidance or learner.method.settings.guidance, "steps": args.steps, "sampler": args.sampler}
    how |= {name: value for name in ("negative_prompt", "width", "height") if (value := getattr(args, name))}
    pictures = learner.generate(args.prompt, args.n, args.seed, batch=args.batch, **how)
    home = args.out or args.folder / "images" / "generated"
    about = {"prompt": args.prompt, "seed": args.seed, **how, "run": args.folder.resolve().name}
    for path in save_described(pictures, home, about, args.grid):
        print(path)


def bench(args) -> None:
    """Learn a set and measure what is known of it at the end; a run that exists goes on."""
    from .classification.sets import CLASS_SETS, is_class_folder

    if args.set in CLASS_SETS or args.test_share is not None or is_class_folder(args.set):
        bench_classes(args)
    else:
        bench_concepts(args)


def bench_concepts(args) -> None:
    """Concepts, learned by a text-to-image model."""
    from .diffusion.concepts import ORDERS, concepts, set_hash
    from .diffusion.evaluation import Evaluation
    from .diffusion.learner import run_sequence
    from .measures.features import features
    from .reproduction.report import MEASURES

    of_classes = ["tasks", "increment", "first", "head"]
    refuse_options(args, of_classes, "classes, and these are concepts (a folder of classes has train and test)")
    if args.order not in (None, *ORDERS):
        raise UserError(f"unknown order {args.order}: choose {', '.join(ORDERS)}")
    order, pictures, stages = args.order or "alternate", args.pictures or 16, args.stages or []
    found = concepts(args.set, order, args.concepts, args.shuffle or 0, args.data, args.crop or "centre")
    settings = checked_settings(args)
    name, download = args.features or "lite0", args.features is not None
    colour, grey = (features(name, greyscale=greyscale, download=download) for greyscale in (False, True))
    if max(stages, default=0) > len(found):
        raise UserError(f"--stages names {max(stages)} concepts, and there are {len(found)}: leave it out")
    about = {"set": Path(args.set).name, "set_hash": set_hash(found), "order": order, "pictures": pictures}
    about |= {"shuffle": args.shuffle or 0, "stages": stages}
    about |= {"features": args.features} if args.features else {}
    learner = open_learner(args, found, settings, about)
    guidance = learner.method.settings.guidance
    evaluation = Evaluation(found, colour, grey, pictures, guidance=guidance, stages=stages)
    results = run_sequence(learner, found, evaluation)
    for key, (name, meaning) in MEASURES.items():
        value = "    –" if results[key] is None else f"{results[key]:.3f}"
        print(f"{name:18s} {value:>7s}   {meaning}")
    print(f"next: stamina-lite report {shlex.quote(str(args.out))} --out report.html")


def bench_classes(args) -> None:
    """Classes, learned by a Vision Transformer."""
    from .classification.backbones import EMBEDDED, IMAGENET_R, load_backbone, timm_name
    from .classification.datasets import increments, listed_order
    from .classification.learner import MEASURES, ContinualClassifier
    from .classification.model import check
    from .classification.sets import class_set
    from .methods.heads import TRAINED
    from .methods.registry import make_class_method
    from .runs.distributed import refuse
    from .runs.events import import_wandb, start_wandb

    if args.wandb:
        import_wandb()
    refuse()
    settings = given_settings(args)
    of_concepts = ["base_config", "gradient_checkpointing", "crop", "save_every", "sample_every"]
    of_concepts += ["stages", "shuffle", "pictures", "features"]
    refuse_options(args, of_concepts, "concepts, and these are classes")
    if args.first and not args.increment:
        raise UserError("--first is the size of the first task: give --increment for those of the others")
    if args.tasks and args.increment:
        raise UserError("--tasks and --increment both divide the classes: give one of them")
    make_class_method(args.method, **settings)  # a wrong setting is refused before anything is loaded
    base = args.base or (IMAGENET_R if args.set == "imagenet-r" else "mini")
    if base not in EMBEDDED and not Path(base).exists():
        base = timm_name(base)
    source = args.set, args.data, args.concepts
    data = class_set(*source, test_share=args.test_share)  # before anything large is fetched
    order = listed_order(Path(args.order), data.classes) if args.order else None
    tasks = args.tasks or min(10, len(data.classes))
    if args.increment:
        tasks = increments(len(data.classes), args.first or args.increment, args.increment)
    vit = load_backbone(base, args.device)
    check(vit)
    if data.train.size != vit.pretrained_cfg["input_size"][-1]:
        data = class_set(*source, vit.pretrained_cfg["input_size"][-1], args.test_share)
    about = {"base_model": str(Path(base).resolve()) if Path(base).is_dir() else base}
    heads = args.head or (TRAINED,)
    how = (args.method, tasks, args.seed, args.out, about)
    learner = ContinualClassifier(vit, data, *how, order=order, heads=heads, **settings)
    if args.wandb:
        start_wandb(args.out, learner.identity)
    results = learner.learn_all()
    print(f"{'base':18s} {Path(base).name}")
    for key, (name, meaning) in MEASURES.items():
        value = "    –" if results[key] is None else f"{results[key]:.2f}"
        print(f"{name:18s} {value:>7s}   {meaning}")
    for head, measured in results.get("heads", {}).items():
        print(f"{f'A_N %, {head}':18s} {measured['a_n']:7.2f}   the same with this head")
    print(f"next: stamina-lite predict {shlex.quote(str(args.out))} PICTURE")


def predict(args) -> None:
    """Name the classes of pictures, with probabilities, by what a run has learned."""
    from .classification.prediction import FORMATS, Predictor, picture_files

    files = picture_files(args.pictures)
    predictor = Predictor(args.folder, args.head, args.base, args.device)
    for text in FORMATS[args.format](predictor.predict_files(files, args.top)):
        print(text)


def export(args) -> None:
    """Write what a run has learned as files that other tools load, and check that they do."""
    import torch

    from .diffusion.bases import load_recorded
    from .diffusion.export import export as write
    from .diffusion.learner import open_run
    from .runs.distributed import refuse
    from .runs.files import read_record

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


def export_classes(args) -> None:
    """Classes, as a folder for timm and transformers."""
    from .classification.export import export_timm
    from .classification.prediction import Predictor

    if args.to != "timm":
        raise UserError(f"--to {args.to} is for concepts, and this run has learned classes: give --to timm")
    refuse_options(args, ["rank", "concept", "dtype"], "concepts, and this run has learned classes")
    print(export_timm(Predictor(args.folder, args.head, args.base, args.device), args.out))
    print(args.out)


def report(args) -> None:
    """Compare runs in one HTML file."""
    from .reproduction.report import write_report

    write_report(args.runs, args.out, args.tables)


def methods(args) -> None:
    """List the methods and their settings."""
    from .core.settings import ClassSettings, Settings
    from .methods.registry import REGISTRY

    concepts = [(e, e.method.defaults) for e in REGISTRY if e.colour]
    classes = [(e, e.classes) for e in REGISTRY if e.classes is not None]
    for half, entries, settings in (("concepts", concepts, Settings()), ("classes", classes, ClassSettings())):
        print(f"methods for {half}")
        for entry, defaults in entries:
            changed = "".join(f" {key}={value}" for key, value in defaults.items())
            summary = str(entry.method.__doc__).splitlines()[0]
            print(f"{entry.method.name:22s} {summary} [{entry.source}]{' Defaults:' + changed if changed else ''}")
        print("settings where a method names no other:")
        print(" ".join(f"{key}={value}" for key, value in settings.as_dict().items()), end="\n\n")


def info(args) -> None:
    """Show versions, device, base models and sets."""
    import torch

    from .classification.backbones import EMBEDDED as BACKBONES
    from .diffusion.bases import EMBEDDED
    from .diffusion.concepts import SETS, concepts
    from .reproduction.notebooks import NOTEBOOKS
    from .runs.versions import versions

    about = versions(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    lines = {**about["versions"], "device": about["device"], "package": Path(__file__).parent}
    lines["notebooks"] = NOTEBOOKS if NOTEBOOKS.is_dir() else "none: they are in the source checkout"
    lines |= {f"base {name}": folder if folder.is_dir() else f"missing: {folder}" for name, folder in EMBEDDED.items()}
    lines |= {f"ViT {name}": folder if folder.is_dir() else f"missing: {folder}" for name, folder in BACKBONES.items()}
    lines |= {f"set {name}": f"{len(concepts(name))} concepts" for name in SETS}
    for name, value in lines.items():
        print(f"{name:14s} {value}")


def reproduce(args) -> int:
    """Run the notebooks of a preset, or the runs of a grid; what is done already is kept."""
    from .reproduction.notebooks import plan
    from .reproduction.notebooks import reproduce as run_preset
    from .reproduction.presets import Selection

    if args.address and args.engine != "ray":
        raise UserError("--address is for --engine ray: add it, or leave the address out")
    selection = Selection(tuple(args.only), tuple(args.seeds), dict(args.set))
    if args.dry_run:
        print(*plan(args.preset, args.out, args.workers, selection=selection), sep="\n")
        return 0
    failed = run_preset(args.preset, args.out, args.engine, args.workers, None, selection, args.address)
    if failed:
        print(f"stamina-lite: {len(failed)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def verify(args) -> int:
    """Compare stored runs with their checksums, or one run with a new training of it."""
    from .reproduction.verify import retrain
    from .reproduction.verify import verify as verified

    runs = sorted({file.parent for folder in args.runs for file in folder.rglob("run.json")})
    if not runs:
        raise UserError(f"no runs in {args.runs[0]}: name the folder of a run, or one that holds runs")
    if args.retrain and len(runs) > 1:
        raise UserError(f"--retrain trains one run, and {len(runs)} are named: name one")
    damaged = 0
    for run in runs:
        try:
            print(f"ok      {run}  {verified(run)}", flush=True)
        except UserError as error:
            damaged += 1
            print("DAMAGED", run, "", *str(error).split(), flush=True)
    if args.retrain and not damaged:
        print(f"ok      {runs[0]}  {retrain(runs[0], bench_of)}")
    return 2 if damaged else 0


def bench_of(arguments: list[str]) -> None:
    """`stamina-lite bench` with these arguments, in this process."""
    args = parser().parse_args(["bench", *arguments])
    args.run(args)


def checked_settings(args) -> dict:
    """The settings that were given; a wrong one, or an unknown method, is refused before anything is loaded."""
    from .methods.registry import make_method

    settings = given_settings(args)
    make_method(args.method, **settings)
    return settings


def open_learner(args, found, settings: dict, about: dict):
    """The learner of a run, new or gone on with; nothing is written before base, device and tokens are checked."""
    from .diffusion.bases import load_base, resolve
    from .diffusion.learner import ContinualLearner
    from .diffusion.vocabulary import check_tokens
    from .runs import distributed
    from .runs.devices import precision_of
    from .runs.events import import_wandb, start_wandb
    from .runs.files import read_record

    if args.wandb:
        import_wandb()
    quiet()
    device = distributed.start()
    if not distributed.first():  # one of several processes speaks
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    run = Path(args.out) / "run.json"
    before = read_record(run) if run.is_file() else None
    base = resolve(args.base or "mini", args.base_config, before)
    pipe = load_base(base, args.device or device, precision_of(before) if before else None)
    check_tokens(found, pipe.tokenizer)
    if args.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    every = {"save_every": args.save_every, "sample_every": args.sample_every}
    learner = ContinualLearner(pipe, args.method, args.seed, args.out, {**base.record(), **about}, **every, **settings)
    if args.wandb and learner.run:
        start_wandb(args.out, learner.identity)
    return learner


def quiet() -> None:
    """Keep the loading bars and advice of diffusers and transformers off the screen."""
    warnings.simplefilter("ignore", FutureWarning)
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for logging in (of_diffusers, of_transformers):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
