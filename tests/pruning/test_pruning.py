"""--prune-layers: blocks are left out, and the rest is one model again."""

# SPDX-License-Identifier: MIT

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from checkpoints import CASES
from plain_gguf import write_f32

import ggufmix
from ggufmix import models, pruning
from ggufmix.container import Value, array, text, u32
from ggufmix.errors import SourceError, UsageError
from ggufmix.pipeline import Options
from ggufmix.placing import Placement
from ggufmix.runtime import Llama
from ggufmix.tensor import Placed, held


def written(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Tensors and key-values of a file."""
    reader = gguf.GGUFReader(path)
    fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    return {t.name: t.data.tobytes() for t in reader.tensors}, fields


def source(name: str, path: Path) -> Path:
    case = CASES[name]
    made = models.place(case.raw_config(), {k: held(k, v) for k, v in case.arrays().items()})
    return write_f32(made, path)


@pytest.mark.parametrize(
    ("name", "layers", "kept"),
    [
        ("llama", "1", [0, 2]),
        ("llama", "0,2", [1]),
        ("llama", "0-1", [2]),
        ("qwen3moe", "0", [1, 2]),
        ("dense-tied", "1", [0, 2, 3, 4]),
        ("dense-tied", "0-2", [3, 4]),
        ("moe-wrapped-mtp", "0,4", [1, 2, 3, 5]),
        ("moe-wrapped-mtp", "5", [0, 1, 2, 3, 4]),
        ("glm4moe-mtp", "1", None),
        ("kimi-linear", "1", None),
        ("jamba", "0", None),
        ("lfm2", "0", None),
        ("falcon-h1", "1", None),
        ("granite4", "0", None),
        ("deepseek-v3", "0", None),
        ("nemotron-h", "0", None),
    ],
)
def test_the_data_move_with_their_blocks(
    tmp_path: Path, name: str, layers: str, kept: list[int] | None
) -> None:
    """Each block has under its new number what it had under the old one, and llama.cpp runs it:
    lists by block, counts of dense and of MTP blocks and the kind of each block are right.
    """
    src = source(name, tmp_path / "src.gguf")
    out = tmp_path / "out.gguf"
    ggufmix.convert(src, out, options=Options(recipe="f32", prune_layers=layers))
    before, keys = written(src)
    after, found = written(out)
    arch = keys["general.architecture"]
    n = keys[f"{arch}.block_count"]
    kept = kept or [b for b in range(n) if b not in {int(w) for w in layers.split(",")}]
    expected = {k: v for k, v in before.items() if not k.startswith("blk.")}
    for new, old in enumerate(kept):
        prefix = f"blk.{old}."
        expected |= {
            k.replace(prefix, f"blk.{new}."): v for k, v in before.items() if k.startswith(prefix)
        }
    assert after == expected
    assert found[f"{arch}.block_count"] == len(kept)
    with Llama(out, 64) as llama:
        assert np.isfinite(llama.logits(list(range(32)))).all()


def test_a_smaller_model_is_the_same_model(tmp_path: Path) -> None:
    """A checkpoint of one block less, made by hand, has the logits of the pruned one."""
    case = CASES["llama"]
    arrays = {}
    for name, values in case.arrays().items():
        if ".layers.1." not in name:
            arrays[name.replace(".layers.2.", ".layers.1.")] = held(name, values)
    config = {**case.raw_config(), "num_hidden_layers": 2}
    by_hand = write_f32(models.place(config, arrays), tmp_path / "hand.gguf")
    pruned = tmp_path / "pruned.gguf"
    options = Options(recipe="f32", prune_layers="1")
    ggufmix.convert(source("llama", tmp_path / "src.gguf"), pruned, options=options)
    tokens = list(range(40))
    with Llama(by_hand, 64) as one, Llama(pruned, 64) as other:
        assert np.array_equal(one.logits(tokens), other.logits(tokens))


def test_importance_moves_too(tmp_path: Path, example: Path) -> None:
    """The entry of block 2 serves block 1 where block 1 was left out; the file counts entries as
    the imatrix has them.
    """
    from struct import pack

    raw = pack("<i", 3)
    for block in range(3):
        name = f"blk.{block}.attn_qkv.weight".encode()
        raw += pack(f"<i{len(name)}sii", len(name), name, 1, 256)
        raw += (np.arange(256, dtype=np.float32) ** block).tobytes()
    (tmp_path / "im.dat").write_bytes(raw)
    options = Options(recipe="q4_0", imatrix=(tmp_path / "im.dat",), prune_layers="1")
    plan = ggufmix.plan(example, options=options)
    made = {t.name: t for t in plan.tensors}
    for new, old in enumerate((0, 2)):
        importance = made[f"blk.{new}.attn_qkv.weight"].importance
        assert importance is not None
        assert np.array_equal(importance.vector(0), np.arange(256, dtype=np.float32) ** old)
    assert plan.values["quantize.imatrix.entries_count"].data == 3


def placement(arch: str, blocks: int, values: Mapping[str, Value]) -> Placement:
    tensors = [
        Placed(f"blk.{n}.attn_q.weight", "ATTN_Q", n, held("x", np.zeros((2, 2), np.float32)))
        for n in range(blocks)
    ]
    return Placement(arch, tensors, {f"{arch}.{k}": v for k, v in values.items()})


def test_lists_by_block_follow() -> None:
    """What goes by block is cut, what only has that length is not."""
    integers = gguf.GGUFValueType.INT32
    values = {
        "block_count": u32(4),
        "leading_dense_block_count": u32(2),
        "attention.head_count_kv": array(integers, [1, 2, 3, 4]),
        "rope.dimension_sections": array(integers, [9, 8, 7, 6]),
        "context_length": u32(4),
    }
    made = pruning.prune(placement("some", 4, values), "1,3").model.values
    assert {k.removeprefix("some."): v.data for k, v in made.items()} == {
        "block_count": 2,
        "leading_dense_block_count": 1,
        "attention.head_count_kv": [1, 3],
        "rope.dimension_sections": [9, 8, 7, 6],
        "context_length": 4,
    }


def test_lists_of_the_trunk_follow() -> None:
    """Some lists leave the blocks for multi-token prediction out, which stand behind the others."""
    values = {"block_count": u32(4), "nextn_predict_layers": u32(1)}
    windows = array(gguf.GGUFValueType.BOOL, [True, False, True])
    whole = placement("some", 4, values | {"attention.sliding_window_pattern": windows})
    ahead = Placed("blk.3.nextn.enorm.weight", "NEXTN_ENORM", 3, whole.tensors[0].tensor)
    made = pruning.prune(replace(whole, tensors=[*whole.tensors, ahead]), "0").model.values
    assert made["some.attention.sliding_window_pattern"].data == [False, True]
    assert made["some.nextn_predict_layers"].data == 1


def test_of_two_draft_blocks_both_are_counted() -> None:
    """Only the first of them need have tensors of its own kind; the second is no layer for that."""
    values = {"block_count": u32(5), "nextn_predict_layers": u32(2)}
    whole = placement("some", 5, values)
    ahead = Placed("blk.3.nextn.enorm.weight", "NEXTN_ENORM", 3, whole.tensors[0].tensor)
    whole = replace(whole, tensors=[*whole.tensors, ahead])
    assert pruning.prune(whole, "0").model.values["some.nextn_predict_layers"].data == 2
    with pytest.raises(UsageError, match="leaves no block"):
        pruning.prune(whole, "0-2")


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("0-3", None), ("1", [1, 1, 0, 1, 1, 1, 0]), ("7", None), ("4-7", None)],
)
def test_which_blocks_recur_is_listed_where_it_must_be(
    layers: str, expected: list[int] | None
) -> None:
    """Every fourth block has attention; a list says so where the numbers no longer do."""
    values = {"block_count": u32(8), "full_attention_interval": u32(4)}
    made = pruning.prune(placement("qwen35", 8, values), layers).model.values
    found = made.get("qwen35.attention.recurrent_layers")
    assert (found and found.data) == expected


def test_blocks_that_are_what_their_number_says() -> None:
    """Every second block of experts: one block less would make dense ones of them."""
    values = {"block_count": u32(4), "interleave_moe_layer_step": u32(2)}
    with pytest.raises(UsageError, match="interleave_moe_layer_step is 2"):
        pruning.prune(placement("llama4", 4, values), "1")
    assert len(pruning.prune(placement("llama4", 4, values), "0,1").model.tensors) == 2


@pytest.mark.parametrize(
    ("name", "layers", "kind"),
    [("dense-tied", "3", "has attention"), ("dense-tied", "0-2,4", "recurs")],
)
def test_a_hybrid_stays_one(tmp_path: Path, name: str, layers: str, kind: str) -> None:
    """llama.cpp loads a hybrid without attention, or with nothing else, and dies."""
    src = source(name, tmp_path / "src.gguf")
    with pytest.raises(UsageError, match=f"leaves no block that {kind}"):
        ggufmix.plan(src, options=Options(prune_layers=layers))


@pytest.mark.parametrize(
    ("arch", "key", "stated"),
    [
        ("qwen35", "full_attention_interval", text("four")),
        ("qwen35", "full_attention_interval", u32(0)),
        ("qwen35", "full_attention_interval", array(gguf.GGUFValueType.INT32, [4])),
        ("deepseek2", "leading_dense_block_count", text("one")),
        ("deepseek2", "leading_dense_block_count", array(gguf.GGUFValueType.INT32, [1])),
        ("llama4", "interleave_moe_layer_step", text("two")),
        ("llama4", "interleave_moe_layer_step", u32(0)),
    ],
)
def test_keys_that_are_no_numbers(arch: str, key: str, stated: Value) -> None:
    """A damaged file is named as one."""
    damaged = placement(arch, 4, {"block_count": u32(4), key: stated})
    with pytest.raises(SourceError, match=f"{key}: expected a number"):
        pruning.prune(damaged, "1")


def test_no_dense_blocks_are_none() -> None:
    """The count may be zero, and stays so."""
    keys = {"block_count": u32(4), "leading_dense_block_count": u32(0)}
    made = pruning.prune(placement("glm4moe", 4, keys), "1").model.values
    assert made["glm4moe.leading_dense_block_count"].data == 0


def test_a_part_of_a_model_is_none() -> None:
    """A draft head has the numbers of blocks that stand behind others; a projector has blocks that
    nobody may leave out.
    """
    with pytest.raises(UsageError, match="a vision projector"):
        pruning.prune(placement("clip", 4, {}), "1")
    whole = placement("some", 4, {"block_count": u32(4)})
    with pytest.raises(UsageError, match="lacks blocks before 3"):
        pruning.prune(replace(whole, tensors=whole.tensors[3:]), "3")


def test_windows_by_number_are_said() -> None:
    """Nobody can tell whether a block slid where the architecture counts."""
    values = {"block_count": u32(4), "attention.sliding_window": u32(512)}
    [said] = pruning.prune(placement("gemma3", 4, values), "1").model.warnings
    assert "decides by the number of a block" in said
