"""Checksums of what jobs make, in the order of the file."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xxhash

from .jobs import Job, Made, Share


class _Total:
    """Hashes of groups, added up; of a group in several bands when it has been seen whole."""

    def __init__(self) -> None:
        self._whole = 0
        self._begun: dict[int, xxhash.xxh3_64] = {}

    def add(self, shares: Sequence[Share]) -> None:
        for share in shares:
            if share.hash is not None:
                self._whole += share.hash
            else:
                assert share.rows is not None
                begun = self._begun.setdefault(share.group, xxhash.xxh3_64(seed=share.group))
                begun.update(share.rows)

    @property
    def number(self) -> int:
        return (self._whole + sum(d.intdigest() for d in self._begun.values())) % 2**64


class Hasher:
    """XXH64, seed 0, of each extent of one job after the other, and of what its bands have read;
    XXH3-64 of the groups of rows that they took.
    """

    def __init__(self) -> None:
        self._job: Job[Any] | None = None
        self._begin(None)

    def _begin(self, job: Job[Any] | None) -> None:
        self._job = job
        extents = job.extents if job is not None else ()
        self._sums = [xxhash.xxh64() for _ in extents]
        self._at = [0] * len(extents)
        self._taken: list[_Total] = []
        self._read: xxhash.xxh64 | None = None

    def add(self, job: Job[Any], made: Made[Any]) -> None:
        """The next band of a job."""
        if job is not self._job:
            self._begin(job)
            self._taken = [_Total() for _ in made.taken]
            self._read = None if made.read is None else xxhash.xxh64()
        if self._read is not None:
            assert made.read is not None, "in each band or in none"
            self._read.update(made.read)
        for total, shares in zip(self._taken, made.taken, strict=True):
            total.add(shares)
        for piece in made.pieces:
            assert piece.at == self._at[piece.extent], "pieces follow each other in an extent"
            self._sums[piece.extent].update(piece.data)
            self._at[piece.extent] += piece.data.nbytes

    def take(self) -> tuple[int, ...]:
        """The checksums of the job, whose extents are full."""
        assert self._job is not None
        assert self._at == [extent.size for extent in self._job.extents], "extents are filled"
        return tuple(digest.intdigest() for digest in self._sums)

    @property
    def read(self) -> int | None:
        """The checksum of what the bands of the job have read; None where it does not ask."""
        return None if self._read is None else self._read.intdigest()

    @property
    def taken(self) -> tuple[int, ...]:
        """The hashes of what the bands of the job took, added up."""
        return tuple(total.number for total in self._taken)
