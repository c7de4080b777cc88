"""Files in parts: as gguf-split lays them out, as llama.cpp loads them, and back to one file."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from golden.make_splits import described
from sources.gguf_build import blocks_of, gguf_file
from writing.test_checksums import damage

import ggufmix
from ggufmix import checksums, mending, sources
from ggufmix.errors import SourceError, UsageError, WriteError
from ggufmix.pipeline import Options
from ggufmix.runtime import Llama
from ggufmix.splitting import Limits, merge, split
from ggufmix.writing import keeping

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "splits.json").read_text())


@pytest.fixture(scope="module")
def whole(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model in Q8_0, as one file."""
    out = tmp_path_factory.mktemp("whole") / "whole.gguf"
    ggufmix.convert(example, out)
    return out


def limits(options: list[str]) -> Limits:
    """What gguf-split's options say."""
    given = dict(zip(options, [*options[1:], ""], strict=True))
    count = given.get("--split-max-tensors")
    return Limits.of(
        given.get("--split-max-size"),
        int(count) if count is not None else None,
        bare_first="--no-tensor-first-split" in options,
    )


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda g: " ".join(g["options"]))
def test_parts_are_those_of_gguf_split(
    golden: dict[str, Any], whole: Path, example: Path, tmp_path: Path
) -> None:
    """The same names, keys and places, whether a file is split or a checkpoint converted in parts,
    which are the same bytes; and merged they are the bytes of the file that was never split.
    """
    for folder in ("split", "convert"):
        (tmp_path / folder).mkdir()
    wanted = limits(golden["options"])
    paths = split(whole, wanted, tmp_path / "split" / "x")
    assert described(tmp_path / "split") == golden["parts"]
    assert [p.name for p in paths] == list(golden["parts"])
    result = ggufmix.convert(example, tmp_path / "convert" / "x.gguf", split=wanted)
    assert [p.name for p in result.paths] == list(golden["parts"])
    for a, b in zip(paths, result.paths, strict=True):
        assert a.read_bytes() == b.read_bytes()
    for part in (paths[0], paths[-1]):
        merged = merge(part, tmp_path / "merged.gguf", overwrite=True)
        assert merged.read_bytes() == whole.read_bytes()


def test_llama_cpp_runs_the_parts(whole: Path, tmp_path: Path) -> None:
    """Loaded by the first part, they give the logits of the whole."""
    tokens = list(range(5, 25))
    with Llama(whole) as model:
        want = model.logits(tokens)
    for bare in (False, True):
        paths = split(whole, Limits(None, 20, bare), tmp_path / f"x{bare}")
        with Llama(paths[0]) as model:
            np.testing.assert_array_equal(model.logits(tokens), want)


def test_checksums_of_parts(whole: Path, tmp_path: Path) -> None:
    """The first part has those of all tensors, each part that of its header."""
    paths = split(whole, Limits(None, 20), tmp_path / "x")
    stated = gguf.GGUFReader(whole).get_field(checksums.TENSORS).contents()
    for i, path in enumerate(paths):
        with sources.open_gguf(path) as file:
            assert list(file.values[checksums.TENSORS].data) == stated
        with path.open("rb") as raw:
            from ggufmix.container import read_header

            header = read_header(raw, path.stat().st_size, path.name)
        assert (checksums.TENSORS in header.values) == (i == 0)
        data = path.read_bytes()[: header.data_at]
        assert checksums.of_header(data, header.values) == header.values[checksums.HEADER].data
    assert damage(merge(paths[0], tmp_path / "merged.gguf")) == set()


def test_damage_is_found_on_the_way(whole: Path, tmp_path: Path) -> None:
    """A tensor that is not what its checksum says is named, and nothing is left."""
    raw = bytearray(whole.read_bytes())
    tensor = gguf.GGUFReader(whole).tensors[30]
    raw[int(tensor.data_offset) + 77] ^= 4
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(raw)
    with pytest.raises(SourceError, match=f"{tensor.name}: its data is not what the file's"):
        split(bad, Limits(None, 20))
    assert [p.name for p in tmp_path.iterdir()] == ["bad.gguf"]


def test_damaged_headers_get_no_fresh_seal(whole: Path, tmp_path: Path) -> None:
    """One letter of a value is another: `split` and `merge` refuse it, since their own seal would
    hide it; `convert` of such a file says so. Without the seal it is a file like any other.
    """
    bad = tmp_path / "bad.gguf"
    data = bytearray(whole.read_bytes())
    data[data.index(b"4x2.9M")] ^= 2
    bad.write_bytes(data)
    with pytest.raises(SourceError, match=r"bad\.gguf: its header is not what its checksum says"):
        split(bad, Limits(tensors=30), tmp_path / "y.gguf")
    parts = split(whole, Limits(tensors=30), tmp_path / "z.gguf")
    data = bytearray(parts[1].read_bytes())
    data[data.index(b"ggufmix.header") + 26] ^= 1
    parts[1].write_bytes(data)
    with pytest.raises(SourceError, match=r"z-00002.*: its header is not what"):
        merge(parts[0], tmp_path / "y.gguf")
    [warning] = ggufmix.plan(bad).warnings
    assert "bad.gguf: its header is not what its checksum says" in warning
    mending.apply(mending.prepare(bad, mending.Edit({}, (checksums.HEADER,))))
    assert len(split(bad, Limits(tensors=30), tmp_path / "y.gguf")) > 1


def test_files_of_others(tmp_path: Path) -> None:
    """Files without checksums, with unknown keys, with another alignment, written by others in
    parts: their bytes come through, and no key is added.
    """
    tensors = {
        f"blk.{i}.x.weight": ("Q4_K", blocks_of("Q4_K", 3 + i, 256, seed=i)) for i in range(5)
    }
    for alignment in (None, 64, 512):
        folder = tmp_path / str(alignment)
        folder.mkdir()
        one = gguf_file(folder / "one.gguf", tensors, alignment=alignment)
        parts = split(one, Limits(None, 2))
        assert len(parts) == 3
        assert merge(parts[1], folder / "again.gguf").read_bytes() == one.read_bytes()
    gguf_file(tmp_path / "p.gguf", tensors, split=2)
    merged = merge(next(tmp_path.glob("p-*.gguf")), tmp_path / "m.gguf")
    with sources.open_gguf(tmp_path / "None" / "one.gguf") as a, sources.open_gguf(merged) as b:
        assert {k: v.data for k, v in a.values.items()} == {k: v.data for k, v in b.values.items()}
        for name, tensor in a.tensors.items():
            n = tensor.n_rows
            np.testing.assert_array_equal(tensor.raw(0, n), b.tensors[name].raw(0, n))


def test_a_tensor_larger_than_a_part(tmp_path: Path) -> None:
    """It has a part of its own, first or not; gguf-split gives up where it is the first."""
    tensors = {
        "a": ("F32", np.ones((300_000, 4), np.float32)),
        "b": ("F32", np.ones((4, 4), np.float32)),
        "c": ("F32", np.ones((300_000, 4), np.float32)),
    }
    one = gguf_file(tmp_path / "one.gguf", tensors)
    for bare in (False, True):
        paths = split(one, Limits.of("1M", bare_first=bare), tmp_path / f"x{bare}")
        names = [[t.name for t in gguf.GGUFReader(p).tensors] for p in paths]
        assert names == [[]] * bare + [["a"], ["b"], ["c"]]


def test_padding_counts(tmp_path: Path) -> None:
    """Tensors of 34 bytes take 64 each, as gguf-split counts them."""
    tensors = {f"t{i}": ("Q8_0", blocks_of("Q8_0", 1, 32, seed=i)) for i in range(5)}
    one = gguf_file(tmp_path / "one.gguf", tensors)
    paths = split(one, Limits(128))
    assert [len(gguf.GGUFReader(p).tensors) for p in paths] == [2, 2, 1]


def test_keep_split(whole: Path, example: Path, tmp_path: Path) -> None:
    """Each tensor stays in the part that it was in, in another type; a file that is no part has
    nothing to keep.
    """
    paths = split(whole, Limits(None, 20, bare_first=True), tmp_path / "x")
    options = Options("q4_0", allow_requantize=True)
    result = ggufmix.convert(paths[2], tmp_path / "y.gguf", options=options, keep_split=True)
    assert [p.name for p in result.paths] == [f"y-{i:05}-of-00005.gguf" for i in range(1, 6)]
    for old, new in zip(paths, result.paths, strict=True):
        assert [t.name for t in gguf.GGUFReader(old).tensors] == [
            t.name for t in gguf.GGUFReader(new).tensors
        ]
    ggufmix.convert(paths[0], tmp_path / "z.gguf", options=options)
    assert (
        merge(result.paths[0], tmp_path / "m.gguf").read_bytes()
        == (tmp_path / "z.gguf").read_bytes()
    )
    for source in (whole, example):
        with pytest.raises(UsageError, match="--keep-split is for a GGUF file in parts"):
            ggufmix.convert(source, tmp_path / "y.gguf", keep_split=True)


def test_a_stopped_run_of_parts_is_continued(
    whole: Path, example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the part on that it had reached; another limit is another plan."""
    wanted = Limits(None, 20)
    want = [p.read_bytes() for p in split(whole, wanted, tmp_path / "x")]

    def stop(_: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    (tmp_path / "new").mkdir()
    out = tmp_path / "new" / "x.gguf"
    with pytest.raises(KeyboardInterrupt):
        ggufmix.convert(example, out, split=wanted, threads=1, progress=stop)
    assert keeping.left(out.with_name("x-00001-of-00004.gguf"))
    assert not list(out.parent.glob("*.gguf"))
    result = ggufmix.convert(example, out, split=wanted, resume=True)
    assert result.resumed >= 20
    assert [p.read_bytes() for p in result.paths] == want
    assert len(list(out.parent.iterdir())) == 4


def test_outputs_are_guarded(whole: Path, tmp_path: Path) -> None:
    """Parts that exist are kept, and a source is never written over."""
    (tmp_path / "x-00002-of-00004.gguf").write_bytes(b"precious")
    with pytest.raises(WriteError, match=r"x-00002-of-00004\.gguf exists"):
        split(whole, Limits(None, 20), tmp_path / "x")
    paths = split(whole, Limits(None, 20), tmp_path / "x", overwrite=True)
    with pytest.raises(UsageError, match="expected another file than the source"):
        merge(paths[0], paths[1], overwrite=True)
    with pytest.raises(UsageError, match="is whole already"):
        merge(whole, tmp_path / "y.gguf")
    paths[2].unlink()
    with pytest.raises(SourceError, match="missing"):
        merge(paths[0], tmp_path / "y.gguf")
    assert not (tmp_path / "y.gguf").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--split-max-size", "45"], "a number and M or G"),
        (["--split-max-size", "0G"], "a number and M or G"),
        (["--split-max-size", "-1G"], "a number and M or G"),
        (["--split-max-size", "1.5G"], "a number and M or G"),
        (["--split-max-tensors", "0"], "at least 1"),
        (["--split-max-tensors", "3", "--split-max-size", "1G"], "got both"),
        (["--no-tensor-first-split"], "got neither"),
    ],
)
def test_limits_that_cannot_be_meant(
    whole: Path, example: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    """Each is a usage error that says what would be right, before anything is read or written."""
    for command in (["split", whole], ["convert", example]):
        run = subprocess.run(
            [sys.executable, "-m", "ggufmix", *command, "-o", tmp_path / "x", *options],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 2
        assert says in run.stderr
    assert not list(tmp_path.iterdir())


def test_the_commands(whole: Path, tmp_path: Path) -> None:
    """`split` names every part on stdout, `merge` the file."""
    command = [sys.executable, "-m", "ggufmix"]
    run = subprocess.run(
        [*command, "split", whole, "-o", tmp_path / "x", "--split-max-tensors", "40"],
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [line.split(":")[0] for line in run.stdout.splitlines()]
    assert paths == [str(tmp_path / f"x-0000{i}-of-00002.gguf") for i in (1, 2)]
    out = tmp_path / "y.gguf"
    run = subprocess.run(
        [*command, "merge", paths[1], "-o", out], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith(f"{out}: ")
    assert out.read_bytes() == whole.read_bytes()
