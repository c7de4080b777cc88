"""Weights that are 4 bits in the source, moved into blocks without a change of value.

`repack` and `repack_bytes` take codes as they are, `widen` turns blocks of Q4_0 and MXFP4 into Q8_0
of the same codes and scales, `recover` finds the codes and scales of values that were dequantized
from symmetric INT4. All give the same on every CPU. Kernels: ext/unpack.c, ext/lattice.h.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from . import _core
from .codecs import ENCODERS, Format, bytes_of, tier_number
from .errors import FormatError, OutlierError, SourceError

Q4_0 = ENCODERS["Q4_0"].format
Q8_0 = ENCODERS["Q8_0"].format
MXFP4 = ENCODERS["MXFP4"].format
NVFP4 = ENCODERS["NVFP4"].format

_DTYPES: dict[np.dtype[Any], int] = {
    np.dtype(np.float32): ENCODERS["F32"].format.id,
    np.dtype(np.float16): ENCODERS["F16"].format.id,
    np.dtype(ml_dtypes.bfloat16): ENCODERS["BF16"].format.id,
}
_PROBLEMS = (
    "",
    "expected a finite scale, got {}",
    "a scale of {} in a group whose codes are not all zero",
    "a scale of {} is more than the float16 of a block can hold",
)


class ScaleError(SourceError):
    """A scale that no block can store; `row` and `group` say which one."""

    def __init__(self, message: str, row: int, group: int) -> None:
        super().__init__(message)
        self.row = row
        self.group = group


def repack(
    packed: NDArray[np.uint8],
    scales: NDArray[Any],
    cols: int,
    *,
    tier: str | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Packed INT4 rows as blocks of Q4_0: the codes stay, d is the scale in float16.

    packed  uint8, (rows, cols / 2): codes q + 8, two per byte, the even column in the low nibble
    scales  float32, float16 or bfloat16, (rows, groups); cols / groups is a multiple of 32
    tier    as in `codecs.encode`
    Returns the blocks, uint8 (rows, bytes), and for each row the groups that are not exact: some
    code is not zero and float16 does not hold the scale. Raises ScaleError for a scale that is not
    finite, is zero in front of codes that are not, or becomes infinite.
    """
    rows, groups = scales.shape
    out = np.empty((rows, Q4_0.row_bytes(cols)), np.uint8)
    inexact = np.zeros(rows, np.int32)
    if not out.size:
        return out, inexact
    status, row, group = _core.repack_int4(
        bytes_of(packed),
        _DTYPES[scales.dtype],
        bytes_of(scales),
        bytes_of(out),
        inexact,
        cols,
        cols // groups,
        tier_number(tier),
    )
    if status:
        raise ScaleError(_PROBLEMS[status].format(float(scales[row, group])), row, group)
    return out, inexact


def repack_bytes(
    codes: NDArray[np.int8], scales: NDArray[Any]
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Codes of a byte as blocks of Q8_0: the codes stay, d is the scale in float16.

    codes   int8, (rows, cols)
    scales  as for `repack`, whose results and errors are those here
    """
    rows, cols = codes.shape
    groups = scales.shape[1]
    if not codes.size:
        return np.empty((rows, Q8_0.row_bytes(cols)), np.uint8), np.zeros(rows, np.int32)
    exact = scales.astype(np.float32)
    with np.errstate(over="ignore"):
        half = exact.astype(np.float16)
    odd = (half.astype(np.float32) != exact) | (exact == 0) | np.isinf(exact)
    inexact = np.zeros(rows, np.int32)
    if odd.any():
        nothing = ~codes.reshape(rows, groups, -1).any(axis=2)
        finite, infinite = np.isfinite(exact), np.isinf(half)
        for status, bad in (
            (1, ~finite),
            (2, (exact == 0) & ~nothing),
            (3, infinite & ~nothing),
        ):
            if bad.any():
                row, group = (int(i) for i in np.argwhere(bad)[0])
                raise ScaleError(_PROBLEMS[status].format(float(scales[row, group])), row, group)
        half[infinite] = 0
        inexact = (odd & ~nothing).sum(axis=1).astype(np.int32)
    out = np.empty((rows, cols // 32, Q8_0.bytes), np.uint8)
    each = half.view(np.uint8).reshape(rows, groups, 1, 2)
    out.reshape(rows, groups, -1, Q8_0.bytes)[..., :2] = each
    out[..., 2:] = codes.view(np.uint8).reshape(rows, -1, 32)
    return out.reshape(rows, -1), inexact


def repack_mxfp4(
    packed: NDArray[np.uint8], scales: NDArray[np.uint8], *, tier: str | None = None
) -> NDArray[np.uint8]:
    """Packed MXFP4 rows as blocks of MXFP4: codes and scales stay.

    packed  uint8, (rows, cols / 2): codes of E2M1, two per byte, the even column in the low nibble
    scales  uint8, (rows, cols / 32): E8M0
    """
    out = np.empty((len(scales), scales.shape[1] * MXFP4.bytes), np.uint8)
    if out.size:
        _core.repack_mxfp4(bytes_of(packed), bytes_of(scales), bytes_of(out), tier_number(tier))
    return out


def repack_nvfp4(packed: NDArray[np.uint8], scales: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Packed NVFP4 rows as blocks of NVFP4: codes and scales stay.

    packed  uint8, (rows, cols / 2), cols a multiple of 64: codes of E2M1, two per byte, the even
            column in the low nibble
    scales  uint8, (rows, cols / 16): E4M3 without sign
    """
    rows, groups = scales.shape
    out = np.empty((rows, groups // 4, NVFP4.bytes), np.uint8)
    out[..., :4] = scales.reshape(rows, -1, 4) if scales.size else 0
    eight = packed.reshape(rows, groups // 4, 4, 8)
    halves = out[..., 4:].reshape(rows, groups // 4, 4, 8)
    low, high = eight[..., :4], eight[..., 4:]  # columns 0 to 7 of a group, and 8 to 15
    halves[..., ::2] = low & 15 | high << 4
    halves[..., 1::2] = low >> 4 | high & 0xF0
    out[..., 4:] = halves.reshape(rows, groups // 4, 32)
    return out.reshape(rows, groups // 4 * NVFP4.bytes)


def holds_exactly(stored: Format, wanted: Format) -> bool:
    """Whether blocks of `stored` can be written as `wanted` with the same codes and scales."""
    return wanted.name == Q8_0.name and stored.name in (Q4_0.name, MXFP4.name)


def widen(
    blocks: NDArray[np.uint8], stored: Format, *, tier: str | None = None
) -> tuple[NDArray[np.uint8], int, int]:
    """Blocks of Q4_0 or MXFP4 as blocks of Q8_0 with the same codes and scales.

    blocks  uint8, (rows, bytes)
    stored  what they are
    tier    as in `codecs.encode`
    Returns the blocks, uint8 (rows, bytes); how many are not exact, as scales of MXFP4 below 2^-23
    may be, by at most 2^-25; and how many of these are zeros now. Raises OutlierError for a block
    of MXFP4 whose scale is 2^20 or more.
    """
    rows, n_bytes = blocks.shape
    out = np.empty((rows, n_bytes // stored.bytes * Q8_0.bytes), np.uint8)
    if not out.size:
        return out, 0, 0
    if stored.name == Q4_0.name:
        _core.widen_q4_0(bytes_of(blocks), bytes_of(out), tier_number(tier))
        return out, 0, 0
    done, rounded, flushed = _core.widen_mxfp4(bytes_of(blocks), bytes_of(out), tier_number(tier))
    n = n_bytes // stored.bytes
    if done < rows * n:
        row, block = divmod(done, n)
        raise OutlierError(
            f"a scale of 2^{blocks[row, block * stored.bytes] - 127} is more than a block can hold",
            row=row,
            column=block * stored.values,
        )
    return out, rounded, flushed


def recover(
    x: NDArray[Any], blocks: NDArray[np.uint8] | None = None, *, tier: str | None = None
) -> int:
    """Put groups of 32 values back on the INT4 lattice that they were dequantized from.

    x       float32, float16 or bfloat16, (rows, cols), finite; cols a multiple of 32
    blocks  uint8, (rows, bytes), contiguous: Q4_0, in which groups that lie on a lattice are
            overwritten; None: only count
    Returns the groups that do: for codes in -8..7 and a float16 d, `code * d` rounded to the dtype
    of x is every value of the group. Nothing else is touched. Raises FormatError for another dtype.
    """
    code = _DTYPES.get(x.dtype)
    if code is None:
        raise FormatError(f"expected weights of float32, float16 or bfloat16, got {x.dtype}")
    if not x.size:
        return 0
    flat = None
    if blocks is not None:
        assert blocks.flags.c_contiguous
        flat = blocks.reshape(-1)
    return _core.recover_lattice(bytes_of(x), code, flat, tier_number(tier))
