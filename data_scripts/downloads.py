"""Fetch a file that may be large over a line that may break, and unpack an archive that may be hostile."""

import hashlib
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

BLOCK = 1 << 20
TRIES, PAUSE = 4, 2.0  # tries in a row that bring nothing new, and seconds between them


class DownloadError(Exception):
    """What went wrong and what to do, in one line."""


def digest(file: Path, kind: str) -> str:
    found = hashlib.new(kind)
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def check(file: Path, **wanted: str) -> bool:
    """Whether a file is there and has the checksum, given as md5=... or sha1=... or sha256=..."""
    ((kind, value),) = wanted.items()
    return file.is_file() and digest(file, kind) == value


def download(url: str, file: Path, **wanted: str) -> None:
    """Bring url to file, unless it is there with its checksum. A part that an earlier try has left is gone on with.

    Raises DownloadError where the server says no, the line stays broken, or the checksum is another; only what has the
    right checksum is ever called `file`.
    """
    if check(file, **wanted):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part, failures = file.with_name(file.name + ".part"), 0
    while failures < TRIES:
        before = part.stat().st_size if part.exists() else 0
        try:
            transfer(url, part)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416:  # there is nothing after what we have
                break
            raise DownloadError(f"{url}: the server says {error.code} {error.reason}") from None
        except (OSError, EOFError) as error:
            failures = 0 if part.exists() and part.stat().st_size > before else failures + 1
            reason = error
            time.sleep(PAUSE)
    else:
        raise DownloadError(f"{url} cannot be reached ({reason}): the same command goes on where this one was")
    if not check(part, **wanted):
        part.unlink()
        raise DownloadError(f"{url} is not the file it was: its checksum is another; nothing was kept")
    os.replace(part, file)


def transfer(url: str, part: Path) -> None:
    """Append to `part` what it lacks of url; EOFError where the line broke before the end."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        if start and answer.status != 206:  # a server that cannot go on sends all anew
            start = 0
        size = int(answer.headers.get("Content-Length", 0))
        with (
            open(part, "ab" if start else "wb") as out,
            tqdm(total=start + size or None, initial=start, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            while block := answer.read(BLOCK):
                out.write(block)
                bar.update(len(block))
            if size and bar.n < start + size:
                raise EOFError(f"{bar.n} of {start + size} bytes came")


def unpack(archive: Path, out: Path) -> None:
    """Unpack a tar file into out, whole or not at all. Raises DownloadError for a damaged or a hostile archive."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.isdir()):
                    raise DownloadError(f"{archive} holds {member.name}, a link or a path outside: it is not unpacked")
            for member in tqdm(members, desc="unpack", unit="file"):
                if member.isdir():
                    continue
                to = part / member.name
                to.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, open(to, "wb") as target:
                    shutil.copyfileobj(source, target)
        os.replace(part, out)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DownloadError(f"cannot unpack {archive} ({error}): delete it and run the same command again") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
