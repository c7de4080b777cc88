"""What is to be written, for whoever brings it: Job, Made, Part."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable


class Found(Protocol):
    """What was found in a band, or in several: counts, sums. Added in the order of the bands."""

    def __add__(self, other: Self, /) -> Self:
        """Both; `other` comes right after."""


F = TypeVar("F", bound=Found)
F_co = TypeVar("F_co", bound=Found, covariant=True)


@dataclass(frozen=True, slots=True)
class Nothing:
    """What there is to find in bytes that are only moved or read."""

    def __add__(self, other: Nothing) -> Nothing:
        """Nothing."""
        return other


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of a file, in bytes from its beginning. `part`: the number of the file in the run."""

    offset: int
    size: int
    part: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Data of one band.

    extent  number of the job's extent that it belongs into
    at      where in it, in bytes
    data    bytes, contiguous
    """

    extent: int
    at: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class Share:
    """A group of the rows that a band was made from, or some of its rows.

    group  number of its first row
    hash   XXH3-64 of the whole group, seed that number: taken where it is in the caches, so that
           the rows need not be kept; else None, and
    rows   bytes of those that the band has, in order
    """

    group: int
    hash: int | None
    rows: memoryview | None = None


@dataclass(frozen=True, slots=True)
class Made(Generic[F_co]):
    """One band.

    found  while making it
    taken  what it was made from, where its job wants to know the hash of that; in each band of a
           job as many
    read   the source's rows as they are stored, where its job knows their checksum
    """

    pieces: Sequence[Piece]
    found: F_co
    taken: Sequence[Sequence[Share]] = ()
    read: memoryview | None = None


class Job(Protocol[F_co]):
    """One unit of work; its bands can be made in any order, by any thread.

    name          for messages, unlike any other in the run; that of the tensor
    source_bytes  that are read for it, for the progress
    n_rows        that its bands count, whatever a row is
    extents       that it fills, of one file or of several
    """

    @property
    def name(self) -> str:
        """For messages, unlike any other in the run."""

    @property
    def source_bytes(self) -> int:
        """Bytes that are read for it."""

    @property
    def n_rows(self) -> int:
        """Rows that its bands count; the last one ends there."""

    @property
    def extents(self) -> Sequence[Extent]:
        """Ranges that it fills, disjoint."""

    def bands(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows, (start, stop), that follow each other from 0 to `n_rows`."""

    def make(self, start: int, stop: int) -> Made[F_co]:
        """One band. Pieces follow each other in each extent, as the bands do."""


@runtime_checkable
class Weighing(Protocol):
    """A job that knows what its bands take, where that is more than what they read and write."""

    def memory(self, start: int, stop: int) -> int:
        """Bytes that a band takes while it is made."""


@runtime_checkable
class Concluding(Protocol):
    """A job that has something to say when all of its bands are made and their sums known."""

    def concluded(self, found: Any, sums: tuple[int, ...], taken: tuple[int, ...]) -> Any:
        """What was found by the job as a whole.

        found  in its bands
        sums   checksums of its extents; an error is raised where they must be others
        taken  hashes of all groups that its bands have taken, added up, modulo 2^64
        """


@runtime_checkable
class Distrusting(Protocol):
    """A job that knows the checksum of what its bands read."""

    def check_read(self, checksum: int) -> None:
        """Raise where another one has been found: XXH64, seed 0, of one band after the other."""


Sums = Mapping[str, tuple[int, ...]]
"""XXH64 (seed 0) of the data in each extent of each job, by the name of the job."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the output.

    path    where it goes
    header  its first bytes, as planned
    size    of the whole file, in bytes; what neither header nor jobs fill is zeros
    sealed  gives the header that is written, of the same length, when the sums of all jobs are
            known, and what they found; by default the header as it was planned
    leads   it is the first file of an output, and locked from beginning to end: so no other run
            writes any of that output meanwhile. The first part of a run always is
    """

    path: Path
    header: bytes
    size: int
    sealed: Callable[[Sums, Mapping[str, Any]], bytes] | None = None
    leads: bool = False


@dataclass(frozen=True, slots=True)
class Written(Generic[F_co]):
    """What came out.

    found    by the names of the jobs; a job without bands has found nothing, and has no sums
    sums     by the names of the jobs
    intact   names of jobs that an earlier run had done
    damaged  names of jobs that it had done, but whose data were no longer so: they were done again
    """

    found: Mapping[str, F_co]
    sums: Sums
    intact: Sequence[str] = ()
    damaged: Sequence[str] = ()

    @property
    def resumed(self) -> int:
        """Jobs that an earlier run had done."""
        return len(self.intact)
