"""Jobs of a scan: what would be encoded, read and encoded with nothing to write."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import InexactError, OutlierError
from ..planning import Planned
from .encoding import Counts, Each, Rows, Target, encoded, encodings
from .jobs import Extent, Made
from .reading import Reading


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a scan found in bands of a tensor.

    counts   of what could be encoded
    outlier  the first value that no block holds
    inexact  the first packed group whose scale no block holds
    """

    counts: Counts = field(default_factory=Counts)
    outlier: OutlierError | None = None
    inexact: InexactError | None = None

    def __add__(self, other: Scanned) -> Scanned:
        """Both; `other` comes after."""
        return Scanned(
            self.counts + other.counts,
            self.outlier if self.outlier is not None else other.outlier,
            self.inexact if self.inexact is not None else other.inexact,
        )


@dataclass(frozen=True, slots=True)
class Scanning(Reading):
    """The job of one tensor: what no block holds is found, not raised."""

    @property
    def extents(self) -> tuple[Extent, ...]:
        """None."""
        return ()

    def memory(self, start: int, stop: int) -> int:
        """That of the job."""
        return self.of.memory(start, stop)

    def make(self, start: int, stop: int) -> Made[Each[Scanned]]:
        """What is found in rows start..stop."""
        rows = Rows(self.of.tensor, start, stop)
        found = [Scanned()] * len(self.of.targets)
        for planned, numbers in self.of.kinds:
            scanned = _scanned(planned, rows)
            for number in numbers:
                found[number] = scanned
        return Made((), Each(tuple(found)))


def _scanned(planned: Planned, rows: Rows) -> Scanned:
    try:
        return Scanned(encoded(planned, rows)[1])
    except OutlierError as error:
        return Scanned(outlier=error)
    except InexactError as error:
        return Scanned(inexact=error)


def scannings(plans: Sequence[Sequence[Planned]]) -> list[Scanning]:
    """The jobs of a scan for the tensors of some plans."""
    targets = (Target(t, Extent(t.offset, t.n_bytes, n)) for n, p in enumerate(plans) for t in p)
    return [Scanning(job) for job in encodings(targets)]
