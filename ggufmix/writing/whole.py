"""Parts, from nothing to files that are whole, on disk and named."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic

import msgspec

from ..errors import FormatError, WriteError
from ..profiling import phase, stage
from . import checking, keeping, places
from .jobs import F, Job, Part, Piece, Written
from .keeping import Keeper, Resumable, State
from .running import Elsewhere, Progress, run

LINE_BYTES = 512
"""Of the journal, for a job, when room is looked for."""


def write(
    parts: Sequence[Part[F]],
    *,
    threads: int,
    overwrite: bool = False,
    progress: Progress | None = None,
    resumable: Resumable[F] | None = None,
    abandon: Callable[[], None] | None = None,
    elsewhere: Elsewhere[F] | None = None,
) -> Written[F]:
    """Write every part, then rename them into place.

    parts      all in one folder
    resumable  the run keeps a journal and can be continued; None: it cannot
    abandon    called when the run is interrupted, so that nobody waits for a source any longer
    elsewhere  makes the jobs in place of threads of this process
    Returns what was found. Raises WriteError where an output exists, the disk has too little room
    or refuses, or what is to be continued is bound to something else; and any error of the jobs.
    Nothing that looks finished is left behind. Where a journal says that jobs are done, unfinished
    files are left, unless the error is one of a value, which comes again; else nothing is.
    """
    writing = _Writing(parts, threads, progress, resumable, abandon, elsewhere)
    return writing.written(overwrite=overwrite)


class _Writing(Generic[F]):
    """One run. `files`: unfinished ones that are open; `begun`: all that this run has touched."""

    def __init__(
        self,
        parts: Sequence[Part[F]],
        threads: int,
        progress: Progress | None,
        resumable: Resumable[F] | None,
        abandon: Callable[[], None] | None,
        elsewhere: Elsewhere[F] | None,
    ) -> None:
        self.abandon, self.elsewhere = abandon, elsewhere
        self.parts, self.threads, self.progress, self.resumable = (
            parts,
            threads,
            progress,
            resumable,
        )
        self.paths = [part.path for part in parts]
        self.first = self.paths[0]
        self.bound = {**resumable.bound, "plan": _digest(parts)} if resumable else {}
        self.state: State | None = None
        self.keeper: Keeper | None = None
        self.files: dict[Path, int] = {}
        self.begun: list[Path] = []
        self.found: dict[str, F] = {}
        self.sums: dict[str, tuple[int, ...]] = {}
        self.damaged: list[str] = []
        self.resumed = 0
        self.done = 0  # source bytes of jobs that are behind us
        self.total = sum(job.source_bytes for part in parts for job in part.jobs)

    def written(self, *, overwrite: bool) -> Written[F]:
        state = self._left()
        for path in self.paths:
            renamed = state is not None and state.whole and not places.unfinished(path).exists()
            places.check_place(path, overwrite=overwrite or renamed)
        lines = LINE_BYTES * sum(len(part.jobs) for part in self.parts) if self.resumable else 0
        try:
            places.check_room(self.paths, sum(part.size for part in self.parts) + lines)
            self.state = state
            self.files[self.first] = places.begin(
                self.first, fresh=state is None, named=state is not None and state.whole
            )
            if state != self._left():
                raise WriteError(f"{self.first}: another run is writing it")
        except OSError as error:
            raise self._refused(error) from error
        try:
            if self.resumable is not None:
                if state is None:
                    keeping.forget(self.first)
                self.keeper = Keeper(self.first, self.bound, state)
            with stage("tensors"):
                for part in self.parts:
                    self._write(part)
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
        names = [job.name for part in self.parts for job in part.jobs]
        return Written(
            {name: self.found[name] for name in names if name in self.found},
            self.sums,
            self.resumed,
            tuple(self.damaged),
        )

    def _left(self) -> State | None:
        if self.resumable is None or not self.resumable.resume:
            return None
        return keeping.read(self.first, self.bound)

    def _write(self, part: Part[F]) -> None:
        """All jobs of a part, on disk but for those of the last part."""
        path = part.path
        self.begun.append(path)
        if path not in self.files:
            named = self.state is not None and self.state.whole
            self.files[path] = places.begin(path, fresh=self.state is None, named=named)
        out = self.files[path]
        trusted = self._trusted(part, out)
        places.reserve(out, part.size)
        if self.state is not None:
            for gap in checking.gaps(part):
                places.put(out, bytes(gap.size), gap.offset)
        jobs = [job for job in part.jobs if job.name not in trusted]

        def put(job: Job[F], piece: Piece) -> None:
            places.put(out, piece.data, job.extents[piece.extent].offset + piece.at)

        def ended(job: Job[F], found: F, sums: tuple[int, ...]) -> None:
            self.found[job.name], self.sums[job.name] = found, sums
            if self.keeper is not None:
                n_bytes = sum(extent.size for extent in job.extents)
                self.keeper.ended(out, n_bytes, job.name, sums, found)

        def progress(name: str, done: int, _: int) -> None:
            if self.progress is not None:
                self.progress(name, self.done + done, self.total)

        if self.elsewhere is not None:
            self.elsewhere(part, jobs, ended, progress)
        else:
            run(jobs, put, ended, threads=self.threads, progress=progress, abandon=self.abandon)
        self.done += sum(job.source_bytes for job in jobs)
        if part is not self.parts[-1]:
            if self.keeper is not None:
                self.keeper.flush()
            with phase("syncing"):
                os.fsync(out)
            if path != self.first:  # whose lock is that of all
                os.close(self.files.pop(path))

    def _trusted(self, part: Part[F], out: int) -> set[str]:
        """Names of the jobs that need not be done again, with what they had found."""
        if self.state is None or self.resumable is None or os.fstat(out).st_size != part.size:
            return set()
        names = {job.name for job in part.jobs}
        lines = {name: line for name, line in self.state.finished.items() if name in names}
        sums = {name: line.sums for name, line in lines.items()}
        with stage("reading again"):
            intact = checking.intact(part, out, sums, threads=self.threads, progress=self.progress)
        for job in part.jobs:
            if job.name in intact:
                line = lines[job.name]
                self.found[job.name] = msgspec.msgpack.decode(
                    line.found, type=self.resumable.counts
                )
                self.sums[job.name] = line.sums
                self.done += job.source_bytes
        self.resumed += len(intact)
        self.damaged += [name for name in lines if name not in intact]
        return intact

    def _finish(self) -> None:
        """Headers, and names."""
        keeper = self.keeper
        if keeper is not None:
            keeper.stop()
            if not keeper.left and len(self.parts) == 1:
                keeper = None  # it is done before a journal would be of use
            else:
                keeper.flush()
        for part in self.parts:
            header = part.header if part.sealed is None else part.sealed(self.sums)
            assert len(header) == len(part.header)
            out = self.files.get(part.path)
            if out is None:
                out = self.files[part.path] = places.begin(part.path, fresh=False)
            places.put(out, header, 0)
            with phase("syncing"):
                os.fsync(out)
            if part.path != self.first:
                os.close(self.files.pop(part.path))
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
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            missing = places.missing(self.paths, sum(part.size for part in self.parts))
            free = shutil.disk_usage(self.first.parent).free
            hint = f"the disk is full: {missing} more bytes are needed, {free} are free"
        return WriteError(f"{self.first}: {error.strerror}", hint=hint)


def _digest(parts: Sequence[Part[F]]) -> str:
    """Of all that says what the files will be, but for the data."""
    digest = hashlib.sha256()
    for part in parts:
        jobs = [[job.name, *([e.offset, e.size] for e in job.extents)] for job in part.jobs]
        about = msgspec.json.encode([part.path.name, part.size, len(part.header), jobs])
        digest.update(b"%d %s" % (len(about), about))
        digest.update(part.header)
    return digest.hexdigest()
