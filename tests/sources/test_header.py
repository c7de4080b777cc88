"""The header of a safetensors file: what is refused, and nothing but SourceError comes out."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from sources.build import counted, entry, framed, header

from ggufmix.errors import SourceError
from ggufmix.sources.safetensors import BITS, parse_header, read_tensors
from ggufmix.sources.storage import Bytes


class Held(Bytes):
    """A file in memory; `claimed` is the size it says it has."""

    def __init__(self, content: bytes, claimed: int | None = None) -> None:
        self.name = "m.safetensors"
        self.content = content
        self.size = len(content) if claimed is None else claimed

    def readinto(self, offset: int, buffer: NDArray[np.uint8]) -> None:
        """Fill the buffer, with zeros past the end, as a sparse file would."""
        found = np.frombuffer(self.content[offset : offset + len(buffer)], np.uint8)
        buffer[:] = 0
        buffer[: len(found)] = found


def refused(content: bytes, claimed: int | None = None) -> str:
    """What is said of a file that is refused."""
    with pytest.raises(SourceError) as caught:
        read_tensors(Held(content, claimed))
    assert str(caught.value).startswith("m.safetensors: ")
    return str(caught.value)


def of(found: Any, n_data: int = 0) -> bytes:
    """A file of a header and zeros."""
    return framed(json.dumps(found).encode(), bytes(n_data))


SOUND = header({"a": counted(2, 3), "b": counted(4), "c": counted(1, 2, 2)})
N_SOUND = 24 + 16 + 16


def with_offsets(**changed: tuple[int, int]) -> dict[str, Any]:
    """The sound header with other data_offsets."""
    return {
        name: {**e, "data_offsets": list(changed.get(name, e["data_offsets"]))}
        for name, e in SOUND.items()
    }


def test_order_in_the_header_does_not_matter() -> None:
    """Tensors come in the order of their data, whatever the order of their names."""
    tensors = read_tensors(Held(of(dict(reversed(SOUND.items())), N_SOUND)))
    assert list(tensors) == ["a", "b", "c"]


def test_every_dtype_of_safetensors_is_known() -> None:
    """None of the dtypes that the format has is called unknown, sub-byte ones included."""
    for dtype, bits in BITS.items():
        tensors = read_tensors(Held(of({"t": entry(dtype, [2, 8], 0, 2 * bits)}, 2 * bits)))
        assert tensors["t"].stored == dtype
        assert tensors["t"].raw(0, 2).shape == (2, bits)


def test_rows_that_end_inside_a_byte() -> None:
    """Three 4-bit values are no whole row of bytes: listed, but not read."""
    tensor = read_tensors(Held(of({"t": entry("F4", [2, 3], 0, 3)}, 3)))["t"]
    with pytest.raises(SourceError, match="t: a row of 3 F4 values ends inside a byte"):
        tensor.raw(0, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected a safetensors file, got 0 bytes"),
        (b"\x02\0\0\0\0\0\0\0{", "got 9 bytes"),
        (framed(b"[1, 2]"), "a header that begins with '{'"),
        (framed(b" {}"), "a header that begins with '{'"),
        (framed(b"{]}"), "not valid JSON"),
        (framed(b'{"a": "\xff"}'), "not valid JSON"),
        (framed(b'{"a":' * 100_000), "nested too deeply"),
        (framed(b'{"a":1}{}'), "not valid JSON"),
        (framed(b'{"a":1,"a":1}'), "the key a appears twice"),
        (framed(b'{"a": {"dtype": "F32", "dtype": "F16"}}'), "the key dtype appears twice"),
        (of({"__metadata__": {"a": 1}}), "__metadata__: Expected `str`"),
        (of({"t": []}), "t: Expected `object`"),
        (of({"t": {"dtype": "F32", "shape": [1]}}), "t: Object missing required field"),
        (of({"t": entry("F5", [1], 0, 4)}, 4), "t: unknown dtype 'F5'"),
        (of({"t": entry("F32", [-1], 0, 4)}, 4), "t: Expected `int` >= 0"),
        (of({"t": entry("F32", [1.0], 0, 4)}, 4), "t: Expected `int`, got `float`"),  # type: ignore[list-item]
        (of({"t": entry("F32", [2**70], 0, 4)}, 4), "t: Expected `int` <="),
        (of({"t": entry("F32", [2**62, 2**62], 0, 4)}, 4), "t: a shape of"),
        (of({"t": entry("F32", [2**62, 2**62, 0], 0, 0)}), "too large to be meant"),
        (of({"t": entry("F32", [1] * 65, 0, 4)}, 4), "t: expected at most 64 dimensions"),
        (
            of({"t": entry("F32", [3], 0, 8)}, 8),
            "F32 of shape [3] needs 12 bytes, data_offsets give 8",
        ),
        (of({"t": entry("F4", [3], 0, 1)}, 1), "needs 1.5 bytes"),
        (of({"t": entry("F32", [1], 4, 0)}, 4), "data_offsets give -4"),
        (of(with_offsets(b=(20, 36)), N_SOUND), "b: data begins at 20 and overlaps with a"),
        (of(with_offsets(b=(0, 16)), N_SOUND), "a: data begins at 0 and overlaps with b"),
        (of(with_offsets(c=(48, 64)), 64), "c: data begins at 48 and leaves a hole after b"),
        (of(with_offsets(a=(8, 32)), 64), "a: data begins at 8 and leaves a hole after the header"),
        (of(SOUND, N_SOUND - 1), "c: truncated: expected data up to 56"),
        (of(SOUND, N_SOUND - 30), "b: truncated: expected data up to 40"),
        (of(SOUND, N_SOUND + 1), "expected 56 bytes of data after the header, got 57"),
        (of(SOUND, N_SOUND)[:100], "truncated: expected a header of"),
    ],
)
def test_damaged_headers(content: bytes, said: str) -> None:
    """Each kind of damage is told from the others, and names the tensor that shows it."""
    assert said in refused(content)


@pytest.mark.parametrize("claimed", [11, 1 << 40])
def test_an_absurd_length_is_not_allocated(claimed: int) -> None:
    """A header that would be 100 MB or 2^63 bytes long costs nothing to refuse."""
    tracemalloc.start()
    for n in (100_000_000, 100_000_001, (1 << 64) - 1):
        refused(n.to_bytes(8, "little") + b"\0\0\0", claimed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_long_name_or_shape_makes_no_long_message() -> None:
    """A message stays readable, whatever a header holds."""
    assert len(refused(of({"n" * 100_000: entry("F32", [3], 0, 8)}, 8))) < 500
    assert len(refused(of({"t": entry("F" * 100_000, [3], 0, 8)}, 8))) < 500


numbers = st.integers(-(2**66), 2**66) | st.integers(0, 40)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(sorted(BITS)) | values,
        "shape": st.lists(numbers, max_size=4) | values,
        "data_offsets": st.lists(numbers, min_size=2, max_size=2) | values,
    }
)


@given(st.dictionaries(st.text(max_size=3), entries | values, max_size=4), st.integers(0, 100))
def test_any_object_gives_tensors_or_source_error(found: dict[str, Any], n_data: int) -> None:
    """Objects of about the right form: sound ones are read, all others give SourceError."""
    try:
        parsed = parse_header(
            json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"), "m", n_data
        )
    except SourceError:
        return
    assert sum(e.data_offsets[1] - e.data_offsets[0] for e in parsed.values()) == n_data


@given(st.data())
@settings(max_examples=400)
def test_any_damage_to_a_file_gives_tensors_or_source_error(data: st.DataObject) -> None:
    """Bytes of a sound file changed, cut out, or put in twice: what is still read is all inside.

    The reference library agrees: a file that it refuses is refused here.
    """
    content = bytearray(of(SOUND, N_SOUND))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        to = data.draw(st.integers(at, min(at + 20, len(content))))
        new = data.draw(st.binary(max_size=4) | st.just(bytes(content[at:to]) * 2))
        content[at:to] = new
        if not content:
            break
    try:
        tensors = read_tensors(Held(bytes(content)))
    except SourceError:
        return
    theirs = dict(deserialize(bytes(content)))
    assert {name: t.shape for name, t in tensors.items()} == {
        name: tuple(t["shape"]) for name, t in theirs.items()
    }
    for name, tensor in tensors.items():
        assert tensor.raw(0, tensor.n_rows).tobytes() == bytes(theirs[name]["data"])


@pytest.mark.parametrize("content", [of(SOUND, N_SOUND - 1), of(SOUND, N_SOUND + 1), of({"t": []})])
def test_the_reference_refuses_them_too(content: bytes) -> None:
    """We are not stricter than the format: samples of what is refused, seen by its own library."""
    with pytest.raises(SafetensorError):
        deserialize(content)
