"""GPTQ and AWQ: X.qweight, X.qzeros, X.scales and, of GPTQ, X.g_idx; AutoRound writes them too.

          GPTQ                                AWQ ("gemm")
qweight   I32, (cols * bits / 32, rows)       I32, (cols, rows / 8)
qzeros    I32, (groups, rows * bits / 32)     I32, (groups, rows / 8)
scales    F16, BF16 or F32, (groups, rows)    the same
g_idx     integers, (cols,): group of each    -

All lie transposed: a row of ours is a column of theirs. GPTQ packs codes of 2, 3, 4 or 8 bits as a
stream of bits, little end first; of the eight nibbles in a word of AWQ, the low one first, are rows
0, 2, 4, 6, 1, 3, 5, 7. Value: (code - zero) * scale. GPTQ stores zero - 1 unless the config says
`gptq_v2`; programs differ on what the highest code means there (zero 0, or one past it), so it is
refused. Without qzeros every zero is the middle. Which of the two it is follows from the shapes.
Source: AutoGPTQ and GPTQModel, `BaseQuantLinear`; compressed-tensors 0.20, `AutoAWQConverter`.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ...tensor import F32
from ..safetensors import StoredTensor
from ..storage import shown
from .codes import PackedCodes, group_order, unpacked
from .parts import OnInexact, Packed, failed, numbers, partner

WEIGHT = ".qweight"
ZEROS, SCALES, ORDER = ".qzeros", ".scales", ".g_idx"
OTHERS = (ZEROS, SCALES, ORDER)

_BAND = 1 << 21
"""Weights that are read at once: a column of theirs costs a read for each of their rows."""

_AWQ_ROWS = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight rows lies in each nibble of a word, the low one first."""

_CHECKPOINT = "use the checkpoint it was made from, or one in another format"


@dataclass(frozen=True)
class Convention:
    """What a config says of such weights.

    plus_one   zero points are stored less one
    symmetric  all zero points are the middle; None where it does not say, or not for all alike
    in_order   columns are in order; None likewise
    """

    plus_one: bool = True
    symmetric: bool | None = None
    in_order: bool | None = None


class PackedColumns(PackedCodes):
    """One weight of GPTQ or AWQ."""

    def __init__(
        self,
        name: str,
        stored: Mapping[str, StoredTensor],
        said: Convention,
        on_inexact: OnInexact,
    ) -> None:
        stem = name.removesuffix(WEIGHT)
        self.name = stem + ".weight"
        self.dtype = F32
        self.weight = stored[name]
        self.scale = partner(stored, self.weight, stem + SCALES, "its scales")
        self.zero = stored.get(stem + ZEROS)
        self.said = said
        self.on_inexact = on_inexact
        rows, groups = self._scales_shape()
        self.awq = self._is_awq(rows)
        self.bits = self._bits(rows)
        cols = self.weight.shape[0] if self.awq else self.weight.shape[0] * 32 // self.bits
        self.shape = (rows, cols)
        if not cols or cols % groups:
            raise failed(
                self.scale, f"expected groups that divide {cols} columns, got {groups} of them"
            )
        self.group = cols // groups
        self.zeros = self.zero is not None and said.symmetric is not True
        self._g_idx = stored.get(stem + ORDER)
        self._unchecked = self._g_idx is not None and said.in_order is True
        self.order = None if self._unchecked else self._order()
        self.unit = min(rows, max(32, _BAND // cols // 32 * 32)) or 1
        self._settle()

    def _scales_shape(self) -> tuple[int, int]:
        scale, weight = self.scale, self.weight
        for part in (weight, scale, self.zero):
            if part is not None and (len(part.shape) != 2 or not part.n_values):
                raise failed(part, f"expected two dimensions, got shape {list(part.shape)}")
        for part in (weight, self.zero):
            if part is not None and part.stored != "I32":
                raise failed(part, f"expected I32, got {part.stored}")
        if scale.stored not in ("F32", "F16", "BF16"):
            raise failed(scale, f"expected F32, F16 or BF16, got {scale.stored}")
        if self.zero is not None and self.zero.shape[0] != scale.shape[0]:
            expected = f"({scale.shape[0]}, words), a row for each group"
            raise failed(self.zero, f"expected shape {expected}, got {list(self.zero.shape)}")
        return scale.shape[1], scale.shape[0]

    def _is_awq(self, rows: int) -> bool:
        words = self.weight.shape[1]
        if words == rows:
            return False
        if words * 8 == rows:
            return True
        expected = f"{rows} columns (GPTQ) or {rows // 8} (AWQ, version gemm)"
        raise failed(
            self.weight,
            f"expected {expected}, as {shown(self.scale.name)} has {rows}, got {words}",
        )

    def _bits(self, rows: int) -> int:
        if self.awq:
            if self.zero is not None and self.zero.shape[1] != self.weight.shape[1]:
                expected = [self.zero.shape[0], self.weight.shape[1]]
                raise failed(self.zero, f"expected shape {expected}, got {list(self.zero.shape)}")
            return 4
        if self.zero is None:
            raise failed(self.weight, f"expected {shown(self.name[:-7] + ZEROS)} beside it")
        bits = self.zero.shape[1] * 32 // rows
        if bits not in (2, 3, 4, 8) or bits * rows != self.zero.shape[1] * 32 or rows % 32:
            raise failed(
                self.zero,
                f"expected zero points of 2, 3, 4 or 8 bits for {rows} rows, a multiple of 32, "
                f"got {self.zero.shape[1]} words",
                _CHECKPOINT,
            )
        if self.weight.shape[0] * 32 % bits:
            raise failed(self.weight, f"{self.weight.shape[0]} words hold no whole {bits} bits")
        return bits

    def _order(self) -> NDArray[np.intp] | None:
        if self._g_idx is None:
            return None
        return group_order(self._g_idx, self.shape[1], self.scale.shape[0])

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """What it is stored as."""
        others = (self.zero, self._g_idx)
        return (self.weight, self.scale, *(part for part in others if part is not None))

    def _where(self, row: int, group: int) -> str:
        return f"row {group}, column {row}"

    def _packed(self, start: int, stop: int) -> NDArray[np.uint8]:
        self._check_order()
        if not self.awq:
            return _turned(self.weight.raw_columns(start, stop))
        codes = self._by_eight(self.weight, start, stop)
        return codes[:, ::2] | codes[:, 1::2] << np.uint8(4)

    def _codes(self, start: int, stop: int) -> NDArray[np.uint8]:
        if self.awq:
            self._check_order()
            return self._by_eight(self.weight, start, stop)
        return super()._codes(start, stop)

    def _check_order(self) -> None:
        if not self._unchecked:
            return
        assert self._g_idx is not None
        if self._order() is not None:
            raise failed(
                self._g_idx,
                "columns are ordered by activation, config.json says that they are not",
                '`"desc_act": true` in quantization_config tells the truth',
            )
        self._unchecked = False

    @staticmethod
    def _by_eight(words: StoredTensor, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows start..stop of ours out of words of AWQ: uint8 (rows, their rows)."""
        low, high = start // 8, -(-stop // 8)
        turned = np.ascontiguousarray(words.raw_columns(low, high).view("<u4").T)
        codes = np.empty((high - low, 8, words.n_rows), np.uint8)
        one = np.empty_like(turned)
        for nibble, row in enumerate(_AWQ_ROWS):
            np.right_shift(turned, 4 * nibble, out=one)
            np.bitwise_and(one, 15, out=one)
            codes[:, row] = one
        return codes.reshape(-1, words.n_rows)[start - low * 8 : stop - low * 8]

    def _scales(self, start: int, stop: int) -> NDArray[Any]:
        dtype = numbers(self.scale, 0, 0).dtype
        return np.ascontiguousarray(self.scale.raw_columns(start, stop).view(dtype).T)

    def _zeros(self, start: int, stop: int) -> NDArray[np.int16] | None:
        if self.zero is None:
            return None
        if self.awq:
            found = self._by_eight(self.zero, start, stop).astype(np.int16)
        else:
            low, high = start // 32, -(-stop // 32)
            words = self.zero.raw_columns(low * self.bits, high * self.bits)
            inside = slice(start - low * 32, stop - low * 32)
            found = unpacked(words, self.bits)[:, inside].T.astype(np.int16)
            if self.said.plus_one:
                self._check_highest(found, start)
                found += 1
        if self.zeros:
            return found
        middle = 1 << (self.bits - 1)
        if (found != middle).any():
            row, group = (int(i) for i in np.argwhere(found != middle)[0])
            raise failed(
                self.zero,
                f"{self._where(start + row, group)}: a zero point of {found[row, group]}, "
                f"config.json says symmetric, which is {middle}",
                "`sym` or `checkpoint_format` in quantization_config is wrong",
            )
        return None

    def _check_highest(self, found: NDArray[np.int16], start: int) -> None:
        highest = (1 << self.bits) - 1
        if (found == highest).any():
            assert self.zero is not None
            row, group = (int(i) for i in np.argwhere(found == highest)[0])
            raise failed(
                self.zero,
                f"{self._where(start + row, group)}: a zero point stored as {highest}, which "
                "programs read differently",
                _CHECKPOINT,
            )


def zero_biases(packed: Iterable[Packed], stored: Mapping[str, StoredTensor]) -> set[str]:
    """Biases that AutoGPTQ once gave to every matrix, whether the model has them or not: those of a
    kind, such as "q_proj", that are zero in all blocks. They change nothing.
    """
    kinds: dict[str, list[StoredTensor]] = {}
    for weight in packed:
        bias = stored.get(weight.name.removesuffix(".weight") + ".bias")
        if isinstance(weight, PackedColumns) and bias is not None:
            if bias.shape != weight.shape[:1]:
                expected = list(weight.shape[:1])
                raise failed(bias, f"expected shape {expected}, got {list(bias.shape)}")
            kinds.setdefault(weight.name.split(".")[-2], []).append(bias)
    return {
        bias.name
        for biases in kinds.values()
        if not any(numbers(bias).any() for bias in biases)
        for bias in biases
    }


def _turned(columns: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Words, uint8 (rows, 4 * columns), as (columns, 4 * rows)."""
    return np.ascontiguousarray(columns.view("<u4").T).view(np.uint8)


def convention(config: Mapping[str, Any]) -> Convention:
    """What quantization_config says, at the root or under text_config. Raises SourceError for a
    layout that is neither.
    """
    for part in (config, config.get("text_config")):
        about = part.get("quantization_config") if isinstance(part, dict) else None
        if isinstance(about, dict):
            return _convention(about)
    return Convention()


def _convention(about: Mapping[str, Any]) -> Convention:
    kind = about.get("checkpoint_format") or about.get("format")
    packing = str(about.get("packing_format", "")).removeprefix("auto_round:")
    if packing in ("gptqmodel", "gptq_v2"):
        kind = "gptq_v2"
    method = about.get("quant_method")
    version = about.get("version", "gemm")
    if method == "awq" and str(version).lower() != "gemm":
        raise SourceError(
            f"config.json: quantization_config: expected AWQ of version gemm, got {version!r}",
            hint=_CHECKPOINT,
        )
    if method == "gptq" and kind not in (None, "gptq", "gptq_v2"):
        raise SourceError(
            f"config.json: quantization_config: expected checkpoint_format gptq or gptq_v2, got "
            f"{kind!r}",
            hint=_CHECKPOINT,
        )
    stated = [about, *_overrides(about)]
    symmetric = _agreed(stated, "sym")
    if method == "awq" and isinstance(about.get("zero_point"), bool):
        symmetric = not about["zero_point"]
    return Convention(
        plus_one=kind != "gptq_v2",
        symmetric=symmetric,
        in_order=None if (act := _agreed(stated, "desc_act")) is None else not act,
    )


def _overrides(about: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is said of single modules: `dynamic` of GPTQModel, `extra_config` of AutoRound."""
    found: list[Mapping[str, Any]] = []
    for key in ("dynamic", "extra_config"):
        of = about.get(key)
        found += [v for v in of.values() if isinstance(v, dict)] if isinstance(of, dict) else []
    return found


def _agreed(stated: list[Mapping[str, Any]], key: str) -> bool | None:
    values = [part[key] for part in stated if key in part]
    same = values and isinstance(values[0], bool) and all(v is values[0] for v in values)
    return values[0] if same and key in stated[0] else None
