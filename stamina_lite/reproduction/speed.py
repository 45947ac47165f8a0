"""Steps that a task needs, from what studies/learning_speed.py has stored."""

from ..measures.intervals import Number, number


def steps_to(share: float, looks: list[int], values: list[float]) -> float:
    """The step at which `share` of the whole fall of `values`, seen at the steps `looks`, is done for the first time.

    Between two looks on a straight line; the last look where it never is.
    """
    goal = values[0] + share * (values[-1] - values[0])
    for k in range(1, len(values)):
        if (values[k] - goal) * (values[-1] - values[0]) >= 0:
            part = (goal - values[k - 1]) / (values[k] - values[k - 1])
            return looks[k - 1] + part * (looks[k] - looks[k - 1])
    return float(looks[-1])


def steps_needed(report: dict, row: str, late: bool) -> dict[str, float]:
    """Steps to 90 % of the final likeness, by seed and task, where any was gained; late: tasks of the second half."""
    runs = [(row_, seed, run) for row_, seeds in report["rows"].items() for seed, run in seeds.items()]
    half = max((int(task) for _, _, run in runs for task in run), default=0) / 2
    return {
        f"{seed}/{task}": steps_to(0.9, report["looks"], values)
        for row_, seed, run in runs
        for task, values in run.items()
        if row_ == row and (int(task) > half) == late and values[-1] < values[0]
    }


def fewer_steps(report: dict, row: str, other: str, late: bool) -> Number | None:
    """How many steps more a row needs than another, over the tasks in which both gained likeness."""
    mine, theirs = steps_needed(report, row, late), steps_needed(report, other, late)
    return number({name: mine[name] - theirs[name] for name in mine if name in theirs})
