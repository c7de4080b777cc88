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
from hybrids import Granite, Jamba, Lfm2, Mixed
from listings import Listed, listing

from ggufmix import models
from ggufmix.errors import ModelError
from ggufmix.models import Model, decoder, granite, jamba, lfm2, mamba
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
        ("granite4", "ssm_norm."),
        ("granite4", "ssm_d"),
        ("granite4", "ssm_dt."),
        ("granite4", "ssm_conv1d.weight"),
        ("mamba2", "ssm_conv1d.bias"),
        ("mamba2", "ssm_norm."),
        ("falcon-h1", "ssm_norm."),
        ("falcon-h1-tied", "ssm_d"),
        ("jamba", "ssm_a"),
        ("jamba", "ssm_b_norm."),
        ("jamba", "ssm_dt.bias"),
        ("jamba", "ssm_conv1d.weight"),
        ("nemotron-h", "ssm_norm."),
        ("nemotron-h", "ssm_conv1d.weight"),
        ("nemotron-h", "ffn_up."),
        ("nemotron-h-moe", "exp_probs_b."),
        ("nemotron-h-moe", "ffn_up_exps."),
        ("nemotron-h-latent", "ffn_latent_down."),
        ("nemotron-h-latent", "ffn_latent_up."),
        ("bamba", "ssm_dt.bias"),
        ("kimi-linear", "ssm_a"),
        ("kimi-linear", "ssm_conv1d_q."),
        ("kimi-linear", "ssm_conv1d_k."),
        ("kimi-linear", "ssm_conv1d_v."),
        ("kimi-linear", "ssm_dt.bias"),
        ("kimi-linear", "ssm_f_b."),
        ("kimi-linear", "ssm_g_a."),
        ("kimi-linear", "ssm_beta."),
        ("kimi-linear", "ssm_norm."),
        ("kimi-linear", "exp_probs_b."),
    ],
)
def test_order_of_values_shows(
    name: str, part: str, placed: Placed, run: Run, reference: Reference
) -> None:
    """Taps, norms, biases, gates and latent matrices in reverse order make another model."""
    model = placed(name)
    assert any(part in p.name for p in model.tensors)
    turned = [
        replace(p, tensor=held(p.name, _turned(p.tensor.all()))) if part in p.name else p
        for p in model.tensors
    ]
    assert kl(reference(name), run(replace(model, tensors=turned))) > FAR


def _turned(values: np.ndarray) -> np.ndarray:
    return values.ravel()[::-1].reshape(values.shape).copy()


@pytest.mark.parametrize("name", ["granite4", "mamba2", "falcon-h1"])
def test_decay_shows(
    name: str, run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decays of Mamba-2 in another base make another model."""
    monkeypatch.setattr(mamba, "minus_exp", lambda x: -np.exp2(x))
    assert kl(reference(name), run(again(name))) > FAR


def test_decay_of_mamba_1_shows(
    run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So do decays of Jamba."""
    monkeypatch.setattr(jamba, "minus_exp", lambda x: -np.exp2(x))
    assert kl(reference("jamba"), run(again("jamba"))) > FAR


def test_rank_of_time_steps() -> None:
    """Unless Jamba's config states it, or says "auto", it is a sixteenth of the width."""
    stated = again("jamba").values
    assert again("jamba", mamba_dt_rank="auto").values == stated
    assert again("jamba", mamba_dt_rank=None).values == stated


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_in_multiplier", 1.0),
        ("attention_out_multiplier", 1.0),
        ("key_multiplier", 1.0),
        ("ssm_in_multiplier", 1.0),
        ("ssm_out_multiplier", 1.0),
        ("ssm_multipliers", [0.8, 0.9, 1.1, 1.3, 0.7]),
        ("ssm_multipliers", [0.8, 1.1, 1.3, 0.9, 1.4]),
        ("mlp_multipliers", [0.4, 0.9]),
        ("embedding_multiplier", 1.0),
        ("lm_head_multiplier", 1.0),
    ],
)
def test_multipliers_show(key: str, value: object, run: Run, reference: Reference) -> None:
    """Every multiplier of Falcon-H1 counts."""
    assert kl(reference("falcon-h1"), run(again("falcon-h1", **{key: value}))) > FAR


@pytest.mark.parametrize("name", ["granite4-dense-rope", "granite4-attention-experts"])
def test_pairs_of_rows_show(
    name: str, run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of q and k left with half a head between what turns together make another model."""
    monkeypatch.setattr(decoder, "in_pairs", lambda heads, head, _: np.arange(heads * head))
    assert kl(reference(name), run(again(name))) > FAR


@pytest.mark.parametrize("name", ["granite4", "granite4-attention"])
def test_halves_show(
    name: str, run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gate and up of Granite's joined matrices in each other's place make another model."""
    half_rows = granite.half_rows
    monkeypatch.setattr(granite, "half_rows", lambda n, width, half: half_rows(n, width, 1 - half))
    assert kl(reference(name), run(again(name))) > FAR


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("granite4", "granitehybrid.attention.scale"),
        ("granite4", "granitehybrid.embedding_scale"),
        ("granite4", "granitehybrid.residual_scale"),
        ("granite4", "granitehybrid.logit_scale"),
        ("granite4", "granitehybrid.rope.scaling.finetuned"),
        ("granite4-attention", "granite.residual_scale"),
    ],
)
def test_keys_that_llama_cpp_would_do_without(
    name: str, key: str, placed: Placed, run: Run, reference: Reference
) -> None:
    """Without one of these keys llama.cpp loads another model."""
    model = placed(name)
    values = {k: v for k, v in model.values.items() if k != key}
    assert len(values) < len(model.values)
    assert kl(reference(name), run(replace(model, values=values))) > FAR


def test_width_of_dense_granite(run: Run, reference: Reference) -> None:
    """Without routed experts the shared width is the only one, whatever is stated beside it."""
    model = again("granite4-dense-rope", intermediate_size=1000)
    assert kl(reference("granite4-dense-rope"), run(model)) < FAR / 1000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lfm2", {"full_attention": "attention"}),
        ("granite4", {"attention": "full_attention", "mamba": "linear_attention"}),
    ],
)
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
        ("granite4", {"layer_types": ["mamba"] * 3 + ["conv"]}, r"layer_types\[3\]: .* 'conv'"),
        ("granite4", {"mamba_conv_bias": False}, "mamba_conv_bias: expected True"),
        ("granite4", {"mamba_expand": 4}, "mamba_expand: expected 2"),
        ("granite4", {"mamba_n_groups": 2}, "mamba_n_groups: expected 1"),
        ("granite4", {"mamba_n_heads": 24}, "128 channels cannot have 24 heads"),
        ("granite4", {"mamba_d_state": 8}, r"in_proj.weight: expected shape \[280, 64\]"),
        ("granite4", {"time_step_limit": [0.0, 1.0]}, "time_step_limit: expected"),
        ("granite4", {"time_step_limit": 3}, "time_step_limit: expected"),
        ("granite4", {"attention_multiplier": 0.0}, "attention_multiplier: expected .* above 0"),
        ("granite4", {"shared_intermediate_size": 40}, r"input_linear.weight: expected .*80, 64"),
        ("mamba2", {"use_bias": True}, "use_bias: expected False"),
        ("mamba2", {"use_conv_bias": False}, "use_conv_bias: expected True"),
        ("mamba2", {"num_heads": 4}, "num_heads: expected 128"),
        ("mamba2", {"n_groups": 3}, "128 channels cannot have 3 groups"),
        ("mamba2", {"n_groups": 4}, "in_proj.weight: expected shape"),
        ("mamba2", {"num_hidden_layers": 4}, r"missing \(backbone.layers.3.norm.weight"),
        ("mamba2", {"time_step_limit": [0.1, 9.0]}, "time_step_limit: expected"),
        ("falcon-h1", {"mamba_norm_before_gate": True}, "mamba_norm_before_gate: expected False"),
        ("falcon-h1", {"mlp_multipliers": [1.0]}, "mlp_multipliers: expected 2 numbers"),
        ("falcon-h1", {"ssm_multipliers": 1.0}, "ssm_multipliers: expected 5 numbers"),
        ("falcon-h1", {"key_multiplier": "1"}, "key_multiplier: expected a number"),
        ("falcon-h1", {"mlp_bias": True}, "mlp_bias: expected False"),
        ("falcon-h1", {"mamba_d_ssm": 128, "mamba_n_heads": 8}, "in_proj.weight: expected shape"),
        ("falcon-h1", {"mamba_n_heads": 7}, "96 channels cannot have 7 heads"),
        ("falcon-h1", {"rope_scaling": {"rope_type": "yarn"}}, "rope_type: expected one of"),
        ("falcon-h1-tied", {"lm_head_multiplier": 1.0}, "tie_word_embeddings: expected false"),
        ("jamba", {"attn_layer_offset": 3}, "attn_layer_offset: expected less than the 3"),
        ("jamba", {"expert_layer_period": 0}, "expert_layer_period: expected a whole number"),
        ("jamba", {"attn_layer_offset": 1}, "missing .*claims"),
        ("jamba", {"num_experts": 3}, r"router.weight: expected shape \[3, 64\]"),
        ("jamba", {"mamba_dt_rank": 8}, "x_proj.weight: expected shape"),
        ("jamba", {"mamba_expand": 1}, "mamba_expand: expected 2"),
        ("jamba", {"head_dim": 32}, "head_dim: expected none"),
        ("granite4", {"num_local_experts": 0}, "that nothing in granitehybrid claims"),
    ],
)
def test_refused(name: str, changed: dict[str, Any], message: str) -> None:
    """What llama.cpp would compute otherwise, and what does not fit the tensors, is said."""
    with pytest.raises(ModelError, match=message):
        again(name, **changed)


@pytest.mark.parametrize(
    ("listed", "kind", "config"),
    [
        ("lfm2moe", Lfm2, {"num_hidden_layers": 3, "layer_types": ["conv", "conv", "attention"]}),
        (
            "granitehybrid",
            Granite,
            {
                "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"],
                "vocab_size": 100352, "hidden_size": 1536, "num_attention_heads": 12,
                "num_key_value_heads": 4, "mamba_n_heads": 48, "mamba_d_state": 128,
                "num_local_experts": 64, "intermediate_size": 512, "tie_word_embeddings": True,
            },
        ),
        (
            "jamba",
            Jamba,
            {
                "num_hidden_layers": 4, "attn_layer_offset": 1, "attn_layer_period": 4,
                "mamba_dt_rank": 256,
            },
        ),
    ],
)  # fmt: skip
def test_shapes_that_llama_cpp_loads(
    listed: str, kind: type[Mixed], config: dict[str, Any]
) -> None:
    """Names and shapes at a usual size are those read off llama.cpp's loader."""
    hf_class = next(case.hf_class for case in CASES.values() if type(case) is kind and case.moe)
    more = {"width": 7168} if kind is Lfm2 else {}
    case = kind("full", hf_class, dict(models.CLASSES[hf_class][1]) | config, **more)
    tensors = {n: Listed(n, shape, "BF16") for n, shape in case._shapes()}
    made = models.place(case.raw_config(), tensors).tensors
    want = {p.name: p.tensor.shape for p in listing(listed)}
    assert {p.name: p.tensor.shape for p in made} == want


def test_what_llama_cpp_does_otherwise_is_said() -> None:
    """YaRN with limits of its own is noted here as it is for plain decoders."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    (note,) = again("lfm2", rope_scaling=yarn | {"beta_fast": 16}).notes
    assert note.startswith("rope_scaling beta_fast 16: llama.cpp takes 32")
