"""Values as they are typed: TYPE:VALUE, of every type that GGUF has."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import math
import struct
from typing import Any

from gguf import GGUFValueType

from ..container import Value, array
from ..errors import UsageError

TYPES: dict[str, GGUFValueType] = {
    "uint8": GGUFValueType.UINT8,
    "int8": GGUFValueType.INT8,
    "uint16": GGUFValueType.UINT16,
    "int16": GGUFValueType.INT16,
    "uint32": GGUFValueType.UINT32,
    "int32": GGUFValueType.INT32,
    "uint64": GGUFValueType.UINT64,
    "int64": GGUFValueType.INT64,
    "float32": GGUFValueType.FLOAT32,
    "float64": GGUFValueType.FLOAT64,
    "bool": GGUFValueType.BOOL,
    "str": GGUFValueType.STRING,
}
"""Types by the names that are typed; in front of "[]" they are those of an array's items."""

_NAMES = {kind: name for name, kind in TYPES.items()}
_LONGEST_KEY = 65535
_FLOATS = GGUFValueType.FLOAT32, GGUFValueType.FLOAT64


def parse(text: str) -> tuple[str, Value]:
    """Key and value of KEY=TYPE:VALUE.

    Numbers are decimal, 0x... or 0b...; bool is true or false; an array is TYPE[]:JSON, and of
    numbers and bools the brackets of the JSON say enough. Raises UsageError for a value that its
    type does not hold.
    """
    key, equals, rest = text.partition("=")
    name, colon, written = rest.partition(":")
    if not equals or not colon:
        raise UsageError(
            f"expected KEY=TYPE:VALUE, got {text!r}", hint=f"types are {', '.join(TYPES)}"
        )
    try:
        fits = 0 < len(key.encode()) <= _LONGEST_KEY
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise UsageError(f"{text!r}: expected a key of 1 to {_LONGEST_KEY} bytes of UTF-8")
    listed = name.endswith("[]")
    kind = TYPES.get(name.removesuffix("[]"))
    if kind is None:
        raise UsageError(
            f"{key}: expected a type of GGUF, got {name!r}", hint=f"types are {', '.join(TYPES)}"
        )
    if listed or (kind is not GGUFValueType.STRING and written.lstrip().startswith("[")):
        return key, array(kind, [_item(key, kind, item) for item in _items(key, written)])
    return key, Value(kind, _one(key, kind, written))


def _items(key: str, written: str) -> list[Any]:
    try:
        found = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{key}: expected an array in JSON, got {written!r}: {error}") from error
    if not isinstance(found, list):
        raise UsageError(f"{key}: expected an array in JSON, got {written!r}")
    return found


def _one(key: str, kind: GGUFValueType, written: str) -> Any:
    if kind is GGUFValueType.STRING:
        return written
    if kind is GGUFValueType.BOOL:
        found = {"true": True, "false": False}.get(written.lower())
        return _item(key, kind, written if found is None else found)
    try:
        return _item(key, kind, float(written) if kind in _FLOATS else int(written, 0))
    except ValueError:
        return _item(key, kind, written)


def _item(key: str, kind: GGUFValueType, data: Any) -> Any:
    """`data` if a value of this type can be it. Raises UsageError."""
    if kind is GGUFValueType.STRING:
        good = isinstance(data, str)
    elif kind is GGUFValueType.BOOL:
        good = isinstance(data, bool)
    elif kind in _FLOATS:
        good = isinstance(data, int | float) and not isinstance(data, bool)
    else:
        good = isinstance(data, int) and not isinstance(data, bool)
    if good and kind not in (GGUFValueType.STRING, GGUFValueType.BOOL):
        good = _held(kind, data)
    if not good:
        raise UsageError(f"{key}: expected {_range(kind)}, got {data!r}")
    return float(data) if kind in _FLOATS else data


def _held(kind: GGUFValueType, data: float) -> bool:
    if kind in _FLOATS:
        try:
            code = "<f" if kind is GGUFValueType.FLOAT32 else "<d"
            (there,) = struct.unpack(code, struct.pack(code, data))
        except (OverflowError, struct.error):
            return False
        return math.isfinite(there) or not math.isfinite(data)
    signed = kind.name.startswith("INT")
    bits = int(kind.name.removeprefix("U").removeprefix("INT"))
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    return low <= data < high


def _range(kind: GGUFValueType) -> str:
    if kind is GGUFValueType.STRING:
        return "text"
    if kind is GGUFValueType.BOOL:
        return "true or false"
    if kind in _FLOATS:
        return f"a number that {_NAMES[kind]} holds"
    bits = int(kind.name.removeprefix("U").removeprefix("INT"))
    if kind.name.startswith("INT"):
        return f"a whole number from {-(1 << bits - 1)} to {(1 << bits - 1) - 1}"
    return f"a whole number from 0 to {(1 << bits) - 1}"


def type_name(value: Value) -> str:
    """Its type as it would be typed: "uint32", "str[]"."""
    return _NAMES[value.type] if value.item is None else f"{_NAMES[value.item]}[]"
