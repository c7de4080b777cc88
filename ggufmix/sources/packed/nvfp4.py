"""NVFP4: codes of E2M1, one E4M3 for each 16 of them, and one number for the whole.

X.weight_packed, X.weight_scale, X.weight_global_scale  compressed-tensors: U8 (rows, cols / 2),
                                                        F8_E4M3 (rows, cols / 16), F32 (1)
X.weight, X.weight_scale, X.weight_scale_2              ModelOpt: the same, F32 () or (1)

The even column is in the low nibble. Value: E2M1 * scale * factor, the factor being weight_scale_2,
or 1 / weight_global_scale, rounded to float32 as llama.cpp's converter does. Blocks of NVFP4 hold
codes and scales, a tensor beside them in the file the factor. Source: compressed-tensors 0.20,
`nvfp4`; llama.cpp, conversion/base.py, `_generate_nvfp4_tensors` (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ... import int4
from ...codecs import decode
from ...tensor import F32, Array, Blocks, Tensor
from ..safetensors import StoredTensor
from .parts import Packed, failed, numbers

PACKED, WEIGHT = ".weight_packed", ".weight"
SCALE, GLOBAL, SECOND = "_scale", "_global_scale", "_scale_2"
OTHERS = (SCALE, GLOBAL, SECOND)

_NOT_A_NUMBER = 0x7F


class PackedNvfp4(Packed):
    """One weight. `format` is NVFP4 where its rows are whole blocks of 64."""

    packing = "NVFP4"

    def __init__(self, name: str, stored: Mapping[str, StoredTensor], scale: StoredTensor) -> None:
        self.weight = weight = stored[name]
        self.name = name.removesuffix("_packed")
        self.scale = scale
        self.dtype = F32
        if len(weight.shape) != 2 or weight.stored != "U8" or weight.shape[1] % 8:
            got = f"{weight.stored} of shape {list(weight.shape)}"
            raise failed(weight, f"expected U8 of two dimensions in groups of 8 bytes, got {got}")
        rows, groups = weight.shape[0], weight.shape[1] // 8
        if scale.shape != (rows, groups):
            raise failed(scale, f"expected shape {[rows, groups]}, got {list(scale.shape)}")
        self.shape = (rows, groups * 16)
        self._of_all = next(
            (stored[self.name + end] for end in (GLOBAL, SECOND) if self.name + end in stored), None
        )
        if self._of_all is not None and self._of_all.n_values != 1:
            raise failed(self._of_all, f"expected one number, got {list(self._of_all.shape)}")
        self.outer_scale = _Factor(self.name, self._of_all)
        if self.cols % 64:
            self.note = f"rows of {self.cols}, no whole blocks of 64"
        else:
            self.format = int4.NVFP4

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """What it is stored as."""
        own = (self.weight, self.scale)
        return own if self._of_all is None else (*own, self._of_all)

    @property
    def groups(self) -> int:
        """Scales that it has."""
        return self.scale.n_values

    def blocks(self, start: int, stop: int) -> Blocks:
        """Rows start..stop as blocks of NVFP4: uint8 (stop - start, row_bytes). Raises SourceError
        for a scale that is NaN or negative.
        """
        codes, scales = self._checked(start, stop)
        return int4.repack_nvfp4(codes, scales)

    def _checked(self, start: int, stop: int) -> tuple[Blocks, Blocks]:
        scales = self.scale.raw(start, stop)
        bad = scales >= _NOT_A_NUMBER
        if bad.any():
            row, group = (int(i) for i in np.argwhere(bad)[0])
            got = "a negative one" if scales[row, group] not in (0x7F, 0xFF) else "NaN"
            raise failed(
                self.scale, f"row {start + row}, group {group}: expected a scale, got {got}"
            )
        return self.weight.raw(start, stop), scales

    def rows(self, start: int, stop: int) -> Array:
        """Rows start..stop, float32 (stop - start, cols): what the blocks decode to, times the
        factor.
        """
        codes, scales = self._checked(start, stop)
        room = -self.cols % 64  # rows that are no whole blocks are decoded as if they were
        if room:
            codes = np.pad(codes, ((0, 0), (0, room // 2)))
            scales = np.pad(scales, ((0, 0), (0, room // 16)))
        values = decode(int4.repack_nvfp4(codes, scales), int4.NVFP4)[:, : self.cols]
        assert self.outer_scale is not None
        with np.errstate(over="ignore"):  # whoever encodes infinities names their place
            values *= self.outer_scale.all().astype(np.float32)
        return values


class _Factor(Tensor):
    """The number of one weight, float32, (1,)."""

    def __init__(self, of: str, stored: StoredTensor | None) -> None:
        self.name = of
        self.shape = (1,)
        self.dtype = F32
        self.stored = stored
        self._value: Array | None = None

    def rows(self, start: int, stop: int) -> Array:
        if self._value is None:
            self._value = self._read()
        return self._value[start:stop].copy()

    def _read(self) -> Array:
        if self.stored is None:
            return np.ones((1, 1), np.float32)
        stated = numbers(self.stored).astype(np.float32).reshape(1, 1)
        if not np.isfinite(stated).all() or not (stated > 0).all():
            got = float(stated[0, 0])
            raise failed(self.stored, f"expected a finite number above zero, got {got}")
        if self.stored.name.endswith(GLOBAL):
            stated = np.float32(1) / stated
        return stated
