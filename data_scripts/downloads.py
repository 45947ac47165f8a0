"""Fetch a file that may be large over a line that may break, and unpack an archive that may be hostile."""

import errno
import hashlib
import lzma
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

BLOCK = 1 << 20
TRIES, PAUSE = 4, 2.0  # tries in a row that bring nothing new, and seconds between them
BUSY = (429, 503)  # what a server says that asks to be left alone for a while
PATIENCE = 600  # seconds that it may ask for
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # it is full


class DownloadError(Exception):
    """What went wrong and what to do, in one line."""


class Refused(DownloadError):
    """The server's no, with its code: 404 for what is gone."""

    def __init__(self, url: str, error: urllib.error.HTTPError):
        later = error.headers.get("Retry-After")
        super().__init__(
            f"{url}: the server says {error.code} {error.reason}" + (f" (Retry-After: {later})" if later else "")
        )
        self.code = error.code


def digest(file: Path, kind: str) -> str:
    found = hashlib.new(kind)
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def check(file: Path, **wanted: str) -> bool:
    """Whether a file is there and has the checksum, if one is given as md5=... or sha1=... or sha256=..."""
    return file.is_file() and all(digest(file, kind) == value for kind, value in wanted.items())


def download(url: str, file: Path, headers: dict | None = None, bar: bool = True, **wanted: str) -> None:
    """Bring url to file, unless it is there with its checksum. A part that an earlier try has left is gone on with.

    headers: what is said beside the address, such as a User-Agent. bar: show how far it is. A server that is busy is
    waited for as long as it asks. Raises DownloadError where it says no, the line stays broken, or the checksum is
    another, and OSError for the disk; only what has the right checksum, or without one the whole length, is ever called
    `file`.
    """
    if check(file, **wanted):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part, failures = file.with_name(file.name + ".part"), 0
    while failures < TRIES:
        before = part.stat().st_size if part.exists() else 0
        try:
            transfer(url, part, headers or {}, bar)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416:  # there is nothing after what we have
                if wanted or error.headers.get("Content-Range") == f"bytes */{before}":
                    break
                part.unlink(missing_ok=True)  # it is no part of what is there now
            elif error.code not in BUSY or (wait := seconds_asked(error)) > PATIENCE:
                raise Refused(url, error) from None
            else:
                time.sleep(wait)
            failures, reason = failures + 1, error
        except (OSError, EOFError, HTTPException) as error:
            if isinstance(error, OSError) and (error.filename or error.errno in DISK):  # not the line's fault
                raise
            failures = 0 if part.exists() and part.stat().st_size > before else failures + 1
            reason = error
            time.sleep(PAUSE)
    else:
        raise DownloadError(f"{url} cannot be reached ({reason}): the same command goes on where this one was")
    if not check(part, **wanted):
        part.unlink()
        raise DownloadError(f"{url} is not the file it was: its checksum is another; nothing was kept")
    os.replace(part, file)


def seconds_asked(error: urllib.error.HTTPError) -> float:
    """How long a busy server wants to be left alone: its Retry-After, a number or a date, or else PAUSE."""
    asked = error.headers.get("Retry-After", "")
    if asked.strip().isdecimal():
        return float(asked)
    try:
        until = parsedate_to_datetime(asked)
    except ValueError:
        return PAUSE
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def transfer(url: str, part: Path, headers: dict, bar: bool) -> None:
    """Append to `part` what it lacks of url; EOFError where the line broke before the end."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={**headers, **({"Range": f"bytes={start}-"} if start else {})})
    with urllib.request.urlopen(request, timeout=60) as answer:
        if start and answer.status != 206:  # a server that cannot go on sends all anew
            start = 0
        size = int(answer.headers.get("Content-Length", 0))
        shown = {} if bar else {"disable": True}  # otherwise TQDM_DISABLE decides
        with (
            open(part, "ab" if start else "wb") as out,
            tqdm(total=start + size or None, initial=start, unit="B", unit_scale=True, desc=part.stem, **shown) as tick,
        ):
            while block := answer.read(BLOCK):
                out.write(block)
                tick.update(len(block))
            if size and out.tell() < start + size:
                raise EOFError(f"{out.tell()} of {start + size} bytes came")


def unpack(archive: Path, out: Path) -> None:
    """Unpack a tar file into out, whole or not at all. Raises DownloadError for a damaged or a hostile archive."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            if not ended(tar):
                raise EOFError("it breaks off, or is damaged inside")
            for member in members:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.isdir()):
                    raise DownloadError(f"{archive} holds {member.name}, a link or a path outside: it is not unpacked")
            tar.extractall(part, tqdm(members, desc="unpack", unit="file"), filter="data")
        os.replace(part, out)
    except (tarfile.TarError, EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise DownloadError(f"cannot unpack {archive} ({reason}): fetch it again if it is damaged") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def ended(tar: tarfile.TarFile) -> bool:
    """Whether the members of an archive were read to its end mark, a block of zeros.

    Python takes a damaged header in the middle for the end, and says nothing.
    """
    tar.fileobj.seek(tar.offset)
    return tar.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
