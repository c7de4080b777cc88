"""SHA256SUMS: digests of whole files beside them, as `sha256sum` writes and checks them."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from .errors import WriteError
from .profiling import stage
from .writing import Progress, places

NAME = "SHA256SUMS"
_STEP_BYTES = 4 << 20
_LINE = re.compile(rb"\\?([0-9a-f]{64}) [ *](.*)", re.DOTALL)


def record(paths: Sequence[Path], progress: Progress | None = None) -> list[str]:
    """Write the digests of files, all in one folder, into SHA256SUMS there.

    Lines on other files that it has stay as they are, but for those of files that were written
    since: renewed, they would pass for true. The new ones come last. It is whole at any time.
    Returns the names of files that have lost their line.
    Raises WriteError where a file cannot be read or the digests not be written.
    """
    sums = paths[0].parent / NAME
    try:
        with stage("SHA-256"):
            lines = _lines(paths, progress)
        out = places.begin(sums)
        try:
            kept, dropped = _kept(sums, {path.name for path in paths})
            places.put(out, kept + lines, 0)
            os.fsync(out)
            places.rename([sums])
        finally:
            os.close(out)
    except OSError as error:
        raise WriteError(f"{sums}: {error.strerror}", hint="the files themselves are whole") from (
            error
        )
    return dropped


def _lines(paths: Sequence[Path], progress: Progress | None) -> bytes:
    total, done, lines = sum(path.stat().st_size for path in paths), 0, b""
    buffer = bytearray(_STEP_BYTES)
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while n := file.readinto(buffer):
                digest.update(memoryview(buffer)[:n])
                done += n
                if progress is not None:
                    progress(path.name, done, total)
        lines += _line(digest.hexdigest(), path.name)
    return lines


def _line(digest: str, name: str) -> bytes:
    """A backslash in front says that there are some in the name, as GNU coreutils do."""
    told = os.fsencode(name)
    for plain, escaped in ((b"\\", b"\\\\"), (b"\n", b"\\n"), (b"\r", b"\\r")):
        told = told.replace(plain, escaped)
    mark = b"\\" if told != os.fsencode(name) else b""
    return mark + digest.encode() + b"  " + told + b"\n"


def stated(path: Path) -> str | None:
    """The digest, hexadecimal, that SHA256SUMS beside a file gives of it; None where it gives none,
    or was last written before the file was. Raises WriteError where it cannot be read.
    """
    sums = path.parent / NAME
    try:
        lines = sums.read_bytes().split(b"\n")
        older = sums.stat().st_mtime_ns < path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WriteError(f"{sums}: {error.strerror}") from error
    name = _told(path.name)
    found = [m for line in lines if (m := _LINE.fullmatch(line)) is not None and m[2] == name]
    return found[-1][1].decode() if found and not older else None


def _kept(sums: Path, names: set[str]) -> tuple[bytes, list[str]]:
    """What the file says on others than these, and than those that were written after it: which of
    these it had lines on.
    """
    try:
        was, at = sums.read_bytes(), sums.stat().st_mtime_ns
    except FileNotFoundError:
        return b"", []
    with os.scandir(sums.parent) as there:
        since = {e.name for e in there if e.is_file() and e.stat().st_mtime_ns > at} - names
    lines = was.removesuffix(b"\n").split(b"\n") if was else []
    replaced = {_told(name): name for name in names | since}
    kept = [line for line in lines if line.lstrip(b"\\")[66:] not in replaced]
    gone = {replaced.get(line.lstrip(b"\\")[66:]) for line in lines}
    return b"".join(line + b"\n" for line in kept), sorted(since & gone)


def _told(name: str) -> bytes:
    """A name as a line has it."""
    return _line("0" * 64, name).lstrip(b"\\")[66:-1]
