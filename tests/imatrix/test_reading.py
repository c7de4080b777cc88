"""What is read from an imatrix is what llama-quantize would use; what is damaged is refused."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imatrix import made

from ggufmix import imatrix
from ggufmix.errors import GgufmixError, ImportanceError, SourceError, UsageError

UP, EXPERTS = "blk.0.ffn_up.weight", "blk.0.ffn_up_exps.weight"
ENTRIES = {
    UP: made.entry(UP, 96, [4095]),
    EXPERTS: made.entry(EXPERTS, 64, [70001, 0, 3, 77777]),
}


def gguf_file(folder: Path, **more: Any) -> Path:
    return made.write_gguf(folder / "imatrix.gguf", ENTRIES, **more)


def test_values_of_a_gguf_file(tmp_path: Path) -> None:
    """Sums over counts in float32, ones where no token came; any slice is the slice of the whole,
    across experts too.
    """
    read = imatrix.read([gguf_file(tmp_path)])
    assert list(read.entries) == [UP, EXPERTS]
    for name, (sums, counts) in ENTRIES.items():
        entry, whole = read.entries[name], made.expected(sums, counts).ravel()
        assert entry.values(0, entry.n_values).tobytes() == whole.tobytes()
        for start, stop in ((0, 1), (5, 60), (63, 65), (40, 96)):
            assert entry.values(start, stop).tobytes() == whole[start:stop].tobytes()
    assert (read.datasets, read.chunk_count, read.chunk_size) == (
        ("data/calibration.txt",),
        10,
        512,
    )


def test_counts_are_rounded(tmp_path: Path) -> None:
    """Counts are rounded half away from zero, as by lround: 0.4 is none, 2.5 is three."""
    sums = np.full((4, 32), 6, np.float32)
    path = made.write_gguf(tmp_path / "i.gguf", {UP: (sums, [0.4, 0.5, 2.5, 4])})
    values = imatrix.read([path]).entries[UP].values(0, 128).reshape(4, 32)
    assert values[:, 0].tolist() == [1, 6, 2, 1.5]


@pytest.mark.parametrize("chunks", [10, None])
def test_values_of_a_legacy_file(tmp_path: Path, chunks: int | None) -> None:
    """Value over calls in float32, the values themselves at zero calls; with a trailer or without
    one, as files of 2023 are.
    """
    values = made.entry(UP, 96, [1, 7])[0]
    path = tmp_path / "imatrix.dat"
    path.write_bytes(made.legacy({UP: (values, 11), EXPERTS: (values, 0)}, chunks))
    read = imatrix.read([path])
    by_11 = values.ravel() / np.float32(11)
    assert read.entries[UP].values(0, 192).tobytes() == by_11.tobytes()
    assert read.entries[EXPERTS].values(100, 150).tobytes() == values.ravel()[100:150].tobytes()
    assert (read.datasets, read.chunk_count) == ((("data/cal.txt",), 10) if chunks else ((), 0))


def test_merging_adds_in_order(tmp_path: Path) -> None:
    """Sums and counts of GGUF files are added in float32, then divided; an entry that one file
    lacks is that of the other; datasets are listed one after another.
    """
    more = {
        EXPERTS: made.entry("other", 64, [5, 0, 0, 123456]),
        "blk.1.x.weight": made.entry("x", 32, [9]),
    }
    paths = [gguf_file(tmp_path), made.write_gguf(tmp_path / "b.gguf", more, datasets=["b"])]
    read = imatrix.read(paths)
    sums = ENTRIES[EXPERTS][0] + more[EXPERTS][0]
    whole = made.expected(sums, [70006, 0, 3, 201233])
    assert read.entries[EXPERTS].values(0, 256).tobytes() == whole.tobytes()
    alone = made.expected(*ENTRIES[UP])
    assert read.entries[UP].values(0, 96).tobytes() == alone.tobytes()
    assert read.datasets == ("data/calibration.txt", "b")
    assert read.chunk_count == 201233 // 512
    assert len(read.entries) == 3


@pytest.mark.parametrize("legacy_first", [True, False])
def test_merging_rescales_legacy_files(tmp_path: Path, legacy_first: bool) -> None:
    """Means times calls become sums by the chunk size of the GGUF file; the one count of a legacy
    file holds for each expert.
    """
    old = made.entry("old", 64, [1, 2, 3, 4])[0]
    (tmp_path / "old.dat").write_bytes(made.legacy({EXPERTS: (old, 6)}))
    paths = [gguf_file(tmp_path, chunk_size=256), tmp_path / "old.dat"]
    read = imatrix.read(paths[::-1] if legacy_first else paths)
    new, counts = ENTRIES[EXPERTS]
    scaled = old * np.float32(256)
    sums = scaled + new if legacy_first else new + scaled
    whole = made.expected(sums, [c + 6 * 256 for c in counts])
    assert read.entries[EXPERTS].values(0, 256).tobytes() == whole.tobytes()


def test_merging_different_models(tmp_path: Path) -> None:
    """Entries of different sizes are refused with the name and both files."""
    other = made.write_gguf(tmp_path / "b.gguf", {UP: made.entry(UP, 64, [1])})
    with pytest.raises(ImportanceError, match=rf"{UP}.*b\.gguf.*imatrix\.gguf"):
        imatrix.read([gguf_file(tmp_path), other])


def test_saving_is_llama_imatrix(tmp_path: Path) -> None:
    """A merged file is byte for byte what llama.cpp's writer makes of the sums and counts; it reads
    back as what was saved.
    """
    extra = {EXPERTS: made.entry("e", 64, [2, 0, 0, 2])}
    paths = [gguf_file(tmp_path), made.write_gguf(tmp_path / "b.gguf", extra, datasets=["b.txt"])]
    read = imatrix.read(paths)
    imatrix.save(read, tmp_path / "ours.gguf")
    total = {
        UP: ENTRIES[UP],
        EXPERTS: (ENTRIES[EXPERTS][0] + extra[EXPERTS][0], [70003, 0, 3, 77779]),
    }
    theirs = made.write_by_llama(
        tmp_path / "theirs.gguf", total, ["data/calibration.txt", "b.txt"], 77779 // 512, 512
    )
    assert (tmp_path / "ours.gguf").read_bytes() == theirs.read_bytes()
    again = imatrix.read([tmp_path / "ours.gguf"])
    for name, entry in read.entries.items():
        same = again.entries[name].values(0, entry.n_values)
        assert same.tobytes() == entry.values(0, entry.n_values).tobytes()


def test_a_legacy_file_becomes_gguf(tmp_path: Path) -> None:
    """Saved as GGUF, a legacy file keeps its values and its chunks."""
    values = made.entry(UP, 96, [3])[0]
    (tmp_path / "a.dat").write_bytes(made.legacy({UP: (values, 8)}, chunks=8))
    imatrix.save(imatrix.read([tmp_path / "a.dat"]), tmp_path / "a.gguf")
    read = imatrix.read([tmp_path / "a.gguf"])
    whole = values.ravel() / np.float32(8)
    assert read.entries[UP].values(0, 96).tobytes() == whole.tobytes()
    assert (read.chunk_count, read.chunk_size) == (8, 512)


def test_keys_are_llama_quantizes(tmp_path: Path) -> None:
    """The keys, types and order of llama-quantize, base names instead of paths, 127 bytes of
    each; chunks only where they are known.
    """
    keys = imatrix.read([gguf_file(tmp_path)]).keys()
    assert [(k, v.type.name, v.data) for k, v in keys.items()] == [
        ("quantize.imatrix.file", "STRING", "imatrix.gguf"),
        ("quantize.imatrix.dataset", "STRING", "calibration.txt"),
        ("quantize.imatrix.entries_count", "UINT32", 2),
        ("quantize.imatrix.chunks_count", "UINT32", 10),
    ]
    long = made.write_gguf(tmp_path / "l.gguf", ENTRIES, datasets=[r"C:\x\ü" + "é" * 90], chunks=0)
    keys = imatrix.read([long]).keys()
    assert keys["quantize.imatrix.dataset"].data == "ü" + "é" * 62
    assert "quantize.imatrix.chunks_count" not in keys


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw[:-40], "truncated"),
        (lambda raw: raw[:60], "truncated|cannot fit"),
        (lambda raw: raw[:4], "truncated"),
        (
            lambda raw: raw.replace(b"imatrix.chunk_size", b"imatrix.chunk_sizf"),
            "chunk_size is mis",
        ),
        (lambda raw: raw.replace(b"ffn_up.weight.counts", b"ffn_up.weight.countz"), UP),
        (lambda raw: raw.replace(b"ffn_up.weight.in_sum2", b"ffn_up.weight.in_sum3"), UP),
        (lambda raw: raw.replace(struct.pack("<f", 77777), struct.pack("<f", np.nan)), EXPERTS),
        (lambda raw: raw.replace(struct.pack("<f", 77777), struct.pack("<f", -1)), EXPERTS),
        (lambda raw: raw.replace(struct.pack("<f", 77777), struct.pack("<f", 1e30)), EXPERTS),
        (lambda raw: raw.replace(struct.pack("<Q", 96), struct.pack("<Q", 2**60)), "in_sum2"),
        (lambda raw: raw.replace(struct.pack("<Q", 96), struct.pack("<Q", 0)), "in_sum2 is empty"),
    ],
)
def test_damaged_gguf(tmp_path: Path, damage: Callable[[bytes], bytes], said: str) -> None:
    """Each is refused with the file, and the entry where it is one entry's fault."""
    path = gguf_file(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(damage(raw))
    assert path.read_bytes() != raw
    with pytest.raises(SourceError, match=rf"imatrix\.gguf.*({said})"):
        imatrix.read([path])


def test_a_model_is_no_imatrix(tmp_path: Path) -> None:
    """A GGUF model given by mistake is told from an imatrix."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor(UP, np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SourceError, match="no importance matrix") as caught:
        imatrix.read([tmp_path / "m.gguf"])
    assert "llama-imatrix" in str(caught.value.hint)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file, or a folder, cannot be meant."""
    for path in (tmp_path / "nowhere.dat", tmp_path):
        with pytest.raises(UsageError, match=path.name):
            imatrix.read([path])


def i32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "truncated"),
        (i32(0), "0 entries"),
        (i32(-1) + bytes(100), "-1 entries"),
        (i32(2**31 - 1) + bytes(100), "2147483647 entries"),
        (i32(1, -5) + bytes(100), "-5 bytes"),
        (i32(1, 2**31 - 1) + bytes(100), "2147483647 bytes"),
        (i32(1, 1) + b"a" + i32(1, -1) + bytes(40), "a: -1 values"),
        (i32(1, 1) + b"a" + i32(-1, 1) + bytes(40), "a: 1 values of -1 calls"),
        (i32(1, 1) + b"a" + i32(1, 2**31 - 1) + bytes(40), "truncated: a: 2147483647 values"),
        (i32(1, 2) + b"\xff\xfe" + i32(1, 1) + bytes(40), "no name"),
        (i32(2) + 2 * (i32(1) + b"a" + i32(1, 1) + bytes(4)), "a appears twice"),
        (i32(1, 1) + b"a" + i32(1, 1) + bytes(4) + i32(3, -9), "dataset: -9 bytes"),
        (i32(1, 1) + b"a" + i32(1, 1) + bytes(4) + i32(3, 9) + b"short", "truncated: the dataset"),
        (b"just some text that somebody has given by mistake", "entries cannot be"),
    ],
    ids=str,
)
def test_damaged_legacy(tmp_path: Path, raw: bytes, said: str) -> None:
    """Lengths and counts are held against the file before anything is made of them."""
    path = tmp_path / "imatrix.dat"
    path.write_bytes(raw)
    with pytest.raises(SourceError, match=rf"imatrix\.dat.*{said}"):
        imatrix.read([path])


def test_a_file_that_shrinks(tmp_path: Path) -> None:
    """Values that are gone when they are asked for are an error, not short vectors."""
    path = gguf_file(tmp_path)
    entry = imatrix.read([path]).entries[EXPERTS]
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(SourceError, match="shorter"):
        entry.values(0, entry.n_values)


@pytest.mark.parametrize("kind", ["gguf", "dat"])
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_is_our_error(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    """Whatever bytes change, a file is read or refused with an error of ours."""
    small = {UP: made.entry(UP, 8, [3]), EXPERTS: made.entry(EXPERTS, 4, [3, 0])}
    path = tmp_path / f"i.{kind}"
    if kind == "gguf":
        raw = bytearray(made.write_gguf(path, small).read_bytes())
    else:
        raw = bytearray(made.legacy({name: (sums, 5) for name, (sums, _) in small.items()}))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        new = data.draw(st.binary(min_size=1, max_size=8))
        raw[at : at + len(new)] = new
    path.write_bytes(
        raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    )
    with contextlib.suppress(GgufmixError):
        read = imatrix.read([path, path])
        for entry in read.entries.values():
            imatrix.examine(entry)
        imatrix.save(read, tmp_path / "out.gguf", overwrite=True)
        read.keys()
