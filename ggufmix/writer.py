"""Writing a Plan: header first, then row bands, encoded by a pool of threads straight to their
offsets.

The file is `OUT.part` until it is whole, on disk and renamed. Bands are a pure function of the
plan, each goes to its own place, and what is counted are integers: the same bytes and the same
report come out of any number of threads.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from . import int4
from .codecs import Encoded, encode_band
from .errors import (
    ImportanceError,
    InexactError,
    NotFiniteError,
    OutlierError,
    ValueAtError,
    WriteError,
)
from .planning import Planned
from .tensor import DTYPE_NAMES

BAND_BYTES = 2 << 20
"""Source bytes of a band: large enough that Python is not felt, small enough for the caches and for
hundreds in flight.
"""

_HINTS: dict[type[ValueAtError], str] = {
    NotFiniteError: "the checkpoint is damaged, or was saved from a run that had diverged",
    OutlierError: "--on-outlier bf16 writes such tensors in BF16",
}

E = TypeVar("E", bound=ValueAtError)

Progress = Callable[[str, int, int], None]
"""Called after each band with the tensor's name, the source bytes done and those there are in all;
from several threads, one at a time.
"""


@dataclass(slots=True)
class Losses:
    """What was merely lossy, in blocks: `flushed` scales went to zero, in `wiped` blocks one value
    drowned all others.
    """

    flushed: int = 0
    wiped: int = 0


@dataclass(slots=True)
class Lattice:
    """Groups of 32 that were put back on the INT4 lattice they came from, of those there are."""

    recovered: int = 0
    groups: int = 0


@dataclass(slots=True)
class Tally:
    """What the bands of a run added up to, by tensor name. `inexact`: the first packed group whose
    scale no block holds; `lattice`: of tensors that Q4_X wrote.
    """

    losses: dict[str, Losses] = field(default_factory=dict)
    outliers: dict[str, OutlierError] = field(default_factory=dict)
    inexact: dict[str, InexactError] = field(default_factory=dict)
    lattice: dict[str, Lattice] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Done:
    """What one band came to."""

    flushed: int = 0
    wiped: int = 0
    recovered: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the output: its path, its header, and its tensors with offsets relative to the
    end of the header.
    """

    path: Path
    header: bytes
    tensors: Sequence[Planned]
    size: int


def write(
    parts: Sequence[Part],
    *,
    threads: int,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Tally:
    """Write every part, then rename them into place.

    Raises WriteError where the output exists, the disk has too little room or refuses, and any
    error of reading or encoding; nothing that looks finished is left behind.
    """
    for part in parts:
        check_place(part.path, overwrite=overwrite)
    needed, folder = sum(p.size for p in parts), parts[0].path.parent
    if (free := shutil.disk_usage(folder).free) < needed:
        raise WriteError(
            f"{folder}: too little space: {needed} bytes needed, {free} free",
            hint="nothing was written",
        )
    tally = Tally()
    begun: dict[Path, int] = {}
    try:
        for part in parts:
            begun[part.path] = _begin(part.path)
            _write_part(part, begun[part.path], threads, progress, tally)
        for path in begun:
            os.replace(_unfinished(path), path)
        _sync_folder(folder)
    except BaseException as error:
        for path in begun:
            _unfinished(path).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WriteError(
                f"{parts[0].path}: {error.strerror}", hint=_disk_hint(error)
            ) from error
        raise
    finally:
        for out in begun.values():
            os.close(out)
    return tally


def scan(tensors: Sequence[Planned], *, threads: int, progress: Progress | None = None) -> Tally:
    """Encode everything, keep nothing but what is counted; outliers and inexact groups are
    collected, not raised.
    """
    tally = Tally()
    _run(tensors, lambda *_: None, threads, progress, tally, collect=True)
    return tally


def check_place(path: Path, *, overwrite: bool) -> None:
    """Raise WriteError where `write` would refuse to put a file at `path`."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        mode = 0
    except OSError as error:
        raise WriteError(f"{path}: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise WriteError(f"{path} is a directory, expected the name of a file")
    if mode and not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise WriteError(f"{path} is no regular file", hint="give another name with -o")
    if mode and not overwrite:
        raise WriteError(f"{path} exists", hint="--overwrite replaces it")
    if not path.parent.is_dir():
        raise WriteError(f"{path.parent} is no directory", hint="create it first")


def _begin(path: Path) -> int:
    """Open what is to become `path`, empty, and lock it: two runs would write one file as both."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    out = os.open(_unfinished(path), flags, 0o666)
    try:
        _lock(out)
        if not os.path.samestat(os.fstat(out), os.lstat(_unfinished(path))):
            raise BlockingIOError  # the other run has ended between our two calls
        os.ftruncate(out, 0)
    except (BlockingIOError, FileNotFoundError) as error:
        os.close(out)
        raise WriteError(
            f"{path}: another run is writing it", hint="wait for it, or give another name with -o"
        ) from error
    except BaseException:
        os.close(out)
        raise
    return out


def _lock(out: int) -> None:
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL):
            raise  # those: a file system without locks, where the user has to see to it


def _write_part(
    part: Part, out: int, threads: int, progress: Progress | None, tally: Tally
) -> None:
    _reserve(out, part.size)
    _put(out, part.header, 0)
    base = len(part.header)
    _run(
        part.tensors,
        lambda planned, start, blocks: _put(
            out, blocks, base + planned.offset + start * planned.row_bytes
        ),
        threads,
        progress,
        tally,
    )
    os.fsync(out)


def _run(
    tensors: Sequence[Planned],
    put: Callable[[Planned, int, memoryview], None],
    threads: int,
    progress: Progress | None,
    tally: Tally,
    *,
    collect: bool = False,
) -> None:
    bands = enumerate(_bands(tensors))
    total, done = sum(t.source_bytes for t in tensors), 0
    lock = threading.Lock()
    failures: list[tuple[int, BaseException]] = []

    def work() -> None:
        nonlocal done
        while True:
            with lock:
                number, band = (-1, None) if failures else next(bands, (-1, None))
            if band is None:
                return
            planned, start, stop = band
            try:
                band_done = _encode(planned, start, stop, put)
            except BaseException as error:
                with lock:
                    if collect and isinstance(error, OutlierError):
                        _keep_first(tally.outliers, planned.name, error)
                        continue
                    if collect and isinstance(error, InexactError):
                        _keep_first(tally.inexact, planned.name, error)
                        continue
                    failures.append((number, error))
                return
            with lock:
                _add(tally, planned, stop - start, band_done)
                done += planned.source_bytes * (stop - start) // planned.placed.tensor.n_rows
                if progress is not None:
                    progress(planned.name, done, total)

    pool = [threading.Thread(target=work, daemon=True) for _ in range(threads - 1)]
    for thread in pool:
        thread.start()
    try:
        work()
    except BaseException as error:  # Ctrl-C reaches the main thread only
        failures.append((-1, error))
    for thread in pool:
        thread.join()
    if failures:
        raise min(failures, key=lambda f: f[0])[1]


def _encode(
    planned: Planned, start: int, stop: int, put: Callable[[Planned, int, memoryview], None]
) -> _Done:
    tensor, importance = planned.placed.tensor, planned.importance
    if planned.copied or planned.widened:
        blocks = tensor.blocks(start, stop)
        made = int4.widen(blocks) if planned.widened else np.ascontiguousarray(blocks)
        put(planned, start, made.data.cast("B"))
        return _Done()
    vector = importance.vector(start // tensor.matrix_rows) if importance is not None else None
    try:
        values = tensor.rows(start, stop)
        encoded: Encoded = encode_band(values, planned.encoder, vector)
    except (NotFiniteError, OutlierError) as error:
        row = start + error.row
        origin = tensor.origin(row)
        where = f"{origin.file}: {origin.name}" if origin.file else origin.name
        raise type(error)(
            f"{planned.name}: row {row}, column {error.column}: {error} "
            f"(from {where}, {tensor.format or DTYPE_NAMES[tensor.dtype]})",
            row=row,
            column=error.column,
            hint=_HINTS[type(error)],
        ) from error
    except ImportanceError as error:
        raise ImportanceError(f"{planned.name}: {error}", hint=error.hint) from error
    on_lattice = planned.encoder.name == "Q4_X"
    recovered = int4.recover(values, encoded.blocks) if on_lattice else None
    put(planned, start, encoded.blocks.data.cast("B"))
    return _Done(encoded.flushed, encoded.wiped, recovered)


def _add(tally: Tally, planned: Planned, n_rows: int, done: _Done) -> None:
    if done.flushed or done.wiped:
        losses = tally.losses.setdefault(planned.name, Losses())
        losses.flushed += done.flushed
        losses.wiped += done.wiped
    if done.recovered is not None:
        lattice = tally.lattice.setdefault(planned.name, Lattice())
        lattice.recovered += done.recovered
        lattice.groups += n_rows * planned.placed.tensor.cols // 32


def _keep_first(found: dict[str, E], name: str, error: E) -> None:
    first = found.get(name)
    if first is None or error.row < first.row:
        found[name] = error


def _bands(tensors: Sequence[Planned]) -> Iterator[tuple[Planned, int, int]]:
    for planned in tensors:
        tensor = planned.placed.tensor
        wanted = max(1, BAND_BYTES // (tensor.cols * tensor.dtype.itemsize))
        step = max(tensor.unit, wanted // tensor.unit * tensor.unit)
        for matrix in range(0, tensor.n_rows, tensor.matrix_rows):
            end = matrix + tensor.matrix_rows
            for start in range(matrix, end, step):
                yield planned, start, min(start + step, end)


def _put(out: int, data: bytes | memoryview, at: int) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(out, view, at)
        view, at = view[n:], at + n


def _reserve(out: int, size: int) -> None:
    try:
        os.posix_fallocate(out, 0, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (
            errno.EOPNOTSUPP,
            errno.EINVAL,
            errno.ENOSYS,
        ):
            raise
        os.ftruncate(out, size)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _disk_hint(error: OSError) -> str | None:
    return "the disk is full" if error.errno == errno.ENOSPC else None
