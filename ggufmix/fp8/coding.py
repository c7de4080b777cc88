"""Weights as E4M3 codes with one scale for each block of 128 x 128, and back.

A scale is a multiplier: a weight is `code * scale`. It is found by one of four modes, rounded to
what is stored, and the codes are made with the rounded scale, so that nothing that a loader
computes differs from what was measured here.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, ImportanceError, NotFiniteError, ShapeError, UsageError

BLOCK = 128
"""Rows and columns of a block; those at the edges of a tensor may have fewer."""
LARGEST = 448.0
"""The largest value of E4M3."""

Mode = Literal["rms", "max", "percentile", "mse"]
Scale = Literal["bf16", "f32", "pow2"]


@dataclass(frozen=True, slots=True)
class Search:
    """How the scale of a block is found.

    mode        max: the largest magnitude becomes 448
                rms: `factor` times the root mean square becomes 448
                percentile: this percentile of the magnitudes becomes 448
                mse: of `grid` scales from that of max to twice that, the one with the least
                squared error
    factor      of rms, above 0
    percentile  above 0, to 100; between two ranks interpolated linearly
    grid        candidates of mse, at least 1
    What is larger than 448 scales saturates. Raises UsageError.
    """

    mode: Mode = "mse"
    factor: float = 5.0
    percentile: float = 99.9
    grid: int = 50

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise UsageError(
                f"expected a mode, one of {', '.join(get_args(Mode))}; got {self.mode}"
            )
        if not (self.factor > 0 and math.isfinite(self.factor)):
            raise UsageError(f"expected an rms factor above 0, got {self.factor}")
        if not 0 < self.percentile <= 100:
            raise UsageError(f"expected a percentile above 0 and up to 100, got {self.percentile}")
        if self.grid < 1:
            raise UsageError(f"expected a grid of at least 1 candidate, got {self.grid}")


@dataclass(frozen=True, slots=True)
class Quantized:
    """Rows as E4M3, and what was lost on the way.

    codes      uint8, (rows, cols): the bytes of float8_e4m3fn
    scales     float32, (ceil(rows / 128), ceil(cols / 128)), exact in the type they are stored in
    saturated  weights beyond the reach of their block's scale, stored as +-448
    flushed    weights that are not zero, stored as zero
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    saturated: int
    flushed: int


def quantize(
    x: NDArray[Any],
    search: Search,
    *,
    scale: Scale = "bf16",
    weights: NDArray[np.float32] | None = None,
    tier: str | None = None,
) -> Quantized:
    """Quantize rows of one matrix, in the calling thread.

    x        float32, float16 or bfloat16, (rows, cols); a slab of 128 rows, or several: blocks are
             counted from its first row
    scale    what the scales are rounded to: bf16, f32, or powers of two
    weights  float32, (cols,), at least 0: mean squares of the activations that meet each column;
             rms and mse weigh columns by them, max and percentile do not
    tier     one of `codecs.tiers()`; by default GGUFMIX_TIER of the environment, else the fastest
    Raises ShapeError, FormatError (dtype), ImportanceError; NotFiniteError with `row` and `column`.
    """
    del tier
    if x.ndim != 2:
        raise ShapeError(f"expected weights of shape (rows, cols), got {x.shape}")
    if x.dtype not in (np.float32, np.float16, ml_dtypes.bfloat16):
        raise FormatError(f"expected weights of float32, float16 or bfloat16, got {x.dtype}")
    rows, cols = x.shape
    if weights is not None and weights.shape != (cols,):
        raise ImportanceError(f"expected weights of shape ({cols},), got {weights.shape}")
    f = x.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(f))
    if wrong.size:
        row, column = (int(i) for i in wrong[0])
        raise NotFiniteError(f"FP8 cannot store {f[row, column]}", row=row, column=column)
    codes = np.empty((rows, cols), np.uint8)
    scales = np.empty((-(-rows // BLOCK), -(-cols // BLOCK)), np.float32)
    saturated = flushed = 0
    for r in range(scales.shape[0]):
        for c in range(scales.shape[1]):
            part = np.s_[r * BLOCK : (r + 1) * BLOCK, c * BLOCK : (c + 1) * BLOCK]
            block = f[part]
            a = None if weights is None else weights[part[1]].astype(np.float64)
            s = scales[r, c] = _scale(block, search, scale, a)
            ratio = block / s
            codes[part] = _e4m3(ratio)
            saturated += int((np.abs(ratio) > 464).sum())
            flushed += int(((codes[part] & 127 == 0) & (block != 0)).sum())
    return Quantized(codes, scales, saturated, flushed)


def dequantize(codes: NDArray[np.uint8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights of codes (rows, cols) and scales (ceil(rows / 128), ceil(cols / 128))."""
    rows, cols = codes.shape
    spread = scales.repeat(BLOCK, 0)[:rows].repeat(BLOCK, 1)[:, :cols]
    return codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * spread


def _e4m3(ratio: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(ratio, -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def _stored(raw: float, kind: Scale) -> np.float32:
    scale = np.float32(min(max(raw, 2.0**-126), 2.0**119 * 8 / 7))
    if kind == "bf16":
        return min(np.float32(scale.astype(ml_dtypes.bfloat16)), np.float32(146 * 2.0**112))
    if kind == "pow2":
        return np.float32(min(2.0 ** math.ceil(math.log2(scale)), 2.0**119))
    return min(scale, np.float32(9586980 * 2.0**96))


def _scale(
    block: NDArray[np.float32], search: Search, kind: Scale, a: NDArray[np.float64] | None
) -> np.float32:
    w = np.abs(block.astype(np.float64))
    top = float(w.max())
    if top == 0:
        return np.float32(1)
    if a is None or (w * a).sum() == 0:
        a = np.ones(w.shape[1])
    reach = top
    if search.mode == "rms":
        reach = search.factor * math.sqrt((w * w * a).sum() / (a.sum() * len(w)))
    elif search.mode == "percentile":
        at = search.percentile / 100 * (w.size - 1)
        order = np.sort(w, axis=None)
        low = order[math.floor(at)]
        reach = low + (order[math.ceil(at)] - low) * (at - math.floor(at)) or reach
    elif search.mode == "mse":
        found = [_stored(top * (1 + k / search.grid) / 448, kind) for k in range(search.grid)]
        error = []
        for s in found:
            near = _e4m3(block / s).view(ml_dtypes.float8_e4m3fn).astype(np.float32) * s
            error.append((((near - block).astype(np.float64) ** 2) * a).sum())
        return found[int(np.argmin(error))]
    return _stored(reach / 448, kind)
