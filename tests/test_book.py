"""The book of `make book`: nothing that a reader should find is left out of it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_document_and_notebook_is_in_the_book():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {(ROOT / "docs" / line).resolve() for line in re.findall(r"^[\w./-]+$", index, flags=re.M)}
    pages = [
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("notebooks/**/*.ipynb"),
        *ROOT.glob("results/*.md"),
        *ROOT.glob("*.md"),
    ]
    missing = [page.name for page in pages if page.with_suffix("") not in listed and page.stem != "index"]
    assert not missing and len(pages) > 20
    assert all(page.with_suffix(".md").is_file() or page.with_suffix(".ipynb").is_file() for page in listed)
