"""bench: learn a set, of concepts or of classes, and measure what is known of it."""

import shlex
from pathlib import Path

from ..errors import UserError
from ..options import add_run_options, at_least, folder, given_settings, refuse_options, share, word
from .concepts import checked_settings, open_learner


def add(verb) -> None:
    """Add the verb."""
    p = verb(bench)
    p.add_argument(
        "set",
        metavar="SET",
        help="mini50, people25, falls25, mini25, mini10, tune5, tune20, celeba-landmarks50, or a folder of concepts; "
        "classes: renditions, renditions-100, tuning, tuning-100, imagenet-r, imagenet-a, cifar100, cub200, domainnet, "
        "or a folder with train/CLASS and test/CLASS, or with --test-share one with a sub-folder for each class",
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


def bench(args) -> None:
    """Learn a set and measure what is known of it at the end; a run that exists goes on."""
    from ..classification.sets import CLASS_SETS, is_class_folder

    if args.set in CLASS_SETS or args.test_share is not None or is_class_folder(args.set):
        bench_classes(args)
    else:
        bench_concepts(args)


def bench_concepts(args) -> None:
    """Concepts, learned by a text-to-image model."""
    from ..diffusion.concepts import ORDERS, concepts, set_hash
    from ..diffusion.evaluation import Evaluation
    from ..diffusion.learner import run_sequence
    from ..measures.features import features
    from ..reproduction.report import MEASURES

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
    from ..classification.backbones import EMBEDDED, IMAGENET_R, load_backbone, timm_name
    from ..classification.datasets import increments, listed_order
    from ..classification.learner import MEASURES, ContinualClassifier
    from ..classification.model import check
    from ..classification.sets import class_set
    from ..methods.heads import TRAINED
    from ..methods.registry import make_class_method
    from ..runs.distributed import refuse
    from ..runs.events import import_wandb, start_wandb

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
