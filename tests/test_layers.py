"""The layers of the package: imports run downwards, and the method stands on nothing but torch."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stamina_lite"
LAYERS = (  # from the top down: a package imports from those below it only
    "cli", "commands", "options", "reproduction", "plots", "diffusion", "classification", "methods", "runs", "core",
    "measures", "images", "errors",
)  # fmt: skip
NEVER = {
    "core": {"measures", "images"},
    "methods": {"runs", "images"},
    "diffusion": {"classification"},
}
HEAVY = {"core": {"diffusers", "timm", "safetensors", "PIL"}, "methods": {"diffusers", "safetensors", "PIL"}}
FILES = sorted(file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py") if file.name != "__init__.py")


def imported(file: Path) -> tuple[set[str], set[str]]:
    """What a module imports: packages and modules of ours by their first name, and packages of others."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            others.add(node.module.partition(".")[0])
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            home = [*file.parent.parts][: len(file.parent.parts) + 1 - node.level]
            path = [*home, *(node.module.split(".") if node.module else [])]
            ours |= {path[0]} if path else {alias.name for alias in node.names}
    return ours, others


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_run_downwards(file):
    layer = file.parts[0].removesuffix(".py")
    below = {*LAYERS[LAYERS.index(layer) :]} - NEVER.get(layer, set())
    ours, others = imported(file)
    assert ours <= below
    assert not others & (HEAVY.get(layer, set()) | {"stamina_lite", "studies", "benchmarks"})


def test_the_core_is_small():
    lines = [len((PACKAGE / file).read_text().splitlines()) for file in FILES if file.parts[0] == "core"]
    assert 100 < sum(lines) <= 900
