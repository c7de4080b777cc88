"""What an earlier run has left, read again before it is trusted."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
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
    """A job that only reads what another one has written into a file; its rows are bytes."""

    file: int
    name: str
    extents: Sequence[Extent]

    @property
    def source_bytes(self) -> int:
        return self.n_rows

    @property
    def n_rows(self) -> int:
        return sum(extent.size for extent in self.extents)

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
                if n == 0:  # the file is too short: it will be filled up with zeros
                    data[got:] = bytes(len(data) - got)
                    break
                got += n
        return Made((Piece(i, at, data),), Nothing())

    def _begins(self) -> list[int]:
        return [0, *accumulate(extent.size for extent in self.extents)]


def damaged(
    part: int,
    file: int,
    stated: Sequence[tuple[Job[Any], tuple[int, ...]]],
    *,
    threads: int,
    progress: Progress | None = None,
) -> set[str]:
    """Names of those jobs whose data in a part, an open file, have other checksums than stated.

    stated  jobs, with the checksums of all their extents
    """
    wanted = {
        job.name: [
            (extent, of_extent)
            for extent, of_extent in zip(job.extents, sums, strict=True)
            if extent.part == part
        ]
        for job, sums in stated
    }
    found = set(wanted)

    def ended(job: Job[Nothing], _: Nothing, sums: tuple[int, ...]) -> None:
        if sums == tuple(of_extent for _, of_extent in wanted[job.name]):
            found.remove(job.name)

    jobs = [_Reading(file, name, [e for e, _ in there]) for name, there in wanted.items()]
    run(jobs, None, ended, threads=threads, progress=progress)
    return found


def gaps(part: Part, extents: Iterable[Extent]) -> Iterator[Extent]:
    """Ranges of the file that neither its header nor extents of jobs fill."""
    at = len(part.header)
    for extent in sorted(extents, key=lambda e: e.offset):
        if extent.offset > at:
            yield Extent(at, extent.offset - at)
        at = max(at, extent.offset + extent.size)
    if part.size > at:
        yield Extent(at, part.size - at)
