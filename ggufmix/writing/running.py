"""Bands of jobs, made by a pool of threads and handed in in order."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic

from ..errors import UsageError
from ..profiling import following, phase
from .hashing import Hasher
from .jobs import Concluding, Distrusting, F, Job, Made, Part, Piece, Weighing

UNDER_WAY_BYTES = 192 << 20
"""Of bands that are made but not yet handed in, unless one alone has more."""

Progress = Callable[[str, int, int], None]
"""Called after each band with the job's name, the source bytes done and those there are in all; in
order, from several threads, one at a time.
"""


Ended = Callable[[Job[F], F, tuple[int, ...]], None]
"""Called with a job whose data are where they belong, what was found, and the checksums of its
extents.
"""

Elsewhere = Callable[[Sequence[Part], Sequence[Job[F]], Ended[F], Progress], None]
"""Does jobs for parts, in any order and wherever it likes; `ended` when the data of one are on
disk.
"""

MOST_THREADS = 4096
"""More than any machine has cores; a system that is asked for a million of them stands still."""


@dataclass(frozen=True, slots=True)
class _Band(Generic[F]):
    number: int
    job: Job[F]
    start: int
    stop: int

    @property
    def bytes(self) -> int:
        """That it takes until it is handed in, as far as its job says."""
        if isinstance(self.job, Weighing):
            return self.job.memory(self.start, self.stop)
        whole = self.job.source_bytes + sum(extent.size for extent in self.job.extents)
        return whole * (self.stop - self.start) // self.job.n_rows


def thread_count(asked: int | None, least: int = 1) -> int:
    """How many threads to use: those asked for, by default one for each core that may be used, and
    no fewer than `least`. Raises UsageError.
    """
    if asked is not None and not 1 <= asked <= MOST_THREADS:
        raise UsageError(f"threads: expected 1 to {MOST_THREADS}, got {asked}")
    if asked is not None:
        return asked
    here = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return max(least, len(here) or os.cpu_count() or 1)


def run(
    jobs: Sequence[Job[F]],
    put: Callable[[Job[F], Piece], None] | None = None,
    ended: Ended[F] | None = None,
    *,
    threads: int,
    progress: Progress | None = None,
    abandon: Callable[[], None] | None = None,
) -> dict[str, F]:
    """Make every band of every job.

    put      called with each piece, from any thread, at once; None: nothing is kept of what is made
    ended    called with each job whose bands have all been put, in order, with what was found and
             the checksums of its extents
    abandon  called when the run is interrupted, so that nobody waits for a source any longer
    Returns what was found, by the names of the jobs. Raises the error of the first band that has
    one, as far as bands were begun when it was met.
    """
    return _Run(jobs, put, ended, threads, progress, abandon).whole()


class _Run(Generic[F]):
    """One run of the pool. Bands are made anywhere; `_fold` sees them one by one, in order."""

    def __init__(
        self,
        jobs: Sequence[Job[F]],
        put: Callable[[Job[F], Piece], None] | None,
        ended: Ended[F] | None,
        threads: int,
        progress: Progress | None,
        abandon: Callable[[], None] | None,
    ) -> None:
        self.put, self.ended, self.threads, self.progress = put, ended, threads, progress
        self.abandon = abandon
        self.hasher = Hasher()
        self.bands = self._numbered(jobs)
        self.total = sum(job.source_bytes for job in jobs)
        self.done = 0  # source bytes of jobs that are folded
        self.found: dict[str, F] = {}
        self.changed = threading.Condition()
        self.ready: dict[int, tuple[_Band[F], Made[F]]] = {}
        self.next = 0  # the number of the band that is folded next
        self.folding = False
        self.admitted = 0  # the number of the band that is begun next
        self.bytes = 0  # of bands that are under way
        self.failures: list[tuple[int, BaseException]] = []

    def whole(self) -> dict[str, F]:
        pool: list[threading.Thread] = []
        try:
            for _ in range(self.threads - 1):
                thread = threading.Thread(target=following(self._work), daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system has no more; those that there are do it all
                    break
                pool.append(thread)
            self._work()
            for thread in pool:
                thread.join()
        except BaseException as error:  # Ctrl-C reaches the main thread only
            self._fail(-1, error)
            if self.abandon is not None:
                self.abandon()
            for thread in pool:
                thread.join()
        if self.failures:
            raise min(self.failures, key=lambda f: f[0])[1]
        return self.found

    def _work(self) -> None:
        while (band := self._take()) is not None:
            try:
                self._hand_in(band, self._made(band))
            except BaseException as error:
                self._fail(band.number, error)

    def _made(self, band: _Band[F]) -> Made[F]:
        made = band.job.make(band.start, band.stop)
        if self.put is not None:
            with phase("writing"):
                for piece in made.pieces:
                    self.put(band.job, piece)
        return made

    def _take(self) -> _Band[F] | None:
        """The next band to be made, as soon as there is room for one more. They are let in in
        order: else one that waits for room could hold up those whose room it waits for.
        """
        with self.changed:
            band = None if self.failures else next(self.bands, None)
            if band is None:
                return None
            size = band.bytes
            with phase("waiting"):
                self.changed.wait_for(lambda: self.failures or self._fits(band.number, size))
            if self.failures:
                return None
            self.admitted += 1
            self.bytes += size
            self.changed.notify_all()
            return band

    def _fits(self, number: int, size: int) -> bool:
        return (
            number == self.admitted
            and number < self.next + 2 * self.threads
            and (self.bytes == 0 or self.bytes + size <= UNDER_WAY_BYTES)
        )

    def _hand_in(self, band: _Band[F], made: Made[F]) -> None:
        with self.changed:
            self.ready[band.number] = band, made
            del made  # whoever folds it lets go of it: threads that wait must not hold bands
            if self.folding:  # another thread is at it and will come to this band
                return
            self.folding = True
        while True:
            with self.changed:
                following = None if self.failures else self.ready.pop(self.next, None)
                if following is None:
                    self.folding = False
                    return
            try:
                self._fold(*following)
            except BaseException as error:
                self._fail(following[0].number, error)
                continue
            with self.changed:
                self.next += 1
                self.bytes -= following[0].bytes
                self.changed.notify_all()

    def _fold(self, band: _Band[F], made: Made[F]) -> None:
        job = band.job
        before = self.found.get(job.name)
        found = self.found[job.name] = made.found if before is None else before + made.found
        if self.ended is not None:
            with phase("hashing"):
                self.hasher.add(job, made)
            if band.stop == job.n_rows:
                sums, read = self.hasher.take(), self.hasher.read
                if read is not None and isinstance(job, Distrusting):
                    job.check_read(read)
                if isinstance(job, Concluding):
                    found = self.found[job.name] = job.concluded(found, sums, self.hasher.taken)
                self.ended(job, found, sums)
        worked = self.done + job.source_bytes * band.stop // job.n_rows
        if band.stop == job.n_rows:
            self.done = worked
        if self.progress is not None:
            self.progress(job.name, worked, self.total)

    def _fail(self, number: int, error: BaseException) -> None:
        with self.changed:
            self.failures.append((number, error))
            self.changed.notify_all()

    @staticmethod
    def _numbered(jobs: Sequence[Job[F]]) -> Iterator[_Band[F]]:
        number = 0
        for job in jobs:
            for start, stop in job.bands():
                yield _Band(number, job, start, stop)
                number += 1
