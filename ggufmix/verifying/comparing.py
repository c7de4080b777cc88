"""One tensor of a file beside the one it was made from, band by band: are the bytes those that an
encoder makes of the source's rows, and how far are the values from each other?
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .. import int4
from ..codecs import Encoder, Format, decode
from ..errors import FormatError
from ..measures import Measures, measure
from ..planning import Planned
from ..sources import GgufTensor
from ..tensor import BF16, DTYPE_NAMES, F16, Array, Blocks, Tensor
from ..writing import Extent, Made
from ..writing.encoding import Rows, bands_of, encoded
from ..writing.origins import MODULO, method
from .findings import Parts
from .reading import piece

_LAYOUTS = {"Q4_0": (2, 1), "Q8_0": (2, 1), "MXFP4": (1, 1), "NVFP4": (4, 4)}
"""Of blocks that hold codes of a source: bytes of scales in front, and how many scales they are."""
_NO_SCALE = 0xFF
"""Bytes that make a scale of NaN, which no lattice has."""


@dataclass(frozen=True, slots=True)
class Errors:
    """What was found in bands of a tensor.

    whole   sums over them
    most    those over the one that is furthest off
    same    whether their bytes are those expected; None where nothing was expected
    row     the first row that is not, -1 where all are
    parts   groups, codes and scales of the source that the file has bit for bit
    source  number of what they were made from, when all bands are seen, where they are the same;
    method  number of what with: see `checksums`
    """

    whole: Measures
    most: Measures
    same: bool | None = None
    row: int = -1
    parts: Parts | None = None
    source: int = 0
    method: int = 0

    def __add__(self, other: Errors) -> Errors:
        """Both; `other` comes right after."""
        parts = other.parts if self.parts is None else self.parts
        if self.parts is not None and other.parts is not None:
            parts = self.parts + other.parts
        same = None if self.same is None or other.same is None else self.same and other.same
        return Errors(
            self.whole + other.whole,
            other.most if _further(other.most, self.most) else self.most,
            same,
            other.row if self.row < 0 else self.row,
            parts,
            method=(self.method + other.method) % MODULO,
        )


def _further(a: Measures, b: Measures) -> bool:
    return bool(a.rrmse > b.rrmse) or (math.isnan(a.rrmse) and not math.isnan(b.rrmse))


class _Kept(Tensor):
    """A tensor whose rows are read once where the same thread asks for them twice in a row."""

    def __init__(self, of: Tensor) -> None:
        self.of = of
        self.name, self.file, self.shape, self.dtype = of.name, of.file, of.shape, of.dtype
        self.unit, self.format, self.outer_scale = of.unit, of.format, of.outer_scale
        self._last = threading.local()

    def rows(self, start: int, stop: int) -> Array:
        if getattr(self._last, "span", None) != (start, stop):
            self._last.found, self._last.span = self.of.rows(start, stop), (start, stop)
        found: Array = self._last.found
        return found

    def forget(self) -> None:
        """Let go of what this thread has kept."""
        self._last.span = self._last.found = None

    def blocks(self, start: int, stop: int) -> Blocks:
        return self.of.blocks(start, stop)

    def origin(self, row: int) -> Tensor:
        return self.of.origin(row)


class Comparison:
    """The job of one tensor.

    stored   as the file has it
    planned  as it should be: with the file's type, whatever a recipe says
    encodes  bytes are expected: the type can be written, and importance is known
    bound    they must be right, so that the first that are not need not save the work on the rest
    """

    def __init__(self, stored: GgufTensor, planned: Planned, *, encodes: bool, bound: bool) -> None:
        self.stored = stored
        self.tensor = _Kept(planned.placed.tensor)
        self.planned = replace(planned, placed=replace(planned.placed, tensor=self.tensor))
        self.encodes, self.bound = encodes, bound
        self._differs = False

    @property
    def name(self) -> str:
        """GGUF name."""
        return self.stored.name

    @property
    def source_bytes(self) -> int:
        """Bytes of the rows of the source."""
        return self.planned.source_bytes

    @property
    def n_rows(self) -> int:
        """Rows of all matrices."""
        return self.tensor.n_rows

    @property
    def extents(self) -> tuple[Extent]:
        """The tensor in the file."""
        return (Extent(0, self.stored.n_rows * self.stored.row_bytes),)

    def bands(self) -> Iterator[tuple[int, int]]:
        """Those that it is encoded in."""
        return bands_of(self.tensor)

    def make(self, start: int, stop: int) -> Made[Errors]:
        """Rows start..stop of both."""
        raw, rows = self.stored.raw(start, stop), Rows(self.tensor, start, stop)
        try:
            found = self._compared(raw, rows)
            taken = rows.shares(stored=self._carried) if found.same else []
        finally:
            self.tensor.forget()
        return Made((piece(self.stored, start, raw),), found, (taken,))

    def concluded(
        self,
        found: Errors,
        sums: tuple[int, ...],  # noqa: ARG002
        taken: tuple[int, ...],
    ) -> Errors:
        """What was found, with the number of the source."""
        return replace(found, source=taken[0])

    def _compared(self, raw: Blocks, rows: Rows) -> Errors:
        start, stop = rows.start, rows.stop
        expected, recovered = self._expected(rows)
        same = None if not self.encodes else expected is not None and np.array_equal(raw, expected)
        row = -1
        if same is False:
            self._differs = True
            row = start
            if expected is not None:
                row += int(np.flatnonzero((raw != expected).any(axis=1))[0])
        sums = self._measured(raw, start, stop, known=self.planned.copied and same is True)
        if self._carried:
            kind = self.stored.kind
            parts = _counted(raw, expected, kind) if expected is not None else None
        elif same and self.bound:  # as the encoder left it, which has looked for lattices or not
            parts = _all_of(recovered) if recovered else None
        elif self.encodes:
            parts = self._on_lattice(raw, start, stop)
        else:
            parts = None
        matrix, begun = divmod(start, self.tensor.matrix_rows)
        number = method(self.planned, matrix) if not begun and self.encodes else 0
        return Errors(sums, sums, same, row, parts, method=number)

    @property
    def _carried(self) -> bool:
        return self.planned.copied or self.planned.widened

    def _measured(self, raw: Blocks, start: int, stop: int, *, known: bool) -> Measures:
        """`known`: the source has the very values of the file, and need not be decoded."""
        if not self.stored.kind.decodes:
            return Measures((stop - start) * self.tensor.cols)
        values = self._values(raw, start)
        return measure(values if known else self.tensor.rows(start, stop), values, row=start)

    def _expected(self, rows: Rows) -> tuple[Blocks | None, int]:
        """The bytes that should be there, and how many groups of them lie on a lattice; None where
        nobody can say, or nobody needs to know.
        """
        if not self.encodes or (self._differs and not self.bound and not self._carried):
            return None, 0
        try:
            data, found = encoded(self.planned, rows)
        except FormatError:  # a value that this type cannot hold: then the file has something else
            return None, 0
        return data, found.recovered

    def _values(self, raw: Blocks, start: int) -> NDArray[np.float32]:
        """What the file's bytes mean, in float32."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = decode(raw, self.stored.kind)
            outer = self.tensor.outer_scale
            if outer is not None and self.planned.copied:
                matrix = start // self.tensor.matrix_rows
                values *= outer.all().reshape(-1)[matrix].astype(np.float32)
        return values

    def _on_lattice(self, raw: Blocks, start: int, stop: int) -> Parts | None:
        """Of plain weights in Q4_0: the groups that lie on a lattice of INT4."""
        kind = self.stored.kind
        if kind.name != int4.Q4_0.name or self.tensor.format is not None:
            return None
        rows = self.tensor.rows(start, stop)
        lattice = np.full(raw.shape, _NO_SCALE, np.uint8)  # overwritten where groups lie on one
        if not np.isfinite(rows.astype(np.float32)).all() or not int4.recover(rows, lattice):
            return None
        theirs, ours = raw.reshape(-1, kind.bytes), lattice.reshape(-1, kind.bytes)
        on = (ours[:, :2] != _NO_SCALE).any(axis=1)
        on &= (rows.reshape(-1, kind.values) != 0).any(axis=1)  # zeros keep no scale
        return _counted(theirs[on], ours[on], kind) if on.any() else None


def _all_of(groups: int) -> Parts:
    """Groups of 32 that are there as they should be."""
    return Parts(groups, groups, 32 * groups, groups, 32 * groups)


def _counted(raw: Blocks, expected: Blocks, kind: Format) -> Parts:
    """What two rows of blocks have in common."""
    a, b = raw.reshape(-1, kind.bytes), expected.reshape(-1, kind.bytes)
    scale_bytes, scales = _LAYOUTS.get(kind.name, (0, 1))
    differs = a != b
    groups = len(a) * scales
    if not differs.any():
        return Parts(groups, groups, len(a) * kind.values, groups, len(a) * kind.values)
    if not scale_bytes:
        same = int((~differs.any(axis=1)).sum())
        return Parts(groups, same, same * kind.values, same, len(a) * kind.values)
    same_scales = ~differs[:, :scale_bytes].reshape(len(a), scales, -1).any(axis=2)
    odd = a[:, scale_bytes:] ^ b[:, scale_bytes:]
    halves = kind.values > kind.bytes - scale_bytes  # two codes a byte
    codes = np.stack([odd & 15, odd >> 4], axis=-1) if halves else odd[..., np.newaxis]
    same_codes = (codes == 0).reshape(len(a), scales, -1)
    return Parts(
        groups,
        int((same_scales & same_codes.all(axis=2)).sum()),
        int(same_codes.sum()),
        int(same_scales.sum()),
        len(a) * kind.values,
    )


def expected_as(stored: GgufTensor, of: Planned) -> Planned:
    """A tensor as it should be in the type the file has. `of`: as a recipe plans it, which says the
    encoder if that writes this type.
    """
    if of.encoder.format.id == stored.kind.id:
        return of
    own = Encoder(stored.kind.name, stored.kind, stored.kind.importance)
    n_bytes = stored.n_rows * stored.row_bytes
    return Planned(of.placed, own, "as the file has it", None, n_bytes, 0, of.importance)


def holds_as_it_is(planned: Planned) -> bool:
    """Whether a type holds every value of the source, so that there is but one right outcome:
    floats that are not rounded. Blocks may be held in several ways, and are judged by value.
    """
    tensor, kind = planned.placed.tensor, planned.encoder.format
    if tensor.format is not None or tensor.dtype not in (BF16, F16):
        return False  # float32 may be computed, and differ in the last place
    return kind.name in (DTYPE_NAMES[tensor.dtype], "F32")
