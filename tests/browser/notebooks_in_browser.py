"""Every notebook of the course in a real JupyterLab: all its cells run, with a few steps, and its figures are seen.

`make browser-test` runs this file with a Chromium; `make test` does not collect it. Screenshots of the last figure of
each notebook are in build/screenshots.
"""

import nbformat
import pytest
from chromium import ROOT
from lab_in_browser import Lab, Opened, errors_of

pytest_plugins = ("chromium",)  # browser, screenshots
NAMES = sorted(file.stem for file in (ROOT / "notebooks").glob("0*.ipynb"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    server = Lab(folder, STAMINA_LITE_NOTEBOOK_STEPS="2")
    (folder / "results").symlink_to(ROOT / "results")  # what notebooks read stands where they expect it
    (server.folder / "params").symlink_to(ROOT / "notebooks" / "params")
    yield server
    server.stop()


@pytest.mark.parametrize("name", NAMES)
def test_all_cells_run(browser, lab, screenshots, name):
    file = lab.copy(f"{name}.ipynb", name)
    opened = Opened(browser, lab, file)
    opened.menu("Run", "Run All Cells")
    last = [cell.id for cell in nbformat.read(file, 4).cells if cell.cell_type == "code" and cell.source][-1]
    opened.until_run(last)
    opened.done()
    saved = opened.saved()
    assert not errors_of(saved)
    code = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    figures = [cell.id for cell in code if any("image/png" in o.get("data", {}) for o in cell.outputs)]
    assert len(figures) >= 3
    for figure in figures:  # cells out of view are drawn when they come into view
        opened.show(figure, screenshots / f"notebook-{name}.png")
        images = opened.cell(figure).locator(".jp-OutputArea-output img")
        sides = images.evaluate_all("images => images.map(i => [i.naturalWidth, i.clientWidth])")
        assert sides and all(natural > 0 and 0 < shown <= 1200 for natural, shown in sides)
    assert not opened.problems
    opened.close()
