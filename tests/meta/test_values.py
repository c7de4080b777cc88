"""What may be typed behind --set-kv."""

# SPDX-License-Identifier: MIT

import contextlib

import pytest
from gguf import GGUFValueType as T
from hypothesis import given
from hypothesis import strategies as st

from ggufmix.container import Value, array
from ggufmix.errors import UsageError
from ggufmix.mending import parse, type_name

WHOLE = {
    "uint8": (T.UINT8, 0, 255),
    "int8": (T.INT8, -128, 127),
    "uint16": (T.UINT16, 0, 65535),
    "int16": (T.INT16, -32768, 32767),
    "uint32": (T.UINT32, 0, 4294967295),
    "int32": (T.INT32, -2147483648, 2147483647),
    "uint64": (T.UINT64, 0, 18446744073709551615),
    "int64": (T.INT64, -9223372036854775808, 9223372036854775807),
}


@pytest.mark.parametrize("name", WHOLE)
def test_bounds_of_whole_numbers(name: str) -> None:
    """Each type takes its least and its largest number, signs and 64 bits right, and refuses the
    next one with the range it has.
    """
    kind, low, high = WHOLE[name]
    assert parse(f"a.b={name}:{low}") == ("a.b", Value(kind, low))
    assert parse(f"a.b={name}:{high}") == ("a.b", Value(kind, high))
    assert parse(f"a.b={name}:[{low}, {high}]") == ("a.b", array(kind, [low, high]))
    for beyond in (low - 1, high + 1):
        with pytest.raises(UsageError, match=f"from {low} to {high}, got"):
            parse(f"a.b={name}:{beyond}")
        with pytest.raises(UsageError, match=f"from {low} to {high}, got"):
            parse(f"a.b={name}[]:[{beyond}]")


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("k=int32:0x10", Value(T.INT32, 16)),
        ("k=float32:-1e-6", Value(T.FLOAT32, -1e-6)),
        ("k=float64:inf", Value(T.FLOAT64, float("inf"))),
        ("k=float32:3", Value(T.FLOAT32, 3.0)),
        ("k=bool:True", Value(T.BOOL, True)),
        ("k=bool:[true, false]", array(T.BOOL, [True, False])),
        ("k=str:", Value(T.STRING, "")),
        ("k=str:a=b:c", Value(T.STRING, "a=b:c")),
        ('k=str:["a"]', Value(T.STRING, '["a"]')),
        ('k=str[]:["a", "ü"]', array(T.STRING, ["a", "ü"])),
        ("k=float32[]:[]", array(T.FLOAT32, [])),
        ("k=float64:[1, 2.5]", array(T.FLOAT64, [1.0, 2.5])),
    ],
)
def test_values(typed: str, wanted: Value) -> None:
    """Text stays text, whatever it looks like; numbers may be arrays without saying so."""
    key, value = parse(typed)
    assert (key, value) == ("k", wanted)
    assert type_name(value) == typed[2:].partition(":")[0] + (
        "[]" if wanted.item is not None and "[]:" not in typed else ""
    )


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("k", "KEY=TYPE:VALUE"),
        ("k=5", "KEY=TYPE:VALUE"),
        ("=int8:5", "a key of 1 to"),
        ("\udcff=int8:5", "a key of 1 to 65535 bytes of UTF-8"),
        ("k=u8:5", "a type of GGUF, got 'u8'"),
        ("k=bool:1", "true or false"),
        ("k=bool:[1]", "true or false, got 1"),
        ("k=int8:1.0", "whole number"),
        ("k=int8:[true]", "whole number"),
        ("k=int8:", "whole number"),
        ("k=float32:1e39", "a number that float32 holds, got 1e+39"),
        ("k=float32:one", "a number that float32 holds"),
        ("k=float32:[true]", "a number"),
        ("k=str[]:[1]", "text, got 1"),
        ("k=str[]:{}", "an array in JSON"),
        ("k=int8:[1", "an array in JSON"),
    ],
)
def test_refused(typed: str, part: str) -> None:
    """What a type does not hold is refused with what it does."""
    with pytest.raises(UsageError) as caught:
        parse(typed)
    assert part in str(caught.value)


@given(st.text())
def test_any_text(typed: str) -> None:
    """Whatever is typed is a value or a usage error."""
    with contextlib.suppress(UsageError):
        parse("k=" + typed)
