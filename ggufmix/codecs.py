"""What GGUF can store, and how rows of weights become its blocks and come back.

A Format is a storage type, named as `gguf.GGMLQuantizationType` names it. An Encoder is a way to
write one: each compiled format has its own, and Q4_X is a second one of Q4_0. Both are made from
the compiled table (ext/formats.def); formats that are not in it are known from the `gguf` package,
which also decodes them.

The bytes are those of llama.cpp's `ggml_quantize_chunk` on x86-64, on every CPU and in every tier
(set of instructions).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from .errors import (
    FormatError,
    ImportanceError,
    NotFiniteError,
    OutlierError,
    ShapeError,
    UsageError,
)

T = TypeVar("T")
MAX_IMPORTANCE = 1e24
"""Above it, sums in float32 overflow with weights that float16 scales can hold, and the bytes of a
search mean nothing. Mean squares of activations are far below.
"""
Importance = Literal["NONE", "OPTIONAL", "REQUIRED"]

FORMATS: dict[str, Format]
"""Every type that a GGUF file can hold, by name. Made on first use: it needs the `gguf` package."""


@dataclass(frozen=True, slots=True)
class Format:
    """A storage type.

    name        as `gguf.GGMLQuantizationType` spells it
    id          its number in a GGUF file
    values      weights per block
    bytes       bytes per block
    importance  what its own encoder makes of importance: NONE (ignored), OPTIONAL or REQUIRED
    encodes     it can be written
    decodes     it can be read back as float32
    row_header  bytes in front of the blocks of each row, where a format has a scale for the row
    """

    name: str
    id: int
    values: int
    bytes: int
    importance: Importance = "NONE"
    encodes: bool = False
    decodes: bool = True
    row_header: int = 0

    @property
    def bits(self) -> float:
        """Bits per weight."""
        return self.bytes * 8 / self.values

    def row_bytes(self, cols: int) -> int:
        """Bytes of one row of `cols` weights. Raises ShapeError unless that is whole blocks."""
        if cols < 0 or cols % self.values:
            raise ShapeError(
                f"{self.name} stores {self.values} values per block; {cols} columns are no multiple"
            )
        return self.row_header + cols // self.values * self.bytes

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Encoder:
    """A way to write a format.

    name        the format's name, or one of its own such as Q4_X
    format      what it writes
    importance  what it makes of importance: NONE (ignored), OPTIONAL or REQUIRED
    """

    name: str
    format: Format
    importance: Importance = "NONE"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as blocks, and what was lost on the way.

    blocks   uint8, (rows, row_bytes)
    flushed  blocks that held a non-zero value but whose scale became zero: all of it is lost
    wiped    blocks in which one value is so large that every other value became zero
    """

    blocks: NDArray[np.uint8]
    flushed: int = 0
    wiped: int = 0


_TABLE = _core.table()
_NUMBER = {row["name"]: i for i, row in enumerate(_TABLE)}
_COMPILED = {
    row["name"]: Format(
        row["name"], row["id"], row["values"], row["bytes"], row["importance"], encodes=True
    )
    for row in _TABLE
    if row["name"] == row["format"]
}

ENCODERS: dict[str, Encoder] = {
    row["name"]: Encoder(row["name"], _COMPILED[row["format"]], row["importance"]) for row in _TABLE
}
"""Every encoder, by name."""

_INPUTS: dict[np.dtype[Any], int] = {
    np.dtype(np.float32): _COMPILED["F32"].id,
    np.dtype(np.float16): _COMPILED["F16"].id,
    np.dtype(ml_dtypes.bfloat16): _COMPILED["BF16"].id,
}


def tiers() -> list[str]:
    """Names of the instruction sets that kernels were built for and this CPU runs, slowest first.

    The last is used unless another one is asked for.
    """
    return _core.tiers()


def formats() -> dict[str, Format]:
    """Every storage type that can be decoded, by name: the compiled ones, which can be encoded too,
    then those that the `gguf` package decodes.
    """
    return {name: found for name, found in _all_formats().items() if found.decodes}


@cache
def _all_formats() -> dict[str, Format]:
    import gguf

    found = dict(_COMPILED)
    for kind, (values, size) in gguf.GGML_QUANT_SIZES.items():
        if kind.name not in found:
            try:
                gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)
                decodes = True
            except NotImplementedError:
                decodes = False
            found[kind.name] = Format(kind.name, int(kind), values, size, decodes=decodes)
    return found


def __getattr__(name: str) -> dict[str, Format]:
    if name != "FORMATS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["FORMATS"] = _all_formats()
    return _all_formats()


def encoder(name: str | Encoder) -> Encoder:
    """Return the encoder called `name`, in any case. Raises UsageError with the names there are."""
    return name if isinstance(name, Encoder) else _named(name, ENCODERS, "a type to encode to")


def format_named(name: str | Format) -> Format:
    """Return the format called `name`, in any case. Raises UsageError with the names there are."""
    if isinstance(name, Format):
        return name
    compiled = _COMPILED.get(name.upper())
    return compiled if compiled is not None else _named(name, _all_formats(), "a storage type")


def _named(name: str, known: Mapping[str, T], what: str) -> T:
    found = known.get(name.upper())
    if found is None:
        near = difflib.get_close_matches(name.upper(), list(known), 1)
        raise UsageError(
            f'expected {what}, one of {", ".join(known)}; got "{name}"',
            hint=f'did you mean "{near[0]}"?' if near else None,
        )
    return found


def tier_number(tier: str | None) -> int:
    """Place of a tier in `tiers()`; None: that of GGUFMIX_TIER, else of the fastest."""
    wanted = tier or os.environ.get("GGUFMIX_TIER")
    here = tiers()
    if not wanted:
        return len(here) - 1
    if wanted not in here:
        raise UsageError(
            f'expected a tier that runs here, one of {", ".join(here)}; got "{wanted}"'
        )
    return here.index(wanted)


def encode_band(
    x: NDArray[Any],
    to: Encoder,
    importance: NDArray[np.float32] | None = None,
    *,
    tier: str | None = None,
) -> Encoded:
    """Encode rows of one matrix, in the calling thread, without the GIL.

    x           float32, float16 or bfloat16 (ml_dtypes), (rows, cols), any strides; cols must be
                a multiple of the block
    to          the encoder
    importance  float32, (cols,), 0 to MAX_IMPORTANCE, shared by all rows; or None
    tier        one of `tiers()`; by default GGUFMIX_TIER of the environment, else the fastest
    Returns Encoded. The bytes depend neither on the tier nor on how a matrix is cut into bands.
    Raises ShapeError, FormatError (dtype), ImportanceError; NotFiniteError and OutlierError with
    `row` and `column` in the band (their messages leave the place to the caller, who knows where
    the band lies).
    """
    kind = to.format
    code = _INPUTS.get(x.dtype)
    if code is None:
        raise FormatError(f"expected weights of float32, float16 or bfloat16, got {x.dtype}")
    if x.ndim != 2:
        raise ShapeError(f"expected weights of shape (rows, cols), got {x.shape}")
    rows, cols = x.shape
    blocks = np.empty((rows, kind.row_bytes(cols)), np.uint8)
    weights = _weights(importance, to, cols)
    number = tier_number(tier)
    if not blocks.size:
        return Encoded(blocks)
    status, row, column, flushed, wiped = _core.encode(
        bytes_of(x), code, _NUMBER[to.name], weights, bytes_of(blocks), cols, rows, number
    )
    if status == 1:
        value = float(x[row, column])
        raise NotFiniteError(f"{to} cannot store {value}", row=row, column=column)
    if status == 2:
        value = float(x[row, column])
        raise OutlierError(
            f"{to} cannot store {value:g}: it does not fit the scale of a block",
            row=row,
            column=column,
        )
    return Encoded(blocks, flushed, wiped)


def encode(
    x: NDArray[Any],
    to: str | Encoder,
    importance: ArrayLike | None = None,
    *,
    tier: str | None = None,
) -> NDArray[np.uint8]:
    """Encode rows of weights as GGUF blocks.

    x           float32, float16 or bfloat16 (ml_dtypes), (rows, cols), finite, any strides; cols
                must be a multiple of the block
    to          name of a format or of another encoder, such as "Q8_0" or "Q4_X", in any case
    importance  float32, (cols,), 0 to MAX_IMPORTANCE; or (matrices, cols) for matrices stacked
                along the rows, which it divides evenly; or None. Some formats require it, some
                ignore it
    tier        one of `tiers()`; by default GGUFMIX_TIER of the environment, else the fastest
    Returns uint8, (rows, row_bytes).
    Raises UsageError, ShapeError, FormatError, ImportanceError; NotFiniteError or OutlierError with
    the first `row` and `column`.
    The same bytes on every CPU: those of llama.cpp's `ggml_quantize_chunk` on x86-64.
    """
    how = encoder(to)
    x = np.asarray(x)
    per_matrix = _per_matrix(importance)
    if per_matrix is None or x.ndim != 2:
        return _encode_matrix(x, how, None, tier, 0)
    rows, n = x.shape[0], len(per_matrix)
    if n == 0 or rows % n:
        raise ImportanceError(f"importance of {n} matrices does not divide {rows} rows evenly")
    each = rows // n
    parts = [
        _encode_matrix(x[i * each : (i + 1) * each], how, weights, tier, i * each)
        for i, weights in enumerate(per_matrix)
    ]
    return parts[0] if n == 1 else np.concatenate(parts)


def _encode_matrix(
    x: NDArray[Any],
    how: Encoder,
    weights: NDArray[np.float32] | None,
    tier: str | None,
    first_row: int,
) -> NDArray[np.uint8]:
    try:
        return encode_band(x, how, weights, tier=tier).blocks
    except (NotFiniteError, OutlierError) as error:
        row = first_row + error.row
        place = f"row {row}, column {error.column}"
        raise type(error)(f"{place}: {error}", row=row, column=error.column) from None


def decode(
    blocks: NDArray[np.uint8], kind: str | Format, *, tier: str | None = None
) -> NDArray[np.float32]:
    """Decode GGUF blocks to weights.

    blocks  uint8, (rows, row_bytes), row_bytes a multiple of the bytes of a block; any strides
    kind    name of a format, such as "Q8_0", in any case
    tier    one of `tiers()`; by default GGUFMIX_TIER of the environment, else the fastest
    Returns float32, (rows, cols).
    Raises UsageError, ShapeError, FormatError (a format that cannot be decoded).
    The same values as `gguf.quants.dequantize`, which decodes the formats that are not compiled.
    """
    found = format_named(kind)
    number = tier_number(tier)
    blocks = np.asarray(blocks)
    if blocks.dtype != np.uint8 or blocks.ndim != 2 or blocks.shape[1] % found.bytes:
        raise ShapeError(
            f"expected {found} blocks as uint8, (rows, a multiple of {found.bytes}); "
            f"got {blocks.dtype}, {blocks.shape}"
        )
    rows, cols = blocks.shape[0], blocks.shape[1] // found.bytes * found.values
    out = np.empty((rows, cols), np.float32)
    if found.name not in _COMPILED:
        return _decode_elsewhere(blocks, found, out)
    if out.size:
        _core.decode(bytes_of(blocks), _NUMBER[found.name], bytes_of(out), cols, rows, number)
    return out


def _decode_elsewhere(
    blocks: NDArray[np.uint8], kind: Format, out: NDArray[np.float32]
) -> NDArray[np.float32]:
    if not kind.decodes:
        raise FormatError(f"{kind} cannot be decoded")
    import gguf

    if out.size:
        kind_there = gguf.GGMLQuantizationType(kind.id)
        out[:] = gguf.quants.dequantize(np.ascontiguousarray(blocks), kind_there)
    return out


def bytes_of(x: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of `x` in row order: a view where it is contiguous and aligned, else a copy."""
    return np.require(x, requirements=["C", "A"]).reshape(-1).view(np.uint8)


def _per_matrix(importance: ArrayLike | None) -> NDArray[np.float32] | None:
    if importance is None:
        return None
    try:
        array = np.asarray(importance, np.float32)
    except (TypeError, ValueError) as error:
        raise ImportanceError("expected importance as an array of float32") from error
    if array.ndim not in (1, 2):
        raise ImportanceError(
            f"expected importance of shape (cols,) or (matrices, cols), got {array.shape}"
        )
    return array[np.newaxis] if array.ndim == 1 else array


def _weights(
    importance: NDArray[np.float32] | None, to: Encoder, cols: int
) -> NDArray[np.uint8] | None:
    """Importance as bytes for the kernel, checked; None where the encoder ignores it."""
    if importance is None:
        if to.importance == "REQUIRED":
            raise ImportanceError(f"{to} needs importance")
        return None
    if importance.dtype != np.float32 or importance.shape != (cols,):
        raise ImportanceError(
            f"expected importance as float32, ({cols},); got {importance.dtype}, {importance.shape}"
        )
    wrong = np.flatnonzero(~((importance >= 0) & (importance <= MAX_IMPORTANCE)))
    if wrong.size:
        raise ImportanceError(
            f"expected importance from 0 to {MAX_IMPORTANCE:g}, "
            f"got {importance[wrong[0]]} at column {wrong[0]}"
        )
    return None if to.importance == "NONE" else bytes_of(importance)
