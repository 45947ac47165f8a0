"""The command line: `stamina-lite VERB`; the verbs are in stamina_lite.commands.

Exit codes: 0 done, 2 a user's mistake (one line on stderr), 130 interrupted, 141 the output's reader has left, 1 a bug
(a traceback).
"""

import io
import os
import sys
import warnings
from importlib.metadata import version

from .commands import bench, concepts, grids, listings, outputs
from .errors import UserError, UserNotice
from .options import Parser

OUT_OF_MEMORY = (
    "out of GPU memory: make room and give the same command, a run goes on from its last finished task; "
    "or add --gradient-checkpointing, lower --batch with another --out (drawing: --batch), or give --device cpu"
)


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
        added.set_defaults(run=run, parse=top.parse_args)
        return added

    for module in (concepts, bench, outputs, listings, grids):
        module.add(verb)
    return top


if __name__ == "__main__":
    sys.exit(main())
