"""Checksums in a file are those of its bytes, computed again by way of the gguf package."""

# SPDX-License-Identifier: MIT

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import ggufmix
from ggufmix import checksums
from ggufmix.container import Value, array, f32, header, i32s, text, texts, u32, value_at
from ggufmix.pipeline import Options


def damage(path: Path) -> set[str]:
    """Names of the tensors, and "header", whose checksum is not that of the bytes."""
    reader = gguf.GGUFReader(path)
    stated = reader.get_field(checksums.TENSORS).contents()
    assert len(stated) == len(reader.tensors)
    found = {
        t.name
        for t, want in zip(reader.tensors, stated, strict=True)
        if xxhash.xxh64(t.data.tobytes()).intdigest() != want
    }
    own = reader.get_field(checksums.HEADER)
    at = own.offset + sum(part.nbytes for part in own.parts[:-1])
    raw = bytearray(path.read_bytes()[: reader.data_offset])
    raw[at : at + 8] = bytes(8)
    return found if xxhash.xxh64(bytes(raw)).intdigest() == own.contents() else found | {"header"}


@pytest.mark.parametrize(("recipe", "threads"), [("q8_0", 1), ("q4_x", 5), ("bf16", 3)])
def test_a_file_carries_its_checksums(
    example: Path, tmp_path: Path, recipe: str, threads: int
) -> None:
    """Every tensor's and the header's, whatever was encoded, copied, or made by how many."""
    out = tmp_path / "x.gguf"
    ggufmix.convert(example, out, recipe, threads=threads)
    assert damage(out) == set()
    stated = gguf.GGUFReader(out).get_field(checksums.TENSORS).contents()
    assert len(set(stated)) > len(stated) // 2


def test_a_flipped_bit_shows_where_it_is(example: Path, tmp_path: Path) -> None:
    """In any key, any name, any tensor: one bit is enough."""
    out = tmp_path / "x.gguf"
    ggufmix.convert(example, out)
    raw = out.read_bytes()
    reader = gguf.GGUFReader(out)
    places = {t.name: int(t.data_offset + t.n_bytes // 2) for t in reader.tensors}
    places["header"] = raw.index(b"general.file_type") + len("general.file_type") + 4
    for name, at in places.items():
        out.write_bytes(raw[:at] + bytes([raw[at] ^ 16]) + raw[at + 1 :])
        assert damage(out) == {name}


def test_a_file_made_of_ours_has_checksums_of_its_own(example: Path, tmp_path: Path) -> None:
    """Those of the source are not carried over with its other keys."""
    ggufmix.convert(example, tmp_path / "a.gguf", "bf16")
    ggufmix.convert(tmp_path / "a.gguf", tmp_path / "b.gguf", "q8_0")
    ggufmix.convert(tmp_path / "b.gguf", tmp_path / "c.gguf", options=Options("q8_0"))
    assert damage(tmp_path / "b.gguf") == damage(tmp_path / "c.gguf") == set()
    keys = list(gguf.GGUFReader(tmp_path / "c.gguf").fields)
    assert keys.count(checksums.TENSORS) == keys.count(checksums.HEADER) == 1


def test_a_plan_has_room_for_them(example: Path) -> None:
    """Their place is planned, so that filling them in moves nothing."""
    made = ggufmix.plan(example)
    numbers = range(1, len(made.tensors) + 1)
    assert all(made.values[key].data == [0] * len(made.tensors) for key in checksums.ARRAYS)
    sealed = made.sealed(dict.fromkeys(checksums.ARRAYS, numbers))
    changed = np.flatnonzero(np.frombuffer(sealed, "u1") != np.frombuffer(made.header, "u1"))
    low, high = (value_at(made.values, key) for key in (checksums.TENSORS, checksums.HEADER))
    assert low <= changed.min() <= changed.max() < high + 8
    assert len(sealed) == len(made.header)


VALUES = st.one_of(
    st.integers(0, 2**32 - 1).map(u32),
    st.floats(width=32, allow_nan=False).map(f32),
    st.text(max_size=9).map(text),
    st.lists(st.text(max_size=3), max_size=4).map(texts),
    st.lists(st.integers(-9, 9), max_size=4).map(i32s),
)


@given(
    st.dictionaries(st.text(min_size=1, max_size=5), VALUES, max_size=6),
    st.dictionaries(st.text(min_size=6, max_size=9), VALUES, max_size=6),
    st.integers(0, 2**64 - 1),
)
def test_the_place_of_a_value(
    before: dict[str, Value], after: dict[str, Value], number: int
) -> None:
    """The number that was put into a header stands where `value_at` says, behind any other keys."""
    for value in (
        Value(gguf.GGUFValueType.UINT64, number),
        array(gguf.GGUFValueType.UINT64, [number, 7]),
    ):
        values = {**before, "🦙": value, **after}
        assert struct.unpack_from("<Q", header(values, []), value_at(values, "🦙")) == (number,)
    with pytest.raises(KeyError):
        value_at(before, "another one")
