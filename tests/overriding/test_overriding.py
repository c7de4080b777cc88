"""--override-kv: what is typed becomes the value of a key."""

# SPDX-License-Identifier: MIT

import pytest

from ggufmix.container import Value, u32
from ggufmix.errors import UsageError
from ggufmix.mending import parse, type_name
from ggufmix.overriding import overridden


@pytest.mark.parametrize(
    ("typed", "kind", "data"),
    [
        ("int:7", "uint32", 7),
        ("int:-5", "int32", -5),
        ("int:4294967296", "uint64", 1 << 32),
        ("int:-4294967296", "int64", -(1 << 32)),
        ("int:18446744073709551615", "uint64", (1 << 64) - 1),
        ("int:0x10", "uint32", 16),
        ("float:1.5", "float32", 1.5),
        ("float:1e300", "float64", 1e300),
        ("bool:false", "bool", False),
        ("str:a=b:c " + "x" * 200, "str", "a=b:c " + "x" * 200),
        ("uint8:7", "uint8", 7),
        ("str[]:[]", "str[]", []),
    ],
)
def test_types(typed: str, kind: str, data: object) -> None:
    """llama-quantize's four types and all of GGUF's; sign, size and length as typed."""
    [value] = overridden([f"key={typed}"], {}).values()
    assert (type_name(value), value.data) == (kind, data)


@pytest.mark.parametrize(
    ("known", "typed", "kind"),
    [
        ("int64:1", "int:7", "int64"),
        ("uint8:1", "int:7", "uint8"),
        ("uint8:1", "int:700", "uint32"),
        ("float64:1", "float:1.5", "float64"),
        ("str:x", "int:7", "uint32"),
        ("int32[]:[1]", "int:7", "uint32"),
        ("uint64:1", "uint32:7", "uint32"),
    ],
)
def test_a_key_keeps_its_type(known: str, typed: str, kind: str) -> None:
    """As long as it holds the number, and nobody says otherwise: loaders ask for the very type."""
    values = dict([parse(f"key={known}")])
    assert type_name(overridden([f"key={typed}"], values)["key"]) == kind


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["key"], "expected KEY=TYPE:VALUE"),
        (["key=7"], "expected KEY=TYPE:VALUE"),
        (["=int:7"], "expected a key"),
        (["key=int:7.5"], "expected a whole number"),
        (["key=int:18446744073709551616"], "expected a whole number"),
        (["key=float:x"], "expected a number"),
        (["key=bool:1"], "expected true or false"),
        (["key=number:1"], "expected a type of GGUF"),
        (["key=int:1", "key=int:1"], "is given twice"),
        (["general.alignment=uint32:64"], "cannot be another"),
        (["ggufmix.version=str:1"], "cannot be another"),
        (["split.count=int:1"], "cannot be another"),
    ],
)
def test_what_cannot_be_meant(typed: list[str], message: str) -> None:
    """Named, and nothing is made of it."""
    known: dict[str, Value] = {"key": u32(1)}
    with pytest.raises(UsageError, match=message):
        overridden(typed, known)
