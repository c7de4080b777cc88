"""Tensor: a name, a shape, a dtype, and `rows(start, stop)`.

Nothing is read until rows are asked for. A transform wraps Tensors and is again a Tensor, so a
model family can say "these 256 experts stacked, rows in this order, plus one" and memory still
holds no more than the band being worked on.

Rows are counted over all leading dimensions: a (experts, rows, cols) tensor has experts * rows of
them. A 1-D tensor is one row; a scalar is one row of one value.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .errors import ModelError

Array = NDArray[np.generic]

F32 = np.dtype(np.float32)
F16 = np.dtype(np.float16)
BF16 = np.dtype(ml_dtypes.bfloat16)

DTYPE_NAMES: dict[np.dtype[np.generic], str] = {F32: "F32", F16: "F16", BF16: "BF16"}
"""The dtypes that rows may have, and what GGUF calls them."""


class Tensor(ABC):
    """Rows of weights, wherever they come from.

    name    as the source spells it, for messages
    shape   outermost first; the last is the row length
    dtype   of what `rows` returns: float32, float16 or bfloat16
    unit    how many rows can be given cheaply at once; bands should be multiples of it
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    unit: int = 1

    @property
    def cols(self) -> int:
        """Row length in values."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Rows over all leading dimensions."""
        return math.prod(self.shape[:-1])

    @property
    def n_values(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def matrix_rows(self) -> int:
        """Rows of one matrix: of one expert in a stacked tensor, of the whole tensor otherwise."""
        return self.shape[-2] if len(self.shape) >= 2 else 1

    @abstractmethod
    def rows(self, start: int, stop: int) -> Array:
        """Rows start..stop as an array (stop - start, cols) of `dtype`, owned by the caller."""

    def all(self) -> Array:
        """Every value, in `shape`. For small tensors."""
        return self.rows(0, self.n_rows).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Placed:
    """A Tensor with its place in a GGUF file.

    name    GGUF name, such as "blk.3.ssm_alpha.weight"
    role    member name of gguf.MODEL_TENSOR, such as "SSM_ALPHA"
    layer   block number, or None outside the blocks
    tensor  where the values come from; `tensor.shape` is the reverse of GGUF's order
    """

    name: str
    role: str
    layer: int | None
    tensor: Tensor


class _View(Tensor):
    """A Tensor over another one, alike in all but what the transform says."""

    def __init__(self, of: Tensor, shape: tuple[int, ...] | None = None, unit: int = 1) -> None:
        self.of = of
        self.name = of.name
        self.shape = of.shape if shape is None else shape
        self.dtype = of.dtype
        self.unit = unit


class _Held(Tensor):
    def __init__(self, name: str, values: Array) -> None:
        self.name, self.shape, self.dtype = name, values.shape, values.dtype
        self._values = values.reshape(-1, values.shape[-1] if values.ndim else 1)

    def rows(self, start: int, stop: int) -> Array:
        return self._values[start:stop].copy()


def held(name: str, values: Array) -> Tensor:
    """A Tensor over values in memory (float32, float16 or bfloat16)."""
    return _Held(name, values)


class _Reshaped(_View):
    def rows(self, start: int, stop: int) -> Array:
        if self.cols == self.of.cols:
            return self.of.rows(start, stop)
        return self.of.all().reshape(-1, self.cols)[start:stop]


def reshape(of: Tensor, shape: Sequence[int]) -> Tensor:
    """The same values in another shape. Where the row length changes the tensor is read whole, so
    only small ones may.
    """
    assert math.prod(shape) == of.n_values, (of.name, of.shape, shape)
    return _Reshaped(of, tuple(shape), of.unit if shape[-1:] == of.shape[-1:] else 1)


class _Stacked(_View):
    def __init__(self, parts: Sequence[Tensor]) -> None:
        super().__init__(parts[0], (len(parts), *parts[0].shape), parts[0].unit)
        self.parts = parts

    def rows(self, start: int, stop: int) -> Array:
        each = self.parts[0].n_rows
        pieces = [
            self.parts[i].rows(max(start - i * each, 0), min(stop - i * each, each))
            for i in range(start // each, -(-stop // each))
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def stack(parts: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape (rows, cols) as one of shape (len(parts), rows, cols): experts side by
    side.
    """
    for part in parts:
        if (part.shape, part.dtype) != (parts[0].shape, parts[0].dtype):
            raise ModelError(
                f"{part.name}: expected {parts[0].shape} of {parts[0].dtype}, as {parts[0].name} "
                f"is, got {part.shape} of {part.dtype}"
            )
    return _Stacked(parts)


class _RowsTaken(_View):
    def __init__(
        self, of: Tensor, index: NDArray[np.int64], shape: tuple[int, ...], unit: int
    ) -> None:
        super().__init__(of, shape, unit)
        self.index = index

    def rows(self, start: int, stop: int) -> Array:
        wanted = self.index[start:stop]
        breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
        if len(breaks) > len(wanted) // 8:  # reading row by row takes ten times as long
            low, high = int(wanted.min()), int(wanted.max()) + 1
            if high - low <= 2 * len(wanted):
                return np.take(self.of.rows(low, high), wanted - low, axis=0)
        runs = [self.of.rows(int(run[0]), int(run[-1]) + 1) for run in np.split(wanted, breaks)]
        return runs[0] if len(runs) == 1 else np.concatenate(runs)


def take_rows(
    of: Tensor,
    index: NDArray[np.int64],
    shape: Sequence[int] | None = None,
    *,
    unit: int = 1,
) -> Tensor:
    """Rows of `of` in the order of `index`; runs of consecutive rows are read at once, and so are
    rows that lie close together.

    index   int64, (rows of the result,), row numbers of `of`
    shape   of the result; by default (len(index), cols)
    unit    how many rows come from as many neighbouring ones
    """
    shape = tuple(shape) if shape is not None else (len(index), of.cols)
    return _RowsTaken(of, index, shape, unit)


class _ColumnsTaken(_View):
    def __init__(self, of: Tensor, index: NDArray[np.int64]) -> None:
        super().__init__(of, (*of.shape[:-1], len(index)), of.unit)
        self.index = index

    def rows(self, start: int, stop: int) -> Array:
        return np.take(self.of.rows(start, stop), self.index, axis=1)


def take_columns(of: Tensor, index: NDArray[np.int64]) -> Tensor:
    """Columns of `of` in the order of `index` (int64, column numbers)."""
    return _ColumnsTaken(of, index)


class _Mapped(_View):
    def __init__(
        self, of: Tensor, function: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    ) -> None:
        super().__init__(of, unit=of.unit)
        self.dtype = F32
        self.function = function

    def rows(self, start: int, stop: int) -> Array:
        return self.function(self.of.rows(start, stop).astype(np.float32))


def mapped(of: Tensor, function: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Tensor:
    """An element-wise function of the values, computed and given in float32."""
    return _Mapped(of, function)
