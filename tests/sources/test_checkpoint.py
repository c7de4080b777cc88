"""A checkpoint that is as it should be: what a reader finds in it, and at what cost."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from sources.build import counted, sharded, single, weights, write_json

from ggufmix.errors import SourceError
from ggufmix.sources import StoredTensor, UnreadTensor, open_checkpoint
from ggufmix.sources.storage import MAX_OPEN
from ggufmix.tensor import stack


def open_files() -> int:
    """File descriptors of this process."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_values_and_dtype_are_those_of_the_file(tmp_path: Path, dtype: type) -> None:
    """F32, F16 and BF16 come out bit for bit, in their own dtype, rows counted over experts."""
    bits = np.random.default_rng(1).integers(0, 256, 3 * 5 * 16 * 4, np.uint8)
    values = bits.view(dtype)[: 3 * 5 * 16].reshape(3, 5, 16)
    with open_checkpoint(single(tmp_path, {"x": counted(7), "e": values})) as checkpoint:
        tensor = checkpoint.tensors["e"]
        assert tensor.shape == (3, 5, 16)
        assert np.dtype(dtype) == tensor.dtype
        band = tensor.rows(4, 11)
        assert band.shape == (7, 16)
        assert values.reshape(15, 16)[4:11].tobytes() == band.tobytes()
        assert values.tobytes() == tensor.all().tobytes()


def test_reads_what_the_reference_library_writes(tmp_path: Path) -> None:
    """A file of the safetensors library, which orders and pads its own way, holds what went in."""
    values = {
        "b": counted(3, 4, dtype=np.float16),
        "a": counted(2, 2, 2),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        'naïve "quoted" \\ name': counted(1, 3, dtype=np.float16),
    }
    single(tmp_path)
    safetensors.numpy.save_file(values, tmp_path / "model.safetensors", metadata={"k": "v"})
    with open_checkpoint(tmp_path) as checkpoint:
        assert values.keys() == checkpoint.tensors.keys()
        for name, expected in values.items():
            tensor = checkpoint.tensors[name]
            assert expected.shape == tensor.shape
            assert expected.tobytes() == tensor.all().tobytes()
            assert (tensor.n_rows, tensor.cols) == tensor.rows(0, tensor.n_rows).shape


def test_rows_belong_to_the_caller(tmp_path: Path) -> None:
    """What is done to a band is not seen by the next reader of it."""
    with open_checkpoint(single(tmp_path)) as checkpoint:
        tensor = checkpoint.tensors["a.weight"]
        tensor.rows(0, 2)[:] = 99
        assert counted(2, 8).tolist() == tensor.rows(0, 2).tolist()


@pytest.mark.parametrize("rows", [(-1, 2), (3, 2), (0, 5)])
def test_rows_outside_the_tensor_are_refused(tmp_path: Path, rows: tuple[int, int]) -> None:
    """A wrong row number never gives the bytes of the neighbour."""
    with open_checkpoint(single(tmp_path)) as checkpoint, pytest.raises(IndexError, match="of 4"):
        checkpoint.tensors["a.weight"].rows(*rows)


def test_f64_is_rounded_to_f32(tmp_path: Path) -> None:
    """Doubles are given as float32, to nearest, and as infinity where they do not fit."""
    values = np.array([[0.1, 1 + 2**-30, 1e300]])
    with open_checkpoint(single(tmp_path, {"d": values})) as checkpoint:
        tensor = checkpoint.tensors["d"]
        assert np.float32 == tensor.dtype
        assert [[np.float32(0.1), 1.0, np.inf]] == tensor.rows(0, 1).tolist()


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, np.int32, np.int64, np.uint8, np.bool_])
def test_other_dtypes_are_listed_and_named_when_asked_for(tmp_path: Path, dtype: type) -> None:
    """A tensor that cannot be decoded does not stop the opening; its rows say file, name, dtype."""
    values = counted(2, 6, dtype=dtype)
    with open_checkpoint(single(tmp_path, {"q": values})) as checkpoint:
        tensor = checkpoint.tensors["q"]
        assert isinstance(tensor, UnreadTensor)
        assert tensor.shape == (2, 6)
        with pytest.raises(SourceError, match=f"model.safetensors: q: stored as {tensor.stored}"):
            tensor.rows(0, 1)
        with pytest.raises(SourceError, match=f"q: stored as {tensor.stored}"):
            _ = tensor.dtype
        assert values[1:].tobytes() == tensor.raw(1, 2).tobytes()


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    """Tensors of all shards are found under their names, files in order."""
    with open_checkpoint(sharded(tmp_path / "tiny", 3)) as checkpoint:
        assert checkpoint.where == "tiny"
        assert [f"{t}{i}.weight" for i in (1, 2, 3) for t in "tu"] == list(checkpoint.tensors)
        assert [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)] == [
            file.name for file in checkpoint.files
        ]
        assert (counted(2, 4) + 2).tolist() == checkpoint.tensors["t2.weight"].all().tolist()


def test_shards_without_an_index_are_taken(tmp_path: Path) -> None:
    """A lost index costs nothing: the shards say themselves what they hold."""
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with open_checkpoint(tmp_path) as checkpoint:
        assert len(checkpoint.tensors) == 4


def test_another_name_is_taken_where_it_is_the_only_one(tmp_path: Path) -> None:
    """`consolidated.safetensors` alone is the model; an adapter beside it is not."""
    single(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "consolidated.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert [file.name for file in checkpoint.files] == ["consolidated.safetensors"]


def test_one_file_can_be_named(tmp_path: Path) -> None:
    """Of two models in a folder, the path of a file says which; config.json is the folder's."""
    weights(single(tmp_path) / "model-fp16.safetensors", {"b": counted(2)})
    with open_checkpoint(tmp_path / "model-fp16.safetensors") as checkpoint:
        assert list(checkpoint.tensors) == ["b"]
        assert checkpoint.config["architectures"] == ["TestForCausalLM"]


def test_the_hub_cache_is_links(tmp_path: Path) -> None:
    """Files may be links to blobs outside the folder, as `hf download` lays them out."""
    blobs, snapshot = sharded(tmp_path / "blobs"), tmp_path / "snapshot"
    snapshot.mkdir()
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(Path("..") / "blobs" / blob.name)
    with open_checkpoint(snapshot) as checkpoint:
        assert len(checkpoint.tensors) == 4


def test_shards_below_the_folder_are_found(tmp_path: Path) -> None:
    """An index may point into a folder of the checkpoint's own."""
    sharded(tmp_path)
    (tmp_path / "parts").mkdir()
    file = "model-00001-of-00002.safetensors"
    (tmp_path / file).rename(tmp_path / "parts" / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(file, f"parts/{file}"))
    with open_checkpoint(tmp_path) as checkpoint:
        assert counted(2, 4).tolist() == (checkpoint.tensors["t1.weight"].all() - 1).tolist()


def test_side_files(tmp_path: Path) -> None:
    """Side files are given as they are, absent ones as None."""
    single(tmp_path)
    write_json(tmp_path / "generation_config.json", {"top_k": 20})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.json("generation_config.json") == {"top_k": 20}
        assert checkpoint.json("tokenizer_config.json") is None
        assert tmp_path / "generation_config.json" == checkpoint.path("generation_config.json")
        assert checkpoint.path("tokenizer.json") is None


def test_infinity_in_a_config_is_a_number(tmp_path: Path) -> None:
    """Configs of Mamba2 models have an `Infinity` in time_step_limit: not JSON, but meant."""
    single(tmp_path)
    (tmp_path / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}')
    with open_checkpoint(tmp_path) as checkpoint:
        assert [0.0, float("inf")] == checkpoint.config["time_step_limit"]


def test_fingerprint_is_what_its_docstring_says(tmp_path: Path) -> None:
    """The fingerprint, computed again from its definition, with more data than is sampled."""
    single(tmp_path, {"a": counted(300_001)})
    content = (tmp_path / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    n = len(content) - start
    digest = hashlib.sha256(len(content).to_bytes(8, "little") + content[:start])
    for i in range(64):
        at = start + i * (n - 4096) // 63
        digest.update(content[at : at + 4096])
    assert start + 63 * (n - 4096) // 63 + 4096 == len(content)
    with open_checkpoint(tmp_path) as checkpoint:
        assert digest.hexdigest() == checkpoint.files[0].fingerprint


def test_fingerprint_sees_any_change_of_a_small_file(tmp_path: Path) -> None:
    """Up to 256 KiB every byte counts; the same content elsewhere has the same fingerprint."""
    values = counted(100, 8)
    changed = values.copy()
    changed[50, 3] += 1
    prints = []
    for name, content in [("a", values), ("b", values), ("c", changed)]:
        with open_checkpoint(single(tmp_path / name, {"t": content})) as checkpoint:
            prints.append(checkpoint.files[0].fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_opening_and_fingerprints_cost_no_bulk(tmp_path: Path) -> None:
    """A file of 1 TB (sparse) is opened, and told apart, in little memory."""
    folder, n = single(tmp_path), 1 << 40
    text = b'{"big":{"dtype":"BF16","shape":[%d,4096],"data_offsets":[0,%d]}}' % (n >> 13, n)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        try:
            file.truncate(8 + len(text) + n)
        except OSError:
            pytest.skip("the file system has no sparse files of that size")
    tracemalloc.start()
    with open_checkpoint(folder) as checkpoint:
        assert len(checkpoint.files[0].fingerprint) == 64
        assert checkpoint.tensors["big"].rows((n >> 13) - 2, n >> 13).shape == (2, 4096)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_all_files_are_closed(tmp_path: Path) -> None:
    """A checkpoint leaves no descriptor behind, and its tensors say so when read after that."""
    sharded(tmp_path, 5)
    before = open_files()
    with open_checkpoint(tmp_path) as checkpoint:
        tensor = checkpoint.tensors["t3.weight"]
        tensor.rows(0, 1)
        assert before < open_files()
    assert before == open_files()
    with pytest.raises(ValueError, match=r"after its checkpoint was closed"):
        tensor.rows(0, 1)
    checkpoint.close()


def test_few_files_are_open_at_once(tmp_path: Path) -> None:
    """More shards than may be open are read all the same, again and again."""
    n = MAX_OPEN + 20
    before = open_files()
    with open_checkpoint(sharded(tmp_path, n)) as checkpoint:
        for _ in range(2):
            for i in range(1, n + 1):
                assert i == checkpoint.tensors[f"t{i}.weight"].rows(0, 1)[0, 0]
                assert open_files() <= before + MAX_OPEN
    assert before == open_files()


def test_threads_read_each_their_own(tmp_path: Path) -> None:
    """Threads that read all over more shards than may be open get the rows they asked for."""
    n = MAX_OPEN + 20
    before = open_files()
    with open_checkpoint(sharded(tmp_path, n)) as checkpoint:

        def read(k: int) -> bool:
            i = 1 + k * 37 % n
            band = checkpoint.tensors[f"t{i}.weight"].rows(1, 2)
            return bool((band == counted(4) + 4 + i).all())

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, range(4000)))
    assert before == open_files()


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    """A shard that is opened again and is another file by now is refused, not misread."""
    with open_checkpoint(sharded(tmp_path, MAX_OPEN + 1)) as checkpoint:
        name = checkpoint.files[0].name
        weights(tmp_path / name, {"t1.weight": counted(2, 5), "u1.weight": counted(9)})
        with pytest.raises(SourceError, match=rf"{name}: changed while it was being read"):
            checkpoint.tensors["t1.weight"].rows(0, 1)


def test_a_file_cut_short_meanwhile_is_noticed(tmp_path: Path) -> None:
    """A read past the new end of a file is an error with a name, not a band of rubbish."""
    with open_checkpoint(single(tmp_path)) as checkpoint:
        os.truncate(tmp_path / "model.safetensors", 150)
        with pytest.raises(SourceError, match=r"model\.safetensors: truncated"):
            checkpoint.tensors["a.weight"].rows(0, 4)


def test_a_read_may_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems read at most 2 GiB at once, and less after a signal: the rest is read then."""
    whole = os.preadv

    def pieces(fd: int, buffers: list[memoryview], offset: int) -> int:
        return whole(fd, [buffers[0][:5]], offset)

    monkeypatch.setattr(os, "preadv", pieces)
    with open_checkpoint(single(tmp_path)) as checkpoint:
        assert checkpoint.tensors["a.weight"].all().tolist() == counted(4, 8).tolist()


def test_stored_tensors_can_be_stacked(tmp_path: Path) -> None:
    """Experts out of a file go through the transforms of `ggufmix.tensor`."""
    values = {f"e.{i}": counted(4, 8, dtype=ml_dtypes.bfloat16) + i for i in range(3)}
    with open_checkpoint(single(tmp_path, values)) as checkpoint:
        assert all(isinstance(t, StoredTensor) for t in checkpoint.tensors.values())
        stacked = stack([checkpoint.tensors[f"e.{i}"] for i in range(3)])
        expected = np.stack(list(values.values())).reshape(12, 8)[2:9]
        assert expected.tobytes() == stacked.rows(2, 9).tobytes()
