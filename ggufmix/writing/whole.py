"""Parts, from nothing to files that are whole, on disk and named."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic

import msgspec

from ..errors import FormatError, WriteError
from ..profiling import phase, stage
from . import checking, keeping, places
from .jobs import Extent, F, Job, Part, Piece, Written
from .keeping import Keeper, Resumable, State
from .running import Elsewhere, Progress, run

LINE_BYTES = 512
"""Of the journal, for a job, when room is looked for."""


def write(
    parts: Sequence[Part],
    jobs: Sequence[Job[F]],
    *,
    threads: int,
    overwrite: bool = False,
    progress: Progress | None = None,
    resumable: Resumable[F] | None = None,
    abandon: Callable[[], None] | None = None,
    elsewhere: Elsewhere[F] | None = None,
) -> Written[F]:
    """Do every job, then rename the parts into place, all at once.

    parts      by the numbers that extents have
    resumable  the run keeps a journal beside the first part and can be continued; None: it cannot
    abandon    called when the run is interrupted, so that nobody waits for a source any longer
    elsewhere  does the jobs in place of threads of this process
    Returns what was found. Raises WriteError where an output exists, a disk has too little room
    or refuses, or what is to be continued is bound to something else; and any error of the jobs.
    Nothing that looks finished is left behind. Where a journal says that jobs are done, unfinished
    files are left, unless the error is one of a value, which comes again; else nothing is.
    """
    writing = _Writing(parts, jobs, threads, progress, resumable, abandon, elsewhere)
    return writing.written(overwrite=overwrite)


class _Writing(Generic[F]):
    """One run. By the number of a part, `files`: those that are open; `ready`: have their size;
    `missing`: how many jobs are still to be done. `begun`: names of all that this run has touched;
    `leads`: numbers of those that are open from beginning to end.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        jobs: Sequence[Job[F]],
        threads: int,
        progress: Progress | None,
        resumable: Resumable[F] | None,
        abandon: Callable[[], None] | None,
        elsewhere: Elsewhere[F] | None,
    ) -> None:
        self.abandon, self.elsewhere = abandon, elsewhere
        self.parts, self.jobs = parts, jobs
        self.threads, self.progress, self.resumable = threads, progress, resumable
        self.paths = [part.path for part in parts]
        self.first = self.paths[0]
        self.leads = [n for n, part in enumerate(parts) if part.leads or not n]
        self.bound = {**resumable.bound, "plan": _digest(parts, jobs)} if resumable else {}
        self.state: State | None = None
        self.keeper: Keeper | None = None
        self.opening = threading.Lock()
        self.files: dict[int, int] = {}
        self.ready: set[int] = set()
        self.missing: Counter[int] = Counter()
        self.begun: set[Path] = set()
        self.found: dict[str, F] = {}
        self.sums: dict[str, tuple[int, ...]] = {}
        self.damaged: list[str] = []
        self.intact: list[str] = []
        self.done = 0  # source bytes of jobs that an earlier run has done
        self.total = sum(job.source_bytes for job in jobs)

    def written(self, *, overwrite: bool) -> Written[F]:
        state = self._left()
        self.state = state
        self._check_places(overwrite=overwrite)
        try:
            places.check_room(self._sizes())
            self._lock(overwrite=overwrite)
        except OSError as error:
            raise self._refused(error) from error
        try:
            if self.resumable is not None:
                self.keeper = Keeper(self.first, self.bound, state)
            trusted = self._trusted() if state is not None else set()
            with stage("tensors"):
                self._work([job for job in self.jobs if job.name not in trusted])
            with stage("headers, names"):
                self._finish()
        except BaseException as error:
            refused = self._refused(error) if isinstance(error, OSError) else None
            self._give_up(error)
            if refused is not None:
                raise refused from error
            raise
        finally:
            if self.keeper is not None:
                self.keeper.close()
            for out in self.files.values():
                os.close(out)
        return Written(
            {job.name: self.found[job.name] for job in self.jobs if job.name in self.found},
            self.sums,
            tuple(self.intact),
            tuple(self.damaged),
        )

    def _left(self) -> State | None:
        if self.resumable is None or not self.resumable.resume:
            return None
        states = (keeping.read(self.paths[number], self.bound) for number in self.leads)
        return next((state for state in states if state is not None), None)

    def _sizes(self) -> dict[Path, int]:
        """What the files take when they are whole, the journal with the first."""
        sizes = {part.path: part.size for part in self.parts}
        sizes[self.first] += LINE_BYTES * len(self.jobs) if self.resumable else 0
        return sizes

    def _check_places(self, *, overwrite: bool) -> None:
        named = self.state is not None and self.state.whole
        for path in self.paths:
            renamed = named and not places.unfinished(path).exists()
            places.check_place(path, overwrite=overwrite or renamed)

    def _lock(self, *, overwrite: bool) -> None:
        """Take the outputs for this run, all or none; then what another one has left of them is
        gone, unless it is continued.
        """
        try:
            for number in self.leads:
                self.files[number] = self._begun(number, fresh=False)
            if self.state != self._left():
                raise WriteError(f"{self.first}: another run is writing it")
            self._check_places(overwrite=overwrite)  # what another run has given its name just now
            for number in self.leads if self.state is None else ():
                os.ftruncate(self.files[number], 0)
                keeping.forget(self.paths[number])
        except BaseException:
            for number, out in self.files.items():
                if not os.fstat(out).st_size:
                    places.unfinished(self.paths[number]).unlink(missing_ok=True)
                os.close(out)
            raise

    def _begun(self, number: int, *, fresh: bool) -> int:
        path = self.paths[number]
        named, again = self.state is not None and self.state.whole, path in self.begun
        out = places.begin(path, fresh=fresh and not again, named=named, again=again)
        self.begun.add(path)
        return out

    def _file(self, number: int) -> int:
        """The open file of a part, of its size, with zeros where no job writes."""
        with self.opening:
            out = self.files.get(number)
            if out is None:
                out = self.files[number] = self._begun(number, fresh=self.state is None)
            if number not in self.ready:
                with self._named(number):
                    places.reserve(out, self.parts[number].size)
                    if self.state is not None:
                        for gap in checking.gaps(self.parts[number], self._extents(number)):
                            places.put(out, bytes(gap.size), gap.offset)
                self.ready.add(number)
        return out

    @contextmanager
    def _named(self, number: int) -> Iterator[None]:
        """Errors of an open file that say which it is."""
        try:
            yield
        except OSError as error:
            error.filename = self.paths[number]
            raise

    def _extents(self, number: int) -> list[Extent]:
        return [e for job in self.jobs for e in job.extents if e.part == number]

    def _work(self, jobs: Sequence[Job[F]]) -> None:
        """All jobs; a part whose last one is done is put on disk and closed."""
        self.missing = Counter(n for job in jobs if job.n_rows for n in _parts(job))

        def put(job: Job[F], piece: Piece) -> None:
            extent = job.extents[piece.extent]
            out = self._file(extent.part)
            with self._named(extent.part):
                places.put(out, piece.data, extent.offset + piece.at)

        def ended(job: Job[F], found: F, sums: tuple[int, ...]) -> None:
            self.found[job.name], self.sums[job.name] = found, sums
            into = {number: self._file(number) for number in _parts(job)}
            if self.keeper is not None:
                n_bytes = sum(extent.size for extent in job.extents)
                self.keeper.ended(tuple(into.values()), n_bytes, job.name, sums, found)
            self.missing.subtract(list(into))
            full = [number for number in into if not self.missing[number]]
            if full and any(self.missing.values()):
                self._close(full)

        def progress(name: str, done: int, _: int) -> None:
            if self.progress is not None:
                self.progress(name, self.done + done, self.total)

        if self.elsewhere is not None:
            for number in range(len(self.parts)):
                self._file(number)
            self.elsewhere(self.parts, jobs, ended, progress)
        else:
            run(jobs, put, ended, threads=self.threads, progress=progress, abandon=self.abandon)

    def _close(self, full: Sequence[int]) -> None:
        """Have parts on disk, and close them, but for those that lead."""
        if self.keeper is not None:
            self.keeper.flush()
        for number in full:
            self._synced(number)

    def _synced(self, number: int) -> None:
        with phase("syncing"), self._named(number):
            os.fsync(self.files[number])
        if number not in self.leads:
            os.close(self.files.pop(number))

    def _trusted(self) -> set[str]:
        """Names of the jobs that need not be done again, with what they had found."""
        assert self.state is not None
        assert self.resumable is not None
        lines = self.state.finished
        known = [job for job in self.jobs if job.name in lines]
        stated: dict[int, list[tuple[Job[F], tuple[int, ...]]]] = {}
        for job in known:
            for number in _parts(job):
                stated.setdefault(number, []).append((job, lines[job.name].sums))
        wrong: set[str] = set()
        with stage("reading again"):
            for number, there in stated.items():
                file = self.files.get(number)
                if file is None:
                    file = self.files[number] = self._begun(number, fresh=False)
                wrong |= checking.damaged(
                    number, file, there, threads=self.threads, progress=self.progress
                )
                if number not in self.leads:
                    os.close(self.files.pop(number))
        intact = [job for job in known if job.name not in wrong]
        for job in intact:
            line = lines[job.name]
            self.found[job.name] = msgspec.msgpack.decode(line.found, type=self.resumable.counts)
            self.sums[job.name] = line.sums
        self.done = sum(job.source_bytes for job in intact)
        self.intact = [job.name for job in intact]
        self.damaged = [job.name for job in known if job.name in wrong]
        return {job.name for job in intact}

    def _finish(self) -> None:
        """Headers, and names."""
        keeper = self.keeper
        if keeper is not None:
            keeper.stop()
            if not keeper.left and len(self.parts) == 1:
                keeper = None  # it is done before a journal would be of use
            else:
                keeper.flush()
        for number, part in enumerate(self.parts):
            header = part.header if part.sealed is None else part.sealed(self.sums, self.found)
            assert len(header) == len(part.header)
            out = self._file(number)
            with self._named(number):
                places.put(out, header, 0)
            self._synced(number)
        if keeper is not None:
            keeper.whole()
        places.rename(self.paths)
        keeping.forget(self.first)

    def _give_up(self, error: BaseException) -> None:
        """Leave what can be continued, or nothing."""
        if self.keeper is not None:
            self.keeper.stop()
            if self.keeper.left and not isinstance(error, FormatError):
                return
        keeping.forget(self.first)
        for path in self.paths if self.state is not None else self.begun:
            places.unfinished(path).unlink(missing_ok=True)

    def _refused(self, error: OSError) -> WriteError:
        hint = None
        path = Path(error.filename) if error.filename is not None else self.first
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            disk = path.parent.stat().st_dev
            sizes = {p: n for p, n in self._sizes().items() if p.parent.stat().st_dev == disk}
            free = shutil.disk_usage(path.parent).free
            missing = places.missing(sizes)
            hint = f"the disk is full: {missing} more bytes are needed, {free} are free"
        elif error.errno == errno.EMFILE:
            hint = "ulimit -n says how many, and raises it"
        return WriteError(f"{path}: {error.strerror}", hint=hint)


def _parts(job: Job[F]) -> list[int]:
    """Numbers of the parts that a job writes into."""
    return list(dict.fromkeys(extent.part for extent in job.extents))


def _digest(parts: Sequence[Part], jobs: Sequence[Job[F]]) -> str:
    """Of all that says what the files will be, but for the data."""
    digest = hashlib.sha256()
    places_ = [[job.name, *([e.part, e.offset, e.size] for e in job.extents)] for job in jobs]
    digest.update(msgspec.json.encode(places_))
    for part in parts:
        about = msgspec.json.encode([part.path.name, part.size, len(part.header)])
        digest.update(b"%d %s" % (len(about), about))
        digest.update(part.header)
    return digest.hexdigest()
