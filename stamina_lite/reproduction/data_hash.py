"""Hashes of the data that runs are made from: embedded sets and bases, and folders that a parameter names."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from ..diffusion.concepts import SETS, concepts

ASSETS = Path(__file__).parents[1] / "assets"
BASES = {"mini": ("mini", "vit")}  # folders of the embedded bases, of which the weights are hashed
CLASSES = {"renditions": "renditions", "tuning": "renditions"}  # folders of the embedded sets of classes


def data_hash(names: Iterable[str]) -> str:
    """A short sha256 of all sources of these names, see `source_hash`."""
    return hashlib.sha256(" ".join(source_hash(name) for name in names).encode()).hexdigest()[:16]


@cache
def source_hash(name: str) -> str:
    """A short sha256 of an embedded set, the weights of an embedded base, a file, or all files of a folder.

    The names of files count, and those of their folders. It is computed once in a process. Empty if there is no source
    of this name.
    """
    if name in SETS:
        files = [file for concept in concepts(name) for file in concept.images + concept.references]
    elif name in BASES:
        files = [file for folder in BASES[name] for file in (ASSETS / folder).rglob("*.safetensors")]
    else:
        home = ASSETS / CLASSES[name] if name in CLASSES else Path(name)
        files = [home] if home.is_file() else [file for file in home.rglob("*") if file.is_file()]
    digest = hashlib.sha256()
    for file in sorted(files):
        with open(file, "rb") as stream:
            digest.update(f"{file.parent.name}/{file.name}\n".encode())
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16] if files else ""
