"""What packings share: the stored tensors of one weight, and how errors name them."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ...tensor import F32, Tensor
from ..safetensors import StoredTensor
from ..storage import shown

OnInexact = Literal["error", "nearest", "f32"]

AGAIN = "the checkpoint may be incomplete or damaged: download it again"

_NUMBERS: dict[str, np.dtype[Any]] = {
    "F32": F32,
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
}


class Packed(Tensor):
    """A weight that is stored as several tensors.

    weight   the stored tensor with the codes
    packing  a word for what it is, such as "INT4"
    note     why it is dequantized instead of carried over; None where blocks are exact
    """

    weight: StoredTensor
    packing: str
    note: str | None = None

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """What it is stored as."""
        return (self.weight,)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all of it in the checkpoint."""
        return sum(part.n_rows * part.row_bytes for part in self.parts)

    @property
    def groups(self) -> int:
        """Scales that it has."""
        return 0

    def inexact(self) -> int:
        """Groups of the blocks handed out so far whose scale is not exactly the source's."""
        return 0


def failed(tensor: StoredTensor, problem: str, hint: str | None = AGAIN) -> SourceError:
    """An error of one stored tensor, with file and name in front."""
    return SourceError(f"{tensor.file}: {shown(tensor.name)}: {problem}", hint=hint)


def partner(
    tensors: Mapping[str, StoredTensor], of: StoredTensor, name: str, what: str
) -> StoredTensor:
    """The stored tensor `name` that belongs to `of`. Raises SourceError where no file has it."""
    found = tensors.get(name)
    if found is None:
        raise failed(of, f"expected {what} {shown(name)} beside it, no file has it")
    return found


def numbers(tensor: StoredTensor, start: int = 0, stop: int | None = None) -> NDArray[Any]:
    """Rows of a stored tensor in its own dtype, (rows, cols): floats, or integers. Raises
    SourceError for another dtype.
    """
    dtype = _NUMBERS.get(tensor.stored)
    if dtype is None:
        known = ", ".join(_NUMBERS)
        raise failed(tensor, f"expected one of {known}, got {tensor.stored}", None)
    return tensor.raw(start, tensor.n_rows if stop is None else stop).view(dtype)


def check_finite(
    tensor: StoredTensor,
    scales: NDArray[Any],
    start: int,
    where: Callable[[int, int], str] = lambda row, group: f"row {row}, group {group}",
) -> None:
    """Raise SourceError, naming the place, at the first scale that is NaN or infinite."""
    bad = ~np.isfinite(scales.astype(np.float32))
    if bad.any():
        row, column = np.unravel_index(int(bad.argmax()), bad.shape)
        raise failed(
            tensor,
            f"{where(start + int(row), int(column))}: expected a finite scale, "
            f"got {float(scales[row, column])}",
        )
