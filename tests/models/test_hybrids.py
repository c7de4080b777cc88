"""Hybrids of attention with convolutions or state-space layers: what is decided about them, mutants
that fail, and what is refused.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checkpoints import CASES

from ggufmix import models
from ggufmix.errors import ModelError
from ggufmix.models import Model, lfm2
from ggufmix.runtime import kl
from ggufmix.tensor import held

FAR = 1e-3  # nats per token, a thousand times what test_logits.py allows

Placed = Callable[..., Model]
Run = Callable[[Model], np.ndarray]
Reference = Callable[[str], np.ndarray]


def again(name: str, **changed: Any) -> Model:
    """Place a case anew, with other values in its config."""
    case = CASES[name]
    tensors = {k: held(k, v) for k, v in case.arrays().items()}
    return models.place(case.raw_config() | changed, tensors)


def test_order_of_experts_shows(
    run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gate and up of LFM2-MoE's experts in each other's place make another model."""
    monkeypatch.setattr(lfm2, "EXPERT_PARTS", ("w3", "w1", "w2"))
    assert kl(reference("lfm2moe"), run(again("lfm2moe"))) > FAR


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("lfm2", "shortconv.conv."),
        ("lfm2", "attn_k_norm."),
        ("lfm2moe", "exp_probs_b."),
    ],
)
def test_order_of_values_shows(
    name: str, part: str, placed: Placed, run: Run, reference: Reference
) -> None:
    """Taps, norms and biases in reverse order make another model."""
    model = placed(name)
    assert any(part in p.name for p in model.tensors)
    turned = [
        replace(p, tensor=held(p.name, p.tensor.all()[..., ::-1].copy())) if part in p.name else p
        for p in model.tensors
    ]
    assert kl(reference(name), run(replace(model, tensors=turned))) > FAR


@pytest.mark.parametrize(("name", "words"), [("lfm2", {"full_attention": "attention"})])
def test_either_word_for_a_kind_of_layer(name: str, words: dict[str, str], placed: Placed) -> None:
    """Layer types are understood as transformers writes them now and as it wrote them before."""
    model = placed(name)
    other = again(name, layer_types=[words.get(k, k) for k in CASES[name].config["layer_types"]])
    assert other.values == model.values
    assert [p.name for p in other.tensors] == [p.name for p in model.tensors]


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("lfm2", {"layer_types": ["conv"] * 3}, "layer_types: expected 4 entries"),
        ("lfm2", {"layer_types": "conv"}, "layer_types: expected 4 entries"),
        ("lfm2", {"layer_types": ["conv"] * 3 + ["mamba"]}, r"layer_types\[3\]: .* got 'mamba'"),
        ("lfm2", {"conv_bias": True}, "conv_bias: expected False"),
        ("lfm2", {"head_dim": 32}, "head_dim: expected 16"),
        ("lfm2", {"block_ffn_dim_multiplier": None}, r"w1.weight: expected shape \[64, 64\]"),
        ("lfm2", {"rope_scaling": {"rope_type": "llama3"}}, "rope_type: expected one of"),
        ("lfm2-untied", {"full_attn_idxs": [1, 4]}, "full_attn_idxs: expected numbers"),
        ("lfm2-untied", {"tie_embedding": True, "full_attn_idxs": [1]}, "the tensors do not fit"),
        ("lfm2moe", {"norm_topk_prob": False}, "norm_topk_prob: expected True"),
        ("lfm2moe", {"routed_scaling_factor": 2.0}, "routed_scaling_factor: expected 1.0"),
        ("lfm2moe", {"use_expert_bias": False}, "use_expert_bias: expected True"),
        ("lfm2moe", {"num_experts": 5}, "expected shape"),
    ],
)
def test_refused(name: str, changed: dict[str, Any], message: str) -> None:
    """What llama.cpp would compute otherwise, and what does not fit the tensors, is said."""
    with pytest.raises(ModelError, match=message):
        again(name, **changed)
