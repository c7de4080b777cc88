"""What FP8 costs a weight: sums over its bands, and what follows from them."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coding import Sums

REACH = 464.0
"""What is beyond so many scales saturates: halfway from 448, the last value, to where the next
would be.
"""
_LAST = 0x7E


_NONE = Sums()


@dataclass(frozen=True, slots=True)
class Lost:
    """Sums over some rows.

    sums       of errors
    saturated  weights beyond the reach of their scale
    flushed    weights that are not zero, stored as zero
    """

    sums: Sums = _NONE
    saturated: int = 0
    flushed: int = 0

    def __add__(self, other: Lost) -> Lost:
        """Both; `other` comes right after."""
        return Lost(
            self.sums + other.sums,
            self.saturated + other.saturated,
            self.flushed + other.flushed,
        )

    @property
    def rrmse(self) -> float:
        """Root of the squared error over the squared weights, 0.026 for 2.6 %."""
        if self.sums.ww == 0:
            return 0.0 if self.sums.ee == 0 else math.inf
        return math.sqrt(self.sums.ee / self.sums.ww)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between weights and what they became; 1 where both are zero."""
        if self.sums.ww == 0 or self.sums.dd == 0:
            return 1.0 if self.sums.ww == self.sums.dd else 0.0
        return self.sums.wd / math.sqrt(self.sums.ww) / math.sqrt(self.sums.dd)

    @property
    def mae(self) -> float:
        """Mean absolute error, in units of the weights."""
        return self.sums.e / self.sums.count if self.sums.count else 0.0

    @property
    def maxae(self) -> float:
        """Largest absolute error."""
        return self.sums.most

    @property
    def saturated_share(self) -> float:
        """Of all weights."""
        return self.saturated / self.sums.count if self.sums.count else 0.0

    @property
    def flushed_share(self) -> float:
        """Of all weights."""
        return self.flushed / self.sums.count if self.sums.count else 0.0


def measured(w: NDArray[Any], d: NDArray[np.float32], codes: NDArray[np.uint8]) -> Lost:
    """What became of weights w, any float dtype: d, stored as codes of E4M3; all (rows, cols)."""
    a, b = w.astype(np.float64).ravel(), d.astype(np.float64).ravel()
    magnitudes = np.abs(a)
    code = codes.ravel() & 0x7F
    saturated = (code == _LAST) & (magnitudes > np.abs(b) * (REACH / 448))
    flushed = (code == 0) & (a != 0)
    e = np.abs(b - a, out=magnitudes)
    sums = Sums(
        a.size,
        float(a @ a),
        float(b @ b),
        float(a @ b),
        float(e @ e),
        float(e.sum()),
        float(e.max(initial=0.0)),
    )
    return Lost(sums, int(saturated.sum()), int(flushed.sum()))
