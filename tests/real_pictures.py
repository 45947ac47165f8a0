"""What tests of the real sets' scripts have in common: photographs, and how a command ends."""

import csv
import io
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int) -> bytes:
    """A JPEG of 44 x 32 px: coarse blocks of colour, no two alike."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((44, 32), Image.Resampling.NEAREST).save(file, "JPEG", quality=90)
    return file.getvalue()


def middle(data: bytes, size: int) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.crop((6, 0, 38, 32)).resize((size, size), Image.Resampling.LANCZOS)).astype(int)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def rows_of(file: Path) -> list[dict]:
    with open(file, newline="", encoding="utf-8") as stream:
        return [*csv.DictReader(stream)]


def said(capsys, script, *argv) -> str:
    """The one line on stderr that a command ends with, below its bars; asserts exit code 2 and that no part is left."""
    capsys.readouterr()
    assert script.main([str(a) for a in argv]) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith(f"{script.__name__}.py: ")]
    assert len(lines) == 1 and err.endswith(lines[0] + "\n") and "Traceback" not in err
    out = Path(argv[argv.index("--out") + 1])
    assert not [*out.glob("*.part")] and not (out / script.NAME).exists()
    return lines[0]


def run(script, argv) -> None:
    assert script.main([str(a) for a in argv]) == 0


@contextmanager
def full_disk(size: int):
    """The system refuses files above so many bytes, as it refuses any on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
