"""The notebooks as they are committed: their form, their presets, what they have stored, and that they run."""

import ast
import html
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbconvert
import nbformat
import papermill
import pytest
import yaml

from stamina_lite.diffusion.bases import EMBEDDED

sys.path.append(str(Path(__file__).parents[2] / "studies"))

import stored_outputs  # noqa: E402

HOME = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(HOME.glob("*.ipynb"))
GRIDS = "claim10", "claim50", "classes", "fifty", "frontier", "heads", "heads-100"
PRESETS = [file for file in sorted((HOME / "params").glob("*.yaml")) if file.stem not in GRIDS]
PARAMETER = re.compile(r"([A-Z][A-Z_]*) = (.+?)  # (str|int|float|bool|list): \S.*")
COMMON = {"BASE", "SEED", "DEVICE", "OUT"}
STANDING = ("[paper", "[recalled", "[ours")
MOST_BYTES = 700_000

each = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)


def read(file):
    return nbformat.read(file, as_version=4)


def code_of(notebook):
    """The code cells but for the one that installs the package on Colab, see studies/badges.py."""
    return [c for c in notebook.cells if c.cell_type == "code" and "install" not in c.metadata.get("tags", [])]


def parameters_cell(notebook):
    tagged = [k for k, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1, "exactly one cell is tagged parameters"
    return tagged[0]


def defaults(file):
    notebook = read(file)
    return {
        m[1]: (ast.literal_eval(m[2]), m[3])
        for m in map(PARAMETER.fullmatch, notebook.cells[parameters_cell(notebook)].source.splitlines())
    }


def test_there_are_nine():
    assert [f.name[:2] for f in NOTEBOOKS] == ["00", "01", "02", "03", "04", "05", "06", "07", "08"]


@each
def test_format(file):
    notebook = read(file)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [c.id for c in notebook.cells]
    assert len(set(ids)) == len(ids)


@each
def test_parameters_are_literals_with_type_and_help(file):
    notebook = read(file)
    cell = notebook.cells[parameters_cell(notebook)]
    kinds = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list}
    for line in cell.source.splitlines():
        match = PARAMETER.fullmatch(line)
        assert match, f"not NAME = value  # type: help: {line}"
        value = ast.literal_eval(match[2])  # raises where it is no literal
        assert value is None or isinstance(value, kinds[match[3]]), line
    assert COMMON <= set(defaults(file))


@each
def test_papermill_injects_before_anything_is_derived(file):
    """The cell below the parameters derives from them and reads the shrinking variable; injected ones come between."""
    notebook = read(file)
    below = notebook.cells[parameters_cell(notebook) + 1]
    assert below.cell_type == "code" and "STAMINA_LITE_NOTEBOOK_STEPS" in below.source
    assert set(papermill.inspect_notebook(str(file))) == set(defaults(file))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda f: f.stem)
def test_presets_name_known_parameters(preset):
    entries = yaml.safe_load(preset.read_text())
    assert entries and len({e["name"] for e in entries}) == len(entries)
    for entry in entries:
        known = defaults(HOME / entry["notebook"])
        for name, value in entry["parameters"].items():
            assert name in known, f"{preset.name}: {entry['notebook']} has no parameter {name}"
            default, kind = known[name]
            assert type(value).__name__ == kind, f"{preset.name}: {name} is {value!r}, expected {kind} like {default!r}"


def test_every_preset_is_there_and_covers_the_series():
    assert {p.stem for p in PRESETS} == {"quick", "mini", "paper"}
    for preset in ("quick", "mini"):
        entries = yaml.safe_load((HOME / "params" / f"{preset}.yaml").read_text())
        assert [e["notebook"] for e in entries] == [f.name for f in NOTEBOOKS]


@each
def test_small_cells_and_as_much_prose_as_code(file):
    notebook = read(file)
    code = code_of(notebook)
    assert 12 <= len(code) <= 30
    assert statistics.median(len(c.source.splitlines()) for c in code) <= 8
    prose = sum(len(c.source) for c in notebook.cells if c.cell_type == "markdown")
    assert prose >= sum(len(c.source) for c in code)


@each
def test_one_import_cell_and_no_long_definition(file):
    importing, functions = [], []
    for cell in code_of(read(file)):
        tree = ast.parse(cell.source)
        importing += [cell.id for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))][:1]
        functions += [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    assert len(importing) == 1
    assert all(f.end_lineno - f.lineno < 7 for f in functions), "longer code belongs in the package"


@each
def test_opening_and_end(file):
    notebook = read(file)
    prose = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    first, text = prose[0], "\n".join(prose)
    assert first.startswith(f"# {file.name[:2]} · ") and "**Aim.**" in first
    assert all(word in first for word in ("Colab", "GPU", "memory", "minutes", "| quick |", "| mini |", "| paper |"))
    assert 0 < text.index("## What you saw") < text.index("## Exercises")
    assert all(mark in text for mark in STANDING)


@each
def test_plots_end_with_show(file):
    for cell in code_of(read(file)):
        draws = re.search(
            r"\bplt\.(plot|hist|subplots|semilogy)\(|\bsheet\(|_sheet\(|plots\.(weight|plas|forg|mask_p)", cell.source
        )
        assert not draws or "plt.show()" in cell.source, cell.source


def test_a_static_figure_stands_beside_every_widget():
    found = 0
    for file in NOTEBOOKS:
        code = code_of(read(file))
        for cell, after in zip(code, code[1:], strict=False):
            if "gallery(" in cell.source:
                found += 1
                assert "plt.show()" in after.source
    assert found


def outputs_of(file):
    """The outputs of an executed notebook; a skip where nothing was stored yet."""
    code = code_of(read(file))
    if not any(c.execution_count or c.outputs for c in code):
        pytest.skip("no outputs are stored in it")
    return [o for c in code for o in c.outputs]


@each
def test_stored_run_came_to_its_end(file):
    outputs = outputs_of(file)
    assert not [o for o in outputs if o.output_type == "error"]
    counts = [c.execution_count for c in read(file).cells if c.cell_type == "code"]
    assert counts == sorted(c for c in counts if c) and len(counts) == len(set(counts)), "run from top to bottom, once"


@each
def test_no_widget_is_stored(file):
    """Without a running kernel a stored widget is an empty box or "model not found"."""
    notebook = read(file)
    assert "widgets" not in notebook.metadata
    assert not [o for o in outputs_of(file) if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]


def html_of(file) -> str:
    exporter = nbconvert.HTMLExporter(template_name="classic")
    return exporter.from_notebook_node(read(file))[0]


@each
def test_every_stored_image_has_an_alternative_text(file):
    """In the cell's metadata for the book, in the output's for nbconvert; what is rendered there is compared too."""
    outputs_of(file)  # skips where nothing was stored yet
    wanted = []
    for cell in code_of(read(file)):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                text = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
                assert len(text) >= 40, f"cell {cell.id} has no alternative text: see CONTRIBUTING.md"
                assert output.metadata["image/png"]["alt"] == text, f"cell {cell.id}: store its outputs again"
                wanted.append(text)
    assert len(set(wanted)) > 2
    rendered = re.findall(r'<img alt="([^"]*)"[^>]* src="data:image/png', html_of(file))
    assert [html.unescape(text) for text in rendered] == wanted


def test_an_image_without_an_alternative_text_is_not_stored():
    shown = nbformat.v4.new_output("display_data", data={"image/png": "", "text/plain": ""})
    cell = nbformat.v4.new_code_cell("plt.show()", id="a-cell", outputs=[shown])
    with pytest.raises(ValueError, match="a-cell shows an image"):
        stored_outputs.describe(cell)
    cell.metadata["mystnb"] = {"image": {"alt": "a line that falls"}}
    stored_outputs.describe(cell)
    assert cell.outputs[0].metadata["image/png"]["alt"] == "a line that falls"


@each
def test_stored_outputs_are_small_and_name_no_machine(file):
    text = json.dumps(outputs_of(file))
    assert len(text) <= MOST_BYTES
    pictures_left_out = re.sub(r'"image/\w+": "[^"]*"', "", text)
    # a folder is named by two parts at least, so that "/" in prose, fractions and units passes
    paths = re.findall(
        r"(?<![\w.:/<])/(?:home|root|tmp|usr|work|var|opt|mnt|Users|content)/[\w./-]+|[A-Z]:\\\\\w+", pictures_left_out
    )
    assert not paths, paths[:3]


@pytest.mark.parametrize("file", [*NOTEBOOKS, HOME / "solutions"], ids=lambda file: file.stem)
def test_it_runs(file):
    """A notebook with a few steps; cells tagged nbval-check-output must print what is stored."""
    if not EMBEDDED["mini"].is_dir():
        pytest.skip("the embedded base stamina_lite/assets/mini is not there")
    small = {"STAMINA_LITE_NOTEBOOK_STEPS": "2", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--nbval-lax",
        "-p",
        "no:cacheprovider",
        str(file),
    ]
    run = subprocess.run(
        command, cwd=HOME, env={**os.environ, **small}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert run.returncode == 0, run.stdout[-6000:]
    assert re.search(r"\d+ passed", run.stdout)


HALF = """
import json, os, sys
import nbformat, torch
from IPython.core.interactiveshell import InteractiveShell
from stamina_lite.diffusion import bases
bases.precision = lambda device: torch.bfloat16
file, values = sys.argv[1], json.loads(sys.argv[2])
os.chdir(os.path.dirname(file))
shell = InteractiveShell()
for cell in nbformat.read(file, 4).cells:
    if cell.cell_type == "code":
        shell.run_cell(cell.source).raise_error()
    if "parameters" in cell.metadata.get("tags", []):
        shell.user_ns.update({name: value for name, value in values.items() if name in shell.user_ns})
dtypes = {str(v.unet.dtype) for v in shell.user_ns.values() if isinstance(getattr(v, "unet", None), torch.nn.Module)}
print("DTYPES", sorted(dtypes))
"""


def test_the_quick_start_runs_where_the_base_is_in_half_precision(tiny_folder, photos, tmp_path):
    """As on a GPU, with what is saved there loaded by stock code; here with a tiny pipeline."""
    values = {"BASE": str(tiny_folder), "SET": str(photos), "STEPS": 2, "PICTURES": 2, "COUNT": 2, "OUT": str(tmp_path)}
    script = [sys.executable, "-c", HALF, str(HOME / "00_quick_start.ipynb"), json.dumps(values)]
    done = subprocess.run(
        script, capture_output=True, text=True,
        env={**os.environ, "MPLBACKEND": "agg", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    assert "torch.bfloat16" in done.stdout.splitlines()[-1]
