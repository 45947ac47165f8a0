"""The wheel holds every sub-package and the assets: installed away from the repository, it learns."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_an_installed_wheel_has_all_modules_and_assets_and_learns(photos, tmp_path):
    """In an environment of its own, which borrows the packages that it depends on, but not this checkout."""
    source = tmp_path / "source"  # a copy: setuptools leaves its build folder there
    shutil.copytree(ROOT / "stamina_lite", source / "stamina_lite", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    files = {f.relative_to(source).as_posix() for f in source.rglob("stamina_lite/**/*") if f.is_file()}
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", tmp_path]
    subprocess.run([*pip, "wheel", source, *options], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n} == files

    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])  # an editable install there is not followed
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True)

    def run(*words: str) -> str:
        command = [python, "-P", "-m", "stamina_lite.cli", *words]
        environment = {"PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
        return done.stdout

    package = [line.split(maxsplit=1)[1] for line in run("info").splitlines() if line.startswith("package")]
    assert package == [str(site / "stamina_lite")]
    learned = run("learn", str(photos / "amber"), "--method", "stamina", "--steps", "2", "--batch", "2", "--out", "run")
    assert "<amber>" in learned and (tmp_path / "run" / "tasks" / "001" / "tensors.safetensors").is_file()
