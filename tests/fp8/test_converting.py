"""Whole folders in FP8: what is in them, and that it depends on nothing but the source."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import errno
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fp8.models import (
    DENSE,
    MOE,
    SIDE,
    arrays_of,
    config_of,
    dense,
    folder,
    loaded,
    moe,
    split,
    stored,
)
from fp8.plain import quantize
from sources.build import write_json

from ggufmix.errors import NotFiniteError, UsageError, WriteError
from ggufmix.fp8 import jobs
from ggufmix.fp8.coding import Mode, Search
from ggufmix.fp8.converting import Options, convert
from ggufmix.fp8.saving import How, bytes_of
from ggufmix.sources.layout import INDEX
from ggufmix.writing import keeping

MODES: tuple[Mode, ...] = ("max", "rms", "percentile", "mse")


@pytest.mark.parametrize("scale", ["bf16", "f32", "pow2"])
def test_every_tensor(tmp_path: Path, scale: str) -> None:
    """FP8 weights with their scales, experts one by one under the names of engines, everything else
    as it was: nothing lost, nothing invented.
    """
    out = tmp_path / "out"
    dtype = "f32" if scale == "f32" else "bf16"
    options = Options(search=Search("max"), scale_dtype=dtype, pow2=scale == "pow2")
    result = convert(moe(tmp_path / "src"), out, options)
    found = loaded(out / "model.safetensors")
    expected = split(arrays_of(MOE))
    fp8 = {name for name in found if f"{name}_scale_inv" in found}
    assert fp8 == {w.name for w in result.review.weights}
    assert found.keys() == expected.keys() | {f"{name}_scale_inv" for name in fp8}
    assert not any(".shared_expert." in name or "visual" in name for name in fp8)
    assert sum(".experts." in name for name in fp8) == 5 * 4 * 3
    for name, values in expected.items():
        if name in fp8:
            scales = found[f"{name}_scale_inv"]
            assert scales.dtype == (np.float32 if scale == "f32" else ml_dtypes.bfloat16)
            codes, exact = quantize(values.astype(np.float32), options.search, scale)
            np.testing.assert_array_equal(found[name].view(np.uint8), codes)
            np.testing.assert_array_equal(scales.astype(np.float32), exact)
        else:
            assert found[name].dtype == values.dtype
            assert found[name].tobytes() == values.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_layouts_threads_and_shards(tmp_path: Path, mode: Mode) -> None:
    """Stacked experts and single ones, one thread and three, one file and many: the same bytes of
    every tensor, and the same sums of errors.
    """
    options = Options(search=Search(mode))
    first = convert(moe(tmp_path / "a"), tmp_path / "out", options, How(threads=1))
    expected = stored(tmp_path / "out")
    for number, (fused, threads, shards, size) in enumerate(
        ((True, 3, 1, None), (False, 1, 3, None), (True, 2, 2, 1_000_000), (False, 3, 1, 300_000))
    ):
        src = moe(tmp_path / f"src{number}", shards, fused=fused)
        more = Options(search=Search(mode), max_shard_size=size)
        other = convert(src, tmp_path / f"out{number}", more, How(threads=threads))
        assert stored(tmp_path / f"out{number}") == expected
        assert {w.name: w.lost for w in other.review.weights} == {
            w.name: w.lost for w in first.review.weights
        }


@pytest.mark.parametrize("mode", ["rms", "mse"])
def test_statistics_weigh_the_columns_they_are_of(tmp_path: Path, mode: Mode) -> None:
    """Each expert by its own, in both layouts; weights that nothing is known of as without, and it
    is said so.
    """
    rng = np.random.default_rng(1)
    apart = split(arrays_of(MOE))
    known = {
        name: rng.lognormal(0, 3, values.shape[1]).astype(np.float32)
        for name, values in apart.items()
        if ".experts." in name and not name.startswith("mtp.")
    }
    for name in known:  # what meets gate meets up
        known[name] = known[name.replace("up_proj", "gate_proj")]
    held = {name: {"input_channel_max": values.tolist()} for name, values in known.items()}
    path = write_json(tmp_path / "stats.json", held)
    options = Options(search=Search(mode), statistics=path)
    result = convert(moe(tmp_path / "a"), tmp_path / "fused", options)
    convert(moe(tmp_path / "b", fused=False), tmp_path / "split", options)
    assert stored(tmp_path / "fused") == stored(tmp_path / "split")
    assert any("says nothing of" in sentence for sentence in result.planned.warnings)
    assert any("maxima" in sentence for sentence in result.planned.warnings)
    found = loaded(tmp_path / "fused" / "model.safetensors")
    weighed = 0
    for weight in result.review.weights:
        columns = known.get(weight.name)
        squares = None if columns is None else np.square(columns)
        codes, _ = quantize(apart[weight.name], options.search, "bf16", squares)
        np.testing.assert_array_equal(found[weight.name].view(np.uint8), codes)
        weighed += not np.array_equal(codes, quantize(apart[weight.name], options.search)[0])
    assert weighed > len(known) // 2


@pytest.mark.parametrize("mode", MODES)
def test_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    """Where tensors are cut into bands shows in no byte; a value that is no number is placed right
    in a later band too.
    """
    src = moe(tmp_path / "src", 2)
    options = Options(search=Search(mode))
    convert(src, tmp_path / "whole", options)
    monkeypatch.setattr(jobs, "BAND_BYTES", 1)
    review = convert(src, tmp_path / "cut", options, How(threads=3)).review
    assert stored(tmp_path / "cut") == stored(tmp_path / "whole")
    assert not any(weight.problem for weight in review.weights)
    arrays = arrays_of(DENSE)
    arrays["mtp.layers.0.mlp.up_proj.weight"][300, 9] = np.nan
    bad = folder(tmp_path / "bad", DENSE.raw_config(), arrays)
    with pytest.raises(NotFiniteError, match="row 300, column 9"):
        convert(bad, tmp_path / "out", options)


def test_modes_differ(tmp_path: Path) -> None:
    """The toolkit that came before wrote the same bytes for rms and max."""
    src = dense(tmp_path / "src")
    made = []
    for mode in MODES:
        convert(src, tmp_path / mode, Options(search=Search(mode)))
        made.append(stored(tmp_path / mode)["mtp.layers.0.mlp.up_proj.weight"])
    assert len({*made}) == len(MODES)


def test_config_says_what_is_there(tmp_path: Path) -> None:
    """The keys that engines read, the list of what is not FP8, and all else as it was."""
    out = tmp_path / "out"
    convert(dense(tmp_path / "src"), out)
    made = config_of(out)
    about = made.pop("quantization_config")
    assert made == DENSE.raw_config()
    listed = about.pop("modules_to_not_convert")
    assert about == {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    }
    assert "lm_head" in listed  # tied: transformers has the module, and would make it FP8
    tensors = stored(out)
    for module in listed:
        if module != "lm_head":
            assert f"{module}.weight" in tensors
            assert f"{module}.weight_scale_inv" not in tensors


def test_config_is_not_rounded(tmp_path: Path) -> None:
    """Order of keys, small floats, Infinity and other scripts come through."""
    src = dense(tmp_path / "src")
    text = json.dumps({**DENSE.raw_config(), "x": [1e-06, float("inf"), 0.1, "Größe", None]})
    (src / "config.json").write_text(text)
    convert(src, tmp_path / "out")
    made = json.loads((tmp_path / "out" / "config.json").read_text())
    before = json.loads(text)
    assert list(made)[:-1] == list(before)
    assert {k: v for k, v in made.items() if k != "quantization_config"} == before


def test_index_and_shards(tmp_path: Path) -> None:
    """By default files are named as in the source; --max-shard-size packs anew. The index has every
    tensor and the size of them all, which the toolkit before left at that of BF16.
    """
    src = dense(tmp_path / "src", shards=3)
    for name, options in (("as", Options()), ("anew", Options(max_shard_size=200_000))):
        out = tmp_path / name
        convert(src, out, options)
        index = json.loads((out / INDEX).read_text())
        files = sorted(p.name for p in out.glob("*.safetensors"))
        assert {*index["weight_map"].values()} == {*files}
        if name == "as":
            assert files == sorted(p.name for p in src.glob("*.safetensors"))
        else:
            n = len(files)
            assert n > 3
            assert files == [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
        size = 0
        for file in files:
            held = loaded(out / file)
            of_file = sum(v.nbytes for v in held.values())
            assert name == "as" or of_file <= 200_000 or len(held) == 1
            assert {n for n, f in index["weight_map"].items() if f == file} == held.keys()
            size += sum(v.nbytes for v in held.values())
            for weight in held:
                if weight.endswith("_scale_inv"):
                    assert weight.removesuffix("_scale_inv") in held
        assert index["metadata"]["total_size"] == size
    convert(src, tmp_path / "one", Options(max_shard_size=10**9))
    assert [p.name for p in (tmp_path / "one").glob("*.safetensors")] == ["model.safetensors"]
    assert not (tmp_path / "one" / INDEX).exists()


def test_values_lie_where_their_dtype_needs_them(tmp_path: Path) -> None:
    """A file in which a BF16 value begins at an odd byte cannot be mapped: sorted by size."""
    rng = np.random.default_rng(0)
    at = "model.layers.0.mlp."
    arrays: dict[str, np.ndarray] = {}
    for i, part in enumerate(("gate", "up", "down")):  # 15 bytes each, in front of wider values
        values = rng.standard_normal((3, 5)).astype(np.float32)
        arrays[f"{at}{part}_proj.weight"] = values
        arrays[f"norm{i}.weight"] = values[0].astype(ml_dtypes.bfloat16)
        arrays[f"scale{i}"] = values[0]
    convert(folder(tmp_path / "src", {}, arrays), tmp_path / "out")
    raw = (tmp_path / "out" / "model.safetensors").read_bytes()
    n = int.from_bytes(raw[:8], "little")
    assert n % 8 == 0
    widths = {"F32": 4, "BF16": 2, "F8_E4M3": 1}
    entries = json.loads(raw[8 : 8 + n])
    del entries["__metadata__"]
    assert {e["dtype"] for e in entries.values()} == widths.keys()
    assert all(e["data_offsets"][0] % widths[e["dtype"]] == 0 for e in entries.values())


def test_what_lies_beside(tmp_path: Path) -> None:
    """Tokenizer, processor, templates, cards and code are copied; weights in other forms are not,
    and are named. Links become files.
    """
    src = dense(tmp_path / "src")
    (tmp_path / "elsewhere.txt").write_text("linked")
    (src / "merges.txt").symlink_to(tmp_path / "elsewhere.txt")
    for name in (
        "pytorch_model.bin",
        "original/consolidated.00.pth",
        "onnx/model.onnx",
        "x.part.journal",
    ):
        (src / name).parent.mkdir(exist_ok=True)
        (src / name).write_bytes(b"weights")
    (src / "pytorch_model.bin.index.json").write_text("{}")
    (src / ".gitattributes").write_text("x")
    (src / ".git").mkdir()
    (src / ".git" / "HEAD").write_text("x")
    (src / "linked").symlink_to(tmp_path, target_is_directory=True)
    out = tmp_path / "out"
    result = convert(src, out)
    there = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert there == {*SIDE, "merges.txt", "config.json", "model.safetensors"}
    for name, data in SIDE.items():
        assert (out / name).read_bytes() == data
    assert (out / "merges.txt").read_text() == "linked"
    assert not any(p.is_symlink() for p in out.rglob("*"))
    assert dict(result.planned.side.left)["linked"] == "a link to a folder"
    assert {name for name, _ in result.planned.side.left} == {
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "original/consolidated.00.pth",
        "onnx/model.onnx",
        "x.part.journal",
        ".gitattributes",
        ".git",
        "linked",
    }


def test_dtypes_of_the_source(tmp_path: Path) -> None:
    """F32 and F16 weights are quantized from what they are; integers and scalars are copied."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((256, 128)).astype(np.float32)
    at = "model.layers.0.mlp."
    arrays = {
        f"{at}gate_proj.weight": w,
        f"{at}up_proj.weight": w.astype(np.float16),
        f"{at}down_proj.weight": w.astype(ml_dtypes.bfloat16),
        "count": np.array(3, np.int64),
        "nothing": np.zeros((0,), np.float32),
    }
    src = folder(tmp_path / "src", {"architectures": ["X"]}, arrays)
    convert(src, tmp_path / "out", Options(search=Search("max")))
    found = loaded(tmp_path / "out" / "model.safetensors")
    for part in ("gate", "up", "down"):
        name = f"{at}{part}_proj.weight"
        codes, _ = quantize(arrays[name].astype(np.float32), Search("max"), "bf16")
        np.testing.assert_array_equal(found[name].view(np.uint8), codes)
    assert found["count"] == 3
    assert found["nothing"].shape == (0,)


@pytest.mark.parametrize("shards", [1, 3])
def test_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    """Stopped by the disk in the middle: nothing looks finished, and --resume ends with the same
    bytes and the same report without doing again what was done.
    """
    src = moe(tmp_path / "src", shards)
    whole = convert(src, tmp_path / "whole")
    monkeypatch.setattr(keeping, "SYNC_SECONDS", 0.01)
    real, made = jobs.Coding.make, Counter[str]()
    n = len(whole.review.weights)

    def failing(self: jobs.Coding, start: int, stop: int) -> Any:
        made[self.name] += 1
        if len(made) == n // 2:
            time.sleep(0.5)
            raise OSError(errno.EIO, "a disk that is no more")
        return real(self, start, stop)

    monkeypatch.setattr(jobs.Coding, "make", failing)
    out = tmp_path / "out"
    with pytest.raises(WriteError, match="a disk that is no more"):
        convert(src, out, how=How(threads=1))
    done = Counter[str]()

    def counting(self: jobs.Coding, start: int, stop: int) -> Any:
        done[self.name] += 1
        return real(self, start, stop)

    monkeypatch.setattr(jobs.Coding, "make", counting)
    assert not (out / "config.json").exists()
    assert not list(out.glob("*.safetensors"))
    with pytest.raises(WriteError, match="there are files in it already"):
        convert(src, out)
    with pytest.raises(WriteError, match="the options is not what"):
        convert(src, out, Options(search=Search("max")), How(resume=True))
    negated = {n: -v for n, v in arrays_of(MOE).items()}
    other = folder(tmp_path / "other", MOE.raw_config(), negated, shards)
    with pytest.raises(WriteError, match="the source is not what"):
        convert(other, out, how=How(resume=True))
    again = convert(src, out, how=How(resume=True))
    assert stored(out) == stored(tmp_path / "whole")
    assert again.review.weights == whole.review.weights
    assert n // 2 <= len(done) < n
    names = {p.name for p in out.iterdir()}
    assert names == {p.name for p in (tmp_path / "whole").iterdir()}


@pytest.mark.parametrize(
    ("text", "n"), [("5GB", 5 * 10**9), ("1.5MiB", 3 << 19), ("200 kb", 200_000)]
)
def test_sizes(text: str, n: int) -> None:
    """As Hugging Face writes them, and binary ones."""
    assert bytes_of(text) == n


@pytest.mark.parametrize("text", ["", "5", "GB", "-1GB", "nanGB", "1e30GB", "infGB"])
def test_sizes_that_are_none(text: str) -> None:
    """They are refused with what is expected."""
    with pytest.raises(UsageError, match="expected a size such as 5GB"):
        bytes_of(text)
