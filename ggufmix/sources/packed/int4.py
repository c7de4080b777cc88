"""compressed-tensors `pack-quantized`: X.weight_packed, X.weight_scale, X.weight_shape.

weight_packed  I32, (rows, ceil(cols * bits / 32)): element i of a row in bits of word
               i * bits // 32, little end first, stored as q + 2^(bits - 1)
weight_scale   F32, F16 or BF16, (rows, groups); (rows, 1) is one scale per row
weight_shape   two integers, rows and cols
weight_zero_point  where asymmetric: I32, (ceil(rows * bits / 32), groups), packed along the rows
weight_g_idx   where columns were ordered by activation: integers, (cols,), the group of each

Value: (stored - zero) * scale, zero being 2^(bits - 1) where there is no zero point. Symmetric
4-bit codes in groups of whole blocks go into Q4_0 as they are. Source: compressed-tensors 0.20,
`pack_to_int32` and `dequantize`. Kimi-K2-Thinking and later have their experts in it.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ...tensor import F32
from ..safetensors import StoredTensor
from .codes import PackedCodes, group_order, unpacked
from .parts import OnInexact, failed, numbers, partner

WEIGHT = ".weight_packed"
SCALE, SHAPE = ".weight_scale", ".weight_shape"
ZERO, ORDER = ".weight_zero_point", ".weight_g_idx"
OTHERS = (SCALE, SHAPE, ZERO, ORDER)


class PackedInt4(PackedCodes):
    """One weight of 4 or 8 bits.

    Where config and shapes agree on how many columns there are, weight_shape is read with the first
    rows and must say the same: a large checkpoint has it 70,000 times.
    """

    def __init__(
        self,
        name: str,
        stored: Mapping[str, StoredTensor],
        about: Mapping[str, Any] | None,
        on_inexact: OnInexact,
    ) -> None:
        stem = name.removesuffix(WEIGHT)
        self.name = stem + ".weight"
        self.weight = stored[name]
        self.scale = partner(stored, self.weight, stem + SCALE, "its scales")
        self.dtype = F32
        self._stated = partner(stored, self.weight, stem + SHAPE, "its shape")
        self.shape = self._shape(about)
        self.bits = self._bits(about)
        self.group = self._group(about)
        self.zero = stored.get(stem + ZERO)
        self.zeros = self.zero is not None
        self.order = self._order(stored.get(stem + ORDER))
        self.on_inexact = on_inexact
        self._check_zero(about)
        self._settle()

    def _shape(self, about: Mapping[str, Any] | None) -> tuple[int, int]:
        stated = self._stated
        if stated.n_values != 2 or stated.stored not in ("I32", "I64"):
            shape = list(stated.shape)
            raise failed(stated, f"expected two integers, got {stated.stored} of shape {shape}")
        packed = self.weight.shape
        if self.weight.stored != "I32" or len(packed) != 2:
            got = f"{self.weight.stored} of shape {list(packed)}"
            raise failed(self.weight, f"expected I32 of two dimensions, got {got}")
        rows, words = packed
        bits, group = (about or {}).get("num_bits"), (about or {}).get("group_size")
        if bits in (4, 8) and isinstance(group, int) and len(self.scale.shape) == 2:
            cols = words * 32 // bits
            if cols and self.scale.shape[1] * group == cols:
                self._unchecked = True
                return rows, cols
        self._unchecked = False
        return self._read_shape()

    def _read_shape(self) -> tuple[int, int]:
        rows, cols = (int(n) for n in numbers(self._stated).reshape(-1))
        packed = self.weight.shape
        if rows != packed[0] or cols <= 0 or not -(-cols // 16) <= packed[1] <= -(-cols // 4):
            raise failed(
                self._stated,
                f"says {rows} rows of {cols}, {self.weight.name} has {packed[0]} rows of "
                f"{packed[1]} words",
            )
        return rows, cols

    def _check_shape(self) -> None:
        found = self._read_shape()
        if found != self.shape:
            rows, cols = found
            raise failed(
                self._stated,
                f"says {rows} rows of {cols}, {self.weight.name} and {self.scale.name} have "
                f"{self.shape[0]} rows of {self.shape[1]}",
            )
        self._unchecked = False

    def _bits(self, about: Mapping[str, Any] | None) -> int:
        cols, words = self.shape[1], self.weight.shape[1]
        fitting = [bits for bits in (4, 8) if words == -(-cols * bits // 32)]
        stated = about.get("num_bits") if about is not None else None
        if len(fitting) == 2 and stated in fitting:  # so few columns that both fit
            fitting = [stated]
        if not fitting or (stated is not None and stated not in fitting and len(fitting) == 1):
            width = f"{stated} bits" if stated is not None else f"{words} words for {cols} values"
            raise failed(
                self.weight,
                f"{width}: expected weights of 4 or 8 bits in rows of {words} words of 32",
                "other widths are packed across words; use the checkpoint it was made from",
            )
        return fitting[0]

    def _group(self, about: Mapping[str, Any] | None) -> int:
        rows, cols = self.shape
        shape = self.scale.shape
        if len(shape) != 2 or shape[0] != rows or not shape[1] or cols % shape[1]:
            expected = f"({rows}, groups that divide {cols})"
            raise failed(self.scale, f"expected shape {expected}, got {list(shape)}")
        if self.scale.stored not in ("F32", "F16", "BF16"):
            raise failed(self.scale, f"expected F32, F16 or BF16, got {self.scale.stored}")
        group, stated = cols // shape[1], (about or {}).get("group_size")
        if type(stated) is int and stated > 0 and group != stated:  # -1: a scale for each row
            expected = f"groups of {stated} as config.json says"
            raise failed(self.scale, f"expected {expected}, its shape {list(shape)} is of {group}")
        return group

    def _order(self, stated: StoredTensor | None) -> NDArray[np.intp] | None:
        """The group of each column, or None where they are in order."""
        if stated is None:
            return None
        cols, groups = self.shape[1], self.scale.shape[1]
        return group_order(stated, cols, groups)

    def _check_zero(self, about: Mapping[str, Any] | None) -> None:
        if self.zero is None:
            if about is not None and about.get("symmetric") is False:
                raise failed(
                    self.weight, "the config says asymmetric, and no file has its zero points"
                )
            return
        expected = (-(-self.shape[0] * self.bits // 32), self.scale.shape[1])
        if self.zero.stored != "I32" or self.zero.shape != expected:
            got = f"{self.zero.stored} of shape {list(self.zero.shape)}"
            raise failed(self.zero, f"expected I32 of shape {list(expected)}, got {got}")

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """What it is stored as."""
        return (self.weight, self.scale, *([] if self.zero is None else [self.zero]))

    def _packed(self, start: int, stop: int) -> NDArray[np.uint8]:
        if self._unchecked:
            self._check_shape()
        return self.weight.raw(start, stop)

    def _scales(self, start: int, stop: int) -> NDArray[Any]:
        return numbers(self.scale, start, stop)

    def _zeros(self, start: int, stop: int) -> NDArray[np.int16] | None:
        if self.zero is None:
            return None
        per_word = 32 // self.bits
        low, high = start // per_word, -(-stop // per_word)
        across = np.ascontiguousarray(self.zero.raw(low, high).view("<u4").T).view(np.uint8)
        found = unpacked(across, self.bits).T
        return found[start - low * per_word : stop - low * per_word].astype(np.int16)


def scheme(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the config says of packed weights, where it says one thing: `num_bits`, `symmetric`.

    It stands at the root or under text_config. Raises SourceError for a list where groups should
    be.
    """
    for part in (config, config.get("text_config")):
        about = part.get("quantization_config") if isinstance(part, dict) else None
        if isinstance(about, dict) and isinstance(about.get("config_groups"), dict):
            groups = [
                g["weights"]
                for g in about["config_groups"].values()
                if isinstance(g, dict) and isinstance(g.get("weights"), dict)
            ]
            if len(groups) == 1:
                return dict(groups[0])
        elif isinstance(about, dict) and "config_groups" in about:
            raise SourceError("config.json: quantization_config: config_groups is no object")
    return None
