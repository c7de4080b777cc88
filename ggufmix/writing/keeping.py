"""The journal of a run: which jobs are on disk, so that a run that was killed can be continued.

`OUT.part.journal` lies beside the first part. Each line is a checksum and a JSON value; a line that
was torn, and what follows it, does not count. The first line says what the state is bound to, the
others are finished jobs: names, checksums of their data, what was found. What is written when:

1. data of jobs go to their places, in any order
2. `fdatasync` of the files
3. the lines of the jobs that had ended before 2 began, then `fdatasync` of the journal

So a line speaks only of data that outlives a loss of power. A thread does 2 and 3 every few
seconds; a run that is over by then has no journal. When all data and headers are on disk the last
line says so, and files get their names; the journal goes when the names are on disk.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import msgspec
import xxhash

from ..errors import WriteError
from ..profiling import following, phase
from . import places
from .jobs import F

SYNC_SECONDS = 4.0
"""At most so much work is lost, apart from jobs that are under way."""
SYNC_BYTES = 1 << 29
"""After so many bytes of finished jobs the disk is waited for sooner."""

_sync = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True, slots=True)
class Resumable(Generic[F]):
    """What makes a run one that can be continued.

    counts  type of what the jobs find: a dataclass of numbers, or of such dataclasses
    bound   what the state is good for, by the word for it in a message, such as {"source": ...}
    resume  continue what an earlier run has left, where there is anything
    """

    counts: type[F]
    bound: Mapping[str, str]
    resume: bool = False


class Line(msgspec.Struct, frozen=True):
    """A finished job. `found` is MessagePack: JSON has no infinity."""

    name: str
    sums: tuple[int, ...]
    found: bytes


class _Head(msgspec.Struct, frozen=True):
    bound: dict[str, str]


class _End(msgspec.Struct, frozen=True):
    whole: bool


@dataclass(frozen=True, slots=True)
class State:
    """What an earlier run has left.

    finished  its jobs
    whole     all data and headers are on disk; some files may have their names already
    length    of the journal as far as it counts, in bytes
    """

    finished: Mapping[str, Line]
    whole: bool
    length: int


def journal(first: Path) -> Path:
    """Where the journal of a run lies whose first part is to be `first`."""
    return first.with_name(first.name + ".part.journal")


def left(first: Path) -> bool:
    """Whether a run has left something that can be continued."""
    return bool(first.name) and os.path.exists(journal(first))  # no error where no name can be


def naming(first: Path) -> bool:
    """Whether a run has ended while it gave files their names: all else of them is done."""
    return left(first) and _WHOLE in _lines(journal(first).read_bytes())


def read(first: Path, bound: Mapping[str, str]) -> State | None:
    """What an earlier run has left, None where that is nothing of use.

    Raises WriteError where it was bound to something else, naming what.
    """
    try:
        raw = journal(first).read_bytes()
    except FileNotFoundError:
        return None
    lines = list(_lines(raw))
    if not lines:
        return None
    theirs = msgspec.json.decode(lines[0], type=_Head).bound
    for word in {**bound, **theirs}:
        if theirs.get(word) != bound.get(word):
            raise WriteError(
                f"{first}: cannot be resumed: the {word} is not what the unfinished file was "
                "begun with",
                hint="without --resume it is begun anew",
            )
    finished: dict[str, Line] = {}
    whole = False
    for line in lines[1:]:
        if line == _WHOLE:
            whole = True
        else:
            job = msgspec.json.decode(line, type=Line)
            finished[job.name] = job
    return State(finished, whole, sum(len(_line(line)) for line in lines))


_WHOLE = msgspec.json.encode(_End(whole=True))


def _line(value: bytes) -> bytes:
    return b"%016x %s\n" % (xxhash.xxh64_intdigest(value), value)


def _lines(raw: bytes) -> Iterable[bytes]:
    for line in raw.splitlines(keepends=True):
        if line != _line(line[17:-1]):
            return
        yield line[17:-1]


class Keeper:
    """Writes the journal of one run, in a thread of its own, once there is something to say.

    first   path of the first part
    bound   as in Resumable
    state   what is continued, or None
    left    there is something to continue
    """

    def __init__(self, first: Path, bound: Mapping[str, str], state: State | None) -> None:
        self._path, self._bound, self._state = journal(first), bound, state
        self._file: int | None = None
        self.left = state is not None and bool(state.finished)
        self._ended: list[tuple[tuple[int, ...], bytes]] = []  # files of a job that ended; its line
        self._bytes = 0
        self._changed = threading.Condition()
        self._syncing = threading.Lock()
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=following(self._work), daemon=True)
        self._thread.start()

    def ended(
        self, outs: tuple[int, ...], n_bytes: int, name: str, sums: tuple[int, ...], found: F
    ) -> None:
        """Data of a job are written to open files; they become a line when on disk."""
        line = msgspec.json.encode(Line(name, sums, msgspec.msgpack.encode(found)))
        with self._changed:
            if self._error is not None:
                raise self._error
            self._ended.append((outs, _line(line)))
            self._bytes += n_bytes
            if self._bytes >= SYNC_BYTES:
                self._changed.notify()

    def flush(self) -> None:
        """Return when all that has ended is on disk, with its lines."""
        with self._syncing:
            with self._changed:
                if self._error is not None:
                    raise self._error
                ended, self._ended, self._bytes = self._ended, [], 0
            with phase("syncing"):
                for out in {out for outs, _ in ended for out in outs}:
                    _sync(out)
                if ended:
                    self._write(b"".join(line for _, line in ended))

    def whole(self) -> None:
        """All data and headers are on disk: only names are missing."""
        self._write(_line(_WHOLE))

    def stop(self) -> None:
        """Write nothing more unless told to."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def close(self) -> None:
        """Write nothing more."""
        self.stop()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _work(self) -> None:
        due = time.monotonic() + SYNC_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopped or self._bytes >= SYNC_BYTES,
                    max(0.0, due - time.monotonic()),
                )
                if self._stopped:
                    return
            try:
                self.flush()
            except BaseException as error:
                with self._changed:
                    self._error = error
                return
            due = time.monotonic() + SYNC_SECONDS

    def _write(self, lines: bytes) -> None:
        if self._file is None:
            self._file = self._open()
        view = memoryview(lines)
        while view:
            view = view[os.write(self._file, view) :]
        _sync(self._file)
        self.left = True

    def _open(self) -> int:
        """The journal, with its first line; after it come the lines of this run."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._path, flags, 0o666)
        try:
            if self._state is not None:
                os.ftruncate(file, self._state.length)
            else:
                os.ftruncate(file, 0)
                os.write(file, _line(msgspec.json.encode(_Head(dict(self._bound)))))
            os.fsync(file)
            places.sync_folder(self._path.parent)
        except BaseException:
            os.close(file)
            raise
        return file


def forget(first: Path) -> None:
    """Take the journal away."""
    with contextlib.suppress(FileNotFoundError):
        journal(first).unlink()
