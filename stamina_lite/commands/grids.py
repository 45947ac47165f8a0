"""reproduce, verify: many runs from a file, and whether stored ones are sound."""

import sys

from ..errors import UserError
from ..options import at_least, folder, folder_or_address, name_and_value, word


def add(verb) -> None:
    """Add the verbs."""
    p = verb(reproduce)
    p.add_argument("preset", metavar="PRESET", help="a name in notebooks/params, or a YAML file")
    p.add_argument(
        "--out",
        required=True,
        type=folder_or_address,
        metavar="DIR",
        help="where notebooks and runs go: a folder, or an fsspec address such as s3://BUCKET/FOLDER",
    )
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


def reproduce(args) -> int:
    """Run the notebooks of a preset, or the runs of a grid; what is done already is kept."""
    from ..reproduction.notebooks import plan
    from ..reproduction.notebooks import reproduce as run_preset
    from ..reproduction.presets import Selection

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
    from ..reproduction.verify import retrain
    from ..reproduction.verify import verify as verified

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

        def bench(arguments: list[str]) -> None:
            again = args.parse(["bench", *arguments])
            again.run(again)

        print(f"ok      {runs[0]}  {retrain(runs[0], bench)}")
    return 2 if damaged else 0
