"""Two runs of the same concepts compared, concept by concept."""

from ..measures.intervals import Number, number
from .tables import shown

# measure -> (key of its values by concept in results.json, whether higher is better, digits, scale)
COMPARED = {
    "MMD² at the end (A_mmd)": ("a_mmd_each", False, 2, 1),
    "MMD² when just learned": ("plasticity", False, 2, 1),
    "Forgetting (F_mmd)": ("f_mmd_each", False, 2, 1),
    "Accuracy at the end, %": ("concept_accuracy_each", True, 0, 100),
    "Accuracy when just learned, %": ("concept_accuracy_when_learned_each", True, 0, 100),
}
HEAD = ["Measure", "first", "second", "first minus second", "better"]


def compare(first: dict, second: dict) -> list[list[str]]:
    """Rows of a table: every measure of two results.json, and the difference with its 95 % interval over concepts.

    Concepts that only one of the runs has are left out. One run is called better only if the interval excludes zero.
    """
    rows = []
    for name, (key, higher, digits, scale) in COMPARED.items():
        one, other = (by_name(results, key) for results in (first, second))
        both = one.keys() & other.keys()
        gap = number({concept: one[concept] - other[concept] for concept in both})
        if gap:
            means = [number({concept: values[concept] for concept in both}) for values in (one, other)]
            rows.append([name, *(shown(value, digits, scale) for value in (*means, gap)), better(gap, higher)])
    return rows


def by_name(results: dict, key: str) -> dict[str, float]:
    """A measure by the concept's name; concepts without a value are left out."""
    values = zip(results["tasks"], results.get(key) or [], strict=False)
    return {name: value for name, value in values if value is not None}


def better(gap: Number, higher: bool) -> str:
    """Which of two runs is better by first minus second."""
    low, high = (gap.low, gap.high) if higher else (-gap.high, -gap.low)
    return "first" if low > 0 else "second" if high < 0 else "inconclusive"
