"""A plan is exact: the header it measures is the header that is written."""

# SPDX-License-Identifier: MIT

import contextlib
import io

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufmix.codecs import encoder
from ggufmix.container import array, boolean, f32, header, i32s, read_header, text, texts, u32
from ggufmix.errors import ModelError, SourceError
from ggufmix.planning import Plan, in_order, lay_out
from ggufmix.tensor import Placed, held


def placed(name: str, layer: int | None, *shape: int) -> Placed:
    return Placed(name, "FFN_UP", layer, held(name, np.zeros(shape, np.float32)))


VALUES = {
    "general.architecture": text("qwen35"),
    "a.count": u32(7),
    "a.scale": f32(0.5),
    "a.flag": boolean(True),
    "a.layers": i32s([1, -2, 3]),
    "a.words": texts(["", "Ġthe", b"\xff\xfe"]),
    "a.big": array(gguf.GGUFValueType.UINT64, [2**63]),
}


def plan() -> Plan:
    tensors = [
        placed("output_norm.weight", None, 64),
        placed("blk.0.ffn_up.weight", 0, 3, 32),
        placed("blk.0.x", 0, 2, 3, 32),
    ]
    kinds = [encoder("F32"), encoder("Q8_0"), encoder("Q4_0")]
    return Plan(
        "q8_0",
        "qwen35",
        VALUES,
        lay_out((t, k, "test", None) for t, k in zip(tensors, kinds, strict=True)),
    )


def test_offsets_and_sizes() -> None:
    """Each tensor begins at a multiple of 32; the total is header and padded data."""
    made = plan()
    assert [(t.offset, t.n_bytes) for t in made.tensors] == [(0, 256), (256, 102), (384, 108)]
    assert made.total_bytes == len(made.header) + 512
    assert len(made.header) % 32 == 0


def test_the_header_is_what_gguf_reads(tmp_path) -> None:
    """The gguf package reads every value, name, shape and offset as they were meant."""
    made = plan()
    file = tmp_path / "x.gguf"
    file.write_bytes(made.header + bytes(made.data_bytes))
    read = gguf.GGUFReader(file)
    assert {k: read.get_field(k).contents() for k in VALUES if k != "a.words"} == {
        k: v.data for k, v in VALUES.items() if k != "a.words"
    }
    assert [bytes(read.get_field("a.words").parts[i]) for i in read.get_field("a.words").data] == [
        b"",
        "Ġthe".encode(),
        b"\xff\xfe",
    ]
    assert [(t.name, list(t.shape), t.tensor_type.name) for t in read.tensors] == [
        ("output_norm.weight", [64], "F32"),
        ("blk.0.ffn_up.weight", [32, 3], "Q8_0"),
        ("blk.0.x", [32, 3, 2], "Q4_0"),
    ]
    assert [t.data_offset - read.data_offset for t in read.tensors] == [
        t.offset for t in made.tensors
    ]


def test_the_header_reads_back() -> None:
    """Our reader gives back what our writer wrote."""
    made = plan()
    read = read_header(io.BytesIO(made.header), made.total_bytes, "x.gguf")
    assert read.data_at == len(made.header)
    assert {k: (v.type, v.item) for k, v in read.values.items()} == {
        k: (v.type, v.item) for k, v in VALUES.items()
    }
    assert header(read.values, read.tensors) == made.header


@given(st.data())
def test_a_damaged_header_is_an_error_and_nothing_else(data: st.DataObject) -> None:
    """Whatever bytes are flipped or cut, only SourceError comes out: no crash, no hunger."""
    raw = bytearray(plan().header)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    with contextlib.suppress(SourceError):
        read_header(io.BytesIO(cut), len(cut), "x.gguf")


@pytest.mark.parametrize(
    ("at", "raw", "says"),
    [
        (0, b"GGML", "magic"),
        (4, b"\x01", "version 2 or 3, got 1"),
        (8, b"\xff" * 8, "cannot fit"),
        (16, b"\xff" * 8, "cannot fit"),
        (24, b"\xff" * 8, "truncated"),
    ],
)
def test_a_header_that_lies(at: int, raw: bytes, says: str) -> None:
    """A header that claims the impossible is refused by what it claims, before anything is
    allocated.
    """
    made = bytearray(plan().header)
    made[at : at + len(raw)] = raw
    with pytest.raises(SourceError, match=says):
        read_header(io.BytesIO(bytes(made)), len(made), "x.gguf")


def test_the_order_is_that_of_llama_quantize() -> None:
    """Outside the blocks first, then by layer as a number, then by the bytes of the name."""
    names = ["blk.10.a", "token_embd.weight", "blk.9.b", "blk.9.B", "output.weight"]
    made = in_order(
        placed(n, int(n.split(".")[1]) if n.startswith("blk") else None, 2, 2) for n in names
    )
    assert [p.name for p in made] == [
        "output.weight",
        "token_embd.weight",
        "blk.9.B",
        "blk.9.b",
        "blk.10.a",
    ]


def test_names_that_cannot_be_written() -> None:
    """A name llama.cpp cannot hold, and two tensors with one name, are refused."""
    with pytest.raises(ModelError, match="63 bytes"):
        lay_out([(placed("x" * 64, None, 2, 2), encoder("F32"), "", None)])
    with pytest.raises(ModelError, match="two tensors"):
        lay_out([(placed("x", None, 2, 2), encoder("F32"), "", None)] * 2)
