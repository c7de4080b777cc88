"""Rows of weights for the kernels: in bulk, and special ones. Deterministic; rows are COLS long.

Checkpoints are bfloat16, and bfloat16 values tie and cancel far more often than random float32: an
encoder that is wrong in one block of a thousand is found by 131,072 blocks of them, and by little
else.
"""

from functools import lru_cache

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

COLS = 1024
BLOCKS = 131_072
BF16 = np.dtype(ml_dtypes.bfloat16)
F16 = np.dtype(np.float16)
F32 = np.dtype(np.float32)
LARGEST = 65_280.0  # of bfloat16 within float16


@lru_cache(maxsize=2)
def bulk(values: int) -> NDArray[np.generic]:
    """BLOCKS blocks of `values` (at least 32) weights as bfloat16 that checkpoints might hold."""
    rng = np.random.default_rng(values)
    rows = BLOCKS * max(values, 32) // COLS
    x = rng.standard_normal((rows, COLS), np.float32)
    x[3::8] = rng.standard_t(3, x[3::8].shape)  # heavy tails
    x[4::8] = rng.standard_t(1.2, x[4::8].shape)  # one value rules its block
    x[5::8] = np.clip(np.rint(x[5::8] * 3), -7, 7)  # an int4 lattice: ties everywhere
    x[6::8] *= rng.random(x[6::8].shape, np.float32) < 0.5  # zeros inside blocks
    x[7::8] = np.rint(x[7::8] * 40)  # a fine lattice
    x *= np.exp(rng.normal(-3, 2, (rows, 1))).astype(np.float32)
    return np.clip(x, -LARGEST, LARGEST, out=x).astype(BF16)


@lru_cache(maxsize=1)
def special() -> NDArray[np.float32]:
    """Rows that tempt an encoder into a branch of its own; float32, within float16's range."""
    rng = np.random.default_rng(1)
    normal = rng.standard_normal((16, COLS)).astype(np.float32)
    sign = np.where(rng.random((4, COLS)) < 0.5, np.float32(-1), np.float32(1))
    runs = normal[:4].copy()
    for row, run in zip(runs, (16, 32, 64, 256), strict=True):
        row.reshape(-1, run)[::2] = 0  # whole sub-blocks of zeros
    lone = np.zeros((4, COLS), np.float32)
    lone[0, ::32], lone[1, 31::32], lone[2, 7::256], lone[3, 5::16] = 1, -3, 2, 1e-5
    first = normal[4:8].copy()
    first[:, ::32], first[:, 1::32] = [[4], [-4], [5], [-5]], [[-4], [4], [-5], [5]]
    rows = [
        normal * 0.02,
        normal * 1e4,
        np.zeros((1, COLS)),
        np.full((1, COLS), -0.0),
        *(np.full((1, COLS), c) for c in (1, -1, 0.1, -0.1, 1e-3, 6e-8, -6e-8, LARGEST, -LARGEST)),
        abs(normal[:4]) + 0.5,  # one-sided
        -abs(normal[:4]) - 0.5,
        10 + 1e-3 * normal[:2],  # nearly constant
        sign * 0.375,  # equal magnitudes only
        sign * rng.integers(1, 3, sign.shape),
        first,  # two extremes of either sign
        runs,
        lone,
        np.rint(normal * 8) / 8,
        normal[:4] * LARGEST / abs(normal[:4]).max(),
        *(
            normal[:2] * scale for scale in 10.0 ** np.arange(-12, 5)
        ),  # f16 scales: to subnormal, to zero
        *(normal[:2] * scale for scale in (1e-20, 1e-30, 1e-35, 1e-37, 1e-38, 1e-40, 1e-43)),
        rng.choice(np.float32([0, 1e-45, -1e-45, 3e-45]), (2, COLS)),  # the smallest subnormals
    ]
    return np.clip(np.concatenate(rows), -LARGEST, LARGEST, dtype=np.float32)


def importances(cols: int = COLS) -> dict[str, NDArray[np.float32]]:
    """Importance vectors by name: random, with zeroed spans, and those that say nothing."""
    rng = np.random.default_rng(2)
    random = rng.chisquare(1, cols).astype(np.float32) * 10
    spans = random.copy()
    spans[16:32] = spans[64:128] = spans[512:768] = 0
    spans[rng.random(cols) < 0.1] = 0
    return {
        "random": random,
        "spans": spans,
        "ones": np.ones(cols, np.float32),
        "zeros": np.zeros(cols, np.float32),
        "tiny": random * np.float32(1e-12),
        "large": random * np.float32(1e12),
    }


def as_dtype(x: NDArray[np.generic], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Values of `x` rounded to `dtype`."""
    with np.errstate(under="ignore"):
        return x.astype(dtype)


def random_blocks(rows: int, row_bytes: int) -> NDArray[np.uint8]:
    """Bytes that no encoder need have written."""
    return np.random.default_rng(3).integers(0, 256, (rows, row_bytes), np.uint8)
