"""compressed-tensors `int-quantized` (W8A8, W8A16): X.weight of one byte a code, X.weight_scale.

weight             I8, (rows, cols)
weight_scale       F32, F16 or BF16: (rows, 1) or (rows,), one for each row; (rows, groups); one
                   number for all
weight_zero_point  where asymmetric: I8, of the shape of the scales
weight_g_idx       where columns were ordered by activation: integers, (cols,), the group of each

Value: (code - zero) * scale. Symmetric codes go into Q8_0 as they are, the scale of a row or group
into each of its blocks. Source: compressed-tensors 0.20, `dequantize`.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...tensor import F32
from ..safetensors import StoredTensor
from .codes import PackedCodes, group_order
from .parts import OnInexact, failed, numbers

WEIGHT = ".weight"
SCALE, ZERO, ORDER = ".weight_scale", ".weight_zero_point", ".weight_g_idx"
OTHERS = (SCALE, ZERO, ORDER)


class PackedInt8(PackedCodes):
    """One weight of a byte a code."""

    bits = 8

    def __init__(
        self,
        name: str,
        stored: Mapping[str, StoredTensor],
        about: Mapping[str, Any] | None,
        on_inexact: OnInexact,
    ) -> None:
        stem = name.removesuffix(WEIGHT)
        self.name = name
        self.weight = stored[name]
        self.scale = stored[stem + SCALE]
        self.dtype = F32
        if len(self.weight.shape) != 2 or not self.weight.n_values:
            got = list(self.weight.shape)
            raise failed(self.weight, f"expected a matrix of codes, got shape {got}")
        self.shape = self.weight.shape
        self.group = self._group(about)
        self.zero = stored.get(stem + ZERO)
        self.zeros = self.zero is not None and (about or {}).get("symmetric") is not True
        self._check_zero(about)
        order = stored.get(stem + ORDER)
        groups = self.cols // self.group
        self.order = None if order is None else group_order(order, self.cols, groups)
        self.on_inexact = on_inexact
        self._settle()

    def _group(self, about: Mapping[str, Any] | None) -> int:
        rows, cols = self.shape
        given = self.scale.shape
        if self.scale.stored not in ("F32", "F16", "BF16"):
            raise failed(self.scale, f"expected F32, F16 or BF16, got {self.scale.stored}")
        if self.scale.n_values == 1 or given == (rows,):
            return cols
        if len(given) != 2 or given[0] != rows or not given[1] or cols % given[1]:
            expected = f"({rows}, groups that divide {cols}), or one scale for all"
            raise failed(self.scale, f"expected shape {expected}, got {list(given)}")
        group, stated = cols // given[1], (about or {}).get("group_size")
        if type(stated) is int and stated > 0 and group != stated:  # -1: a scale for each row
            expected = f"groups of {stated} as config.json says"
            raise failed(self.scale, f"expected {expected}, its shape {list(given)} is of {group}")
        return group

    def _check_zero(self, about: Mapping[str, Any] | None) -> None:
        if self.zero is None:
            if about is not None and about.get("symmetric") is False:
                raise failed(
                    self.weight, "the config says asymmetric, and no file has its zero points"
                )
        elif self.zero.stored != "I8" or self.zero.shape != self.scale.shape:
            got = f"{self.zero.stored} of shape {list(self.zero.shape)}"
            raise failed(self.zero, f"expected I8 of shape {list(self.scale.shape)}, got {got}")

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """What it is stored as."""
        return (self.weight, self.scale, *([] if self.zero is None else [self.zero]))

    def _packed(self, start: int, stop: int) -> NDArray[np.uint8]:
        return self.weight.raw(start, stop) ^ np.uint8(0x80)

    def _bytes(self, start: int, stop: int, zeros: NDArray[np.int16] | None) -> NDArray[np.int8]:
        assert zeros is None, self.name  # such are dequantized
        return self.weight.raw(start, stop).view(np.int8)

    def _by_row(self, of: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        """Of what is stored for each row or group, or once, that of rows start..stop."""
        if of.size == 1:
            return np.broadcast_to(of.reshape(1, 1), (stop - start, 1))
        return of.reshape(self.n_rows, -1)[start:stop]

    def _scales(self, start: int, stop: int) -> NDArray[Any]:
        if len(self.scale.shape) == 2 and self.scale.n_values > 1:
            return numbers(self.scale, start, stop)
        return np.ascontiguousarray(self._by_row(numbers(self.scale), start, stop))

    def _zeros(self, start: int, stop: int) -> NDArray[np.int16] | None:
        if self.zero is None:
            return None
        whole = self.zero.raw(0, self.zero.n_rows).view(np.int8)
        found = self._by_row(whole, start, stop).astype(np.int16)
        if self.zeros:
            return found + np.int16(128)
        if found.any():
            row, group = (int(i) for i in np.argwhere(found)[0])
            raise failed(
                self.zero,
                f"{self._where(start + row, group)}: a zero point of {found[row, group]}, "
                "config.json says symmetric",
            )
        return None
