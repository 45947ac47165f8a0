"""Numbers in the text of REPRODUCIBILITY.md stand in the tables that are recomputed from stored runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTIONS = "Twenty-five concepts: frontiers", "Fifty concepts", "Two hundred classes"
BLOCK = re.compile(r"<!-- (\w+) -->\n.*?<!-- end -->", re.S)
NUMBER = re.compile(r"(-?[\d.]+)(?: points?)? \[(-?[\d.]+), (-?[\d.]+)\]")  # a mean and its interval


def numbers(text: str) -> set[tuple[float, ...]]:
    return {tuple(map(float, found)) for found in NUMBER.findall(text)}


def missing(text: str, tables: str) -> set[tuple[float, ...]]:
    """Numbers of a text that are not in the tables, as they are or with the other sign."""
    there = numbers(tables)
    there |= {(-mean, -high, -low) for mean, low, high in there}
    return numbers(text) - there


@pytest.mark.parametrize("section", SECTIONS)
def test_numbers_of_the_text_are_in_the_tables(section):
    document = (ROOT / "REPRODUCIBILITY.md").read_text(encoding="utf-8")
    text = document.partition(f"## {section}\n")[2].partition("\n## ")[0]
    tables = "".join(match[0] for match in BLOCK.finditer((ROOT / "results" / "TABLES.md").read_text(encoding="utf-8")))
    prose = BLOCK.sub("", text)
    assert len(numbers(prose)) > 5
    assert not missing(prose, tables)


def test_a_changed_digit_is_found():
    table = "| accuracy | 18 [9, 28] |"
    assert not missing("ahead by 18 points [9, 28]", table) and not missing("behind by -18 [-28, -9]", table)
    assert missing("ahead by 19 points [9, 28]", table) == {(19.0, 9.0, 28.0)}
