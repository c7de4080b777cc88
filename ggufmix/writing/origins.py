"""What a tensor's data follow from, in two numbers, and data that follow from the same.

See checksums: `ggufmix.tensor.source.xxh3` and `ggufmix.tensor.method.xxh3`.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..planning import Planned
from ..tensor import DTYPE_NAMES

MODULO = 1 << 64


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
