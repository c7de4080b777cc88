"""MXFP4: codes of E2M1 and one byte of E8M0 for each 32 of them. Blocks of MXFP4 hold just that.

X_blocks, X_scales               gpt-oss: U8 (experts, rows, groups, 16) and (experts, rows, groups)
X.weight_packed, X.weight_scale  compressed-tensors: U8 (rows, cols / 2) and (rows, cols / 32)

The even column is in the low nibble. Value: E2M1 * 2^(scale - 127); a scale of 255 is NaN. X_blocks
keeps its name and is (experts, rows, cols), the transpose of what fine-tunes have as X.
Source: transformers, `convert_moe_packed_tensors`; compressed-tensors 0.20, `mxfp4`.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math

import numpy as np

from ... import int4
from ...codecs import decode
from ...tensor import F32, Array, Blocks
from ..safetensors import StoredTensor
from .parts import Packed, failed

BLOCKS, SCALES = "_blocks", "_scales"


class PackedMxfp4(Packed):
    """One weight, or a stack of them, in `format` MXFP4."""

    packing = "MXFP4"

    def __init__(self, name: str, weight: StoredTensor, scale: StoredTensor) -> None:
        self.name = name
        self.weight = weight
        self.scale = scale
        self.dtype = F32
        self.format = int4.MXFP4
        given = weight.shape
        outer: tuple[int, ...]
        if weight.stored != "U8" or scale.stored not in ("U8", "F8_E8M0"):
            got = f"{weight.stored} and {scale.stored}"
            raise failed(weight, f"expected U8 and scales of U8 (MXFP4), got {got}", None)
        if len(given) == 4 and given[3] == 16:
            groups, outer = given[2], given[:2]
        elif len(given) == 2 and not given[1] % 16:
            groups, outer = given[1] // 16, given[:1]
        else:
            raise failed(weight, f"expected whole groups of 16 bytes, got shape {list(given)}")
        if scale.shape != (*outer, groups):
            expected = [*outer, groups]
            raise failed(scale, f"expected shape {expected}, got {list(scale.shape)}")
        self.shape = (*outer, groups * 32)
        self._per_row = weight.n_rows // max(math.prod(outer), 1)

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """What it is stored as."""
        return self.weight, self.scale

    @property
    def groups(self) -> int:
        """Scales that it has."""
        return self.scale.n_values

    def blocks(self, start: int, stop: int) -> Blocks:
        """Rows start..stop as blocks of MXFP4: uint8 (stop - start, row_bytes). Raises SourceError
        for a scale that is NaN.
        """
        scales = self.scale.raw(start, stop)
        if (scales == 0xFF).any():
            row, group = np.argwhere(scales == 0xFF)[0]
            raise failed(
                self.scale, f"row {start + int(row)}, group {int(group)}: expected a scale, got NaN"
            )
        packed = self.weight.raw(start * self._per_row, stop * self._per_row)
        return int4.repack_mxfp4(packed, scales)

    def rows(self, start: int, stop: int) -> Array:
        """Rows start..stop, float32 (stop - start, cols): what the blocks decode to."""
        return decode(self.blocks(start, stop), int4.MXFP4)
