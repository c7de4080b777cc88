"""Tensor: a name, a shape, a dtype, and `rows(start, stop)`.

Nothing is read until rows are asked for. A transform wraps Tensors and is again a Tensor, so a
model family can say "these 256 experts stacked, rows in this order, plus one" and memory still
holds no more than the band being worked on.

Rows are counted over all leading dimensions: a (experts, rows, cols) tensor has experts * rows of
them. A 1-D tensor is one row; a scalar is one row of one value.

A Tensor that is stored in blocks says in which `format`, and `blocks` hands them out unchanged.
Transforms that move rows or whole blocks of columns hand them through; all others have values only.
Blocks of NVFP4 come with an `outer_scale`, a number for each matrix that their values are to be
multiplied by; it goes the same ways.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .codecs import Format
from .errors import ModelError

T = TypeVar("T", bound=np.generic)

Array = NDArray[np.generic]
Blocks = NDArray[np.uint8]

F32 = np.dtype(np.float32)
F16 = np.dtype(np.float16)
BF16 = np.dtype(ml_dtypes.bfloat16)

DTYPE_NAMES: dict[np.dtype[np.generic], str] = {F32: "F32", F16: "F16", BF16: "BF16"}
"""The dtypes that rows may have, and what GGUF calls them."""


class Tensor(ABC):
    """Rows of weights, wherever they come from.

    name    as the source spells it, for messages
    file    that holds it, for messages; "" where there is none or there are several
    shape   outermost first; the last is the row length
    dtype   of what `rows` returns: float32, float16 or bfloat16
    unit    how many rows can be given cheaply at once; bands should be multiples of it
    format  of what `blocks` returns; None where there are only values
    outer_scale  what values of `blocks` are multiplied by in `rows`: float32, (matrices,), or None
    checksum  XXH64 (seed 0) of all rows as stored, blocks or `rows`, where the file has it, or None
    """

    name: str
    file: str = ""
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    unit: int = 1
    format: Format | None = None
    outer_scale: Tensor | None = None
    checksum: int | None = None

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
        """Rows of one matrix: of one expert in a stacked tensor, of the whole tensor otherwise.
        The kernel of a convolution, in four dimensions, is no stack.
        """
        return self.shape[-2] if len(self.shape) in (2, 3) else self.n_rows

    @abstractmethod
    def rows(self, start: int, stop: int) -> Array:
        """Rows start..stop as an array (stop - start, cols) of `dtype`, owned by the caller."""

    def blocks(self, start: int, stop: int) -> Blocks:
        """Rows start..stop as stored: uint8 (stop - start, bytes of a row in `format`). `rows`
        gives what they decode to, times `outer_scale`. Not to be called where `format` is None.
        """
        raise AssertionError(f"{self.name} is not stored in blocks, asked for {start} to {stop}")

    def origin(self, row: int) -> Tensor:  # noqa: ARG002
        """What to name where a row is wrong: of stacked tensors the one that has it."""
        return self

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
        self.file = of.file
        self.shape = of.shape if shape is None else shape
        self.dtype = of.dtype
        self.unit = unit

    def _take_outer_scale(self, of: Tensor) -> None:
        """Take the scale over with the blocks: neither, if matrices are no longer the same."""
        if self.format is not None and math.prod(self.shape[:-2]) == math.prod(of.shape[:-2]):
            self.outer_scale = of.outer_scale
        else:
            self.format = None


class _Held(Tensor):
    def __init__(self, name: str, values: Array) -> None:
        self.name, self.shape, self.dtype = name, values.shape, values.dtype
        self._values = values.reshape(-1, values.shape[-1] if values.ndim else 1)

    def rows(self, start: int, stop: int) -> Array:
        return self._values[start:stop].copy()


def _joined(pieces: Sequence[NDArray[T]]) -> NDArray[T]:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def held(name: str, values: Array) -> Tensor:
    """A Tensor over values in memory (float32, float16 or bfloat16)."""
    return _Held(name, values)


class _Reshaped(_View):
    def __init__(self, of: Tensor, shape: tuple[int, ...]) -> None:
        same = shape[-1:] == of.shape[-1:]
        super().__init__(of, shape, of.unit if same else 1)
        self.format = of.format if same else None
        if of.outer_scale is not None:
            self._take_outer_scale(of)

    def blocks(self, start: int, stop: int) -> Blocks:
        return self.of.blocks(start, stop)

    def rows(self, start: int, stop: int) -> Array:
        if self.cols == self.of.cols:
            return self.of.rows(start, stop)
        return self.of.all().reshape(-1, self.cols)[start:stop]


def reshape(of: Tensor, shape: Sequence[int]) -> Tensor:
    """The same values in another shape. Where the row length changes the tensor is read whole, so
    only small ones may, and blocks do not come through.
    """
    assert math.prod(shape) == of.n_values, (of.name, of.shape, shape)
    return _Reshaped(of, tuple(shape))


class _Stacked(_View):
    def __init__(self, parts: Sequence[Tensor]) -> None:
        super().__init__(parts[0], (len(parts), *parts[0].shape), parts[0].unit)
        self.parts = parts
        self.file = parts[0].file if all(part.file == parts[0].file for part in parts) else ""
        if all(part.format == parts[0].format for part in parts):
            self.format = parts[0].format
        outer = [part.outer_scale for part in parts if part.outer_scale is not None]
        if outer and len(outer) == len(parts) and self.format is not None:
            self.outer_scale = _Joined(outer)
        elif outer:
            self.format = None

    def origin(self, row: int) -> Tensor:
        each = self.parts[0].n_rows
        return self.parts[row // each].origin(row % each)

    def rows(self, start: int, stop: int) -> Array:
        return _joined([part.rows(a, b) for part, a, b in self._spans(start, stop)])

    def blocks(self, start: int, stop: int) -> Blocks:
        return _joined([part.blocks(a, b) for part, a, b in self._spans(start, stop)])

    def _spans(self, start: int, stop: int) -> Iterator[tuple[Tensor, int, int]]:
        each = self.parts[0].n_rows
        for i in range(start // each, -(-stop // each)):
            yield self.parts[i], max(start - i * each, 0), min(stop - i * each, each)


class _Joined(_View):
    """Vectors one behind the other."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        super().__init__(parts[0], (sum(part.n_values for part in parts),))
        self.parts = parts

    def rows(self, start: int, stop: int) -> Array:
        return np.concatenate([part.all() for part in self.parts])[np.newaxis][start:stop]


def stack(parts: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape (rows, cols) as one of shape (len(parts), rows, cols): experts side by
    side. Blocks come through where all parts have the same format.
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
        self.format = of.format if shape[-1:] == of.shape[-1:] else None
        if of.outer_scale is not None:
            own = index // of.matrix_rows == np.arange(len(index)) // self.matrix_rows
            self.format = self.format if own.all() else None
            self._take_outer_scale(of)

    def rows(self, start: int, stop: int) -> Array:
        return self._taken(self.of.rows, start, stop)

    def blocks(self, start: int, stop: int) -> Blocks:
        return self._taken(self.of.blocks, start, stop)

    def _taken(self, read: Callable[[int, int], NDArray[T]], start: int, stop: int) -> NDArray[T]:
        wanted = self.index[start:stop]
        breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
        if len(breaks) > len(wanted) // 8:  # reading row by row takes ten times as long
            low, high = int(wanted.min()), int(wanted.max()) + 1
            if high - low <= 2 * len(wanted):
                return np.take(read(low, high), wanted - low, axis=0)
        return _joined([read(int(run[0]), int(run[-1]) + 1) for run in np.split(wanted, breaks)])


def take_rows(
    of: Tensor,
    index: NDArray[np.int64],
    shape: Sequence[int] | None = None,
    *,
    unit: int = 1,
) -> Tensor:
    """Rows of `of` in the order of `index`; runs of consecutive rows are read at once, and so are
    rows that lie close together. Blocks come through.

    index   int64, (rows of the result,), row numbers of `of`
    shape   of the result; by default (len(index), cols)
    unit    how many rows come from as many neighbouring ones
    """
    shape = tuple(shape) if shape is not None else (len(index), of.cols)
    return _RowsTaken(of, index, shape, unit)


class _RowsJoined(_View):
    def __init__(self, parts: Sequence[Tensor]) -> None:
        rows = [part.matrix_rows for part in parts]
        *outer, _, cols = parts[0].shape
        super().__init__(parts[0], (*outer, sum(rows), cols), math.gcd(*(p.unit for p in parts)))
        self.parts = parts
        self.starts = [sum(rows[:i]) for i in range(len(rows) + 1)]
        self.file = parts[0].file if all(part.file == parts[0].file for part in parts) else ""
        alike = all(part.format == parts[0].format for part in parts)
        if alike and all(part.outer_scale is None for part in parts):
            self.format = parts[0].format

    def origin(self, row: int) -> Tensor:
        [(part, start, _)] = self._spans(row, row + 1)
        return part.origin(start)

    def rows(self, start: int, stop: int) -> Array:
        return _joined([part.rows(a, b) for part, a, b in self._spans(start, stop)])

    def blocks(self, start: int, stop: int) -> Blocks:
        return _joined([part.blocks(a, b) for part, a, b in self._spans(start, stop)])

    def _spans(self, start: int, stop: int) -> Iterator[tuple[Tensor, int, int]]:
        each = self.matrix_rows
        for matrix in range(start // each, -(-stop // each)):
            first, last = max(start - matrix * each, 0), min(stop - matrix * each, each)
            for part, low, high in zip(self.parts, self.starts, self.starts[1:], strict=False):
                if first < high and last > low:
                    at = matrix * (high - low) - low
                    yield part, at + max(first, low), at + min(last, high)


def join_rows(parts: Sequence[Tensor]) -> Tensor:
    """Matrices (..., rows of each, cols) one below the other, as (..., all their rows, cols): gate
    and up of each expert in one. Blocks come through where all parts have the same format and no
    outer scale.
    """
    first = parts[0]
    for part in parts:
        alike = part.shape[:-2] == first.shape[:-2] and part.cols == first.cols
        if not alike or part.dtype != first.dtype:
            raise ModelError(
                f"{part.name}: expected {first.shape} of {first.dtype} but for the rows, as "
                f"{first.name} is, got {part.shape} of {part.dtype}"
            )
    return _RowsJoined(parts)


class _Transposed(_View):
    def __init__(self, of: Tensor) -> None:
        *outer, rows, cols = of.shape
        super().__init__(of, (*outer, cols, rows), unit=cols)

    def rows(self, start: int, stop: int) -> Array:
        each, deep = self.matrix_rows, self.cols
        made = np.empty((stop - start, deep), self.dtype)
        for i in range(start // each, -(-stop // each)):
            low, high = max(start, i * each), min(stop, (i + 1) * each)
            matrix = self.of.rows(i * deep, (i + 1) * deep)
            made[low - start : high - start] = matrix[:, low - i * each : high - i * each].T
        return made


def transpose(of: Tensor) -> Tensor:
    """Each matrix of `of`, (..., rows, cols), as (..., cols, rows).

    A row of the result touches every row of its matrix, so the unit is a whole matrix. Blocks do
    not come through.
    """
    return _Transposed(of)


class _ColumnsTaken(_View):
    def __init__(self, of: Tensor, index: NDArray[np.int64]) -> None:
        super().__init__(of, (*of.shape[:-1], len(index)), of.unit)
        self.index = index
        self._whole = _whole_blocks(index, of.format) if of.format is not None else None
        self.format = of.format if self._whole is not None else None
        if of.outer_scale is not None:
            self._take_outer_scale(of)

    def rows(self, start: int, stop: int) -> Array:
        return np.take(self.of.rows(start, stop), self.index, axis=1)

    def blocks(self, start: int, stop: int) -> Blocks:
        assert self.format is not None
        assert self._whole is not None
        apart = self.of.blocks(start, stop).reshape(stop - start, -1, self.format.bytes)
        return np.take(apart, self._whole, axis=1).reshape(stop - start, -1)


def _whole_blocks(index: NDArray[np.int64], kind: Format) -> NDArray[np.int64] | None:
    """Numbers of the blocks that `index` takes, or None where it cuts one or a row has a header."""
    if kind.row_header or len(index) % kind.values:
        return None
    apart = index.reshape(-1, kind.values)
    whole = apart[:, 0] // kind.values
    same = apart == whole[:, np.newaxis] * kind.values + np.arange(kind.values)
    return whole if same.all() else None


def take_columns(of: Tensor, index: NDArray[np.int64]) -> Tensor:
    """Columns of `of` in the order of `index` (int64, column numbers). Blocks come through where
    they are moved as a whole.
    """
    return _ColumnsTaken(of, index)


class _Decoded(_View):
    def rows(self, start: int, stop: int) -> Array:
        return self.of.rows(start, stop)


def decoded(of: Tensor) -> Tensor:
    """The values alone: its blocks are not handed out."""
    return _Decoded(of, unit=of.unit)


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
    """An element-wise function of the values, computed and given in float32. Blocks end here."""
    return _Mapped(of, function)
