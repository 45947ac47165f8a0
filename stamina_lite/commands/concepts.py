"""learn, generate: concepts, in a text-to-image model."""

import os
import shlex
import sys
import warnings
from pathlib import Path

from ..errors import UserError, UserNotice
from ..options import DEVICE, MOVED, add_run_options, at_least, folder, given_settings, scale, word


def add(verb) -> None:
    """Add the verbs; verb(function) returns the parser of one."""
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


def learn(args) -> None:
    """Learn folders of pictures, one concept after another; a run that exists goes on."""
    from ..diffusion.concepts import concepts
    from ..methods.registry import make_method

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
    from ..diffusion.bases import load_recorded
    from ..diffusion.learner import open_run
    from ..diffusion.pictures import save_described
    from ..runs.distributed import refuse

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


def checked_settings(args) -> dict:
    """The settings that were given; a wrong one, or an unknown method, is refused before anything is loaded."""
    from ..methods.registry import make_method

    settings = given_settings(args)
    make_method(args.method, **settings)
    return settings


def open_learner(args, found, settings: dict, about: dict):
    """The learner of a run, new or gone on with; nothing is written before base, device and tokens are checked."""
    from ..diffusion.bases import load_base, resolve
    from ..diffusion.learner import ContinualLearner
    from ..diffusion.vocabulary import check_tokens
    from ..runs import distributed
    from ..runs.devices import precision_of
    from ..runs.events import import_wandb, start_wandb
    from ..runs.files import read_record

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
