"""Hashes of the data that runs are made from: embedded sets and bases, and folders that a parameter names."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from ..classification.backbones import EMBEDDED as BACKBONES
from ..classification.datasets import RENDITIONS
from ..classification.sets import EMBEDDED as CLASS_SETS
from ..diffusion.bases import EMBEDDED as BASES
from ..diffusion.concepts import SETS, concepts


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
    elif name in BASES or name in BACKBONES:
        folders = [bases[name] for bases in (BASES, BACKBONES) if name in bases]
        files = [file for folder in folders for file in folder.rglob("*.safetensors")]
    else:
        home = RENDITIONS if name in CLASS_SETS else Path(name)
        files = [home] if home.is_file() else [file for file in home.rglob("*") if file.is_file()]
    digest = hashlib.sha256()
    for file in sorted(files):
        with open(file, "rb") as stream:
            digest.update(f"{file.parent.name}/{file.name}\n".encode())
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16] if files else ""
