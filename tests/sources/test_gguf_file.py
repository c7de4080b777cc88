"""GGUF files as a source: what is read is what others read, and what cannot be is refused."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import contextlib
import ctypes
import shutil
import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources.gguf_build import blocks_of, gguf_file, raw_file

from ggufmix.codecs import format_named
from ggufmix.container import Header, TensorInfo, u32
from ggufmix.errors import FormatError, SourceError, UsageError
from ggufmix.sources import open_gguf
from ggufmix.sources.gguf_file import check_extents
from ggufmix.sources.scales import first_bad

QUANTIZED = [
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "IQ4_NL", "IQ4_XS"),
    *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
]


def noise(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def some() -> dict[str, tuple[str, np.ndarray]]:
    """Tensors of several types, shapes and dimensions."""
    return {
        "token_embd.weight": ("F16", noise(5, 64, dtype=np.float16)),
        "blk.0.attn_norm.weight": ("F32", noise(64)),
        "blk.0.ffn_down_exps.weight": ("Q4_0", blocks_of("Q4_0", 6, 64).reshape(2, 3, -1)),
        "blk.1.ffn_up.weight": ("Q6_K", blocks_of("Q6_K", 3, 256)),
        "blk.1.odd": ("I32", np.arange(12, dtype=np.int32).reshape(3, 4)),
    }


def refused(content: bytes, path: Path) -> str:
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        open_gguf(path)
    return str(caught.value)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_blocks_and_values_of_every_type(tmp_path: Path, kind: str) -> None:
    """Blocks come as they lie, values as the gguf package decodes them, for any range of rows."""
    raw = blocks_of(kind, 7, 512)
    path = gguf_file(tmp_path / "x.gguf", {"a": ("F32", noise(3)), "t.weight": (kind, raw)})
    with open_gguf(path) as found:
        tensor = found.tensors["t.weight"]
        assert (tensor.shape, str(tensor.format)) == ((7, 512), kind)
        assert np.array_equal(tensor.blocks(2, 5), raw[2:5])
        theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
        assert np.array_equal(tensor.rows(2, 5), theirs[2:5])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_values_of_float_types(tmp_path: Path, dtype: type) -> None:
    """Floats come in their own dtype, and have no blocks; F64 is rounded to float32."""
    kind = {"float64": "F64", "float16": "F16", "bfloat16": "BF16"}.get(np.dtype(dtype).name, "F32")
    x = noise(2, 3, 5, dtype=dtype)
    with open_gguf(gguf_file(tmp_path / "x.gguf", {"t": (kind, x)})) as found:
        tensor = found.tensors["t"]
        assert tensor.format is None
        assert tensor.shape == (2, 3, 5)
        wanted = x.astype(np.float32) if kind == "F64" else x
        assert tensor.all().tobytes() == wanted.tobytes()


def test_integers_have_blocks_only(tmp_path: Path) -> None:
    """Integers are no weights: they can be copied, not decoded."""
    with open_gguf(gguf_file(tmp_path / "x.gguf", some())) as found:
        tensor = found.tensors["blk.1.odd"]
        assert tensor.blocks(1, 2).view(np.int32).tolist() == [[4, 5, 6, 7]]
        with pytest.raises(FormatError, match="I32 cannot be decoded"):
            tensor.rows(0, 1)


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_alignment_is_honoured(tmp_path: Path, alignment: int) -> None:
    """Data is found where general.alignment puts it, as the gguf package finds it."""
    path = gguf_file(tmp_path / "x.gguf", some(), alignment=alignment)
    theirs = {t.name: t.data.tobytes() for t in gguf.GGUFReader(path).tensors}
    with open_gguf(path) as found:
        assert {n: t.raw(0, t.n_rows).tobytes() for n, t in found.tensors.items()} == theirs


def test_key_values_keep_type_and_order(tmp_path: Path) -> None:
    """Known and unknown keys, as the gguf package wrote them."""
    with open_gguf(gguf_file(tmp_path / "x.gguf", some())) as found:
        assert [(k, v.type.name, v.data) for k, v in found.values.items()] == [
            ("general.architecture", "STRING", "llama"),
            ("llama.block_count", "UINT32", 2),
            ("llama.odd", "FLOAT32", float(np.float32(0.1))),
            ("llama.list", "ARRAY", [3, 1, 2]),
            ("unknown.key", "STRING", "kept"),
        ]


def split(folder: Path, each: int = 2) -> list[Path]:
    """The tensors of `some` in parts."""
    gguf_file(folder / "m.gguf", some(), split=each)
    return sorted(folder.glob("m-*.gguf"))


def test_a_split_file_is_one(tmp_path: Path) -> None:
    """From any of its parts: tensors and their bytes as in the file that is not split."""
    whole = gguf_file(tmp_path / "whole.gguf", some())
    parts = split(tmp_path)
    assert len(parts) == 3
    with open_gguf(whole) as one:
        for part in parts:
            with open_gguf(part) as found:
                assert found.where == parts[0].name
                assert [f.name for f in found.files] == [p.name for p in parts]
                assert list(found.tensors) == list(one.tensors)
                for name, tensor in one.tensors.items():
                    there = found.tensors[name]
                    assert there.raw(0, there.n_rows).tobytes() == (
                        tensor.raw(0, tensor.n_rows).tobytes()
                    )
                assert found.values["unknown.key"] == one.values["unknown.key"]


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    """The file that is not there, not the one that was given."""
    parts = split(tmp_path)
    parts[1].unlink()
    with pytest.raises(SourceError, match=r"m-00002-of-00003.gguf: missing"):
        open_gguf(parts[0])


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    """A part of another file, one twice, a file of its own under a part's name, a new name."""
    parts = split(tmp_path)
    kept = parts[1].read_bytes()
    shutil.copy(parts[2], parts[1])
    with pytest.raises(SourceError, match=r"m-00002-of-00003.gguf: expected split.no of 1, got 2"):
        open_gguf(parts[0])
    gguf_file(parts[1], {"blk.0.x": ("F32", noise(4))})
    with pytest.raises(SourceError, match=r"m-00002-of-00003.gguf: expected split.count of 3"):
        open_gguf(parts[0])
    (tmp_path / "other").mkdir()
    gguf_file(tmp_path / "other" / "m.gguf", dict(list(some().items())[1:]), split=2)
    parts[1].write_bytes(kept)
    shutil.copy(tmp_path / "other" / "m-00001-of-00002.gguf", tmp_path / "renamed.gguf")
    with pytest.raises(SourceError, match="one of 2 parts of a split file, expected a name"):
        open_gguf(tmp_path / "renamed.gguf")
    more = {**some(), "blk.1.more": ("F32", noise(4))}
    gguf_file(tmp_path / "other" / "n.gguf", more, split=2)
    shutil.copy(tmp_path / "other" / "n-00003-of-00003.gguf", parts[2])
    with pytest.raises(SourceError, match=r"m-00003-of-00003.gguf: split.tensors.count is 6"):
        open_gguf(parts[0])


def test_a_tensor_in_two_parts(tmp_path: Path) -> None:
    """There is no telling which one is meant."""
    gguf_file(tmp_path / "m.gguf", {n: ("F32", noise(4)) for n in "abc"}, split=1)
    second = tmp_path / "m-00002-of-00003.gguf"
    b, a = (struct.pack("<Q", 1) + name for name in (b"b", b"a"))
    second.write_bytes(second.read_bytes().replace(b, a))
    with pytest.raises(SourceError, match=r"m-00002-of-00003.gguf: a: is in m-00001-of-00003"):
        open_gguf(second)


@pytest.mark.parametrize(
    ("infos", "n_data", "says"),
    [
        ([("a", (32,), "F32", 0)], 127, "truncated: a ends at byte"),
        ([("a", (32,), "F32", 2**40)], 128, "truncated: a ends at byte"),
        ([("a", (32,), "F32", 16)], 512, "misaligned: offset 16 is no multiple of 32"),
        (
            [("a", (32,), "F32", 0), ("b", (8,), "F32", 96)],
            512,
            "b: data begins at 96 and overlaps",
        ),
        ([("b", (8,), "F32", 0), ("a", (8,), "F32", 0)], 512, "data begins at 0 and overlaps"),
        ([("a", (33,), "Q8_0", 0)], 512, "rows of 33 do not fill Q8_0"),
        ([("a", (0, 4), "F32", 0)], 512, r"a shape of \[0, 4\] holds nothing"),
        ([("a", (2**32, 2**31), "F32", 0)], 512, "too large to be meant"),
        ([("a", (2**62, 2**62, 2**62, 32), "Q8_0", 0)], 512, "too large to be meant"),
        ([("", (4,), "F32", 0)], 512, "expected a name"),
        ([("a", (4,), "F32", 0), ("a", (4,), "F32", 32)], 512, "tensor 'a' appears twice"),
    ],
)
def test_tensors_that_cannot_be(
    tmp_path: Path, infos: list[tuple[str, tuple[int, ...], str, int]], n_data: int, says: str
) -> None:
    """Each kind of false claim is told from the others and names file and tensor."""
    path = tmp_path / "x.gguf"
    path.write_bytes(raw_file(infos, n_data))
    with pytest.raises(SourceError, match=f"x.gguf: .*{says}|x.gguf: {says}"):
        open_gguf(path)


def test_what_llama_quantize_lays_out_wrongly(tmp_path: Path) -> None:
    """It copies general.alignment and ignores it: the error says whose work that is."""
    values = {"general.alignment": u32(64)}
    path = tmp_path / "x.gguf"
    infos = [("a", (8,), "F32", 0), ("b", (8,), "F32", 32)]
    path.write_bytes(raw_file(infos, 512, values, 64))
    with pytest.raises(SourceError, match="offset 32 is no multiple of 64") as caught:
        open_gguf(path)
    assert "llama-quantize" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "truncated"),
        (b"GGML" + bytes(60), "expected the magic"),
        (b"GGUF\x01\0\0\0" + bytes(60), "expected GGUF version 2 or 3, got 1"),
        (b"GGUF\0\0\0\x03" + bytes(60), "expected GGUF version"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 16, "cannot fit"),
        (b"GGUF\x03\0\0\0" + struct.pack("<QQ", 0, 1) + struct.pack("<QQ", 2**63, 0), "truncated"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, says: str) -> None:
    """Wrong magic, version or counts end with what was expected and what came."""
    assert says in refused(content, tmp_path / "x.gguf")


def test_a_header_of_terabytes_costs_nothing(tmp_path: Path) -> None:
    """Claims that a huge sparse file could cover are refused within a second and few megabytes."""
    path = tmp_path / "x.gguf"
    start = b"GGUF\x03\0\0\0" + struct.pack("<QQ", 2**32, 1)
    key = struct.pack("<Q", 1) + b"k"
    claims = {
        "an array of": key + struct.pack("<IIQ", 9, 0, 2**39),
        "strings is too long": key + struct.pack("<IIQ", 9, 8, 2**36),
        "a string of": key + struct.pack("<IQ", 8, 2**39),
        "a key": struct.pack("<Q", 2**39),
        "appears twice": key + struct.pack("<IB", 7, 1),
    }
    for says, claim in claims.items():
        path.write_bytes(start + claim)
        with path.open("r+b") as file:
            file.truncate(2**40)
        tracemalloc.start()
        begun = time.process_time()
        with pytest.raises(SourceError, match=says):
            open_gguf(path)
        assert time.process_time() - begun < 1
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
        tracemalloc.stop()


@pytest.mark.parametrize("alignment", [0, 3, 48, 2**31])
def test_alignments_that_cannot_be(tmp_path: Path, alignment: int) -> None:
    """No power of two, or one that would make a header of gigabytes."""
    content = raw_file([("a", (8,), "F32", 0)], 32, {"general.alignment": u32(alignment)})
    assert "general.alignment: expected a power of two" in refused(content, tmp_path / "x.gguf")


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    """A folder and a name without a file are wrong commands."""
    for path in (tmp_path, tmp_path / "x.gguf"):
        with pytest.raises(UsageError, match="is no file"):
            open_gguf(path)


infos = st.tuples(
    st.lists(st.sampled_from([0, 1, 2, 32, 33, 64, 2**20, 2**33, 2**63]), max_size=4),
    st.sampled_from(["F32", "BF16", "Q8_0", "I8"]),
    st.integers(0, 12).map(lambda n: 32 * n) | st.integers(0, 2**64 - 1),
)


@given(st.lists(infos, max_size=5), st.integers(0, 2**12))
def test_any_extents_are_apart_and_inside_or_refused(
    drawn: list[tuple[list[int], str, int]], n_data: int
) -> None:
    """Whatever a header claims: what is accepted lies inside the file, aligned and alone."""
    listed = [
        TensorInfo(f"t{i}", tuple(shape), gguf.GGMLQuantizationType[kind], at)
        for i, (shape, kind, at) in enumerate(drawn)
    ]
    try:
        check_extents(Header(3, {}, listed, 32, 96), 96 + n_data, "x.gguf")
    except SourceError:
        return
    taken = np.zeros(n_data, bool)
    for info in listed:
        size, n_bytes = gguf.GGML_QUANT_SIZES[info.type]
        n = int(np.prod(info.shape, dtype=object)) // size * n_bytes
        assert info.offset % 32 == 0
        assert info.offset + n <= n_data
        assert not taken[info.offset : info.offset + n].any()
        taken[info.offset : info.offset + n] = True


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_gives_tensors_or_source_error(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes of a sound file changed or cut: nothing but SourceError comes out, and what is still
    accepted can be read to its last row.
    """
    sound = gguf_file(tmp_path / "sound.gguf", some()).read_bytes()
    content = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 900))
        content[at] = data.draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    cut = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    path = tmp_path / "x.gguf"
    path.write_bytes(content[:cut])
    with contextlib.suppress(SourceError), open_gguf(path) as found:
        for tensor in found.tensors.values():
            assert tensor.raw(0, tensor.n_rows).shape[0] == tensor.n_rows


@pytest.mark.parametrize("kind", QUANTIZED)
def test_bad_scales_are_those_that_llama_cpp_refuses(kind: str) -> None:
    """Of blocks of noise with any scale, the first that `ggml_validate_row_data` refuses."""
    check = oracle.library().ggml_validate_row_data
    check.restype = ctypes.c_bool
    check.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    _, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rng = np.random.default_rng(5)
    blocks = rng.integers(0, 256, (6000, n_bytes), np.uint8)
    blocks[::3] |= rng.integers(0, 256, (2000, n_bytes), np.uint8)  # many bits set
    number = int(gguf.GGMLQuantizationType[kind])
    theirs = [not check(number, block.ctypes.data, n_bytes) for block in blocks]
    ours = [first_bad(block[np.newaxis], format_named(kind)) is not None for block in blocks]
    assert ours == theirs
    if kind != "NVFP4":
        assert 0 < sum(theirs) < len(theirs)
        first = first_bad(blocks.reshape(600, -1), format_named(kind))
        assert first == divmod(theirs.index(True), 10)


def test_a_bad_scale_is_named_by_place(tmp_path: Path) -> None:
    """File, tensor, row and block; for values as for blocks, whatever band it is read in."""
    raw = blocks_of("Q8_0", 6, 96)
    raw[4, 2 * 34 : 2 * 34 + 2] = 0, 0x7C
    with open_gguf(gguf_file(tmp_path / "x.gguf", {"t.weight": ("Q8_0", raw)})) as found:
        tensor = found.tensors["t.weight"]
        assert tensor.rows(0, 4).shape == (4, 96)
        for read in (tensor.rows, tensor.blocks):
            with pytest.raises(SourceError, match=r"x.gguf: t.weight: row 4, block 2: .* finite"):
                read(3, 6)
