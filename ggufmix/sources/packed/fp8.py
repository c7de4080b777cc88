"""Weights in 8-bit floats with scales beside them: X and X_scale_inv, or X and X_scale.

X            F8_E4M3 or F8_E5M2, (..., rows, cols), X mostly ending in ".weight"
X_scale_inv  F32, F16, BF16 or F8_E8M0, (..., ceil(rows / 128), ceil(cols / 128)): one for each
             block of the config's weight_block_size (DeepSeek, Qwen)
X_scale      the same dtypes; also (rows, 1), (rows,) or one number (compressed-tensors
             `float-quantized` and `naive-quantized`)

Value: X * scale, whatever the name says. Nothing in GGUF holds it, so rows are dequantized, in
float32. Source: DeepSeek-V3's `weight_dequant`; compressed-tensors 0.20, `dequantize`.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...tensor import F32, Array
from ..safetensors import StoredTensor
from .parts import Packed, check_finite, failed, numbers

SCALES = "_scale_inv", "_scale"
BLOCK = 128

_TABLES: dict[str, NDArray[np.float32]] = {
    stored: np.arange(256, dtype=np.uint8).view(kind).astype(np.float32)
    for stored, kind in (
        ("F8_E4M3", ml_dtypes.float8_e4m3fn),
        ("F8_E5M2", ml_dtypes.float8_e5m2),
        ("F8_E8M0", ml_dtypes.float8_e8m0fnu),
    )
}
"""What each byte means."""

CODES = frozenset({"F8_E4M3", "F8_E5M2"})


class PackedFp8(Packed):
    """One weight, or one stack of them, dequantized to float32."""

    packing = "FP8"
    note = "FP8, which GGUF does not have"

    def __init__(self, weight: StoredTensor, scale: StoredTensor, block: tuple[int, int]) -> None:
        self.name = weight.name
        self.weight = weight
        self.scale = scale
        self.shape = weight.shape
        self.dtype = F32
        if scale.stored not in ("F32", "F16", "BF16", "F8_E8M0"):
            raise failed(scale, f"expected F32, F16, BF16 or F8_E8M0, got {scale.stored}")
        self.block = self._block(block)
        if self.block[0] < self.matrix_rows and not self.matrix_rows % self.block[0]:
            self.unit = self.block[0]

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """What it is stored as."""
        return self.weight, self.scale

    @property
    def groups(self) -> int:
        """Scales that it has."""
        return self.scale.n_values

    def _block(self, stated: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns that share one scale."""
        *outer, rows, cols = (1, 1, *self.shape)
        given = self.scale.shape
        if self.scale.n_values == 1:
            return max(self.n_rows, 1), max(cols, 1)
        if self.scale.n_values == self.n_rows and given in (
            (*self.shape[:-1], 1),
            self.shape[:-1],
        ):
            return 1, max(cols, 1)
        down, across = -(-rows // stated[0]), -(-cols // stated[1])
        if (1, 1, *given)[-len(outer) - 2 :] != (*outer, down, across):
            raise failed(
                self.scale,
                f"expected a scale for each block of {stated[0]} x {stated[1]}, each row, or one "
                f"for all of {self.name}, whose shape is {list(self.shape)}; got {list(given)}",
            )
        return stated

    def _scales(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows of scales, counted over all matrices, float32, (rows, blocks across)."""
        if self.scale.stored == "F8_E8M0":
            table = _TABLES["F8_E8M0"]
            raw = self.scale.raw(0, self.scale.n_rows).reshape(-1, self._across)
            found: NDArray[Any] = table[raw[start:stop]]
        elif self._across == self.scale.cols:
            found = numbers(self.scale, start, stop)
        else:  # one for each row, or one in all, as a vector
            found = numbers(self.scale).reshape(-1, self._across)[start:stop]
        check_finite(self.scale, found, start)
        exact = found.astype(np.float32)
        if not exact.all():
            row, column = np.argwhere(exact == 0)[0]
            raise failed(self.scale, f"row {start + int(row)}, block {int(column)}: a scale of 0")
        return exact

    @property
    def _across(self) -> int:
        return -(-self.cols // self.block[1])

    def rows(self, start: int, stop: int) -> Array:
        """Rows start..stop, float32 (stop - start, cols): value times scale. Raises SourceError for
        a scale that is zero, NaN or infinite.
        """
        values = np.take(_TABLES[self.weight.stored], self.weight.raw(start, stop))
        with np.errstate(over="ignore"):  # whoever encodes infinities names their place
            self._multiply(values, start, stop)
        return values

    def _multiply(self, values: NDArray[np.float32], start: int, stop: int) -> None:
        down, across = self.block
        if self.scale.n_values == 1:
            values *= self._scales(0, 1)
            return
        each = self.matrix_rows
        per_matrix = -(-each // down)
        if down == 1:
            values *= self._scales(start, stop)
            return
        row = start
        while row < stop:
            matrix, inside = divmod(row, each)
            end = min(stop, matrix * each + min((inside // down + 1) * down, each))
            at = matrix * per_matrix + inside // down
            wide = self._scales(at, at + 1)[0].repeat(across)[: self.cols]
            values[row - start : end - start] *= wide
            row = end


def block_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a block, as the config says, at its root or under text_config."""
    for part in (config, config.get("text_config")):
        about = part.get("quantization_config") if isinstance(part, dict) else None
        size = about.get("weight_block_size") if isinstance(about, dict) else None
        if isinstance(size, list) and len(size) == 2:
            down, across = size
            if isinstance(down, int) and isinstance(across, int) and down > 0 and across > 0:
                return down, across
    return BLOCK, BLOCK
