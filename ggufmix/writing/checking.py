"""What an earlier run has left, read again before it is trusted."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ..profiling import phase
from .jobs import Extent, Job, Made, Nothing, Part, Piece
from .running import Progress, run

BAND_BYTES = 4 << 20
"""That are read at once."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A job that only reads what another one has written; its rows are bytes."""

    file: int
    of: Job[Any]

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def source_bytes(self) -> int:
        return self.n_rows

    @property
    def n_rows(self) -> int:
        return sum(extent.size for extent in self.of.extents)

    @property
    def extents(self) -> Sequence[Extent]:
        return self.of.extents

    def bands(self) -> Iterator[tuple[int, int]]:
        for begin, extent in zip(self._begins(), self.extents, strict=False):
            for at in range(0, extent.size, BAND_BYTES):
                yield begin + at, begin + min(at + BAND_BYTES, extent.size)

    def make(self, start: int, stop: int) -> Made[Nothing]:
        begins = self._begins()
        i = max(i for i, begin in enumerate(begins[:-1]) if begin <= start)
        at = start - begins[i]
        data = np.empty(stop - start, np.uint8).data
        got = 0
        with phase("reading"):
            while got < len(data):
                n = os.preadv(self.file, [data[got:]], self.extents[i].offset + at + got)
                if n == 0:  # the file is too short: zeros are as wrong as anything
                    break
                got += n
        return Made((Piece(i, at, data),), Nothing())

    def _begins(self) -> list[int]:
        return [0, *accumulate(extent.size for extent in self.extents)]


def intact(
    part: Part[Any],
    file: int,
    sums: Mapping[str, tuple[int, ...]],
    *,
    threads: int,
    progress: Progress | None = None,
) -> set[str]:
    """Names of those jobs whose data in an open file have the checksums that `sums` says."""
    found: set[str] = set()

    def ended(job: Job[Nothing], _: Nothing, of_job: tuple[int, ...]) -> None:
        if of_job == tuple(sums[job.name]):
            found.add(job.name)

    jobs = [_Reading(file, job) for job in part.jobs if job.name in sums]
    run(jobs, None, ended, threads=threads, progress=progress)
    return found


def gaps(part: Part[Any]) -> Iterator[Extent]:
    """Ranges of the file that neither header nor jobs fill."""
    at = len(part.header)
    for extent in sorted((e for job in part.jobs for e in job.extents), key=lambda e: e.offset):
        if extent.offset > at:
            yield Extent(at, extent.offset - at)
        at = max(at, extent.offset + extent.size)
    if part.size > at:
        yield Extent(at, part.size - at)
