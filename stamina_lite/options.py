"""What the commands may be told: settings of a method, and kinds of numbers."""

import argparse
from pathlib import Path

from .errors import UserError

# Options that are fields of `AdapterSettings`; what is not given keeps the method's default.
SETTINGS = {
    "batch": (int, "pictures a step"),
    "rank": (int, "rank of the low-rank change"),
    "lr": (float, "learning rate of adapters, weights or prompts"),
    "forget": (float, "weight of the penalty on forgetting"),
    "sparse": (float, "weight of the penalty on open masks"),
    "mask": (str, "what makes the mask: mlp, factors or free"),
    "mask-rank": (int, "rank of what makes the mask"),
    "temperature": (float, "of the mask's Gumbel-softmax"),
    "cool": (float, "share of the steps in which the mask's noise falls to zero (0: it stays)"),
    "density": (float, "share of weights that a random mask leaves open, or that pruning keeps"),
    "decay": (float, "p of the scaled merge: task t's update is folded times t^-p"),
    "drawn": (int, "pictures that EWC looks at, or that the base draws to be trained beside"),
}
# and of `Settings`: concepts
OF_CONCEPTS = {
    "steps": (int, "training steps a concept"),
    "lr-token": (float, "learning rate of the token"),
    "prior": (float, "weight of the loss on pictures the model drew itself"),
    "prior-prompts": (str, "what the base draws of for that, with ; between"),
    "guidance": (float, "scale of guidance of all pictures it draws (1.5; Stable Diffusion wants about 7.5)"),
}
# and of `ClassSettings`: classes
OF_CLASSES = {
    "epochs": (int, "how often each picture of a task is seen"),
    "lr-head": (float, "learning rate of the head"),
    "distill": (float, "weight of the loss on past classes (lwf)"),
    "threshold": (float, "share of past inputs that is protected (inflora)"),
}
DEVICE = "cpu or cuda (cuda where there is one)"
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
    p.add_argument("--seed", type=at_least(0), default=0, help="(0)")
    p.add_argument("--device", help=DEVICE)
    p.add_argument(
        "--gradient-checkpointing", action="store_true", help="concepts: less memory, more time, same result"
    )
    group = p.add_argument_group("settings", "what is not given keeps the method's default, see `stamina-lite methods`")
    add_settings(group, SETTINGS)
    group.add_argument("--soft", dest="hard", action="store_false", default=argparse.SUPPRESS, help="a soft mask")
    add_settings(p.add_argument_group("settings of concepts"), OF_CONCEPTS)
    if classes:
        add_settings(p.add_argument_group("settings of classes (renditions, imagenet-r)"), OF_CLASSES)


def add_settings(group, settings: dict) -> None:
    for name, (kind, text) in settings.items():
        group.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=text)


def scale(text: str) -> float:
    """An argparse type: a number from 1."""
    number = float(text)
    if not 1 <= number < float("inf"):  # refuses NaN too
        raise argparse.ArgumentTypeError(f"must be a number from 1, not {text}")
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
    names = [*(name.replace("-", "_") for name in SETTINGS | OF_CONCEPTS | OF_CLASSES), "hard"]
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def refuse_options(args: argparse.Namespace, names: list[str], meant: str) -> None:
    """Raise UserError for an option that says nothing of what is learned."""
    for name in names:
        if getattr(args, name) not in (None, False):
            raise UserError(f"--{name.replace('_', '-')} is for {meant}: leave it out")
