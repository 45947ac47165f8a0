"""The quick start and the widgets in a real JupyterLab: run, slide, stop, go on, upload, save.

`make browser-test` runs this file with a Chromium; `make test` does not collect it. The tests of a class share a page
and run in their order. Screenshots and seconds are written to build/screenshots.
"""

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from chromium import ROOT
from PIL import Image

pytest_plugins = ("chromium",)  # browser, screenshots
PATIENCE = 300_000  # ms, for what trains or draws; a busy machine is several times as slow
FEW = {"COUNT": 2, "STEPS": 12, "PICTURES": 2}  # parameters of the quick start
LONG = {"COUNT": 2, "STEPS": 25, "PICTURES": 2}  # long enough for a hand on the stop button
NOT_OURS = re.compile(r"ERR_(FAILED|INTERNET)|favicon|WebGL|swiftshader", re.I)


@pytest.fixture(scope="module")
def seconds(screenshots):
    """What was measured; written to seconds.json with the load of the machine."""
    measured: dict[str, float] = {}
    yield measured
    about = {"seconds": measured, "load": os.getloadavg()[0], "cores": os.cpu_count()}
    (screenshots / "seconds.json").write_text(json.dumps(about, indent=1))
    print("\n" + json.dumps(about))


class Lab:
    """A JupyterLab server on a free port, on a folder of copies. variables: more of its environment."""

    def __init__(self, folder: Path, **variables: str):
        self.folder, settings = folder / "notebooks", folder / "settings"
        self.folder.mkdir()
        (settings / "@jupyterlab" / "apputils-extension").mkdir(parents=True)
        asks_no_questions = {"fetchNews": "false", "checkForUpdates": False}
        (settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings").write_text(
            json.dumps(asks_no_questions)
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
        command += [f"--config={ROOT / 'notebooks' / 'jupyter_lab_config.py'}"]  # as `make lab` has it
        command += [f"--ServerApp.root_dir={self.folder}", "--IdentityProvider.token=", "--ServerApp.port_retries=0"]
        home = {
            "JUPYTER_CONFIG_DIR": folder / "config", "JUPYTER_DATA_DIR": folder / "data",
            "JUPYTER_RUNTIME_DIR": folder / "runtime", "IPYTHONDIR": folder / "ipython",
            "JUPYTERLAB_SETTINGS_DIR": settings, "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
        }  # fmt: skip
        paths = {name: str(path) for name, path in home.items()}
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **paths, **variables}
        with open(folder / "server.log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self.log = folder / "server.log"
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/api", timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"JupyterLab has not started: {self.log.read_text()[-2000:]}")

    def copy(self, name: str, stem: str, **parameters) -> Path:
        """A copy of a notebook without outputs, with parameters as a batch job sets them."""
        notebook = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", 4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        file = self.folder / name
        values = {"OUT": str(file.with_suffix("")), **parameters}
        source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        (place,) = (k for k, c in enumerate(notebook.cells, 1) if "parameters" in c.metadata.get("tags", []))
        injected = nbformat.v4.new_code_cell(source, id="injected", metadata={"tags": ["injected-parameters"]})
        notebook.cells.insert(place, injected)
        nbformat.write(notebook, file)
        return file

    def quick_start(self, name: str, **parameters) -> Path:
        return self.copy(name, "00_quick_start", **parameters)

    def kernel_seconds(self) -> float:
        """CPU seconds of all kernels: what a run would take without other work on the machine, on one core."""
        kernels = psutil.Process(self.process.pid).children(recursive=True)
        return sum(sum(kernel.cpu_times()[:2]) for kernel in kernels)

    def stop(self) -> None:
        self.process.terminate()  # the server ends its kernels
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    server = Lab(tmp_path_factory.mktemp("lab"))
    yield server
    server.stop()


class Opened:
    """A notebook in a page of the browser. Cells are named by their ids."""

    def __init__(self, browser, lab: Lab, file: Path):
        self.lab, self.file, self.problems = lab, file, []
        self.opened = time.monotonic()
        self.page = browser.new_page(viewport={"width": 1300, "height": 1000})
        self.page.route("**/*", lambda r: r.continue_() if "127.0.0.1" in r.request.url else r.abort())
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        self.page.set_default_timeout(60_000)
        self.page.goto(f"{lab.url}/doc/tree/{file.name}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.order = [cell.id for cell in nbformat.read(file, 4).cells]
        self.idle()

    def _note(self, problem: str) -> None:
        if not NOT_OURS.search(problem):
            self.problems.append(problem)

    def idle(self) -> None:
        self.page.locator("#jp-main-statusbar", has_text="| Idle").wait_for(timeout=PATIENCE)

    def cell(self, name: str):
        return self.page.locator(".jp-Notebook .jp-Cell").nth(self.order.index(name))

    def menu(self, *words: str) -> None:
        """Choose an entry of the menu bar, such as ("Run", "Run All Cells")."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{words[0]}$")).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{words[1]}")).first.click()

    def prompt(self, name: str) -> str:
        """The number of a cell's run; "*" while it runs or waits."""
        return (self.cell(name).locator(".jp-InputPrompt").text_content() or "").strip("[]:\u200b \xa0")

    def select(self, name: str) -> None:
        """Select a cell, without a place in its text."""
        prompt = self.cell(name).locator(".jp-InputPrompt")
        prompt.scroll_into_view_if_needed()
        prompt.click()

    def start(self, name: str) -> None:
        """Run a cell as its reader does."""
        self.select(name)
        self.page.keyboard.press("Control+Enter")

    def run(self, name: str) -> str:
        """Run a cell, wait for its end, and return the text below it."""
        before = self.prompt(name)
        self.start(name)
        self.until_run(name, before)
        return self.text(name)

    def until_run(self, name: str, before: str = "") -> None:
        """Wait until a cell has another number than before."""
        deadline = time.monotonic() + PATIENCE / 1000
        while not self.prompt(name).isdecimal() or self.prompt(name) == before:
            assert time.monotonic() < deadline, f"{name} runs too long: {self.text(name)}"
            self.page.wait_for_timeout(100)

    def text(self, name: str) -> str:
        """What stands below a cell, also where it is out of view."""
        return "\n".join(self.cell(name).locator(".jp-OutputArea-output").all_text_contents()).strip()

    def learned(self) -> list[str]:
        """The rows of the table of learned concepts, without the bars between them."""
        return re.findall(r"^(?:person|falls)-\d+ .*$", self.text("nb00-15"), re.M)

    def done(self) -> None:
        """Wait until no cell runs or waits."""
        self.page.wait_for_function(
            "![...document.querySelectorAll('.jp-InputPrompt')].some(p => p.textContent.includes('*'))",
            timeout=PATIENCE,
        )

    def type_into(self, name: str, source: str) -> None:
        """Replace the source of a cell."""
        self.cell(name).locator(".cm-content").first.click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Escape")

    def stop_button(self) -> None:
        self.page.locator('[data-command="notebook:interrupt-kernel"]').first.click()

    def steps_shown(self, name: str) -> int:
        """The step at which the bar below a cell is; 0 without a bar."""
        found = re.findall(r"(\d+)/\d+\s\[", self.text(name))
        return int(found[-1]) if found else 0

    def upload(self, button, *files: tuple[str, bytes]) -> None:
        with self.page.expect_file_chooser() as chooser:
            button.click()
        payload = [{"name": name, "mimeType": "image/jpeg", "buffer": data} for name, data in files]
        chooser.value.set_files(payload)
        expect = f"b => b.textContent.includes('({len(files)})')"
        self.page.wait_for_function(expect, arg=button.element_handle())
        self.page.wait_for_timeout(1000)  # until the kernel has the bytes

    def show(self, name: str, file: Path) -> None:
        """Keep a screenshot of a cell. Cells out of view have no height of their own until they are drawn."""
        for _ in range(2):
            self.cell(name).evaluate("cell => cell.scrollIntoView({block: 'center'})")
            self.page.wait_for_timeout(400)
        self.page.screenshot(path=file)

    def saved(self):
        """Save by the keyboard; the notebook as it is on the disk then."""
        before = self.file.stat().st_mtime_ns
        self.page.keyboard.press("Control+s")
        deadline = time.monotonic() + 60
        while self.file.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline, "it is not saved"
            self.page.wait_for_timeout(100)
        self.page.wait_for_timeout(500)
        return nbformat.read(self.file, 4)

    def picture(self, place) -> np.ndarray:
        """What an <img> of the page shows: (height, width, 4) uint8."""
        script = """async image => {
            await image.decode();
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            const context = canvas.getContext('2d');
            context.drawImage(image, 0, 0);
            return [canvas.height, canvas.width, [...context.getImageData(0, 0, canvas.width, canvas.height).data]];
        }"""
        height, width, data = place.evaluate(script)
        return np.array(data, np.uint8).reshape(height, width, 4)

    def close(self) -> None:
        """End the kernel and close the page."""
        self.menu("Kernel", "Shut Down Kernel")
        self.page.wait_for_timeout(2000)
        self.page.close()


def errors_of(notebook) -> list[str]:
    return [
        f"{cell.id}: {output.ename} {output.evalue}"
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "error"
    ]


def steps_of(run: Path) -> list[tuple[int, int]]:
    """(task, step) of all steps that a run has logged."""
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [(line["task"], line["step"]) for line in map(json.loads, lines)]


def encoded(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def photograph(seed: int, width: int = 800, height: int = 600) -> bytes:
    """A JPEG with an orange ball before a blue ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ground = np.array([40, 90, 190]) + rng.normal(0, 8, (height, width, 1)) + 30 * (y / height)[..., None]
    ball = (x - width * rng.uniform(0.4, 0.6)) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2
    ground[ball] = [235, 130, 20]
    return encoded(Image.fromarray(ground.clip(0, 255).astype(np.uint8)), "JPEG")


class TestQuickStart:
    @pytest.fixture(scope="class")
    def notebook(self, browser, lab):
        opened = Opened(browser, lab, lab.quick_start("quick.ipynb", **FEW))
        yield opened
        opened.close()

    def test_all_cells_run(self, lab, notebook, screenshots, seconds):
        notebook.menu("Run", "Run All Cells")
        image = notebook.page.locator(".jp-OutputArea-output img").first
        image.wait_for(timeout=PATIENCE)
        seconds["opening to the first picture"] = time.monotonic() - notebook.opened
        seconds["of it the kernel computed"] = lab.kernel_seconds()
        notebook.show("nb00-09", screenshots / "lab-first-picture.png")
        notebook.done()
        seconds["opening to the last cell"] = time.monotonic() - notebook.opened
        saved = notebook.saved()
        assert not errors_of(saved)
        ran = [cell for cell in saved.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in ran)
        assert "verified" in notebook.text("nb00-37")
        assert steps_of(notebook.file.with_suffix("") / "run") == [(t, s) for t in (1, 2, 3) for s in range(12)]

    def test_it_looks_well(self, notebook, screenshots):
        for name in ("nb00-15", "nb00-17", "nb00-19", "nb00-21", "nb00-33", "nb00-35", "nb00-37"):
            notebook.show(name, screenshots / f"lab-{name}.png")
        pictures = notebook.page.locator(".jp-OutputArea-output img")
        sides = pictures.evaluate_all("images => images.map(i => [i.naturalWidth, i.clientWidth])")
        assert len(sides) >= 8 and all(natural > 0 and shown > 0 for natural, shown in sides)

    def test_it_is_saved_as_it_is(self, notebook):
        source, saved = nbformat.read(ROOT / "notebooks" / "00_quick_start.ipynb", 4), notebook.saved()
        nbformat.validate(saved)
        written = [c.source for c in saved.cells if "injected-parameters" not in c.metadata.get("tags", [])]
        assert written == [c.source for c in source.cells]
        assert "widgets" not in saved.metadata

    def test_cells_run_twice_and_out_of_order(self, notebook, screenshots):
        before = steps_of(notebook.file.with_suffix("") / "run")
        table = notebook.learned()
        notebook.run("nb00-15")
        assert len(table) == 2 and notebook.learned() == table
        refusal = notebook.run("nb00-11")  # the learner of a pipeline that has learned
        assert refusal.count("\n") == 0 and "load the base again" in refusal
        notebook.show("nb00-11", screenshots / "lab-run-twice.png")
        for name in ("nb00-07", "nb00-11"):
            assert "rror" not in notebook.run(name)
        notebook.run("nb00-15")
        assert notebook.learned() == table
        assert steps_of(notebook.file.with_suffix("") / "run") == before

    def test_files_that_are_no_pictures_are_refused_in_a_line(self, notebook, screenshots):
        button = notebook.cell("nb00-31").locator("button.widget-upload")
        notebook.upload(button, ("letter.jpg", b"Dear Ann,"))
        answer = notebook.run("nb00-33")
        assert answer == "000-letter.jpg: not used, it is not a picture that can be read: choose another file"
        notebook.show("nb00-33", screenshots / "lab-letter.png")

    def test_of_odd_files_a_line_each(self, notebook, screenshots):
        large = encoded(Image.new("L", (10_000, 10_000), 90), "PNG")
        tiny = encoded(Image.new("RGB", (3, 2), "red"), "PNG")
        button = notebook.cell("nb00-31").locator("button.widget-upload")
        notebook.upload(button, ("letter.jpg", b"Dear Ann,"), ("tiny.png", tiny), ("large.png", large))
        lines = notebook.run("nb00-33").splitlines()
        assert lines[:4] == [
            "000-letter.jpg: not used, it is not a picture that can be read",
            "001-tiny.png: used, but blurred: its 3 x 2 px are enlarged to 128 x 128",
            "002-large.png: used; of its 100 megapixels 128 x 128 px are kept",
            "2 pictures are used: that is few, three to ten are better",
        ]
        notebook.show("nb00-33", screenshots / "lab-odd-files.png")

    def test_large_photographs_reach_the_kernel(self, notebook):
        """Nine of a telephone: more than the 10 MiB that a websocket takes if nobody says otherwise."""
        noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3)).astype(np.uint8)
        large = encoded(Image.fromarray(noise), "JPEG")
        assert 9 * len(large) > 10 * 2**20
        button = notebook.cell("nb00-31").locator("button.widget-upload")
        notebook.upload(button, *((f"IMG_{k}.jpg", large) for k in range(9)))
        notebook.page.wait_for_timeout(3000)
        assert notebook.run("nb00-33").splitlines()[0] == "9 pictures are used"

    def test_a_photograph_is_learned(self, notebook, screenshots):
        button = notebook.cell("nb00-31").locator("button.widget-upload")
        notebook.upload(button, *((f"ball {k}.jpg", photograph(k)) for k in range(3)))
        assert notebook.run("nb00-33").splitlines()[0] == "3 pictures are used"
        shown = notebook.picture(notebook.cell("nb00-33").locator("img").first)[..., :3].reshape(-1, 3)
        assert (np.abs(shown.astype(int) - [235, 130, 20]).max(1) < 30).mean() > 0.05  # the ball
        refusal = notebook.run("nb00-35")  # the stand-in has this name
        assert refusal.count("\n") == 0 and "choose another name" in refusal
        notebook.show("nb00-35", screenshots / "lab-other-pictures.png")
        notebook.type_into("nb00-31", 'MY_NAME = "my-ball"\nupload')
        notebook.run("nb00-31")
        for name in ("nb00-33", "nb00-35", "nb00-37"):
            notebook.run(name)
        assert "my-ball.safetensors" in notebook.text("nb00-37")
        notebook.show("nb00-35", screenshots / "lab-my-ball.png")

    def test_the_console_is_clean(self, notebook):
        assert not notebook.problems


class TestStopAndGoOn:
    @pytest.fixture(scope="class")
    def notebook(self, browser, lab):
        opened = Opened(browser, lab, lab.quick_start("stop.ipynb", **LONG))
        yield opened
        opened.close()

    def wait_for_step(self, notebook, step: int, task: str = "person-01") -> int:
        deadline = time.monotonic() + PATIENCE / 1000
        while task not in notebook.text("nb00-15") or notebook.steps_shown("nb00-15") < step:
            assert time.monotonic() < deadline and "rror" not in notebook.text("nb00-15"), notebook.text("nb00-15")
            notebook.page.wait_for_timeout(50)
        return notebook.steps_shown("nb00-15")

    def test_the_stop_button_ends_training_after_a_step(self, notebook, screenshots, seconds):
        notebook.menu("Run", "Run All Cells")
        shown, pressed = self.wait_for_step(notebook, 3), time.monotonic()
        notebook.stop_button()
        notebook.done()
        seconds["from the stop button to the end of the cell"] = time.monotonic() - pressed
        stopped = re.search(r"^Stopped after step (\d+), which is saved\. Run it again", notebook.text("nb00-15"), re.M)
        assert stopped and shown <= int(stopped[1]) < LONG["STEPS"]
        assert (notebook.file.with_suffix("") / "run" / "checkpoint.safetensors").is_file()
        notebook.show("nb00-15", screenshots / "lab-stopped.png")
        notebook.stopped_after = int(stopped[1])

    def test_the_same_cell_goes_on_with_the_next_step(self, notebook, screenshots):
        notebook.start("nb00-15")
        notebook.page.wait_for_function(
            "cell => !cell.textContent.includes('Stopped')", arg=notebook.cell("nb00-15").element_handle()
        )
        first = self.wait_for_step(notebook, 1)
        assert first > notebook.stopped_after
        notebook.show("nb00-15", screenshots / "lab-goes-on.png")

    def test_after_a_restart_of_the_kernel_the_cells_go_on(self, notebook, screenshots):
        self.wait_for_step(notebook, 2, "falls-01")  # in mid-sequence
        notebook.menu("Kernel", "Restart Kernel…")
        notebook.page.locator(".jp-Dialog button.jp-mod-accept").click()
        notebook.page.wait_for_timeout(1000)
        notebook.idle()
        notebook.select("nb00-15")
        notebook.menu("Run", "Run All Above Selected Cell")
        notebook.done()
        notebook.run("nb00-15")
        assert [row.split()[0] for row in notebook.learned()] == ["person-01", "falls-01"]
        run = notebook.file.with_suffix("") / "run"
        assert steps_of(run) == [(task, step) for task in (1, 2) for step in range(LONG["STEPS"])]
        notebook.show("nb00-15", screenshots / "lab-restarted.png")
        assert not errors_of(notebook.saved())

    def test_the_console_is_clean(self, notebook):
        assert not notebook.problems


class TestGallery:
    CELLS = {
        "gallery": "from stamina_lite.plots.gallery import gallery\ngallery('run')",
        "busy": "import time\nuntil = time.monotonic() + 6\nwhile time.monotonic() < until:\n    pass\nprint('ready')",
    }

    @pytest.fixture(scope="class")
    def notebook(self, browser, lab):
        """A gallery of a run of eight tasks, whose pictures have the grey of their task."""
        for task in range(1, 9):
            folder = lab.folder / "run" / "images" / f"after-{task:03d}" / "person-01"
            folder.mkdir(parents=True)
            for k in range(8):
                Image.new("RGB", (128, 128), (30 * task, 30 * task, 30 * task)).save(folder / f"{k:02d}.png")
        cells = [nbformat.v4.new_code_cell(source, id=name) for name, source in self.CELLS.items()]
        file = lab.folder / "gallery.ipynb"
        about = nbformat.read(ROOT / "notebooks" / "00_quick_start.ipynb", 4).metadata
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), file)
        opened = Opened(browser, lab, file)
        yield opened
        opened.close()

    def grey(self, notebook) -> int:
        return int(notebook.picture(notebook.cell("gallery").locator("img.widget-image"))[40, 40, 0])

    def test_the_slider_changes_the_picture_within_a_tenth_of_a_second(self, notebook, screenshots, seconds):
        notebook.run("gallery")
        notebook.cell("gallery").locator("img.widget-image").wait_for()
        assert self.grey(notebook) == 30
        notebook.page.evaluate("""() => {
            const image = document.querySelector('img.widget-image');
            new MutationObserver(() => image.decode().then(() => { window.changed = performance.now(); }))
                .observe(image, {attributes: true, attributeFilter: ['src']});
            window.addEventListener('keydown', () => { window.pressed = performance.now(); window.changed = 0; }, true);
        }""")
        notebook.cell("gallery").locator(".noUi-handle").focus()
        times = []
        for task in range(2, 9):
            notebook.page.keyboard.press("ArrowRight")
            notebook.page.wait_for_function("window.changed > 0")
            times.append(notebook.page.evaluate("window.changed - window.pressed") / 1000)
            assert self.grey(notebook) == 30 * task
        seconds["slider, median"], seconds["slider, least"] = float(np.median(times)), min(times)
        notebook.show("gallery", screenshots / "lab-gallery.png")
        assert min(times) < 0.1

    def test_a_slider_moved_while_a_cell_runs_is_not_lost(self, notebook, seconds):
        notebook.start("busy")
        notebook.page.wait_for_timeout(500)
        started = time.monotonic()
        notebook.cell("gallery").locator(".noUi-handle").focus()
        for _ in range(3):
            notebook.page.keyboard.press("ArrowLeft")
        while self.grey(notebook) != 30 * 5:
            assert time.monotonic() - started < 60, "the picture does not follow"
            notebook.page.wait_for_timeout(50)
        seconds["slider while a cell runs"] = time.monotonic() - started
        notebook.done()
        assert notebook.text("busy") == "ready" and self.grey(notebook) == 30 * 5

    def test_the_console_is_clean(self, notebook):
        assert not notebook.problems
