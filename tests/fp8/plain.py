"""Block FP8 said again in plain numpy, in float64, one block at a time: what kernels must give."""

# SPDX-License-Identifier: MIT

import math
from collections.abc import Iterator

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ggufmix.fp8.coding import Scale, Search

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
BF16 = np.dtype(ml_dtypes.bfloat16)


def tiles(shape: tuple[int, int]) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
    """Each block's place among the scales and in the matrix."""
    for r in range(-(-shape[0] // 128)):
        for c in range(-(-shape[1] // 128)):
            yield (r, c), np.s_[r * 128 : (r + 1) * 128, c * 128 : (c + 1) * 128]


def codes_of(x: NDArray[np.float32], scale: np.float32) -> NDArray[np.uint8]:
    with np.errstate(over="ignore", under="ignore"):
        return np.clip(x / scale, -448, 448).astype(E4M3).view(np.uint8)


def values_of(codes: NDArray[np.uint8], scale: np.float32) -> NDArray[np.float32]:
    with np.errstate(under="ignore"):
        return codes.view(E4M3).astype(np.float32) * scale


def stored(raw: float, kind: Scale) -> np.float32:
    """The nearest scale of a kind, for pow2 the next above; none subnormal, none so large that 448
    of it are infinite in float32.
    """
    scale = np.float32(min(max(raw, 2.0**-126), float(np.finfo(np.float32).max) / 448))
    if kind == "bf16":
        return min(np.float32(scale.astype(BF16)), np.float32(146 * 2.0**112))
    if kind == "pow2":
        mantissa, exponent = math.frexp(scale)
        return np.float32(min(2.0 ** (exponent - (mantissa == 0.5)), 2.0**119))
    return scale


def scale_of(
    block: NDArray[np.float32], search: Search, kind: Scale, weights: NDArray[np.float32] | None
) -> np.float32:
    w = np.abs(block.astype(np.float64))
    top = float(w.max())
    if top == 0:
        return np.float32(1)
    a = np.ones(w.shape[1]) if weights is None else weights.astype(np.float64)
    if (w * a).sum() == 0:
        a = np.ones(w.shape[1])
    match search.mode:
        case "max":
            return stored(top / 448, kind)
        case "rms":
            return stored(
                search.factor * math.sqrt((w * w * a).sum() / (a.sum() * len(w))) / 448, kind
            )
        case "percentile":
            at = search.percentile / 100 * (w.size - 1)
            order = np.sort(w, axis=None)
            low, high = order[math.floor(at)], order[math.ceil(at)]
            return stored((low + (high - low) * (at - math.floor(at)) or top) / 448, kind)
        case _:
            scales = [stored(top * (1 + k / search.grid) / 448, kind) for k in range(search.grid)]
            errors = [
                ((values_of(codes_of(block, s), s) - block).astype(np.float64) ** 2 * a).sum()
                for s in scales
            ]
            return scales[int(np.argmin(errors))]


def quantize(
    x: NDArray[np.generic],
    search: Search,
    kind: Scale = "bf16",
    weights: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes and scales."""
    f = x.astype(np.float32)
    codes = np.empty(f.shape, np.uint8)
    scales = np.empty((-(-f.shape[0] // 128), -(-f.shape[1] // 128)), np.float32)
    for place, part in tiles(f.shape):
        columns = None if weights is None else weights[part[1]]
        scales[place] = scale_of(f[part], search, kind, columns)
        codes[part] = codes_of(f[part], scales[place])
    return codes, scales


def spread(scales: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Each weight's scale."""
    return scales.repeat(128, 0)[: shape[0]].repeat(128, 1)[:, : shape[1]]
