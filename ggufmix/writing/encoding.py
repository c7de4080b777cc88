"""Jobs of a GGUF plan: rows of one tensor as blocks of its type."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import int4
from ..codecs import Encoded, decode, encode_band
from ..errors import ImportanceError, InexactError, NotFiniteError, OutlierError, ValueAtError
from ..measures import Measures, measure
from ..planning import Planned
from ..profiling import phase
from ..tensor import DTYPE_NAMES
from .jobs import Extent, Made, Piece

BAND_BYTES = 2 << 20
"""Source bytes of a band: large enough that Python is not felt, small enough for the caches and for
hundreds in flight.
"""

NOT_MEASURED = Measures()

_HINTS: dict[type[ValueAtError], str] = {
    NotFiniteError: "the checkpoint is damaged, or was saved from a run that had diverged",
    OutlierError: "--on-outlier bf16 writes such tensors in BF16",
}

E = TypeVar("E", bound=ValueAtError)


@dataclass(frozen=True, slots=True)
class Counts:
    """What was found in bands of a tensor.

    flushed    blocks whose scale went to zero
    wiped      blocks in which one value drowned all others
    groups     of 32, that Q4_X wrote; `recovered` of them lie on an INT4 lattice
    measures   of the source's values and what they were written as, where that was asked for; of
               blocks that are copied only how many values they have
    """

    flushed: int = 0
    wiped: int = 0
    recovered: int = 0
    groups: int = 0
    measures: Measures = NOT_MEASURED

    def __add__(self, other: Counts) -> Counts:
        """Both; `other` comes after."""
        return Counts(
            self.flushed + other.flushed,
            self.wiped + other.wiped,
            self.recovered + other.recovered,
            self.groups + other.groups,
            self.measures + other.measures,
        )


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a scan found in bands of a tensor.

    counts   of what could be encoded
    outlier  the first value that no block holds
    inexact  the first packed group whose scale no block holds
    """

    counts: Counts = Counts()
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
class Encoding:
    """The job of one tensor.

    base       where the tensor data starts in the file, in bytes
    measuring  what is written is decoded again and measured, band by band
    """

    planned: Planned
    base: int = 0
    measuring: bool = False

    @property
    def name(self) -> str:
        """GGUF name."""
        return self.planned.name

    @property
    def source_bytes(self) -> int:
        """Bytes of the rows that it is made from."""
        return self.planned.source_bytes

    @property
    def n_rows(self) -> int:
        """Rows of all matrices."""
        return self.planned.placed.tensor.n_rows

    @property
    def extents(self) -> tuple[Extent]:
        """The tensor's place."""
        return (Extent(self.base + self.planned.offset, self.planned.n_bytes),)

    def bands(self) -> Iterator[tuple[int, int]]:
        """Bands of about BAND_BYTES, in units of the tensor, that cross no matrix."""
        tensor = self.planned.placed.tensor
        wanted = max(1, BAND_BYTES // (tensor.cols * tensor.dtype.itemsize))
        step = max(tensor.unit, wanted // tensor.unit * tensor.unit)
        for matrix in range(0, tensor.n_rows, tensor.matrix_rows):
            end = matrix + tensor.matrix_rows
            for start in range(matrix, end, step):
                yield start, min(start + step, end)

    def memory(self, start: int, stop: int) -> int:
        """Bytes of the values, of a copy where a transform makes one, of the blocks, of what they
        are decoded to, and of one row in float32, which encoders work on.
        """
        tensor = self.planned.placed.tensor
        copies = 2 if tensor.unit > 1 else 1
        row = tensor.cols * (copies * tensor.dtype.itemsize + 4 * self.measuring)
        return (stop - start) * (row + self.planned.row_bytes) + 4 * tensor.cols

    def make(self, start: int, stop: int) -> Made[Counts]:
        """Rows start..stop as blocks."""
        blocks, found = self._blocks(start, stop)
        return Made((Piece(0, start * self.planned.row_bytes, blocks.data.cast("B")),), found)

    def _blocks(self, start: int, stop: int) -> tuple[NDArray[np.uint8], Counts]:
        planned = self.planned
        tensor, importance = planned.placed.tensor, planned.importance
        if planned.copied or planned.widened:
            with phase("transforming"):
                blocks = tensor.blocks(start, stop)
                made = int4.widen(blocks) if planned.widened else np.ascontiguousarray(blocks)
            same = Measures((stop - start) * tensor.cols if self.measuring else 0)
            return made, Counts(measures=same)
        vector = importance.vector(start // tensor.matrix_rows) if importance is not None else None
        try:
            with phase("transforming"):
                values = tensor.rows(start, stop)
            with phase("encoding"):
                encoded: Encoded = encode_band(values, planned.encoder, vector)
        except (NotFiniteError, OutlierError) as error:
            raise self._placed(error, start + error.row) from error
        except ImportanceError as error:
            raise ImportanceError(f"{planned.name}: {error}", hint=error.hint) from error
        found = Counts(encoded.flushed, encoded.wiped)
        if planned.encoder.name == "Q4_X":
            with phase("measuring"):
                recovered = int4.recover(values, encoded.blocks)
            found = replace(found, recovered=recovered, groups=values.size // 32)
        if self.measuring:
            with phase("measuring"):
                written = decode(encoded.blocks, planned.encoder.format)
                found = replace(found, measures=measure(values, written, row=start))
        return encoded.blocks, found

    def _placed(self, error: E, row: int) -> E:
        """The error with the place where the tensor and the source have the value."""
        tensor = self.planned.placed.tensor
        origin = tensor.origin(row)
        where = f"{origin.file}: {origin.name}" if origin.file else origin.name
        return type(error)(
            f"{self.planned.name}: row {row}, column {error.column}: {error} "
            f"(from {where}, {tensor.format or DTYPE_NAMES[tensor.dtype]})",
            row=row,
            column=error.column,
            hint=_HINTS[type(error)],
        )


@dataclass(frozen=True, slots=True)
class Scanning:
    """The same with nothing to write: what no block holds is found, not raised."""

    of: Encoding

    @property
    def name(self) -> str:
        """GGUF name."""
        return self.of.name

    @property
    def source_bytes(self) -> int:
        """Bytes of the rows that are read."""
        return self.of.source_bytes

    @property
    def n_rows(self) -> int:
        """Rows of all matrices."""
        return self.of.n_rows

    @property
    def extents(self) -> tuple[Extent, ...]:
        """None."""
        return ()

    def bands(self) -> Iterator[tuple[int, int]]:
        """Those of the job."""
        return self.of.bands()

    def memory(self, start: int, stop: int) -> int:
        """That of the job."""
        return self.of.memory(start, stop)

    def make(self, start: int, stop: int) -> Made[Scanned]:
        """What is found in rows start..stop."""
        try:
            return Made((), Scanned(self.of.make(start, stop).found))
        except OutlierError as error:
            return Made((), Scanned(outlier=error))
        except InexactError as error:
            return Made((), Scanned(inexact=error))


def encodings(
    tensors: Sequence[Planned], base: int = 0, *, measuring: bool = False
) -> list[Encoding]:
    """The jobs of tensors whose data starts at byte `base`."""
    return [Encoding(planned, base, measuring) for planned in tensors]


def scannings(tensors: Sequence[Planned]) -> list[Scanning]:
    """The jobs of a scan."""
    return [Scanning(job) for job in encodings(tensors)]
