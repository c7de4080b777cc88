"""Statistics for FP8: whatever file they come in, each weight of the checkpoint gets the vector of
its own columns, in its own order.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrate import restated
from calibrate.conftest import Loaded
from checkpoints import CASES, Case
from imatrix import made, measured
from plain_gguf import write_f32

from ggufmix import imatrix, models
from ggufmix.calibrating.naming import parameters
from ggufmix.errors import GgufmixError, ImportanceError, SourceError, UsageError
from ggufmix.fp8 import stats
from ggufmix.tensor import Tensor, held

Tiny = Callable[[str], Loaded]
OUT = "model.layers.1.linear_attn.out_proj.weight"
DOWN = "blk.2.ffn_down_exps.weight"


APART = "moe-one-by-one"
FUSED = "the same, fused"


def case(name: str) -> Case:
    return replace(CASES[APART], fused=True) if name == FUSED else CASES[name]


def tensors(name: str) -> dict[str, Tensor]:
    return {k: held(k, v) for k, v in case(name).arrays().items()}


def read(path: Path, name: str, wanted: tuple[str, ...] = ()) -> stats.Stats:
    return stats.read(path, case(name).raw_config(), tensors(name), wanted=wanted)


def save(path: Path, model: Loaded, tokens: list[int]) -> Path:
    entries = model.collect(tokens).entries
    imatrix.write(path, entries, datasets=["t"], chunk_count=1, chunk_size=len(tokens))
    return path


@pytest.fixture(scope="module")
def of_llama_cpp(
    tokens: list[int], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Mapping[str, Any]]:
    """What llama.cpp measures of a case."""

    def entries(name: str) -> Mapping[str, Any]:
        path = tmp_path_factory.mktemp("theirs") / "model.gguf"
        write_f32(models.place(CASES[name].raw_config(), tensors(name)), path)
        return measured.measure(path, tokens, len(tokens))

    return entries


def check(found: stats.Stats, model: Loaded, tokens: list[int], bound: float) -> int:
    """Hold every vector against rows that were seen in transformers; returns how many."""
    rows = restated.inputs(model.model, [tokens])
    shapes = {k: v.shape for k, v in CASES[model.path.name[:-1]].arrays().items()}
    n = 0
    for weight, place in parameters(model.model, model.names).items():
        for expert in range(shapes[weight][0]) if len(shapes[weight]) == 3 else [None]:
            which = place.matrix if expert is None else expert
            key = place.name if which is None else f"{place.name}[{which}]"
            if key not in rows or weight == "lm_head.weight":
                continue
            want = (rows[key] ** 2).mean(axis=0)
            got = found.vector(weight, expert, shapes[weight][-1])
            assert got is not None
            assert got.dtype == np.float32
            assert np.abs(got - want).max() <= bound * want.max(), (weight, expert)
            n += 1
    return n


@pytest.mark.parametrize(
    "name", ["moe-fused", "moe-one-by-one", "dense-irregular", "qwen3", "llama", "next-wide"]
)
def test_our_file(name: str, tiny: Tiny, tokens: list[int], tmp_path: Path) -> None:
    """Experts fused or one by one, and columns that GGUF has in another order."""
    model = tiny(name)
    found = read(save(tmp_path / "x.gguf", model, tokens), name)
    assert (found.maxima, found.warnings) == (False, ())
    assert check(found, model, tokens, 1e-4) >= 21


@pytest.mark.parametrize("name", ["moe-fused", "moe-one-by-one", "dense-irregular"])
def test_llama_cpps_files(
    name: str,
    tiny: Tiny,
    tokens: list[int],
    of_llama_cpp: Callable[[str], Mapping[str, Any]],
    tmp_path: Path,
) -> None:
    """GGUF and legacy: what llama-imatrix measured of the converted model fits the checkpoint."""
    entries, model = of_llama_cpp(name), tiny(name)
    theirs = made.write_gguf(tmp_path / "theirs.gguf", entries)
    n = check(read(theirs, name), model, tokens, 1e-3)
    means = {
        k: ((sums / np.maximum(counts, 1)[:, None]).astype(np.float32) * 4, 4)
        for k, (sums, counts) in ((k, (s, np.array(c))) for k, (s, c) in entries.items())
    }
    legacy = tmp_path / "legacy.dat"
    legacy.write_bytes(made.legacy(means))
    assert check(read(legacy, name), model, tokens, 1e-3) == n >= 30


def test_an_expert_of_either_layout_has_the_same(
    tiny: Tiny, tokens: list[int], tmp_path: Path
) -> None:
    """A file that was made of one layout fits the other: GGUF has one name for both."""
    path = save(tmp_path / "x.gguf", tiny(APART), tokens)
    fused, apart = read(path, FUSED), read(path, APART)
    for expert in range(4):
        a = fused.vector("model.layers.1.mlp.experts.gate_up_proj", expert, 64)
        for part in ("gate", "up"):
            name = f"model.layers.1.mlp.experts.{expert}.{part}_proj.weight"
            b = apart.vector(name, None, 64)
            assert a is not None
            assert b is not None
            assert (a == b).all()


def test_an_entry_of_the_same_input_stands_in(tmp_path: Path) -> None:
    """A file with ffn_up but without ffn_gate: they see the same, so both have statistics."""
    up = "blk.1.ffn_up_exps.weight"
    path = made.write_gguf(tmp_path / "x.gguf", {up: made.entry(up, 64, [5, 6, 7, 8])})
    found = read(path, "moe-one-by-one")
    for part in ("gate", "up"):
        got = found.vector(f"model.layers.1.mlp.experts.2.{part}_proj.weight", None, 64)
        assert got is not None
        assert (got == made.expected(*made.entry(up, 64, [5, 6, 7, 8]))[2]).all()


def test_heads_of_mla_are_one_weight(tmp_path: Path) -> None:
    """llama.cpp has statistics of each head's attn_v_b; kv_b_proj gets their mean. An older file
    has them of attn_kv_b. Those of attn_k_b are of other columns.
    """
    weight = "model.layers.0.self_attn.kv_b_proj.weight"
    cols = CASES["deepseek-v3"].arrays()[weight].shape[1]
    name = "blk.0.attn_v_b.weight"
    heads = CASES["deepseek-v3"].raw_config()["num_attention_heads"]
    entry = made.entry(name, cols, [3] * heads)
    path = made.write_gguf(tmp_path / "x.gguf", {name: entry})
    got = read(path, "deepseek-v3").vector(weight, None, cols)
    assert got is not None
    assert np.allclose(got, made.expected(*entry).mean(axis=0), rtol=1e-6)
    old = made.entry("blk.0.attn_kv_b.weight", cols, [9])
    path = made.write_gguf(tmp_path / "old.gguf", {"blk.0.attn_kv_b.weight": old})
    got = read(path, "deepseek-v3").vector(weight, None, cols)
    assert got is not None
    assert (got == made.expected(*old)[0]).all()
    nope = CASES["deepseek-v3"].raw_config()["qk_nope_head_dim"]
    k_b = made.entry("blk.0.attn_k_b.weight", nope, [3] * heads)
    path = made.write_gguf(tmp_path / "k.gguf", {"blk.0.attn_k_b.weight": k_b, name: entry})
    assert read(path, "deepseek-v3").vector(weight, None, cols) is not None
    path = made.write_gguf(tmp_path / "only.gguf", {"blk.0.attn_k_b.weight": k_b})
    with pytest.raises(ImportanceError, match="no entry is of a tensor of this model"):
        read(path, "deepseek-v3")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """Weights without statistics, experts that no token reached, inputs that were always zero: None
    for each, and a sentence where it could have been otherwise.
    """
    sums, counts = made.entry(DOWN, 32, [5, 0, 7, 8])
    sums[3] = 0
    path = made.write_gguf(tmp_path / "x.gguf", {DOWN: (sums, counts)})
    down = "model.layers.2.mlp.experts.down_proj"
    found = read(path, "moe-fused", (OUT, down))
    assert found.warnings == (
        f"x.gguf says nothing of 1 weights, which are quantized without it: {OUT}",
        f"x.gguf: no token reached 1 weights, which are quantized without it: {down}, expert 1",
    )
    assert found.vector(OUT, None, 128) is None
    assert [found.vector(down, e, 32) is None for e in range(4)] == [False, True, False, True]
    apart = tuple(f"model.layers.2.mlp.experts.{e}.down_proj.weight" for e in range(4))
    found = read(path, "moe-one-by-one", apart)
    [warning] = found.warnings
    assert warning.endswith(apart[1])
    assert [found.vector(a, None, 32) is None for a in apart] == [False, True, False, True]


@pytest.mark.parametrize(
    ("name", "cols", "counts", "said"),
    [
        ("blk.9.ffn_down_exps.weight", 32, [1] * 4, "no entry is of a tensor of this model"),
        (DOWN, 64, [1] * 4, "expected 4 x 32 values for blk.2.ffn_down_exps.weight, got 256"),
        (DOWN, 32, [1] * 3, "expected 4 x 32 values for blk.2.ffn_down_exps.weight, got 96"),
        (DOWN, 32, [1], "expected 4 x 32 values for blk.2.ffn_down_exps.weight, got 32"),
        ("blk.1.ssm_out.weight", 64, [1], "expected 1 x 256 values"),
    ],
)
def test_of_another_model(
    tmp_path: Path, name: str, cols: int, counts: list[int], said: str
) -> None:
    """No name in common, another width, another number of experts: an error with the file."""
    path = made.write_gguf(tmp_path / "x.gguf", {name: made.entry(name, cols, counts)})
    with pytest.raises(ImportanceError, match=said) as error:
        read(path, "moe-fused")
    assert "x.gguf" in str(error.value)
    assert error.value.hint is not None


def test_values_that_cannot_be(tmp_path: Path) -> None:
    """A negative or infinite mean square is an error with the weight."""
    for wrong in (-1.0, np.inf, np.nan):
        sums, counts = made.entry(DOWN, 32, [5] * 4)
        sums[2, 7] = wrong
        path = made.write_gguf(tmp_path / "x.gguf", {DOWN: (sums, counts)})
        found = read(path, "moe-fused")
        down = "model.layers.2.mlp.experts.down_proj"
        assert found.vector(down, 1, 32) is not None
        with pytest.raises(ImportanceError, match=f"{down}: x.gguf has 1 values"):
            found.vector(down, 2, 32)


def seed(path: Path, vectors: Mapping[str, list[float]]) -> Path:
    path.write_text(json.dumps({k: {"input_channel_max": v} for k, v in vectors.items()}))
    return path


def test_the_json_of_maxima(tmp_path: Path) -> None:
    """Maxima of the toolkit that came before are squared, and it is said that they are maxima. Its
    names may lack what wraps the text model.
    """
    ramp = [i / 4 for i in range(128)]
    down = "model.layers.2.mlp.experts.down_proj"
    vectors = {
        OUT.replace("model.", "model.language_model.", 1): ramp,
        "model.layers.2.mlp.experts.1.down_proj.weight": [2.0] * 32,
        "model.layers.0.linear_attn.in_proj_z.weight": [0.0] * 64,
    }
    found = read(seed(tmp_path / "x.json", vectors), "moe-one-by-one", (OUT, "lm_head.weight"))
    assert found.maxima
    assert found.warnings == (
        "x.json says nothing of 1 weights, which are quantized without it: lm_head.weight",
    )
    got = found.vector(OUT, None, 128)
    assert got is not None
    assert got.dtype == np.float32
    assert (got == np.square(np.array(ramp))).all()
    assert found.vector("model.layers.0.linear_attn.in_proj_z.weight", None, 64) is None
    fused = read(tmp_path / "x.json", FUSED, (down,))
    assert fused.warnings == ()
    assert fused.vector(down, 0, 32) is None
    got = fused.vector(down, 1, 32)
    assert got is not None
    assert (got == 4).all()


@pytest.mark.parametrize("wrong", [-2.0, 1e30])
def test_maxima_that_cannot_be_meant(tmp_path: Path, wrong: float) -> None:
    """Below zero, or with a square beyond float32: not squared and taken for good."""
    found = read(seed(tmp_path / "x.json", {OUT: [wrong] + [1.0] * 127}), "moe-one-by-one")
    with pytest.raises(ImportanceError, match=r"x.json has 1 values that are not finite or below"):
        found.vector(OUT, None, 128)


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        ('{"a": 1}', SourceError, "expected statistics of collect_activation_stats.py"),
        ('{"a": {"input_channel_max": ["x"]}}', SourceError, "expected statistics"),
        ('{"a": {"input_channel_max": [1', SourceError, "expected statistics"),
        ("{}", ImportanceError, "the first is nothing at all"),
        ('{"a.weight": {"input_channel_max": [1]}}', ImportanceError, "the first is a.weight"),
        (f'{{"{OUT}": {{"input_channel_max": [1]}}}}', ImportanceError, "of 128 input channels"),
        ("words", SourceError, "x.json"),
        ("", SourceError, "x.json"),
    ],
)
def test_json_that_is_wrong(
    tmp_path: Path, content: str, kind: type[GgufmixError], said: str
) -> None:
    """What is no JSON, none of theirs, or of another model, names the file or the weight."""
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(kind, match=said):
        read(path, "moe-one-by-one")


def test_no_such_file(tmp_path: Path) -> None:
    """A path that is not there is a usage error."""
    with pytest.raises(UsageError, match="no such file of statistics"):
        read(tmp_path / "nowhere.gguf", "moe-fused")
