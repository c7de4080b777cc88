"""One safetensors file: its header, checked, and Tensors over its rows.

Layout: u64 little-endian, the length of the header; the header, a JSON object of
name -> {dtype, shape, data_offsets}, with `__metadata__` of strings beside them; the data,
row-major and little-endian, without holes or overlaps. Source: the format section of safetensors'
README and `Metadata::validate` in its tensor.rs, whose limits are ours.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from ..profiling import phase
from ..tensor import BF16, F16, F32, Array, Tensor
from .storage import Bytes, shown

MAX_HEADER_BYTES = 100_000_000
MAX_DIMS = 64  # numpy's
MAX_TENSOR_BYTES = 1 << 62

BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one value of every dtype that safetensors 0.8 knows."""

_FLOATS: dict[str, np.dtype[np.generic]] = {"F32": F32, "F16": F16, "BF16": BF16}
_ALIKE = "download the file again, or ask whoever wrote it"


_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One tensor in a header.

    data_offsets    its first byte and the one after its last, from the start of the data
    """

    dtype: str
    shape: tuple[_Count, ...]
    data_offsets: tuple[_Count, _Count]


class StoredTensor(Tensor):
    """A tensor as it lies in a file.

    stored      safetensors' name of its dtype, such as "BF16" or "F8_E4M3"
    file        name of the file, for messages
    row_bytes   bytes of one row
    """

    __slots__ = ("_bytes", "_offset", "file", "name", "row_bytes", "shape", "stored")

    def __init__(self, data: Bytes, name: str, entry: Entry, data_start: int) -> None:
        self.name = name
        self.shape = entry.shape
        self.stored = entry.dtype
        self.file = data.name
        self.row_bytes = self.cols * BITS[entry.dtype] // 8
        self._bytes = data
        self._offset = data_start + entry.data_offsets[0]

    @property
    def dtype(self) -> np.dtype[np.generic]:  # type: ignore[override]
        """Of what `rows` gives. Raises SourceError where it gives nothing."""
        return _FLOATS[self.stored]

    def raw(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows start..stop as stored, uint8 (stop - start, row_bytes), read at once.

        The array belongs to the caller. Raises SourceError where they cannot be read, or where a
        row is no whole number of bytes.
        """
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"{self.name}: rows {start}..{stop} of {self.n_rows}")
        row_bytes = self.row_bytes
        if row_bytes * 8 != self.cols * BITS[self.stored]:
            where = f"{self.file}: {shown(self.name)}"
            raise SourceError(
                f"{where}: a row of {self.cols} {self.stored} values ends inside a byte"
            )
        buffer = np.empty((stop - start) * row_bytes, np.uint8)
        with phase("reading"):
            self._bytes.readinto(self._offset + start * row_bytes, buffer)
        return buffer.reshape(stop - start, row_bytes)

    def raw_columns(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Columns start..stop of every row as stored, uint8 (n_rows, bytes): a read for each row.

        The array belongs to the caller. For dtypes of whole bytes. Raises SourceError where they
        cannot be read.
        """
        if not 0 <= start <= stop <= self.cols:
            raise IndexError(f"{self.name}: columns {start}..{stop} of {self.cols}")
        width = BITS[self.stored] // 8
        if stop - start == self.cols:
            return self.raw(0, self.n_rows)
        buffer = np.empty((self.n_rows, (stop - start) * width), np.uint8)
        at = self._offset + start * width
        with phase("reading"):
            for row in buffer:
                self._bytes.readinto(at, row)
                at += self.row_bytes
        return buffer

    def rows(self, start: int, stop: int) -> Array:
        """Rows start..stop as an array (stop - start, cols) of `dtype`, the caller's own."""
        return self.raw(start, stop).view(self.dtype)


class DoubleTensor(StoredTensor):
    """Stored as F64, given rounded to float32; what does not fit becomes an infinity."""

    __slots__ = ()

    @property
    def dtype(self) -> np.dtype[np.generic]:  # type: ignore[override]
        """float32."""
        return F32

    def rows(self, start: int, stop: int) -> Array:
        """Rows start..stop as an array (stop - start, cols) of float32, the caller's own."""
        with np.errstate(over="ignore"):
            return self.raw(start, stop).view(np.float64).astype(np.float32)


class UnreadTensor(StoredTensor):
    """Stored in a dtype whose values cannot be read yet: `raw` gives the bytes; `dtype` and `rows`
    raise, so that whoever means to use it learns it before anything is written.
    """

    __slots__ = ()

    @property
    def dtype(self) -> np.dtype[np.generic]:  # type: ignore[override]
        """Raise SourceError: rows of it have no dtype."""
        raise self._refusal()

    def rows(self, start: int, stop: int) -> Array:  # noqa: ARG002
        """Raise SourceError: there is nothing else to do with such rows."""
        raise self._refusal()

    def _refusal(self) -> SourceError:
        where = f"{self.file}: {shown(self.name)}"
        return SourceError(
            f"{where}: stored as {self.stored}, not supported yet (F32, F16, BF16 and F64 are)",
            hint="convert from a checkpoint of the same model that is in BF16, F16 or F32",
        )


def read_tensors(data: Bytes) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by name, in the order of their data.

    Only the header is read. Raises SourceError, naming file and tensor, for all that is wrong
    with the header or the size of the file.
    """
    text = read_header(data)
    start = 8 + len(text)
    tensors: dict[str, StoredTensor] = {}
    entries = parse_header(text, data.name, data.size - start)
    data.divided([*(start + entry.data_offsets[0] for entry in entries.values()), data.size])
    for name, entry in entries.items():
        kind = (
            StoredTensor
            if entry.dtype in _FLOATS
            else DoubleTensor
            if entry.dtype == "F64"
            else UnreadTensor
        )
        tensors[name] = kind(data, name, entry, start)
    return tensors


def read_header(data: Bytes) -> bytes:
    """The JSON of a file's header, padding included, not yet parsed.

    Raises SourceError for a length that cannot be, before anything of that length is allocated.
    """
    where = data.name
    if data.size < 10:
        raise SourceError(
            f"{where}: expected a safetensors file, got {data.size} bytes", hint=_ALIKE
        )
    head = data.read(0, 9)
    n = int.from_bytes(head[:8], "little")
    if head == b"version h":  # "version https://git-lfs.github.com/spec/v1"
        hint = "fetch the weights with `git lfs pull`"
        raise SourceError(
            f"{where}: expected a safetensors file, got a Git LFS pointer to one", hint=hint
        )
    if n > MAX_HEADER_BYTES:
        message = f"expected a header of at most {MAX_HEADER_BYTES} bytes, got a length of {n}"
        raise SourceError(
            f"{where}: {message}", hint="this is no safetensors file, or it is damaged"
        )
    if 8 + n > data.size:
        message = f"truncated: expected a header of {n} bytes, the file has {data.size} in all"
        raise SourceError(f"{where}: {message}", hint=_ALIKE)
    if n < 2 or head[8:] != b"{":
        message = f"expected a header that begins with '{{', got {head[8:]!r} and a length of {n}"
        raise SourceError(
            f"{where}: {message}", hint="this is no safetensors file, or it is damaged"
        )
    return data.read(8, n)


def parse_header(text: bytes, where: str, data_bytes: int) -> dict[str, Entry]:
    """Parse a header and check that its tensors fill the data exactly.

    text        JSON
    where       name of the file, for messages
    data_bytes  bytes that follow the header
    Returns the entries in the order of their data. Raises SourceError.
    """
    found = _object(text, where)
    metadata = found.pop("__metadata__", None)
    if metadata is not None:
        _converted(metadata, dict[str, str], f"{where}: __metadata__")
    try:
        entries = msgspec.convert(found, dict[str, Entry])
    except msgspec.ValidationError:  # its message does not name the tensor
        entries = {
            name: _converted(value, Entry, f"{where}: {shown(name)}")
            for name, value in found.items()
        }
    ordered = sorted(entries.items(), key=lambda item: item[1].data_offsets)
    at, before = 0, "the header"
    for name, entry in ordered:
        _check_size(entry, where, name)
        start, stop = entry.data_offsets
        if start != at:
            what = "overlaps with" if start < at else "leaves a hole after"
            message = f"data begins at {start} and {what} {shown(before)}, which ends at {at}"
            raise SourceError(f"{where}: {shown(name)}: {message}", hint=_ALIKE)
        if stop > data_bytes:
            message = (
                f"truncated: expected data up to {stop}, the file has {data_bytes} bytes of it"
            )
            raise SourceError(f"{where}: {shown(name)}: {message}", hint=_ALIKE)
        at, before = stop, name
    if at != data_bytes:
        raise SourceError(
            f"{where}: expected {at} bytes of data after the header, got {data_bytes}", hint=_ALIKE
        )
    return dict(ordered)


def _object(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object in which no key appears twice."""
    try:
        found = msgspec.json.decode(text)
        if isinstance(found, dict):
            # Written back, a compact header is itself unless a key came twice. Others: a slow look.
            if msgspec.json.encode(found) != text.rstrip(b" "):
                json.loads(text, object_pairs_hook=_once)
            return found
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        what = "nested too deeply" if isinstance(error, RecursionError) else shown(str(error))
        raise SourceError(f"{where}: the header is not valid JSON: {what}", hint=_ALIKE) from error
    raise SourceError(f"{where}: expected the header to be an object, got {type(found).__name__}")


def _once(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"the key {shown(key)} appears twice")
        seen.add(key)


def _converted(value: Any, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise SourceError(f"{where}: {error}", hint=_ALIKE) from error


def _check_size(entry: Entry, where: str, name: str) -> None:
    start, stop = entry.data_offsets
    bits = BITS.get(entry.dtype, 0)
    hint = _ALIKE
    if not bits:
        problem = f"unknown dtype {shown(entry.dtype)!r}"
        hint = f"safetensors has {', '.join(BITS)}"
    elif len(entry.shape) > MAX_DIMS:
        problem = f"expected at most {MAX_DIMS} dimensions, got {len(entry.shape)}"
    elif math.prod(n or 1 for n in entry.shape) * bits // 8 > MAX_TENSOR_BYTES:
        problem = f"a shape of {list(entry.shape)} is too large to be meant"
    elif (needed := math.prod(entry.shape) * bits) != (stop - start) * 8:
        size = needed // 8 if needed % 8 == 0 else needed / 8
        shape = f"{entry.dtype} of shape {list(entry.shape)}"
        problem = f"{shape} needs {size} bytes, data_offsets give {stop - start}"
    else:
        return
    raise SourceError(f"{where}: {shown(name)}: {problem}", hint=hint)
