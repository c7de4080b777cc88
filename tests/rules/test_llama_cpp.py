"""llama.cpp's mixtures, tensor for tensor: its own snapshots of what llama-quantize chooses, for
twelve models and every file type that can be written here.
"""

# SPDX-License-Identifier: MIT

import re
from collections import Counter

import pytest
from listings import GOLDEN, facts_of, listing, rows

from ggufmix import rules
from ggufmix.rules import Choices, Facts, decide

SNAPSHOTS = GOLDEN / "plans" / "llama.cpp"
MODELS = {
    "deepseek-v3.1": "DeepSeek-V3.1-Terminus",
    "gemma-3-4b-it": "gemma-3-4b-it",
    "glm-4.6v": "GLM-4.5-Air",
    "gpt-oss-120b": "gpt-oss-120b.mxfp4",
    "meta-llama-3.1-70b-instruct": "Meta-Llama-3.1-70B",
    "nemotron-nano-3-30b-a3b": "Nemotron-Nano-3-30B-A3B",
    "qwen3-0.6b": "Qwen3-0.6B",
    "qwen3-14b": "Qwen3-14B",
    "qwen3-coder-next": "Qwen3-Next-80B-A3B",
    "qwen3.5-397b-a17b": "Qwen3.5-397B-A17B",
    "qwen3.6-27b": "Qwen3.6-27B",
    "step-3.5-flash": "Step-3.5-Flash",
}
FTYPES = [
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q2_K_S",
    "Q3_K_S",
    "Q3_K_M",
    "Q3_K_L",
    "Q4_K_S",
    "Q4_K_M",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4_MOE",
    "F32",
    "F16",
    "BF16",
]


def snapshot(model: str, ftype: str) -> tuple[str, dict[str, str]]:
    """(default type, name -> type of the exceptions), types in capitals."""
    lines = [r[1:] for r in rows(SNAPSHOTS / f"{model}.tsv") if r[0] == ftype]
    [default] = [kind for name, kind in lines if name == "*"]
    return default.upper(), {name: kind.upper() for name, kind in lines if name != "*"}


def head_facts(model: str) -> dict[str, int]:
    """The numbers in the head of a snapshot."""
    head = (SNAPSHOTS / f"{model}.tsv").read_text().splitlines()[1]
    return {key: int(number) for key, number in re.findall(r"(\w+)=(\d+)", head)}


@pytest.mark.parametrize("ftype", FTYPES)
@pytest.mark.parametrize("model", MODELS)
def test_every_tensor_as_llama_quantize_chooses(model: str, ftype: str) -> None:
    """Under --mirror llama.cpp each tensor that llama-quantize may quantize gets the type of the
    snapshot, and all others are F32.
    """
    default, exceptions = snapshot(model, ftype)
    tensors = listing(MODELS[model], mtp=False)
    numbers = head_facts(model)
    facts = Facts(
        facts_of(MODELS[model], mtp=False).architecture,
        blocks=numbers["n_layer"],
        experts=numbers.get("n_expert", 0),
        heads=numbers["n_head"],
        kv_heads=numbers["n_head_kv"],
    )
    made = decide(tensors, facts, Choices(rules.recipe(ftype), mirror="llama.cpp"))
    expected = {
        p.name: "F32" if p.tensor.listed == "F32" else exceptions.get(p.name, default)
        for p in tensors
    }
    assert {p.name: d.encoder.name for p, d in zip(tensors, made, strict=True)} == expected
    assert exceptions.keys() <= expected.keys()


@pytest.mark.parametrize("model", MODELS)
def test_the_listings_are_the_models_of_the_snapshots(model: str) -> None:
    """Which tensors may be quantized is the same in listing and snapshot: under MXFP4_MOE the
    snapshot names every matrix, and the default takes the stacks.
    """
    _, named = snapshot(model, "MXFP4_MOE")
    tensors = listing(MODELS[model], mtp=False)
    matrices = {p.name for p in tensors if len(p.tensor.shape) == 2 and p.tensor.listed != "F32"}
    assert matrices == named.keys()


@pytest.mark.parametrize("model", MODELS)
def test_facts_follow_from_the_shapes(model: str) -> None:
    """Blocks, experts and the grouping of heads need no config: the shapes of a listing say them
    (llama.cpp's test counts experts as they are, and heads of block 0).
    """
    numbers = head_facts(model)
    found = facts_of(MODELS[model], mtp=False)
    kv = numbers["n_head_kv"]
    assert found.blocks == numbers["n_layer"]
    assert found.experts == numbers.get("n_expert", 0)
    assert found.gqa == (numbers["n_head"] // kv if kv else 0)
    assert found.size == ("70B" if "70b" in model else None)


def test_how_much_is_compared() -> None:
    """The comparison is as large as it says: twelve models, all types, by tensor."""
    counts = Counter(
        {model: len(listing(name, mtp=False)) * len(FTYPES) for model, name in MODELS.items()}
    )
    assert len(counts) == 12
    assert counts.total() > 150_000
