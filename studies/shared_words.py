"""What a task's update changes: K and V of its own word V*, of earlier concepts' words, or of words of every prompt?

    python studies/shared_words.py runs/frontier/{c-lora@10,stamina@10}.alternate.0 --out results/shared_words.json

For task t of a run and hidden states x of the prompt "a photo of V*", ‖ΔW_t x‖ / (‖ΔW_t‖ ‖x‖) is computed over all K
and V: at V* of the task's own concept, at V* of the concepts before it, and at the words that every prompt has
(the start of the text, "a photo of"). For a random ΔW_t it is 1/√D2. Runs need their tasks/. The figure is drawn next
to --out.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from stamina_lite.diffusion.bases import load_recorded
from stamina_lite.diffusion.captions import PROMPT
from stamina_lite.diffusion.learner import open_run
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.measures.intervals import number
from stamina_lite.plots.style import colour
from stamina_lite.reproduction.tables import shown, table
from stamina_lite.runs.files import load_task, read_json, write_json
from stamina_lite.runs.folder import tasks_of

KINDS = {"own": "own V*", "past": "V* of past concepts", "shared": "words of every prompt"}


@torch.no_grad()
def hidden_states(model: TextToImage, token: str) -> tuple[Tensor, Tensor]:
    """Hidden states of "a photo of V*": the start of the text and the words before V* (n, D2), and V* (1, D2)."""
    ids = model.tokenize([PROMPT.format(token)])
    place = (ids[0] == model.token_ids[token]).nonzero().item()
    states = model.text(ids)[0][0]
    return states[:place], states[place : place + 1]


def gain(deltas: list[Tensor], x: Tensor) -> float:
    """‖ΔW x‖ / (‖ΔW‖ ‖x‖) over several matrices (D1, D2), x: (n, D2)."""
    changed = sum((delta @ x.T).square().sum() for delta in deltas)
    return (changed / sum(delta.square().sum() for delta in deltas)).sqrt().item() / x.norm().item()


def gains(run: Path) -> dict[str, dict[str, float]]:
    """The mean gain at every kind of position, by the concept of the task; tasks from the second on."""
    learner = open_run(run, lambda about: load_recorded(about, None))
    names = [record["concept"] for record in learner.records]
    states = [hidden_states(learner.model, f"<{name}>") for name in names]
    before = weights(run, 1)
    found: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for task in range(2, len(names) + 1):
        after = weights(run, task)
        deltas = [new - old for new, old in zip(after, before, strict=True)]
        shared, own = states[task - 1]
        past = [gain(deltas, word) for _, word in states[: task - 1]]
        values = {"own": gain(deltas, own), "past": sum(past) / len(past), "shared": gain(deltas, shared)}
        for kind, value in values.items():
            found[kind][names[task - 1]] = value
        before = after
    return found


def weights(run: Path, task: int) -> list[Tensor]:
    """Every K and V (D1, D2) after a task of a run."""
    tensors, _ = load_task(tasks_of(run)[task - 1])
    return [tensor for name, tensor in tensors.items() if name.startswith("weight.")]


def words_table(report: dict) -> str:
    """Gains by kind of position, and that of the own V* divided by that of past ones, with intervals over tasks."""
    lines = []
    for row, kinds in report["rows"].items():
        ratio = {name: kinds["own"][name] / kinds["past"][name] for name in kinds["own"]}
        lines.append([row, *(shown(number(kinds[kind])) for kind in KINDS), shown(number(ratio), 1)])
    return table(["row", *KINDS.values(), "own / past"], lines)


def words_figure(report: dict) -> Figure:
    """`words_table` as points, a line a row."""
    rows, marks = report["rows"], {"own": "o", "past": "s", "shared": "D"}
    figure, axis = plt.subplots(figsize=(6.8, 0.34 * len(rows) + 1.1), layout="constrained")
    for y, (row, kinds) in enumerate(rows.items()):
        for kind, values in kinds.items():
            n, filled = number(values), kind == "own"
            shade = colour(row.partition("@")[0])
            axis.plot([n.low, n.high], [-y, -y], color=shade, linewidth=1)
            axis.plot(n.mean, -y, marks[kind], color=shade, markersize=6, markerfacecolor=shade if filled else "white")
    for kind, label in KINDS.items():
        face = "#444444" if kind == "own" else "white"
        axis.plot([], [], marks[kind], color="#444444", markerfacecolor=face, label=label)
    axis.axvline(report["random"], color="#999999", linestyle=":", label="random update")
    axis.set_yticks([-y for y in range(len(rows))], [*rows])
    axis.set(xlabel="Change of K and V per unit of update: ‖ΔW x‖ / (‖ΔW‖ ‖x‖)", xlim=(0, None))
    figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=4)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs with all their tasks")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    report = read_json(args.out) if args.out.exists() else {"rows": {}}
    for run in args.runs:
        report["rows"][run.name.partition(".alternate")[0]] = gains(run)
        report["random"] = weights(run, 1)[0].shape[1] ** -0.5
    write_json(args.out, report)
    print(words_table(report))
    words_figure(report).savefig(args.out.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
