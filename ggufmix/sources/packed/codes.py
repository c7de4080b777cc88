"""Weights of 2 to 8 bits in groups: (code - zero) * scale, however they are packed.

Where a group is whole blocks of 32 and columns are in order, codes and scales go into blocks as
they are: into Q4_0 where every zero is the middle of the codes (d the scale, the code moved to the
middle of a nibble), else into Q8_0 wherever code - zero fits a byte. What fits neither is
dequantized, and a note says why.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import threading
from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import int4
from ...errors import InexactError
from ...tensor import Array, Blocks
from ..safetensors import StoredTensor
from .parts import OnInexact, Packed, check_finite, failed, numbers

_NEAREST = (
    "--on-inexact nearest takes the nearest float16 (and counts), f32 writes the tensor in F32"
)


class PackedCodes(Packed):
    """One weight of integer codes; `rows` are its values in float32.

    bits    of a code
    group   columns that share a scale
    order   the group of each column where they are not in order, else None
    zeros   it has zero points that need not be the middle of the codes
    """

    scale: StoredTensor
    bits: int
    group: int
    order: NDArray[np.intp] | None
    zeros: bool
    on_inexact: OnInexact

    def _settle(self) -> None:
        """Choose the format; to be called once everything else is known."""
        self.packing = f"INT{self.bits}"
        self.note = self._why_dequantized()
        if self.note is None:
            self.format = int4.Q8_0 if self.zeros or self.bits > 4 else int4.Q4_0
        self._lock = threading.Lock()
        self._inexact: NDArray[np.int32] | None = None

    def _why_dequantized(self) -> str | None:
        if self.order is not None:
            return "columns ordered by activation"
        if self.group % 32:
            return f"groups of {self.group}, no whole blocks of 32"
        if self.bits > 4 and self.zeros:
            return f"{self.bits} bits, asymmetric (zero points)"
        return None

    @abstractmethod
    def _packed(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows of codes as a stream of bits, little end first: uint8 (rows, bytes)."""

    def _codes(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows of codes: uint8 (rows, cols)."""
        return unpacked(self._packed(start, stop), self.bits)[:, : self.cols]

    @abstractmethod
    def _scales(self, start: int, stop: int) -> NDArray[Any]:
        """Rows of scales, (rows, groups), in the dtype they are stored in."""

    @abstractmethod
    def _zeros(self, start: int, stop: int) -> NDArray[np.int16] | None:
        """Zero points, (rows, groups); None where all are the middle."""

    def _where(self, row: int, group: int) -> str:
        """How a scale is called in messages."""
        return f"row {row}, group {group}"

    @property
    def groups(self) -> int:
        """Scales that it has."""
        return self.scale.n_values

    def inexact(self) -> int:
        """Groups of the blocks handed out so far whose scale is not exactly the source's."""
        return 0 if self._inexact is None else int(self._inexact.sum())

    def blocks(self, start: int, stop: int) -> Blocks:
        """Rows start..stop as blocks of `format`: the codes stay, d is the scale.

        Raises InexactError where float16 does not hold a scale, unless `on_inexact` is "nearest";
        SourceError for a scale that is NaN, infinite, or zero before codes that are not.
        """
        scales = self._scales(start, stop)
        zeros = self._zeros(start, stop)
        codes: NDArray[Any]
        try:
            if self.format == int4.Q4_0:
                codes = self._nibbles(start, stop)
                made, inexact = int4.repack(codes, scales, self.cols)
            else:
                codes = self._bytes(start, stop, zeros)
                made, inexact = int4.repack_bytes(codes, scales)
        except int4.ScaleError as error:
            place = self._where(start + error.row, error.group)
            raise failed(self.scale, f"{place}: {error}") from error
        if inexact.any():
            if self.on_inexact != "nearest":
                raise self._refusal(codes, scales, inexact, start)
            with self._lock:
                if self._inexact is None:
                    self._inexact = np.zeros(self.n_rows, np.int32)
            self._inexact[start:stop] = inexact
        return made

    def _nibbles(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Codes + 8 two in a byte, as `int4.repack` takes them."""
        packed = self._packed(start, stop)
        if self.bits == 4:
            return packed
        codes = unpacked(packed, self.bits) + np.uint8(8 - (1 << (self.bits - 1)))
        both: NDArray[np.uint8] = codes[:, ::2] | codes[:, 1::2] << np.uint8(4)
        return both

    def _bytes(self, start: int, stop: int, zeros: NDArray[np.int16] | None) -> NDArray[np.int8]:
        """Codes - zero, int8 (rows, cols)."""
        codes = self._codes(start, stop)
        if zeros is None:
            return (
                (codes ^ np.uint8(0x80)).view(np.int8)
                if self.bits == 8
                else (codes - np.uint8(1 << (self.bits - 1))).view(np.int8)
            )
        apart = codes.reshape(len(codes), self.cols // self.group, self.group)
        return (apart - zeros.astype(np.uint8)[..., np.newaxis]).view(np.int8).reshape(codes.shape)

    def _refusal(
        self,
        codes: NDArray[Any],
        scales: NDArray[Any],
        inexact: NDArray[np.int32],
        start: int,
    ) -> InexactError:
        row = int(np.flatnonzero(inexact)[0])
        apart = codes[row].reshape(scales.shape[1], -1)
        exact = scales[row].astype(np.float32)
        nothing = 0x88 if codes.dtype == np.uint8 else 0
        lost = (exact.astype(np.float16) != exact) & (apart != nothing).any(axis=1)
        group = int(np.flatnonzero(lost)[0])
        return InexactError(
            f"{self.scale.file}: {self.scale.name}: {self._where(start + row, group)}: the scale "
            f"{float(exact[group])!r} is no float16, so {self.format} cannot hold it exactly "
            f"({int(inexact.sum())} such groups in rows {start} to {start + len(inexact) - 1})",
            row=start + row,
            column=group * self.group,
            hint=_NEAREST,
        )

    def rows(self, start: int, stop: int) -> Array:
        """Rows start..stop, float32 (stop - start, cols): (code - zero) * scale. Raises
        SourceError for a scale that is NaN, infinite, or zero before codes that are not.
        """
        scales = self._scales(start, stop)
        check_finite(self.scale, scales, start, self._where)
        exact = scales.astype(np.float32)
        zeros = self._zeros(start, stop)
        values = self._codes(start, stop).astype(np.float32)
        apart, each = values, exact
        if self.order is not None:
            zeros, each = None if zeros is None else zeros[:, self.order], exact[:, self.order]
        else:
            apart = values.reshape(len(values), self.cols // self.group, self.group)
            zeros, each = None if zeros is None else zeros[..., np.newaxis], exact[..., np.newaxis]
        apart -= 1 << (self.bits - 1) if zeros is None else zeros
        if not exact.all():
            self._check_zeros(apart, each, start)
        with np.errstate(over="ignore"):  # whoever encodes infinities names their place
            apart *= each
        return values

    def _check_zeros(self, codes: NDArray[Any], scales: NDArray[Any], start: int) -> None:
        lost = np.argwhere((scales == 0) & (codes != 0))
        if len(lost):
            row, at = (int(i) for i in lost[0][:2])
            group = at if self.order is None else int(self.order[at])
            what = "a scale of 0 in a group whose codes are not all zero"
            raise failed(self.scale, f"{self._where(start + row, group)}: {what}")


def unpacked(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """A stream of bits in each row, little end first, as codes: uint8 (rows, 8 / bits for each
    byte), of 2, 3, 4 or 8 bits.
    """
    if bits == 8:
        return packed
    if bits == 3:
        apart = packed.reshape(len(packed), packed.shape[1] // 3, 3).astype(np.uint32)
        eight = apart[..., 0] | apart[..., 1] << 8 | apart[..., 2] << 16
        codes = np.empty((*eight.shape, 8), np.uint8)
        for i in range(8):
            codes[..., i] = eight >> np.uint32(3 * i) & np.uint32(7)
        return codes.reshape(len(packed), eight.shape[1] * 8)
    per_byte, mask = 8 // bits, (1 << bits) - 1
    out = np.empty((*packed.shape, per_byte), np.uint8)
    for i in range(per_byte):
        np.right_shift(packed, bits * i, out=out[..., i])
        if i < per_byte - 1:
            out[..., i] &= mask
    return out.reshape(len(packed), packed.shape[1] * per_byte)


def group_order(stated: StoredTensor, cols: int, groups: int) -> NDArray[np.intp] | None:
    """The group of each column, or None where they are in order. Raises SourceError unless every
    group has as many columns.
    """
    group = cols // groups
    if stated.n_values != cols or stated.stored not in ("I32", "I64"):
        got = f"{stated.stored} of shape {list(stated.shape)}"
        raise failed(stated, f"expected {cols} integers, got {got}")
    found = numbers(stated).reshape(-1)
    if (found == -1).all() or np.array_equal(found, np.arange(cols) // group):
        return None
    if found.min() < 0 or not np.array_equal(
        np.bincount(np.clip(found, 0, groups), minlength=groups), [group] * groups
    ):
        raise failed(stated, f"expected {groups} groups of {group} columns each")
    return found.astype(np.intp)
