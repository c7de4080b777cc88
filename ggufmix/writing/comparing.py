"""Jobs that find out whether files have already what is to be written: rows of the source are read
and hashed, blocks of the files read and summed. Nothing is written.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import FormatError, SourceError
from ..planning import Planned
from .encoding import Each, Rows, encoded
from .jobs import Extent, Made, Piece
from .origins import Ready
from .reading import Reading


@dataclass(frozen=True, slots=True)
class Match:
    """What was found in bands of a tensor.

    same    the first row of each is in the file as it would be encoded
    source  number of what it would be made from, when all bands are seen: see `origins`
    """

    same: bool
    source: int = 0

    def __add__(self, other: Match) -> Match:
        """Both; `other` comes after."""
        return Match(self.same and other.same)


@dataclass(frozen=True, slots=True)
class Comparing(Reading):
    """The job of one tensor.

    candidates  what it would write, and who may have that already; the checksum of the data that
                they do have is that of the extent with the same number
    """

    candidates: tuple[tuple[Planned, Ready], ...]

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The data of each candidate; they lie in no file of the run."""
        return tuple(Extent(0, planned.n_bytes) for planned, _ in self.candidates)

    def memory(self, start: int, stop: int) -> int:
        """That of the job, and what files have of it."""
        of_files = sum(planned.row_bytes for planned, _ in self.candidates)
        return self.of.memory(start, stop) + (stop - start) * of_files

    def make(self, start: int, stop: int) -> Made[Each[Match]]:
        """Rows start..stop of the source and of the files."""
        rows = Rows(self.of.tensor, start, stop)
        first = rows.first()
        pieces, found = [], []
        for number, (planned, ready) in enumerate(self.candidates):
            try:
                blocks = ready.stored.raw(start, stop)
                same = np.array_equal(encoded(planned, first)[0], blocks[:1])
            except SourceError:  # the file cannot be read: zeros are as wrong as anything
                blocks, same = np.zeros((stop - start, planned.row_bytes), np.uint8), False
            except FormatError:  # a value that cannot be encoded: who does encode it will say so
                same = False
            pieces.append(Piece(number, start * planned.row_bytes, blocks.data.cast("B")))
            found.append(Match(same))
        return Made(pieces, Each(tuple(found)), (rows.shares(stored=False),))

    def concluded(
        self,
        found: Each[Match],
        sums: tuple[int, ...],  # noqa: ARG002
        taken: tuple[int, ...],
    ) -> Each[Match]:
        """What was found, with the number of the source."""
        return Each(tuple(replace(match, source=taken[0]) for match in found.of))
