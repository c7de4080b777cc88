"""Weights packed as GPTQ, AWQ, MXFP4 and NVFP4 pack them, for tests: written from the layouts that
their authors describe, word by word, so that nothing is shared with the code under test.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

Arrays = dict[str, np.ndarray]


def grouped(
    rows: int, cols: int, *, bits: int = 4, group: int = 128, symmetric: bool = False, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, uint8 (rows, cols); zeros, uint8, and scales, float16, (rows, groups)."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, (rows, cols), dtype=np.uint8)
    shape = rows, cols // group
    zeros = rng.integers(1, 1 << bits, shape, dtype=np.uint8)
    if symmetric:
        zeros[:] = 1 << (bits - 1)
    return codes, zeros, np.exp(rng.uniform(-7, -3, shape)).astype(np.float16)


def dequantized(
    codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, order: np.ndarray | None = None
) -> np.ndarray:
    """(code - zero) * scale, float32."""
    which = np.arange(codes.shape[1]) // (codes.shape[1] // scales.shape[1])
    which = which if order is None else order
    apart = codes.astype(np.float32) - zeros.astype(np.float32)[:, which]
    return apart * scales.astype(np.float32)[:, which]


def words(values: np.ndarray, bits: int) -> np.ndarray:
    """Columns of numbers as columns of words: number i from bit i * bits on, across words."""
    n, columns = values.shape
    made = np.zeros((n * bits // 32, columns), np.uint64)
    for i, row in enumerate(values.astype(np.uint64)):
        word, bit = divmod(i * bits, 32)
        made[word] |= row << np.uint64(bit) & np.uint64(0xFFFFFFFF)
        if bit + bits > 32:
            made[word + 1] |= row >> np.uint64(32 - bit)
    return made.astype(np.uint32).view(np.int32)


def gptq(
    stem: str,
    codes: np.ndarray,
    zeros: np.ndarray,
    scales: np.ndarray,
    *,
    bits: int = 4,
    version: int = 1,
    order: np.ndarray | None = None,
) -> Arrays:
    """The four tensors of one weight of GPTQ."""
    groups = scales.shape[1]
    stored = zeros.astype(np.int64) - (version == 1)
    assert stored.min() >= 0
    if order is None:
        order = np.arange(codes.shape[1]) // (codes.shape[1] // groups)
    return {
        f"{stem}.qweight": words(codes.T, bits),
        f"{stem}.qzeros": np.ascontiguousarray(words(stored, bits).T),
        f"{stem}.scales": np.ascontiguousarray(scales.T),
        f"{stem}.g_idx": order.astype(np.int32),
    }


def awq(stem: str, codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray) -> Arrays:
    """The three tensors of one weight of AWQ, version gemm."""

    def packed(values: np.ndarray) -> np.ndarray:
        out = np.zeros((values.shape[0], values.shape[1] // 8), np.uint32)
        for i, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            out |= values[:, column::8].astype(np.uint32) << np.uint32(4 * i)
        return out.view(np.int32)

    return {
        f"{stem}.qweight": packed(codes.T),
        f"{stem}.qzeros": packed(zeros.T),
        f"{stem}.scales": np.ascontiguousarray(scales.T),
    }


def gptq_config(**about: Any) -> dict[str, Any]:
    """quantization_config of GPTQ."""
    stated = {"bits": 4, "group_size": 128, "sym": True, "desc_act": False, **about}
    return {"quant_method": "gptq", **stated}


AWQ_CONFIG = {
    "quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm",
}  # fmt: skip

HALVES = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
E2M1 = np.concatenate([HALVES, -HALVES])


def pairs(codes: np.ndarray) -> np.ndarray:
    """Codes of four bits, two in a byte, the even one in the low nibble."""
    return codes[..., ::2] | codes[..., 1::2] << 4


def mxfp4(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (..., cols), scales of E8M0 (..., cols / 32), and their values, float32."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, shape, dtype=np.uint8)
    scales = rng.integers(118, 123, (*shape[:-1], shape[-1] // 32), dtype=np.uint8)
    wide = np.exp2(scales.astype(np.float32) - 127).repeat(32, axis=-1)
    return codes, scales, E2M1[codes] * wide


def nvfp4(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (..., cols), scales of E4M3 (..., cols / 16), and their values, float32, without the
    scale of the tensor.
    """
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, shape, dtype=np.uint8)
    scales = rng.uniform(8, 448, (*shape[:-1], shape[-1] // 16)).astype(ml_dtypes.float8_e4m3fn)
    return codes, scales, E2M1[codes] * scales.astype(np.float32).repeat(16, axis=-1)
