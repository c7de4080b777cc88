"""Advice is arithmetic from shapes, and what is known with its source."""

# SPDX-License-Identifier: MIT

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from unfold import unfold

import ggufmix
from ggufmix import review
from ggufmix.errors import ModelError, UsageError
from ggufmix.outline import Entry, Outline
from ggufmix.review.advice import PAD, advise, size


def advice_on(model: str, folder: Path, context: int, **limits: int) -> dict[str, Any]:
    plan = ggufmix.plan(unfold(model, folder))
    return advise(review.of_plan(plan, model), context, **limits)


def test_the_640_mib_of_the_thread(tmp_path: Path) -> None:
    """Between q4_0 and q8_0 Qwen3.5-35B-A3B's cache differs by exactly 640 MiB, at 131,072 tokens.

    10 of 40 layers have a cache, each of 2 heads of 256 for keys and as many for values; a value
    takes 34/32 bytes in q8_0 and 18/32 in q4_0.
    """
    found = advice_on("Qwen3.5-35B-A3B", tmp_path, 131_072)
    assert found["layout"]["attention_layers"] == [3, 7, 11, 15, 19, 23, 27, 31, 35, 39]
    assert len(found["layout"]["recurrent_layers"]) == 30
    assert found["layout"]["hybrid"]
    assert found["cache"]["q8_0"]["bytes"] == 131_072 * 10 * 2 * 2 * 256 * 34 // 32
    assert found["q8_0_over_q4_0"] == 640 * 2**20
    assert "131072 tokens x (10 layers x 1024 values)" in found["cache"]["q8_0"]["arithmetic"]


def test_the_recurrent_state(tmp_path: Path) -> None:
    """30 layers of F32, 32 heads of 128 x 128 and three columns of 8192 channels: 62.8 MiB, with
    any context.
    """
    found = advice_on("Qwen3.5-35B-A3B", tmp_path, 1)
    assert found["recurrent_bytes"] == 4 * 30 * (32 * 128 * 128 + 3 * 8192)
    assert (
        found["recurrent_bytes"] == advice_on("Qwen3.5-35B-A3B", tmp_path, 10**6)["recurrent_bytes"]
    )


def test_a_latent_is_kept_once(tmp_path: Path) -> None:
    """With multi-head latent attention a layer keeps 512 + 64 values a token and no values apart
    (llama-kv-cache.cpp: has_v = !is_mla).
    """
    found = advice_on("Kimi-K2-Thinking", tmp_path, 4096)
    assert found["cache"]["f16"]["bytes"] == 4096 * 61 * 576 * 2
    assert not found["layout"]["hybrid"]


def test_a_block_of_mtp_does_not_count(tmp_path: Path) -> None:
    """GLM-4.5-Air has 47 blocks, the last for multi-token prediction."""
    found = advice_on("GLM-4.5-Air", tmp_path, 1000)
    assert found["layout"]["attention_layers"] == list(range(46))
    assert found["layout"]["mtp_layers"] == [46]
    assert found["context_padded"] == 1024 == 4 * PAD
    assert any("multi-token prediction" in n for n in found["notes"])


def test_where_it_fits(tmp_path: Path) -> None:
    """--memory is held against weights, cache and state; the GTT is half of it unless said."""
    gib = 2**30
    found = advice_on("Qwen3.5-35B-A3B", tmp_path, 131_072, memory=64 * gib)["fits"]
    assert found["in_memory"]["q8_0"]
    assert not found["in_gtt"]["q8_0"]
    assert found["gtt_assumed_bytes"] == 32 * gib
    raised = advice_on("Qwen3.5-35B-A3B", tmp_path, 131_072, memory=64 * gib, gtt=60 * gib)["fits"]
    assert raised["in_gtt"]["q8_0"]
    pages = -(-raised["needed_bytes"] // gib) + 2  # two GiB for compute buffers, as is said
    assert raised["ttm_pages_limit"] * 4096 == pages * gib
    assert "mem_info_gtt_total" in raised["raise_gtt"]


def test_it_is_advice_and_says_why(tmp_path: Path) -> None:
    """On a hybrid: q8_0 is safe, what crashed and for which reason; elsewhere none of that."""
    hybrid = " ".join(advice_on("Qwen3.8-27B", tmp_path, 4096)["notes"])
    assert "q8_0 is the safe choice" in hybrid
    assert "GGML_IQK_FA_ALL_QUANTS" in hybrid
    assert "recurrent state is F32" in hybrid
    plain = " ".join(advice_on("Qwen3-4B-Instruct-2507", tmp_path, 4096)["notes"])
    assert "safe choice" not in plain


def outline(*tensors: Entry, **keys: Any) -> Outline:
    return Outline("x.gguf", "phi3", tensors, keys=keys)


def test_keys_and_values_in_one_matrix() -> None:
    """A fused attn_qkv needs the head counts of the header; without them that is an error."""
    qkv = Entry("blk.0.attn_qkv.weight", (3072, 4608), "ATTN_QKV", 0, "F16", 2 * 3072 * 4608)
    with pytest.raises(
        ModelError, match=r"blk\.0\.attn_qkv\.weight: expected attention\.head_count"
    ):
        advise(outline(qkv), 256)
    found = advise(outline(qkv, **{"attention.head_count": 24, "attention.head_count_kv": 6}), 256)
    assert found["cache"]["f16"]["bytes"] == 256 * 2 * 6 * (4608 // 36) * 2


@pytest.mark.parametrize("wrong", ["128", [128, 128], float("inf"), -128, None])
def test_keys_that_are_no_numbers(wrong: object) -> None:
    """Whatever a header says, shapes tell the state; heads that are none are missed by name."""
    out = Entry("blk.0.ssm_out.weight", (64, 32), "SSM_OUT", 0, "F32", 8192)
    norm = Entry("blk.0.ssm_norm.weight", (16,), "SSM_NORM", 0, "F32", 64)
    keys = {"ssm.inner_size": wrong, "ssm.state_size": wrong}
    assert advise(outline(out, norm, **keys), 256)["recurrent_bytes"] == 4 * 64 * 16
    qkv = Entry("blk.0.attn_qkv.weight", (64, 96), "ATTN_QKV", 0, "F16", 2 * 64 * 96)
    for heads in ("8", [-8], ["8"], [], 1.5):
        with pytest.raises(ModelError, match=r"expected attention\.head_count"):
            advise(outline(qkv, **{"attention.head_count": heads}), 256)


def test_more_than_it_was_trained_for() -> None:
    """A context beyond context_length is said."""
    k = Entry("blk.0.attn_k.weight", (64, 64), "ATTN_K", 0, "F16", 8192)
    assert any(
        "trained for 4096" in n for n in advise(outline(k, context_length=4096), 8192)["notes"]
    )
    with pytest.raises(UsageError, match="at least 1"):
        advise(outline(k), 0)


@pytest.mark.parametrize(
    ("text", "n"),
    [("128GiB", 2**37), ("128 GiB", 2**37), ("1.5g", 3 * 2**29), ("96GB", 96 * 10**9), ("7", 7)],
)
def test_sizes(text: str, n: int) -> None:
    """Binary and decimal units, and a bare letter as llama.cpp's users mean it."""
    assert size(text) == n
    with pytest.raises(UsageError, match="expected a size"):
        size(text + "x")


def test_the_command(example: Path, tmp_path: Path) -> None:
    """`advise` reads a file; --json has every cache type's bytes."""
    ggufmix.convert(example, tmp_path / "x.gguf")
    command = [sys.executable, "-m", "ggufmix", "advise", tmp_path / "x.gguf", "--ctx", "4096"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert set(found["cache"]) >= {"f16", "q8_0", "q4_0", "iq4_nl", "q6_0"}
    assert found["weights_bytes"] == (tmp_path / "x.gguf").stat().st_size
    text = subprocess.run(
        [*command, "--memory", "128GiB"], capture_output=True, text=True, check=True
    ).stdout
    assert "hybrid: 1 attention layer (3), 3 recurrent (0-2)" in text
    assert "run with: llama-server -m x.gguf -c 4096 -fa on -ctk q8_0 -ctv q8_0" in text


def test_llama_cpp_allocates_what_we_say(example: Path, tmp_path: Path) -> None:
    """Its own log of an opened hybrid: cells of the cache, bytes of keys and values, the recurrent
    state.
    """
    from ggufmix import runtime

    ggufmix.convert(example, tmp_path / "x.gguf")
    found = review.advise(tmp_path / "x.gguf", 4000)
    with runtime.Llama(tmp_path / "x.gguf", 4000):
        log = "".join(runtime._said)
    cache = re.search(r"llama_kv_cache: size = +([\d.]+) MiB \( *(\d+) cells, +(\d+) layers", log)
    state = re.search(r"llama_memory_recurrent: size = +([\d.]+) MiB", log)
    assert cache is not None
    assert state is not None
    assert float(cache[1]) == round(found["cache"]["f16"]["bytes"] / 2**20, 2)
    assert int(cache[2]) == found["context_padded"] == 4096
    assert int(cache[3]) == len(found["layout"]["attention_layers"])
    assert float(state[1]) == round(found["recurrent_bytes"] / 2**20, 2)
