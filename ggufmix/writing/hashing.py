"""Checksums of what jobs make, in the order of the file."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xxhash

from .jobs import Job, Piece


class Hasher:
    """XXH64, seed 0, of each extent of one job after the other."""

    def __init__(self) -> None:
        self._job: Job[Any] | None = None
        self._begin(None)

    def _begin(self, job: Job[Any] | None) -> None:
        self._job = job
        extents = job.extents if job is not None else ()
        self._sums = [xxhash.xxh64() for _ in extents]
        self._at = [0] * len(extents)

    def add(self, job: Job[Any], pieces: Sequence[Piece]) -> None:
        """The pieces of the next band of a job."""
        if job is not self._job:
            self._begin(job)
        for piece in pieces:
            assert piece.at == self._at[piece.extent], "pieces follow each other in an extent"
            self._sums[piece.extent].update(piece.data)
            self._at[piece.extent] += piece.data.nbytes

    def take(self) -> tuple[int, ...]:
        """The checksums of the job, whose extents are full."""
        assert self._job is not None
        assert self._at == [extent.size for extent in self._job.extents], "extents are filled"
        return tuple(digest.intdigest() for digest in self._sums)
