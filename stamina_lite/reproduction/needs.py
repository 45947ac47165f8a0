"""What a run of a preset needs, and how long it takes: read from the preset, used by `--dry-run` and by Ray."""

from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import UserError


@dataclass(frozen=True)
class Needs:
    """What one run needs.

    Attributes:
        cpu, gpu: how many, a part of one is allowed.
        memory, disk: in GiB; disk None: not known.
    """

    cpu: float = 1
    gpu: float = 0
    memory: float = 2
    disk: float | None = None


def read_needs(content, file: Path) -> Needs:
    """The `needs` of a preset. Raises UserError for an unknown key or a value that is no amount."""
    known = [f.name for f in fields(Needs)]
    if not isinstance(content, dict) or not {*content} <= {*known}:
        raise UserError(f"{file}: needs is {content!r}: expected amounts of {', '.join(known)}")
    for name, value in content.items():
        if not is_amount(value):
            raise UserError(f"{file}: needs {name} is {value!r}: expected a number from 0")
    return Needs(**content)


def read_minutes(content, file: Path) -> float | None:
    """The `minutes` of a run; None: not known. Raises UserError for a value that is no amount."""
    if content is not None and not is_amount(content):
        raise UserError(f"{file}: minutes is {content!r}: expected a number from 0")
    return content


def is_amount(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
