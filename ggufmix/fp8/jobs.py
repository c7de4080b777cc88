"""The work of writing a checkpoint, cut into bands: FP8 weights with their scales, values in
another dtype, tensors that are copied.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..errors import NotFiniteError, SourceError
from ..sources import StoredTensor
from ..tensor import DTYPE_NAMES, Tensor
from ..writing import Extent, Made, Piece
from . import torch_path
from .coding import BLOCK, Quantized, Scale, Search, quantize
from .losses import Lost
from .naming import Matrix, module_of

BAND_BYTES = 2 << 20
"""Source bytes of a band."""

_DAMAGED = "the checkpoint is damaged, or was saved from a run that had diverged"
_EXPONENTS: dict[str, np.uint32 | np.uint16] = {
    "F32": np.uint32(0x7F800000),
    "F16": np.uint16(0x7C00),
    "BF16": np.uint16(0x7F80),
}
"""All bits of the exponent: what NaN and infinity have set."""

Weights = Callable[[Matrix], NDArray[np.float32] | None]
"""Mean squares of the activations that meet each column of a matrix, float32 (cols,), or None."""

_SCALES: dict[str, Any] = {"BF16": ml_dtypes.bfloat16, "F32": np.float32}


def spans(n_rows: int, row_bytes: int, unit: int = 1) -> Iterator[tuple[int, int]]:
    """Bands of about BAND_BYTES, in multiples of `unit` rows."""
    step = max(unit, BAND_BYTES // max(row_bytes, 1) // unit * unit)
    for start in range(0, n_rows, step):
        yield start, min(start + step, n_rows)


def place(tensor: Tensor, row: int, column: int, first: int = 0) -> str:
    """Where a value stands in the source: file, tensor, dtype, expert of a stack, row and column.

    first  row of the stored tensor where this one begins
    """
    origin = tensor.origin(row)
    where = f"{origin.file}: {origin.name}" if origin.file else origin.name
    number, inside = divmod(first + row, origin.matrix_rows)
    stack = module_of(origin.name).endswith(".experts")
    which = f"{'expert' if stack else 'matrix'} {number}, " if len(origin.shape) > 2 else ""
    return f"{where}, {DTYPE_NAMES[tensor.dtype]}: {which}row {inside}, column {column}"


@dataclass(frozen=True, slots=True)
class Coding:
    """A matrix as E4M3 codes and scales.

    extents  of the codes, and of the scales
    stored   of the scales: "BF16" or "F32"
    weights  of its columns
    device   of torch that works on it; None: the CPU, by our kernel
    """

    matrix: Matrix
    extents: tuple[Extent, Extent]
    search: Search
    scale: Scale
    stored: str
    weights: Weights
    device: str | None = None

    @property
    def name(self) -> str:
        """Name of the weight in the output."""
        return f"{self.matrix.module}.weight"

    @property
    def source_bytes(self) -> int:
        """Bytes of its values."""
        tensor = self.matrix.tensor
        return tensor.n_values * tensor.dtype.itemsize

    @property
    def n_rows(self) -> int:
        """Its rows."""
        return self.matrix.tensor.n_rows

    def bands(self) -> Iterator[tuple[int, int]]:
        """Some rows of blocks each."""
        tensor = self.matrix.tensor
        return spans(tensor.n_rows, tensor.cols * tensor.dtype.itemsize, BLOCK)

    def make(self, start: int, stop: int) -> Made[Lost]:
        """Rows start..stop."""
        matrix = self.matrix
        values = matrix.tensor.rows(start, stop)
        weights = self.weights(matrix)
        try:
            made = self._quantized(values, weights)
        except NotFiniteError as error:
            row = start + error.row
            raise NotFiniteError(
                f"{place(matrix.tensor, row, error.column, matrix.first)}: {error}",
                row=row,
                column=error.column,
                hint=_DAMAGED,
            ) from error
        scales = made.scales.astype(_SCALES[self.stored])
        at = start // BLOCK * scales.shape[1] * scales.itemsize
        pieces = (
            Piece(0, start * matrix.tensor.cols, made.codes.data.cast("B")),
            Piece(1, at, scales.view(np.uint8).data.cast("B")),
        )
        return Made(pieces, Lost(made.sums, made.saturated, made.flushed))

    def _quantized(self, values: NDArray[Any], weights: NDArray[np.float32] | None) -> Quantized:
        if self.device is None:
            return quantize(values, self.search, scale=self.scale, weights=weights)
        return torch_path.quantize(
            values, self.search, device=self.device, scale=self.scale, weights=weights
        )


@dataclass(frozen=True, slots=True)
class Copying:
    """A tensor as it is stored."""

    tensor: StoredTensor
    extents: tuple[Extent]

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.tensor.name

    @property
    def source_bytes(self) -> int:
        """Its size."""
        return self.extents[0].size

    @property
    def n_rows(self) -> int:
        """Its rows."""
        return self.tensor.n_rows

    def bands(self) -> Iterator[tuple[int, int]]:
        """Some rows each."""
        return spans(self.tensor.n_rows, self.tensor.row_bytes)

    def make(self, start: int, stop: int) -> Made[Lost]:
        """Rows start..stop. Raises NotFiniteError: no engine computes with such a number."""
        raw = self.tensor.raw(start, stop)
        exponent = _EXPONENTS.get(self.tensor.stored)
        if exponent is not None:
            bad = (raw.view(exponent.dtype) & exponent) == exponent
            if bad.any():
                row, column = (int(n) for n in np.argwhere(bad)[0])
                raise NotFiniteError(
                    f"{place(self.tensor, start + row, column)}: expected a number, got NaN or "
                    "infinity",
                    row=start + row,
                    column=column,
                    hint=_DAMAGED,
                )
        return Made((Piece(0, start * self.tensor.row_bytes, raw.data.cast("B")),), Lost())


@dataclass(frozen=True, slots=True)
class Rounding:
    """Values in BF16 or F32, of a weight that is stored in another form."""

    name: str
    tensor: Tensor
    extents: tuple[Extent]
    stored: str

    @property
    def source_bytes(self) -> int:
        """Bytes of its values."""
        return self.tensor.n_values * self.tensor.dtype.itemsize

    @property
    def n_rows(self) -> int:
        """Its rows."""
        return self.tensor.n_rows

    def bands(self) -> Iterator[tuple[int, int]]:
        """Some rows each, in units of the tensor, that cross no matrix."""
        tensor = self.tensor
        for first in range(0, tensor.n_rows, tensor.matrix_rows):
            for start, stop in spans(
                tensor.matrix_rows, tensor.cols * tensor.dtype.itemsize, tensor.unit
            ):
                yield first + start, first + stop

    def make(self, start: int, stop: int) -> Made[Lost]:
        """Rows start..stop. Raises SourceError for values that are not finite."""
        values = self.tensor.rows(start, stop)
        made = values.astype(_SCALES[self.stored])
        if not np.isfinite(made).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(made))[0])
            what = "is not finite" if not np.isfinite(values[row, column]) else "is too large"
            raise SourceError(f"{place(self.tensor, start + row, column)}: {what} in {self.stored}")
        at = start * self.tensor.cols * made.itemsize
        return Made((Piece(0, at, made.view(np.uint8).data.cast("B")),), Lost())
