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

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import int4
from ...errors import InexactError, SourceError
from ...tensor import F32, Array, Blocks
from ..safetensors import StoredTensor
from .parts import OnInexact, Packed, check_finite, failed, numbers, partner

WEIGHT = ".weight_packed"
SCALE, SHAPE = ".weight_scale", ".weight_shape"
ZERO, ORDER = ".weight_zero_point", ".weight_g_idx"
OTHERS = (SCALE, SHAPE, ZERO, ORDER)

_NEAREST = (
    "--on-inexact nearest takes the nearest float16 (and counts), f32 writes the tensor in F32"
)


class PackedInt4(Packed):
    """One weight of 4 or 8 bits. `format` is Q4_0 where its codes and scales can be carried over;
    `rows` are its values in float32.
    """

    packing = "INT4"

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
        self.shape = self._shape(partner(stored, self.weight, stem + SHAPE, "its shape"))
        self.bits = self._bits(about)
        self.group = self._group()
        self.zero = stored.get(stem + ZERO)
        self.order = self._order(stored.get(stem + ORDER))
        self.on_inexact = on_inexact
        self._check_zero(about)
        self.packing = f"INT{self.bits}"
        self.note = self._why_dequantized()
        if self.note is None:
            self.format = int4.Q4_0
        self._lock = threading.Lock()
        self._inexact: NDArray[np.int32] | None = None

    def _shape(self, stated: StoredTensor) -> tuple[int, int]:
        if stated.n_values != 2 or stated.stored not in ("I32", "I64"):
            shape = list(stated.shape)
            raise failed(stated, f"expected two integers, got {stated.stored} of shape {shape}")
        rows, cols = (int(n) for n in numbers(stated).reshape(-1))
        packed = self.weight.shape
        if self.weight.stored != "I32" or len(packed) != 2:
            got = f"{self.weight.stored} of shape {list(packed)}"
            raise failed(self.weight, f"expected I32 of two dimensions, got {got}")
        if rows != packed[0] or cols <= 0 or not -(-cols // 16) <= packed[1] <= -(-cols // 4):
            raise failed(
                stated,
                f"says {rows} rows of {cols}, {self.weight.name} has {packed[0]} rows of "
                f"{packed[1]} words",
            )
        return rows, cols

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

    def _group(self) -> int:
        rows, cols = self.shape
        shape = self.scale.shape
        if len(shape) != 2 or shape[0] != rows or not shape[1] or cols % shape[1]:
            expected = f"({rows}, groups that divide {cols})"
            raise failed(self.scale, f"expected shape {expected}, got {list(shape)}")
        if self.scale.stored not in ("F32", "F16", "BF16"):
            raise failed(self.scale, f"expected F32, F16 or BF16, got {self.scale.stored}")
        return cols // shape[1]

    def _order(self, stated: StoredTensor | None) -> NDArray[np.intp] | None:
        """The group of each column, or None where they are in order."""
        if stated is None:
            return None
        cols, groups = self.shape[1], self.scale.shape[1]
        found = numbers(stated).reshape(-1)
        if len(found) != cols or found.dtype.kind != "i":
            got = f"{stated.stored} of shape {list(stated.shape)}"
            raise failed(stated, f"expected {cols} integers, got {got}")
        if (found == -1).all() or np.array_equal(found, np.arange(cols) // self.group):
            return None
        if not np.array_equal(np.bincount(np.clip(found, 0, groups)), [self.group] * groups):
            raise failed(stated, f"expected {groups} groups of {self.group} columns each")
        return found.astype(np.intp)

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

    def _why_dequantized(self) -> str | None:
        if self.zero is not None:
            return "asymmetric (zero points)"
        if self.order is not None:
            return "columns ordered by activation"
        if self.bits != 4:
            return f"{self.bits} bits"
        if self.group % 32:
            return f"groups of {self.group}, no whole blocks of 32"
        return None

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """What it is stored as."""
        return (self.weight, self.scale, *([] if self.zero is None else [self.zero]))

    @property
    def groups(self) -> int:
        """Scales that it has."""
        return self.scale.n_values

    def inexact(self) -> int:
        """Groups of the blocks handed out so far whose scale is not exactly the source's."""
        return 0 if self._inexact is None else int(self._inexact.sum())

    def blocks(self, start: int, stop: int) -> Blocks:
        """Rows start..stop as blocks of Q4_0: uint8 (stop - start, row_bytes).

        Raises SourceError for a scale that is NaN, infinite, zero before codes that are not, or
        beyond float16; InexactError at the first group that float16 does not hold, unless the
        nearest was asked for.
        """
        scales = numbers(self.scale, start, stop)
        try:
            made, inexact = int4.repack(self.weight.raw(start, stop), scales, self.cols)
        except int4.ScaleError as error:
            place = f"row {start + error.row}, group {error.group}"
            raise failed(self.scale, f"{place}: {error}") from error
        if inexact.any():
            if self.on_inexact != "nearest":
                raise self._refusal(scales, inexact, start)
            with self._lock:
                if self._inexact is None:
                    self._inexact = np.zeros(self.n_rows, np.int32)
            self._inexact[start:stop] = inexact
        return made

    def _refusal(
        self, scales: NDArray[Any], inexact: NDArray[np.int32], start: int
    ) -> InexactError:
        row = int(np.flatnonzero(inexact)[0])
        codes = self.weight.raw(start + row, start + row + 1).reshape(scales.shape[1], -1)
        exact = scales[row].astype(np.float32)
        lost = (exact.astype(np.float16) != exact) & (codes != 0x88).any(axis=1)
        group = int(np.flatnonzero(lost)[0])
        return InexactError(
            f"{self.scale.file}: {self.scale.name}: row {start + row}, group {group}: the scale "
            f"{float(exact[group])!r} is no float16, so Q4_0 cannot hold it exactly "
            f"({int(inexact.sum())} such groups in rows {start} to {start + len(inexact) - 1})",
            row=start + row,
            column=group * self.group,
            hint=_NEAREST,
        )

    def rows(self, start: int, stop: int) -> Array:
        """Rows start..stop, float32 (stop - start, cols): (code - zero) * scale. Raises
        SourceError for a scale that is NaN or infinite.
        """
        codes = _unpacked(self.weight.raw(start, stop), self.bits)[:, : self.cols]
        scales = numbers(self.scale, start, stop)
        check_finite(self.scale, scales, start)
        exact = scales.astype(np.float32)
        which = np.arange(self.cols) // self.group if self.order is None else self.order
        zero: NDArray[Any] = np.array(1 << (self.bits - 1), np.int16)
        if self.zero is not None:
            zero = self._zero_points(start, stop)[:, which]
        values: Array = (codes.astype(np.int16) - zero).astype(np.float32) * exact[:, which]
        return values

    def _zero_points(self, start: int, stop: int) -> NDArray[np.int16]:
        assert self.zero is not None
        per_word = 32 // self.bits
        low, high = start // per_word, -(-stop // per_word)
        words = self.zero.raw(low, high).view("<u4")
        shifts = (np.arange(per_word) * self.bits).astype(np.uint32)
        apart = (words[:, np.newaxis] >> shifts[:, np.newaxis]) & ((1 << self.bits) - 1)
        flat = apart.reshape(-1, words.shape[1])
        return flat[start - low * per_word : stop - low * per_word].astype(np.int16)


def _unpacked(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes as stored, (rows, 8 / bits for each byte)."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


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
