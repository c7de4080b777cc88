"""Checkpoints that cannot be read: each is refused with the file, the tensor and what to do."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sources.build import counted, sharded, single, weights, write_json

from ggufmix.errors import GgufmixError, SourceError, UsageError
from ggufmix.sources import open_checkpoint

INDEX = "model.safetensors.index.json"
FIRST = "model-00001-of-00002.safetensors"
SECOND = "model-00002-of-00002.safetensors"


def refused(path: Path, kind: type[GgufmixError] = SourceError) -> str:
    """What is said of a checkpoint that is refused, hint included, once no file is left open."""
    before = sum(1 for _ in Path("/dev/fd").iterdir())
    with pytest.raises(kind) as caught:
        open_checkpoint(path).close()
    assert caught.value.exit_code == (2 if kind is UsageError else 1)
    said = f"{caught.value} | {caught.value.hint}"
    assert sum(1 for _ in Path("/dev/fd").iterdir()) == before
    return said


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Change the weight map of a folder's index."""
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    write_json(folder / INDEX, index)


@pytest.mark.parametrize("name", ["nothing", "Qwen/Qwen3-8B", "config.json/x", "a\0b"])
def test_a_path_that_is_not_there_is_a_wrong_command(tmp_path: Path, name: str) -> None:
    """A mistyped path, or a repository that was never downloaded, ends with code 2."""
    single(tmp_path)
    said = refused(tmp_path / name, UsageError)
    assert "no such file or folder" in said
    assert "download" in said


def test_other_files_than_safetensors_are_a_wrong_command(tmp_path: Path) -> None:
    """Naming config.json or the index says to give the folder."""
    sharded(tmp_path)
    for name in ("config.json", INDEX):
        assert "give the folder" in refused(tmp_path / name, UsageError)


def test_one_shard_of_several_is_a_wrong_command(tmp_path: Path) -> None:
    """A shard by itself is no model, with an index beside it or without."""
    sharded(tmp_path)
    assert "a part of a checkpoint" in refused(tmp_path / FIRST, UsageError)
    (tmp_path / INDEX).unlink()
    assert "give the folder" in refused(tmp_path / FIRST, UsageError)


def test_an_empty_folder(tmp_path: Path) -> None:
    """A folder without any file is called that."""
    assert "holds no file" in refused(tmp_path)


def test_messages_name_no_directories(tmp_path: Path) -> None:
    """A message names the folder, not the way to it: reports may be published."""
    (tmp_path / "tiny").mkdir()
    said = refused(tmp_path / "tiny")
    assert said.startswith("tiny: ")
    assert str(tmp_path) not in said


def test_gguf_is_no_checkpoint(tmp_path: Path) -> None:
    """A GGUF file, and a folder with nothing else, are told how they can be read."""
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    for path in (tmp_path / "m.gguf", tmp_path):
        assert "take the path of a .gguf file" in refused(path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model-00001-of-00002.bin", "x.pth"])
def test_pickles_are_to_be_converted(tmp_path: Path, name: str) -> None:
    """A checkpoint of pickles is not opened; the hint says how to make safetensors of it."""
    write_json(tmp_path / "config.json", {})
    (tmp_path / name).write_bytes(b"PK")
    for path in (tmp_path / name, tmp_path):
        assert "save_pretrained" in refused(path)


def test_adapters_are_to_be_merged(tmp_path: Path) -> None:
    """A LoRA folder, and its file, say to merge first."""
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA"})
    weights(tmp_path / "adapter_model.safetensors", {"a.lora_A.weight": counted(2, 2)})
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        said = refused(path)
        assert "LoRA adapter" in said
        assert "merge" in said


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"load_in_8bit": True}},
        {"text_config": {"quantization_config": {"quant_method": "bitsandbytes"}}},
    ],
)
def test_bitsandbytes_by_its_config(tmp_path: Path, config: dict[str, Any]) -> None:
    """Weights that bitsandbytes packed look like U8 matrices; the config gives them away."""
    write_json(single(tmp_path) / "config.json", config)
    said = refused(tmp_path)
    assert "bitsandbytes" in said
    assert "use the checkpoint it was made from" in said


@pytest.mark.parametrize("name", ["a.SCB", "a.weight.quant_state.bitsandbytes__nf4"])
def test_bitsandbytes_by_its_tensors(tmp_path: Path, name: str) -> None:
    """Where the config is silent the helper tensors tell, and are named."""
    single(tmp_path, {"a.weight": counted(2, 2), name: counted(2)})
    said = refused(tmp_path)
    assert name in said
    assert "bitsandbytes" in said


@pytest.mark.parametrize("about", [None, {"quant_method": "fp8"}, {"quant_method": "gptq"}, {}])
def test_other_quantizations_are_not_taken_for_bitsandbytes(tmp_path: Path, about: Any) -> None:
    """Other packers are for others to judge: the checkpoint opens."""
    write_json(single(tmp_path) / "config.json", {"quantization_config": about})
    open_checkpoint(tmp_path).close()


def test_several_candidates_are_not_guessed_between(tmp_path: Path) -> None:
    """Two files of other names: neither is taken, both are named."""
    for name in ("a", "b"):
        weights(tmp_path / f"{name}.safetensors", {"t": counted(2)})
    assert "got 2 others: a.safetensors, b.safetensors" in refused(tmp_path)


def test_one_file_and_shards_are_not_guessed_between(tmp_path: Path) -> None:
    """Saved over an older save: model.safetensors beside an index of others is two models."""
    weights(sharded(tmp_path) / "model.safetensors", {"t": counted(2)})
    assert "two models to choose from" in refused(tmp_path)


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    """A variant beside the model, no index: the tensor that both hold is named."""
    weights(single(tmp_path) / "model.fp16.safetensors", {"a.weight": counted(2)})
    assert "model.safetensors: a.weight: is in model.fp16.safetensors too" in refused(tmp_path)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_missing_shard(tmp_path: Path, indexed: bool) -> None:
    """An unfinished download is noticed from the index, or from the numbers of the shards."""
    (sharded(tmp_path) / FIRST).unlink()
    if not indexed:
        (tmp_path / INDEX).unlink()
    said = refused(tmp_path)
    assert FIRST in said
    assert "download is not complete" in said


def test_a_dangling_link_is_a_missing_shard(tmp_path: Path) -> None:
    """The hub's cache links to a blob that was never fetched."""
    (sharded(tmp_path) / FIRST).unlink()
    (tmp_path / FIRST).symlink_to("nowhere")
    assert FIRST in refused(tmp_path)


def test_the_index_lists_a_tensor_that_no_shard_has(tmp_path: Path) -> None:
    """The tensor, and where it should be, are named."""
    edit_index(sharded(tmp_path), lambda m: m.update({"lost.weight": FIRST}))
    assert f"{INDEX}: lost.weight: expected in {FIRST}, no file has it" in refused(tmp_path)


def test_the_index_lists_a_tensor_elsewhere(tmp_path: Path) -> None:
    """The file that has it is named too."""
    edit_index(sharded(tmp_path), lambda m: m.update({"t1.weight": SECOND}))
    said = refused(tmp_path)
    assert f"{INDEX}: t1.weight: expected in {SECOND}, it is in {FIRST}" in said


def test_a_shard_holds_a_tensor_that_the_index_does_not_list(tmp_path: Path) -> None:
    """A tensor too many is refused: shard and index are not of one save."""
    edit_index(sharded(tmp_path), lambda m: m.pop("u2.weight"))
    assert f"{SECOND}: u2.weight: {INDEX} does not list it" in refused(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    """A second copy in a shard that the index does not name for it is refused."""
    folder = sharded(tmp_path)
    both = {"t2.weight": counted(2, 4), "u2.weight": counted(3), "t1.weight": counted(2, 4)}
    weights(folder / SECOND, both)
    assert f"{SECOND}: t1.weight: {INDEX} lists it in {FIRST} instead" in refused(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../out.safetensors",
        "a/../../out.safetensors",
        f"in/../{FIRST}",
        "..\\out.safetensors",
        "",
        "a\0",
    ],
)
def test_an_index_does_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    """A name with `..` is refused, though such a file is there."""
    weights(tmp_path / "out.safetensors", {"t1.weight": counted(2)})
    edit_index(sharded(tmp_path / "in"), lambda m: m.update({"t1.weight": name}))
    assert f"{INDEX}: expected the name of a file in the folder" in refused(tmp_path / "in")


def test_an_index_does_not_name_absolute_paths(tmp_path: Path) -> None:
    """An absolute path is refused, even into the folder itself."""
    folder = sharded(tmp_path)
    edit_index(folder, lambda m: m.update({"t1.weight": str(folder / FIRST)}))
    assert "expected the name of a file in the folder" in refused(folder)


def test_an_index_does_not_lead_through_linked_folders(tmp_path: Path) -> None:
    """A file may be a link, a folder on the way to it may not lead elsewhere."""
    (tmp_path / "out").mkdir()
    weights(tmp_path / "out" / "x.safetensors", {"t1.weight": counted(2)})
    folder = sharded(tmp_path / "in")
    (folder / "way").symlink_to(tmp_path / "out")
    edit_index(folder, lambda m: m.update({"t1.weight": "way/x.safetensors"}))
    assert "expected the name of a file in the folder" in refused(folder)


@pytest.mark.parametrize(
    "index", [{}, [], {"weight_map": {}}, {"weight_map": {"t": 1}}, {"weight_map": ["t"]}]
)
def test_an_index_of_another_form(tmp_path: Path, index: Any) -> None:
    """An index without a map of names to files is named as the culprit."""
    write_json(sharded(tmp_path) / INDEX, index)
    assert INDEX in refused(tmp_path)


def test_an_index_of_pickles(tmp_path: Path) -> None:
    """An index that lists another kind of file says what to do with that."""
    (sharded(tmp_path) / "x.bin").write_bytes(b"PK")
    edit_index(tmp_path, lambda m: m.update({"t1.weight": "x.bin"}))
    assert "save_pretrained" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "line 1, column 1"),
        (b'{\n "a": 1,\n "b": \n}', "line 4, column 1"),
        (b'{"a": "\xff"}', "no UTF-8 at byte 7"),
        (b"[1]", "expected a JSON object, got list"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": %s}' % (b"1" * 5000), "not valid JSON"),
    ],
)
def test_a_config_that_is_not_json(tmp_path: Path, text: bytes, said: str) -> None:
    """The file and the place in it are named."""
    (single(tmp_path) / "config.json").write_bytes(text)
    found = refused(tmp_path)
    assert found.startswith("config.json: ")
    assert said in found


def test_no_config(tmp_path: Path) -> None:
    """Weights alone do not say what model they are."""
    (single(tmp_path) / "config.json").unlink()
    assert "expected a config.json beside the weights" in refused(tmp_path)


def test_a_side_file_that_is_not_json(tmp_path: Path) -> None:
    """Side files are judged when they are asked for, not before."""
    (single(tmp_path) / "tokenizer_config.json").write_text("{,}")
    with open_checkpoint(tmp_path) as checkpoint:
        with pytest.raises(SourceError, match=r"tokenizer_config.json: .* line 1, column 2"):
            checkpoint.json("tokenizer_config.json")
        with pytest.raises(SourceError, match="expected the name of a file in the folder"):
            checkpoint.path("../tokenizer.json")


def test_a_json_file_of_absurd_size(tmp_path: Path) -> None:
    """A sparse config of 1 GB is refused before it is read."""
    os.truncate(single(tmp_path) / "config.json", 1 << 30)
    assert "config.json: expected at most" in refused(tmp_path)


def test_a_git_lfs_pointer(tmp_path: Path) -> None:
    """A clone without its large files is told from a damaged file."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (single(tmp_path) / "model.safetensors").write_text(pointer)
    assert "git lfs pull" in refused(tmp_path)


def test_pipes_and_folders_are_no_files(tmp_path: Path) -> None:
    """A pipe in place of the weights does not keep us waiting."""
    (single(tmp_path) / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "model.safetensors")
    assert "expected model*.safetensors" in refused(tmp_path)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    """An empty header is a sound file, but no model."""
    single(tmp_path)
    weights(tmp_path / "model.safetensors", {})
    assert "model.safetensors holds none" in refused(tmp_path)


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """The name of a tensor is shown escaped and cut, so it cannot rewrite the screen."""
    name = "\x1b[2Jx" + "y" * 5000 + ".SCB"
    single(tmp_path, {name: np.zeros(2, np.float32)})
    said = refused(tmp_path)
    assert "\x1b" not in said
    assert len(said) < 600
