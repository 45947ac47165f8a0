"""What step_memory.py, diffusion_step.py and vit_step.py have stored, as tables."""

from pathlib import Path

from stamina_lite.reproduction.tables import table
from stamina_lite.runs.files import read_json


def memory_table(report: dict) -> str:
    """GiB at the peak of a step, a row a method or published loop."""
    kinds = sorted({kind for row in report["rows"].values() for kind in row})
    lines = []
    for name, row in report["rows"].items():
        lines.append([name, *(f"{row[kind] / 2**30:.1f}" if kind in row else "–" for kind in kinds)])
    return table(["GiB", *kinds], lines)


def step_table(report: dict) -> str:
    """Where it was measured, and seconds of a step beside the floor's: as measured and as counted."""
    side = report["latent"] or "their own size"
    about = f"{report['device']}, {report['dtype'].removeprefix('torch.')}, latents of {side}, {report['steps']} steps:"
    lines = []
    for batch, rows in report["rows"].items():
        for name, row in rows.items():
            counted = report["predicted"][batch][name]
            numbers = [f"{row['seconds']:.2f}", f"{row['ratio']:.2f}", f"{counted['ratio']:.2f}"]
            work = [f"{counted['flops'] / 1e9:,.0f}", f"{counted['moved'] / 1e9:.1f}", f"{counted['launches']:.0f}"]
            lines.append([name, batch, *numbers, *work])
    head = ["row", "batch", "s a step", "× floor", "× floor, predicted", "GFLOP", "GB moved", "operators"]
    return f"{about}\n\n{table(head, lines)}"


def vit_table(report: dict) -> str:
    """Where it was measured; pictures a second and GiB of every method, beside LoRA and a plain loop where they ran."""
    where = ", ".join(report[key] for key in ("device", "dtype", "model"))
    rows, lines = report["rows"], []

    def times(row: dict, key: str, other: str) -> str:
        return f"{row[key] / rows[other][key]:.2f}" if other in rows else "–"

    for name, row in rows.items():
        speed = [f"{report['batch'] / row['seconds']:.1f}", times(row, "seconds", "lora")]
        lines.append([name, *speed, f"{row['peak'] / 2**30:.2f}", times(row, "peak", "plain")])
    head = ["row", "pictures a second", "time × LoRA's", "GiB at the peak", "× plain's"]
    return f"{where}, batches of {report['batch']}, rank {report['rank']}:\n\n{table(head, lines)}"


def blocks(results: Path) -> dict[str, str]:
    """The tables that a folder of results has numbers for, by the name under which documents show them."""
    stored = {
        "memory": (memory_table, "step_memory.json"),
        "step": (step_table, "diffusion_step.json"),
        "vit_step": (vit_table, "vit_step.json"),
    }
    return {name: make(read_json(results / file)) for name, (make, file) in stored.items() if (results / file).exists()}
