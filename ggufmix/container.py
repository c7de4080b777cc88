"""GGUF headers: the key-values and tensor infos of a version 3 file, to bytes and back.

Layout (little-endian; specification: ggml's docs/gguf.md): magic "GGUF", u32 version, u64 number of
tensors, u64 number of key-values; the key-values; the tensor infos; zeros up to the alignment; then
the data. `header` is a pure function: a plan takes the length of what it returns, the writer writes
it.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Self, cast

from gguf import GGMLQuantizationType, GGUFValueType

from .errors import ModelError, SourceError

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 24  # more would be padding without end
MAX_NAME_BYTES = 63  # llama.cpp keeps 64 with the zero
MAX_DIMS = 4
MAX_ITEMS = 1 << 24
"""Items of one array that are read; the largest real ones are vocabularies of some 300,000."""
MAX_STRING_BYTES = 1 << 26
"""Bytes of one string that are read; the largest real ones are chat templates."""

_DAMAGED = "the header is damaged"

_SCALARS: dict[GGUFValueType, str] = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}


_HELD: dict[GGUFValueType, str] = {
    GGUFValueType.UINT32: "numbers from 0 to 4294967295",
    GGUFValueType.INT32: "numbers from -2147483648 to 2147483647",
    GGUFValueType.FLOAT32: "numbers that float32 holds",
    GGUFValueType.STRING: "text that UTF-8 holds",
}
"""What values from foreign files must be, for messages."""


@dataclass(frozen=True, slots=True)
class Value:
    """One typed value of a GGUF header. `item` is the element type of an ARRAY, else None."""

    type: GGUFValueType
    data: Any
    item: GGUFValueType | None = None


def u32(data: int) -> Value:
    """An unsigned 32-bit integer, as llama.cpp's converter writes counts."""
    return Value(GGUFValueType.UINT32, int(data))


def f32(data: float) -> Value:
    """A 32-bit float."""
    return Value(GGUFValueType.FLOAT32, float(data))


def boolean(data: bool) -> Value:
    """A truth value."""
    return Value(GGUFValueType.BOOL, bool(data))


def text(data: str | bytes) -> Value:
    """A string; bytes are taken as they are (tokens need not be valid UTF-8)."""
    return Value(GGUFValueType.STRING, data)


def array(item: GGUFValueType, data: Sequence[Any]) -> Value:
    """An array of scalars or strings."""
    return Value(GGUFValueType.ARRAY, data, item)


def i32s(data: Sequence[int]) -> Value:
    """An array of signed 32-bit integers, as llama.cpp's converter writes per-layer values."""
    return array(GGUFValueType.INT32, data)


def texts(data: Sequence[str | bytes]) -> Value:
    """An array of strings."""
    return array(GGUFValueType.STRING, data)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as the header lists it.

    shape   GGUF order: row length first
    offset  from the start of the data, in bytes
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int


def aligned(size: int, alignment: int = ALIGNMENT) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // alignment) * alignment


def header(
    values: Mapping[str, Value], infos: Iterable[TensorInfo], alignment: int = ALIGNMENT
) -> bytes:
    """The bytes in front of the tensor data, padding included.

    Raises ModelError, naming the key, for a value that its type does not hold.
    """
    infos = list(infos)
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(infos), len(values))]
    for key, value in values.items():
        try:
            parts += (_string(key), struct.pack("<I", value.type), _pack(value))
        except (struct.error, OverflowError, UnicodeEncodeError) as error:
            item = value.type if value.item is None else value.item
            raise ModelError(
                f"{key}: expected {_HELD.get(item, item.name.lower())}, got {_brief(value.data)}",
                hint="it comes from config.json, generation_config.json or the model card",
            ) from error
    for info in infos:
        n = len(info.shape)
        parts += (
            _string(info.name),
            struct.pack(f"<I{n}QIQ", n, *info.shape, info.type, info.offset),
        )
    made = b"".join(parts)
    return made + bytes(aligned(len(made), alignment) - len(made))


def value_at(values: Mapping[str, Value], key: str) -> int:
    """Where in `header` the data of a value begin, in bytes; of an array its first item.

    values  all key-values of the header in their order, `key` among them
    """
    at = len(MAGIC) + struct.calcsize("<IQQ")
    for name, value in values.items():
        at += len(_string(name)) + 4
        if name == key:
            return at + (0 if value.item is None else struct.calcsize("<IQ"))
        at += len(_pack(value))
    raise KeyError(key)


def _brief(data: Any) -> str:
    try:
        shown = ascii(data)
    except ValueError:  # a number of more digits than Python prints
        shown = "a number of thousands of digits"
    return shown if len(shown) <= 100 else f"{shown[:100]}..."


def _string(data: str | bytes) -> bytes:
    raw = data.encode() if isinstance(data, str) else data
    return struct.pack("<Q", len(raw)) + raw


def _pack(value: Value) -> bytes:
    if value.type is GGUFValueType.STRING:
        return _string(value.data)
    if value.type is not GGUFValueType.ARRAY:
        return struct.pack("<" + _SCALARS[value.type], value.data)
    assert value.item is not None
    head = struct.pack("<IQ", value.item, len(value.data))
    if value.item is GGUFValueType.STRING:
        length = struct.Struct("<Q").pack
        raws = [s.encode() if isinstance(s, str) else s for s in value.data]
        return head + b"".join([part for raw in raws for part in (length(len(raw)), raw)])
    return head + struct.pack(f"<{len(value.data)}{_SCALARS[value.item]}", *value.data)


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself. `data_at` is where the tensor data starts, in bytes."""

    version: int
    values: dict[str, Value]
    tensors: list[TensorInfo]
    alignment: int
    data_at: int


class ForeignType(int):
    """The number of a type that gguf does not know, with the name it has elsewhere."""

    name: str

    def __new__(cls, number: int, name: str) -> Self:
        """A number with a name."""
        made = super().__new__(cls, number)
        made.name = name
        return made


def read_header(
    file: BinaryIO, size: int, where: str, *, foreign: Mapping[int, str] | None = None
) -> Header:
    """Read the header of an open GGUF file of `size` bytes; `where` names it in errors.

    foreign  numbers and names of types that gguf does not know: they come as ForeignType

    Counts and lengths are held against the bytes that are left before anything is allocated for
    them. Raises SourceError for a wrong magic or version, a truncated or contradictory header.
    """
    return _Reader(file, size, where, foreign or {}).header()


class _Reader:
    def __init__(self, file: BinaryIO, size: int, where: str, foreign: Mapping[int, str]) -> None:
        self.file, self.size, self.where, self.at = file, size, where, 0
        self.foreign = foreign

    def header(self) -> Header:
        magic = self.take(4, "the magic")
        if magic != MAGIC:
            raise SourceError(
                f"{self.where}: expected the magic {MAGIC!r}, got {magic!r}",
                hint="this is no GGUF file",
            )
        (version,) = struct.unpack("<I", self.take(4, "the version"))
        if version not in (2, 3):
            hint = "the file is big-endian" if version in (0x02000000, 0x03000000) else None
            raise SourceError(
                f"{self.where}: expected GGUF version 2 or 3, got {version}", hint=hint
            )
        n_tensors, n_values = struct.unpack("<QQ", self.take(16, "the counts"))
        self.fits(n_values, 13, "key-values")
        self.fits(n_tensors, 24, "tensors")
        values: dict[str, Value] = {}
        for _ in range(n_values):
            key = self.string("a key").decode(errors="replace")
            if key in values:
                raise SourceError(f"{self.where}: key {key!r} appears twice")
            values[key] = self.value(key)
        alignment_value = values.get("general.alignment")
        alignment = alignment_value.data if alignment_value else ALIGNMENT
        if (
            not isinstance(alignment, int)
            or not 1 <= alignment <= MAX_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            got = repr(alignment)[:40]
            raise SourceError(
                f"{self.where}: general.alignment: expected a power of two up to {MAX_ALIGNMENT}, "
                f"got {got}"
            )
        tensors: dict[str, TensorInfo] = {}
        for _ in range(n_tensors):
            info = self.info()
            if tensors.setdefault(info.name, info) is not info:
                raise SourceError(f"{self.where}: tensor {info.name[:200]!r} appears twice")
        return Header(
            version, values, list(tensors.values()), alignment, aligned(self.at, alignment)
        )

    def info(self) -> TensorInfo:
        name = self.string("a tensor name").decode(errors="replace")
        (n_dims,) = struct.unpack("<I", self.take(4, name))
        if n_dims > MAX_DIMS:
            raise SourceError(
                f"{self.where}: {name}: expected at most {MAX_DIMS} dimensions, got {n_dims}"
            )
        *shape, kind, offset = struct.unpack(f"<{n_dims}QIQ", self.take(8 * n_dims + 12, name))
        if kind in self.foreign:
            alien = cast(GGMLQuantizationType, ForeignType(kind, self.foreign[kind]))
            return TensorInfo(name, tuple(shape), alien, offset)
        if kind not in GGMLQuantizationType._value2member_map_:
            raise SourceError(f"{self.where}: {name}: unknown tensor type {kind}")
        return TensorInfo(name, tuple(shape), GGMLQuantizationType(kind), offset)

    def value(self, key: str) -> Value:
        kind = self.kind(key)
        if kind is not GGUFValueType.ARRAY:
            return Value(kind, self.scalar(kind, key))
        item = self.kind(key)
        (n,) = struct.unpack("<Q", self.take(8, key))
        if item is GGUFValueType.ARRAY:
            raise SourceError(f"{self.where}: {key}: arrays of arrays are not supported")
        if item is GGUFValueType.STRING:
            self.fits(n, 8, key)
            self.sane(n, MAX_ITEMS, f"{key}: an array of {n} strings")
            return array(item, [self.string(key) for _ in range(n)])
        width = struct.calcsize("<" + _SCALARS[item])
        self.fits(n, width, key)
        self.sane(n, MAX_ITEMS, f"{key}: an array of {n} items")
        return array(item, list(struct.unpack(f"<{n}{_SCALARS[item]}", self.take(n * width, key))))

    def kind(self, key: str) -> GGUFValueType:
        (number,) = struct.unpack("<I", self.take(4, key))
        if number not in GGUFValueType._value2member_map_:
            raise SourceError(f"{self.where}: {key}: unknown value type {number}")
        return GGUFValueType(number)

    def scalar(self, kind: GGUFValueType, key: str) -> Any:
        if kind is GGUFValueType.STRING:
            raw = self.string(key)
            try:
                return raw.decode()
            except UnicodeDecodeError:
                return raw
        code = "<" + _SCALARS[kind]
        return struct.unpack(code, self.take(struct.calcsize(code), key))[0]

    def string(self, what: str) -> bytes:
        (n,) = struct.unpack("<Q", self.take(8, what))
        if n <= self.size - self.at:
            self.sane(n, MAX_STRING_BYTES, f"{what}: a string of {n} bytes")
        return self.take(n, what)

    def sane(self, n: int, most: int, what: str) -> None:
        if n > most:
            raise SourceError(f"{self.where}: {what} is too long to be meant", hint=_DAMAGED)

    def take(self, n: int, what: str) -> bytes:
        if n > self.size - self.at:
            raise SourceError(
                f"{self.where}: truncated: {what} needs {n} bytes at {self.at}, "
                f"the file has {self.size}"
            )
        data = self.file.read(n)
        if len(data) != n:
            raise SourceError(f"{self.where}: truncated: read {len(data)} of {n} bytes for {what}")
        self.at += n
        return data

    def fits(self, count: int, each: int, what: str) -> None:
        if count * each > self.size - self.at:
            raise SourceError(
                f"{self.where}: {count} {what} cannot fit in the {self.size - self.at} bytes left"
            )
