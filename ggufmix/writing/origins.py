"""What a tensor's data follow from, in two numbers, and data that follow from the same.

See checksums: `ggufmix.tensor.source.xxh3` and `ggufmix.tensor.method.xxh3`.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..planning import Planned
from ..tensor import DTYPE_NAMES, Tensor
from .jobs import Share

MODULO = 1 << 64
GROUP_BYTES = 2 << 20
"""Of the rows that are hashed as one. It is part of what the numbers mean: bands may be cut
otherwise, but are best cut so, and then no rows have to be kept.
"""


class Stored(Protocol):
    """A tensor as it lies in a file."""

    def raw(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows start..stop, uint8 (stop - start, bytes of a row)."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What another file has of a tensor, made from the same source with the same method.

    where   the file, for messages
    sum     XXH64 of the data
    source  number of what they were made from
    method  and of what with
    """

    where: str
    stored: Stored
    sum: int
    source: int
    method: int


def step(tensor: Tensor, n_bytes: int) -> int:
    """So many rows make about so many bytes of values, in units of the tensor."""
    wanted = max(1, n_bytes // (tensor.cols * tensor.dtype.itemsize))
    return max(tensor.unit, wanted // tensor.unit * tensor.unit)


def shares(tensor: Tensor, rows: NDArray[Any], start: int) -> list[Share]:
    """What rows of one matrix of a tensor, from row `start` on, have of its groups.

    rows  values, or blocks as they are stored, (rows, cols), contiguous
    """
    found = []
    first = start // tensor.matrix_rows * tensor.matrix_rows
    stop, each = start + len(rows), step(tensor, GROUP_BYTES)
    at = start
    while at < stop:
        group = first + (at - first) // each * each
        end = min(group + each, first + tensor.matrix_rows)
        data = rows[at - start : min(end, stop) - start].view(np.uint8).data
        if group == at and end <= stop:
            whole = xxhash.xxh3_64(data, seed=group)  # without the GIL
            found.append(Share(group, whole.intdigest()))
        else:
            found.append(Share(group, None, data))
        at = min(end, stop)
    return found


def moves(planned: Planned) -> bool:
    """Whether a tensor is made from blocks as they are stored, not from values."""
    return planned.copied or planned.widened


def method(planned: Planned, matrix: int) -> int:
    """The share of a matrix in what its tensor is made with."""
    tensor = planned.placed.tensor
    taken = tensor.format if moves(planned) else DTYPE_NAMES[tensor.dtype]
    told = xxhash.xxh3_64(f"{_version()} {planned.encoder.name} {taken}".encode(), matrix)
    if planned.importance is not None and not moves(planned):
        told.update(b"\0")
        told.update(planned.importance.vector(matrix).astype("<f4").data)
    return told.intdigest()


def whole_method(planned: Planned) -> int:
    """The number of what a tensor is made with. Reads its importance."""
    tensor = planned.placed.tensor
    matrices = tensor.n_rows // tensor.matrix_rows
    return sum(method(planned, matrix) for matrix in range(matrices)) % MODULO


@cache
def _version() -> str:
    return version("ggufmix")
