"""Tracing: where the matrices of a GGUF file come from, by name, expert and column.

A model family says where each tensor of a checkpoint goes and how it is turned; nothing says the
way back. So tensors that hold their own numbers (which tensor, which matrix, which row, which
column) are placed in the stead of weights, and one row of each placed matrix is read.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import models
from .tensor import F32, Array, Placed, Tensor

Index = NDArray[np.int64]
Question = Literal["one", "tensor", "matrix", "row", "column"]

NEAR = 0.1
"""How far a number that was read may lie from a whole one: multipliers round it."""
MOST = 1 << 24
"""Numbers up to here are exact in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Where one matrix of a GGUF tensor comes from.

    weight  name of the tensor in the checkpoint
    matrix  which of its matrices (experts) it is, 0 of a tensor that has one
    axis    along which its input channels lie there: -1 where rows are outputs, -2 where the
            tensor is stored transposed
    index   int64, (columns of the GGUF tensor,): the number that each has along that axis
    """

    weight: str
    matrix: int
    axis: Literal[-1, -2]
    index: Index


def trace(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, tuple[Origin, ...]]:
    """Origins of every GGUF tensor of two dimensions or more, one for each of its matrices.

    config, tensors  as for `models.place`; of the tensors only names and shapes are looked at
    Left out are tensors whose columns are not channels of one stored matrix: vectors in another
    shape, and values that become others altogether, such as decays.
    Raises ModelError as `models.place`.
    """
    asked = _Asked()
    names = list(tensors)
    probes = {
        name: _Probe(name, tensors[name].shape, number, asked) for number, name in enumerate(names)
    }
    found = {}
    for placed in models.place(config, probes).tensors:
        if len(placed.tensor.shape) >= 2:
            origins = _origins(placed, asked, names)
            if origins is not None and len(tensors[origins[0].weight].shape) >= 2:
                found[placed.name] = origins
    return found


def _origins(placed: Placed, asked: _Asked, names: Sequence[str]) -> tuple[Origin, ...] | None:
    tensor = placed.tensor
    each = tensor.matrix_rows
    n = tensor.n_rows // each
    first = _origin(tensor, 0, asked, names)
    if first is None:
        return None
    last = _origin(tensor, (n - 1) * each, asked, names) if n > 1 else first
    if last is None:
        return None
    if last.weight == first.weight and last.matrix == first.matrix + n - 1 and _alike(first, last):
        # one fused tensor, taken in order: what lies between need not be read
        return tuple(
            Origin(first.weight, first.matrix + m, first.axis, first.index) for m in range(n)
        )
    origins = [first]
    for matrix in range(1, n):
        origin = _origin(tensor, matrix * each, asked, names)
        if origin is None:
            return None
        if _alike(first, origin):  # experts share one array
            origin = Origin(origin.weight, origin.matrix, first.axis, first.index)
        origins.append(origin)
    return tuple(origins)


def _alike(a: Origin, b: Origin) -> bool:
    return a.axis == b.axis and np.array_equal(a.index, b.index)


def _origin(tensor: Tensor, row: int, asked: _Asked, names: Sequence[str]) -> Origin | None:
    def read(question: Question) -> Index | None:
        asked.question = question
        with np.errstate(all="ignore"):  # a function of the values may make anything of numbers
            ratio = tensor.rows(row, row + 1)[0].astype(np.float64) / one
            whole = np.rint(ratio)
            if not ((np.abs(ratio - whole) < NEAR) & (whole >= 1) & (whole < MOST)).all():
                return None
        numbers: Index = whole.astype(np.int64) - 1
        return numbers

    asked.question = "one"
    with np.errstate(all="ignore"):
        one = tensor.rows(row, row + 1)[0].astype(np.float64)
    answers = [read(question) for question in ("tensor", "matrix", "row", "column")]
    if any(answer is None for answer in answers):
        return None
    source, matrix, rows, columns = (answer for answer in answers if answer is not None)
    if (source != source[0]).any() or (matrix != matrix[0]).any() or source[0] >= len(names):
        return None
    if (rows == rows[0]).all():
        return Origin(names[source[0]], int(matrix[0]), -1, columns)
    if (columns == columns[0]).all():
        return Origin(names[source[0]], int(matrix[0]), -2, rows)
    return None


class _Asked:
    """What the probes of one model answer with at the moment."""

    question: Question = "one"


class _Probe(Tensor):
    """A tensor whose values are numbers from 1: of itself, or of the place they stand at."""

    dtype = F32

    def __init__(self, name: str, shape: tuple[int, ...], number: int, asked: _Asked) -> None:
        self.name, self.shape = name, shape
        self._number, self._asked = number, asked

    def rows(self, start: int, stop: int) -> Array:
        wanted = np.arange(start, stop)[:, np.newaxis]
        answer = {
            "one": np.zeros(1, np.int64),
            "tensor": np.array([self._number]),
            "matrix": wanted // self.matrix_rows,
            "row": wanted % self.matrix_rows,
            "column": np.arange(self.cols),
        }[self._asked.question]
        return np.broadcast_to((answer + 1).astype(np.float32), (stop - start, self.cols))
