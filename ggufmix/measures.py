"""How far values are from each other: sums over pairs in float64, and what follows from them.

Sums of bands add up to those of a tensor. They depend on where it is cut into bands and on the
order in which those are added, on nothing else: not on the CPU, not on threads. Kernel:
ext/measure.c.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from . import _core
from .codecs import ENCODERS, bytes_of, tier_number
from .errors import FormatError, ShapeError

_DTYPES: dict[np.dtype[Any], int] = {
    np.dtype(np.float32): ENCODERS["F32"].format.id,
    np.dtype(np.float16): ENCODERS["F16"].format.id,
    np.dtype(ml_dtypes.bfloat16): ENCODERS["BF16"].format.id,
}


@dataclass(frozen=True, slots=True)
class Measures:
    """Sums over pairs (x, y): what a weight was, and what it has become.

    count        pairs
    ee           sum of (x - y) squared
    xx, yy, xy   sums of x * x, y * y and x * y
    most         the largest |x - y|, in units of the weights
    row, column  of the first pair that has it
    broken       pairs of which one is NaN or infinite: in the sums they are zeros, in `most`
                 infinity
    """

    count: int = 0
    ee: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0
    most: float = 0.0
    row: int = 0
    column: int = 0
    broken: int = 0

    def __add__(self, other: Measures) -> Measures:
        """Both; `other` comes right after."""
        larger = other if other.most > self.most else self
        return Measures(
            self.count + other.count,
            self.ee + other.ee,
            self.xx + other.xx,
            self.yy + other.yy,
            self.xy + other.xy,
            larger.most,
            larger.row,
            larger.column,
            self.broken + other.broken,
        )

    @property
    def rrmse(self) -> float:
        """Relative RMSE: root of ee over xx, 0.026 for 2.6 %. Where x is zero throughout: 0 if y is
        too, else infinite. NaN where a pair is broken.
        """
        if self.broken:
            return math.nan
        if self.xx == 0:
            return 0.0 if self.ee == 0 else math.inf
        return math.sqrt(self.ee / self.xx)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between x and y. 1 where both are zero throughout, 0 where one is;
        NaN where a pair is broken.
        """
        if self.broken:
            return math.nan
        if self.xx == 0 or self.yy == 0:
            return 1.0 if self.xx == self.yy else 0.0
        return max(-1.0, min(1.0, self.xy / math.sqrt(self.xx) / math.sqrt(self.yy)))


def measure(
    x: NDArray[Any], y: NDArray[np.float32], *, row: int = 0, tier: str | None = None
) -> Measures:
    """Sums over the pairs of two arrays, in the calling thread, without the GIL.

    x     float32, float16 or bfloat16, (rows, cols), any strides
    y     float32, of the same shape
    row   what the first row is called in the result
    tier  one of `codecs.tiers()`; by default GGUFMIX_TIER of the environment, else the fastest
    The same on every tier, bit for bit. Raises FormatError for another dtype, ShapeError.
    """
    code = _DTYPES.get(x.dtype)
    if code is None or y.dtype != np.float32:
        raise FormatError(
            "expected values of float32, float16 or bfloat16 and others of float32, "
            f"got {x.dtype} and {y.dtype}"
        )
    if x.ndim != 2 or x.shape != y.shape:
        raise ShapeError(f"expected two arrays of (rows, cols), got {x.shape} and {y.shape}")
    number = tier_number(tier)
    if not x.size:
        return Measures(row=row)
    sums = _core.measure(bytes_of(x), code, bytes_of(y), number)
    down, column = divmod(sums["at"], x.shape[1])
    return Measures(
        x.size,
        sums["ee"],
        sums["xx"],
        sums["yy"],
        sums["xy"],
        sums["most"],
        row + down,
        column,
        sums["broken"],
    )
