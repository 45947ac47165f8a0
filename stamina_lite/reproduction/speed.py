"""Training steps that a task needs, from results/learning_speed.json."""

from ..measures.intervals import Number, number


def steps_to(share: float, looks: list[int], values: list[float]) -> float:
    """The first step at which `share` of the total decrease of `values` is reached.

    looks: the steps at which the values were measured; between them values are interpolated linearly.
    """
    goal = values[0] + share * (values[-1] - values[0])
    for k in range(1, len(values)):
        if (values[k] - goal) * (values[-1] - values[0]) >= 0:
            part = (goal - values[k - 1]) / (values[k] - values[k - 1])
            return looks[k - 1] + part * (looks[k] - looks[k - 1])
    return float(looks[-1])


def steps_needed(report: dict, row: str, late: bool) -> dict[str, float]:
    """Steps to 90 % of the decrease of MMD² by "seed/task", of tasks that decreased it; late: of the second half."""
    runs = [(row_, seed, run) for row_, seeds in report["rows"].items() for seed, run in seeds.items()]
    half = max((int(task) for _, _, run in runs for task in run), default=0) / 2
    return {
        f"{seed}/{task}": steps_to(0.9, report["looks"], values)
        for row_, seed, run in runs
        for task, values in run.items()
        if row_ == row and (int(task) > half) == late and values[-1] < values[0]
    }


def fewer_steps(report: dict, row: str, other: str, late: bool) -> Number | None:
    """Steps that a row needs minus those of another, over the tasks in which both decreased MMD²."""
    a, b = steps_needed(report, row, late), steps_needed(report, other, late)
    return number({name: a[name] - b[name] for name in a if name in b})
