"""Options that several commands share: the settings of a method, and types of arguments."""

import argparse
import ast
from dataclasses import fields
from pathlib import Path

from .core.settings import RENAMED, AdapterSettings, ClassSettings, Settings
from .errors import UserError

DEVICE = "cpu or cuda (cuda where there is one)"
MOVED = "where the run's base is now, if it has been moved"
BASE = "Stable Diffusion 1.x or 2.x: mini, a diffusers folder, a FILE.safetensors, or owner/name[@REVISION] (mini)"


class Parser(argparse.ArgumentParser):
    """Errors in one line, and no abbreviated options."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str):
        self.exit(2, f"{self.prog.split()[0]}: {message}; see {self.prog} --help\n")


def add_run_options(p: argparse.ArgumentParser, classes: bool = False) -> None:
    """What learn and bench have in common; classes: settings of the classification half too."""
    p.add_argument("--method", required=True, help="see `stamina-lite methods`")
    p.add_argument(
        "--out", required=True, type=folder, metavar="RUN", help="the run's folder; a run that is there goes on"
    )
    p.add_argument(
        "--base", type=word, help=BASE + ("; classes: mini, a folder, or a timm model name" if classes else "")
    )
    p.add_argument(
        "--base-config", type=word, metavar="DIR", help="of a FILE.safetensors: a diffusers folder of the same kind"
    )
    p.add_argument(
        "--crop",
        choices=("centre", "top", "random", "pad"),
        help="concepts: which square of a picture; random: four of each, pad: all of it, on white (centre)",
    )
    p.add_argument("--seed", type=at_least(0), default=0, help="(0)")
    p.add_argument("--device", help=DEVICE)
    p.add_argument(
        "--gradient-checkpointing", action="store_true", help="concepts: less memory, more time, same result"
    )
    p.add_argument(
        "--save-every",
        type=at_least(0),
        metavar="N",
        help="concepts: steps between checkpoints within a concept, 0 for none (100 for bases of 256 px or more)",
    )
    p.add_argument(
        "--sample-every", type=at_least(0), default=0, metavar="N", help="concepts: steps between samples in RUN/images"
    )
    p.add_argument("--wandb", action="store_true", help="send what TensorBoard shows to Weights & Biases too")
    add_settings(p, AdapterSettings, "settings", "the default is the method's, see `stamina-lite methods`")
    add_settings(p, Settings, "settings of concepts")
    if classes:
        add_settings(p, ClassSettings, "settings of classes")


def add_settings(p: argparse.ArgumentParser, kind: type[AdapterSettings], title: str, text: str | None = None) -> None:
    """An option for every setting that this kind adds to those of its base class."""
    group = p.add_argument_group(title, text)
    for f in fields(kind):
        if kind is not AdapterSettings and f.name in AdapterSettings.__dataclass_fields__:
            continue
        if f.name == "hard":
            group.add_argument(
                "--soft", dest="hard", action="store_false", default=argparse.SUPPRESS, help="a soft mask"
            )
        else:
            older = [name for name, now in RENAMED.items() if now == f.name]
            names = [f"--{name.replace('_', '-')}" for name in (f.name, *older)]
            choices = f.metadata["choices"]
            text = f.metadata["help"].replace("%", "%%") + (f": {', '.join(choices)}" if choices else "")
            group.add_argument(*names, dest=f.name, type=f.type, default=argparse.SUPPRESS, help=text)


def scale(text: str) -> float:
    """An argparse type: a number from 1."""
    number = float(text)
    if not 1 <= number < float("inf"):  # refuses NaN too
        raise argparse.ArgumentTypeError(f"must be a number from 1, not {text}")
    return number


def share(text: str) -> float:
    """An argparse type: a number between 0 and 1."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return number


def word(text: str) -> str:
    """An argparse type: text, and not the nothing that an unset variable of a shell leaves."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty: is a variable unset?")
    if "\0" in text:
        raise argparse.ArgumentTypeError("must be text without zero bytes")
    return text


def folder(text: str) -> Path:
    """An argparse type: the path of a file or folder."""
    return Path(word(text))


def folder_or_address(text: str) -> Path | str:
    """An argparse type: the path of a folder, or an address such as s3://BUCKET/FOLDER, in which // must stay."""
    return word(text) if "://" in text else folder(text)


def name_and_value(text: str) -> tuple[str, object]:
    """An argparse type: NAME=VALUE, with a value as Python or YAML writes it."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {text}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, {"true": True, "false": False}.get(value, value)


def at_least(low: int):
    """An argparse type: whole numbers from `low`."""

    def whole(text: str) -> int:
        number = int(text)
        if number < low:
            raise argparse.ArgumentTypeError(f"must be {low} or more, not {number}")
        return number

    whole.__name__ = "whole number"  # argparse names the type in its message
    return whole


def given_settings(args: argparse.Namespace) -> dict:
    """The settings that were given, by their fields' names."""
    names = {f.name for kind in (Settings, ClassSettings) for f in fields(kind)}
    return {name: value for name, value in vars(args).items() if name in names}


def refuse_options(args: argparse.Namespace, names: list[str], meant: str) -> None:
    """Raise UserError for an option that says nothing of what is learned."""
    for name in names:
        if getattr(args, name) not in (None, False):
            raise UserError(f"--{name.replace('_', '-')} is for {meant}: leave it out")
