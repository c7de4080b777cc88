"""Weights as E4M3 codes with one scale for each block of 128 x 128, and back.

A scale is a multiplier: a weight is `code * scale`. It is found by one of four modes, rounded to
what is stored, and the codes are made with the rounded scale, so that nothing that a loader
computes differs from what was measured here. Kernel: ext/fp8.c.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..codecs import ENCODERS, bytes_of, tier_number
from ..errors import FormatError, ImportanceError, NotFiniteError, ShapeError, UsageError

BLOCK = 128
"""Rows and columns of a block; those at the edges of a tensor may have fewer."""
MOST_CANDIDATES = 10_000
"""Of mse. Between a number and twice it there are 128 of bfloat16."""

Mode = Literal["rms", "max", "percentile", "mse"]
Scale = Literal["bf16", "f32", "pow2"]

_MODES: tuple[Mode, ...] = ("max", "rms", "percentile", "mse")  # as numbered in ext/fp8.h
_SCALES: tuple[Scale, ...] = ("bf16", "f32", "pow2")
_DTYPES: dict[np.dtype[Any], int] = {
    np.dtype(np.float32): ENCODERS["F32"].format.id,
    np.dtype(np.float16): ENCODERS["F16"].format.id,
    np.dtype(ml_dtypes.bfloat16): ENCODERS["BF16"].format.id,
}


@dataclass(frozen=True, slots=True)
class Search:
    """How the scale of a block is found, and with it what is larger than 448 scales and saturates.

    mode        mse: of `grid` scales from that of max to twice that, the one with the least sum of
                squared errors; it never saturates. Among powers of two there is nothing to find:
                it is max
                max: the largest magnitude becomes 448
                rms: `factor` times the root mean square becomes 448
                percentile: this percentile of the magnitudes becomes 448
    factor      of rms, above 0
    percentile  above 0, to 100; between two ranks linear, as in torch.quantile
    grid        candidates of mse, 1 to MOST_CANDIDATES
    Where rms or percentile would give zero for a block that is not, max is taken. What the modes
    cost is in docs/fp8-modes.md. Raises UsageError.
    """

    mode: Mode = "mse"
    factor: float = 8.0
    percentile: float = 99.9
    grid: int = 50

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise UsageError(f"expected a mode, one of {', '.join(_MODES)}; got {self.mode}")
        if not (self.factor > 0 and math.isfinite(self.factor)):
            raise UsageError(f"expected an rms factor above 0, got {self.factor:g}")
        if not 0 < self.percentile <= 100:
            raise UsageError(f"expected a percentile above 0, to 100; got {self.percentile:g}")
        if not 1 <= self.grid <= MOST_CANDIDATES:
            raise UsageError(f"expected a grid of 1 to {MOST_CANDIDATES} scales, got {self.grid}")


@dataclass(frozen=True, slots=True)
class Sums:
    """What errors are judged by: sums in float64 over weights w and what is stored for them,
    d = code * scale in float32.

    count    weights
    ww, dd   of w * w and d * d
    wd       of w * d
    ee, e    of the squares and the magnitudes of d - w
    most     the largest magnitude of d - w
    """

    count: int = 0
    ww: float = 0.0
    dd: float = 0.0
    wd: float = 0.0
    ee: float = 0.0
    e: float = 0.0
    most: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        """Both; `other` comes right after."""
        return Sums(
            self.count + other.count,
            self.ww + other.ww,
            self.dd + other.dd,
            self.wd + other.wd,
            self.ee + other.ee,
            self.e + other.e,
            self.most if self.most >= other.most or math.isnan(self.most) else other.most,
        )


@dataclass(frozen=True, slots=True)
class Quantized:
    """Rows as E4M3, and what was lost on the way.

    codes      uint8, (rows, cols): the bytes of float8_e4m3fn
    scales     float32, (ceil(rows / 128), ceil(cols / 128)), exact in the type they are stored in:
               never zero or subnormal, 1 for a block of zeros
    saturated  weights beyond the reach of their block's scale (|w| > 464 scales), stored as +-448
    flushed    weights that are not zero, stored as zero
    sums       of errors; they depend on how rows are cut into calls, nothing else does, so whoever
               wants the same sums everywhere calls with slabs of 128 rows
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    saturated: int
    flushed: int
    sums: Sums


def quantize(
    x: NDArray[Any],
    search: Search,
    *,
    scale: Scale = "bf16",
    weights: NDArray[np.float32] | None = None,
    tier: str | None = None,
) -> Quantized:
    """Quantize rows of one matrix, in the calling thread, without the GIL.

    x        float32, float16 or bfloat16, (rows, cols), any strides; a slab of 128 rows, or
             several: blocks are counted from its first row
    scale    what the scales are rounded to: bf16, f32, or powers of two (pow2), which both hold
    weights  float32, (cols,), 0 and up: mean squares of the activations that meet each column;
             rms and mse weigh columns by them, max and percentile do not
    tier     one of `codecs.tiers()`; by default GGUFMIX_TIER of the environment, else the fastest
    The bytes depend neither on the tier nor on how a matrix is cut into slabs.
    Raises ShapeError, FormatError (dtype), ImportanceError; NotFiniteError with the first `row` and
    `column`.
    """
    check(x, scale, weights)
    rows, cols = x.shape
    codes = np.empty((rows, cols), np.uint8)
    scales = np.empty(_grid(rows, cols), np.float32)
    number = tier_number(tier)
    if not x.size:
        return Quantized(codes, scales, 0, 0, Sums())
    done = _core.quantize_fp8(
        bytes_of(x),
        _DTYPES[x.dtype],
        None if weights is None else bytes_of(weights),
        bytes_of(codes),
        scales.reshape(-1),
        cols,
        rows,
        _MODES.index(search.mode),
        _SCALES.index(scale),
        search.factor,
        search.percentile,
        search.grid,
        number,
    )
    return _quantized(x, codes, scales, done)


def compare(
    x: NDArray[Any],
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    *,
    tier: str | None = None,
) -> Quantized:
    """What `quantize` says of these codes and scales, whoever made them, beside the weights x: the
    same counts and sums, to the last bit. They are NaN where a code or a scale is.

    x       float32, float16 or bfloat16, (rows, cols); finite
    codes   uint8, (rows, cols)
    scales  float32, (ceil(rows / 128), ceil(cols / 128))
    Raises ShapeError, FormatError (dtype); NotFiniteError with the first `row` and `column` of x.
    """
    _check_values(x)
    if codes.shape != x.shape:
        raise ShapeError(f"expected codes of shape {x.shape}, got {codes.shape}")
    rows, cols = x.shape
    flat = _flat(codes, scales)
    number = tier_number(tier)
    if not x.size:
        return Quantized(codes, scales, 0, 0, Sums())
    done = _core.compare_fp8(
        bytes_of(x), _DTYPES[x.dtype], bytes_of(codes), flat, cols, rows, number
    )
    return _quantized(x, codes, scales, done)


def dequantize(
    codes: NDArray[np.uint8], scales: NDArray[np.float32], *, tier: str | None = None
) -> NDArray[np.float32]:
    """Weights of codes, uint8 (rows, cols), and scales, float32 (ceil(rows / 128), ceil(cols /
    128)): float32, (rows, cols). Codes 0x7F and 0xFF are NaN. Raises ShapeError.
    """
    flat = _flat(codes, scales)
    rows, cols = codes.shape
    out = np.empty((rows, cols), np.float32)
    if out.size:
        _core.dequantize_fp8(bytes_of(codes), flat, out.reshape(-1), cols, rows, tier_number(tier))
    return out


def check(x: NDArray[Any], scale: Scale, weights: NDArray[np.float32] | None) -> None:
    """Raise what `quantize` raises of arguments like these, values of x apart."""
    _check_values(x)
    if scale not in _SCALES:
        raise UsageError(f"expected scales as one of {', '.join(_SCALES)}; got {scale}")
    if weights is None:
        return
    cols = x.shape[1]
    if weights.dtype != np.float32 or weights.shape != (cols,):
        raise ImportanceError(
            f"expected column weights as float32, ({cols},); got {weights.dtype}, {weights.shape}"
        )
    wrong = np.flatnonzero(~((weights >= 0) & np.isfinite(weights)))
    if wrong.size:
        raise ImportanceError(
            f"expected column weights from 0 up, got {weights[wrong[0]]} at column {wrong[0]}"
        )


def _check_values(x: NDArray[Any]) -> None:
    if x.dtype not in _DTYPES:
        raise FormatError(f"expected weights of float32, float16 or bfloat16, got {x.dtype}")
    if x.ndim != 2:
        raise ShapeError(f"expected weights of shape (rows, cols), got {x.shape}")


def _quantized(
    x: NDArray[Any],
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    done: tuple[int, int, int, int, int, dict[str, float]],
) -> Quantized:
    status, row, column, saturated, flushed, sums = done
    if status:
        value = float(x[row, column])
        raise NotFiniteError(f"FP8 cannot store {value}", row=row, column=column)
    return Quantized(codes, scales, saturated, flushed, Sums(x.size, **sums))


def _grid(rows: int, cols: int) -> tuple[int, int]:
    return -(-rows // BLOCK), -(-cols // BLOCK)


def _flat(codes: NDArray[np.uint8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scales in a row, after a look at both."""
    if codes.dtype != np.uint8 or codes.ndim != 2:
        raise ShapeError(f"expected codes as uint8, (rows, cols); got {codes.dtype}, {codes.shape}")
    grid = _grid(*codes.shape)
    if scales.shape != grid or scales.dtype != np.float32:
        raise ShapeError(
            f"expected float32 scales of shape {grid} for codes of shape {codes.shape}, "
            f"got {scales.dtype}, {scales.shape}"
        )
    return np.ascontiguousarray(scales).reshape(-1)
