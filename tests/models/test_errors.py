"""What is wrong with a checkpoint is said: what was expected, what came, where."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checkpoints import BF16, CASES, Arrays

from ggufmix import models
from ggufmix.errors import ModelError
from ggufmix.models import CLASSES
from ggufmix.tensor import held

LONG = CASES["llama-longrope"].config["rope_parameters"]
MSCALE = {
    "type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "mscale": 0.5,
    "mscale_all_dim": 1.0,
}

Parts = tuple[dict[str, Any], Arrays]


def parts(name: str) -> Parts:
    """A case's config and tensors, to be damaged."""
    return CASES[name].raw_config(), CASES[name].arrays()


def refused(config: dict[str, Any], arrays: Arrays) -> tuple[str, str]:
    """The message and the hint of the error that placing ends in."""
    with pytest.raises(ModelError) as caught:
        models.place(config, {k: held(k, v) for k, v in arrays.items()})
    return str(caught.value), caught.value.hint or ""


def test_unknown_architecture() -> None:
    """The known ones are listed, and a way around is named."""
    config, arrays = parts("dense-tied")
    message, hint = refused(config | {"architectures": ["GPT9ForCausalLM"]}, arrays)
    assert "'GPT9ForCausalLM'" in message
    assert all(name in message for name in CLASSES)
    assert "a GGUF of it" in hint


def test_no_architecture() -> None:
    """A config that names no class is not guessed at."""
    config, arrays = parts("dense-tied")
    del config["architectures"]
    assert '"architectures"' in refused(config, arrays)[0]


@pytest.mark.parametrize(
    ("case", "name", "shape"),
    [
        ("moe-one-by-one", "model.layers.0.linear_attn.in_proj_a.weight", [4, 64]),
        ("moe-one-by-one", "model.layers.0.linear_attn.conv1d.weight", [256, 1, 4]),
        ("moe-one-by-one", "model.layers.2.mlp.experts.3.down_proj.weight", [64, 32]),
        ("moe-fused", "model.layers.3.self_attn.q_proj.weight", [128, 64]),
        ("moe-fused", "model.layers.1.mlp.experts.gate_up_proj", [4, 64, 64]),
        ("llama", "model.layers.2.self_attn.k_proj.weight", [64, 64]),
        ("llama-biases", "model.layers.0.self_attn.q_proj.bias", [128]),
        ("llama-biases", "model.layers.0.mlp.up_proj.bias", [96]),
        ("mixtral", "model.layers.1.block_sparse_moe.experts.3.w2.weight", [64, 96]),
        ("mixtral-fused", "model.layers.1.mlp.experts.gate_up_proj", [4, 192, 64]),
        ("qwen2moe", "model.layers.1.mlp.shared_expert_gate.weight", [1, 64]),
        ("qwen3", "model.layers.0.self_attn.q_norm.weight", [32]),
        ("deepseek-v3", "model.layers.1.self_attn.kv_b_proj.weight", [160, 32]),
        ("deepseek-v3", "model.layers.1.mlp.gate.e_score_correction_bias", [8]),
        ("deepseek-v2", "model.layers.1.mlp.shared_experts.up_proj.weight", [64, 64]),
        ("glm4moe-mtp", "model.layers.3.eh_proj.weight", [64, 128]),
        ("gpt-oss", "model.layers.0.mlp.experts.down_proj", [4, 96, 64]),
        ("gpt-oss", "model.layers.0.mlp.experts.gate_up_proj_bias", [4, 192]),
        ("gpt-oss", "model.layers.1.self_attn.sinks", [4]),
    ],
)
def test_wrong_shape(case: str, name: str, shape: list[int]) -> None:
    """A shape that the config does not give names the tensor, the expected and the found shape."""
    config, arrays = parts(case)
    other = [*shape[:-1], shape[-1] + 1]
    message, _ = refused(config, arrays | {name: np.zeros(other, BF16)})
    assert message == f"{name}: expected shape {shape} from config.json, got {other}"


def test_wrong_number_of_value_heads() -> None:
    """Value heads that the weights do not have are found by their shapes, not in the output."""
    config, arrays = parts("moe-fused")
    message, _ = refused(config | {"linear_num_value_heads": 16}, arrays)
    assert "linear_attn.in_proj_qkv.weight: expected shape [640, 64]" in message
    assert "got [384, 64]" in message


def test_vocabulary_of_another_size() -> None:
    """Rows of the embedding are held against vocab_size."""
    config, arrays = parts("dense-tied")
    message, _ = refused(config | {"vocab_size": 130}, arrays)
    assert message == (
        "model.embed_tokens.weight: expected 130 rows (vocab_size in config.json), got 128"
    )


def test_unclaimed_tensor() -> None:
    """A tensor that no place is known for is not dropped in silence."""
    config, arrays = parts("dense-tied")
    arrays["model.layers.0.self_attn.q_proj.bias"] = np.zeros(128, BF16)
    message, hint = refused(config, arrays)
    assert "1 that nothing in qwen35 claims (model.layers.0.self_attn.q_proj.bias)" in message
    assert "does not know" in hint


def test_missing_tensors() -> None:
    """All that are missing are counted, the first of them named as their file would."""
    config, arrays = parts("dense-wrapped-mtp")
    gone = [n for n in arrays if "in_proj_z" in n or "mlp.up_proj" in n]
    message, _ = refused(config, {n: v for n, v in arrays.items() if n not in gone})
    assert f"{len(gone)} missing" in message
    assert "model.language_model.layers.0.linear_attn.in_proj_z.weight" in message
    assert f"and {len(gone) - 5} more" in message


def test_more_layers_than_stated() -> None:
    """Layers beyond num_hidden_layers are named."""
    config, arrays = parts("dense-tied")
    message, _ = refused(config | {"num_hidden_layers": 4}, arrays)
    assert "model.layers.4." in message


def test_missing_output_matrix() -> None:
    """Without tied embeddings the output matrix must be there."""
    config, arrays = parts("dense-tied")
    message, _ = refused(config | {"tie_word_embeddings": False}, arrays)
    assert "1 missing (lm_head.weight)" in message


def test_missing_experts() -> None:
    """Experts that are missing are given by number."""
    config, arrays = parts("moe-one-by-one")
    rest = {n: v for n, v in arrays.items() if "layers.2.mlp.experts.1." not in n}
    message, _ = refused(config, rest)
    assert message == ("model.layers.2.mlp.experts: expected experts 0 to 3, got 3, missing [1]")


def test_missing_experts_of_mixtral() -> None:
    """They are given under the name that is stored."""
    config, arrays = parts("mixtral")
    rest = {n: v for n, v in arrays.items() if "layers.2.block_sparse_moe.experts.1." not in n}
    message, _ = refused(config, rest)
    assert message.startswith("model.layers.2.block_sparse_moe.experts: expected experts 0 to 3")


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("llama-biases", "model.layers.0.self_attn.o_proj.bias"),
        ("qwen2", "model.layers.1.self_attn.v_proj.bias"),
        ("qwen3moe", "model.layers.1.self_attn.k_norm.weight"),
        ("mixtral", "model.layers.1.block_sparse_moe.gate.weight"),
        ("mixtral", "model.layers.1.block_sparse_moe.experts.0.w3.weight"),
        ("deepseek-v3", "model.layers.2.self_attn.kv_b_proj.weight"),
        ("deepseek-v3", "model.layers.1.mlp.gate.e_score_correction_bias"),
        ("deepseek-v2", "model.layers.0.self_attn.kv_a_layernorm.weight"),
        ("kimi-wrapped", "language_model.model.layers.1.mlp.experts.7.up_proj.weight"),
        ("glm4moe-mtp", "model.layers.3.shared_head.norm.weight"),
        ("gpt-oss", "model.layers.3.self_attn.sinks"),
        ("gpt-oss", "model.layers.0.mlp.experts.gate_up_proj"),
    ],
)
def test_missing_parts_of_decoders(case: str, name: str) -> None:
    """What a block must have is missed by its name."""
    config, arrays = parts(case)
    del arrays[name]
    message, _ = refused(config, arrays)
    assert f"1 missing ({name})" in message


def test_missing_part_of_an_expert() -> None:
    """One matrix of one expert is missed by name."""
    config, arrays = parts("moe-one-by-one")
    del arrays["model.layers.2.mlp.experts.1.up_proj.weight"]
    message, _ = refused(config, arrays)
    assert "1 missing (model.layers.2.mlp.experts.1.up_proj.weight)" in message


def test_more_experts_than_stated() -> None:
    """Experts beyond num_experts are given by number."""
    config, arrays = parts("moe-one-by-one")
    message, _ = refused(config | {"num_experts": 3}, arrays | {})
    assert "mlp.gate.weight: expected shape [3, 64]" in message
    gates = {n: v[:3] for n, v in arrays.items() if n.endswith("mlp.gate.weight")}
    message, _ = refused(config | {"num_experts": 3}, arrays | gates)
    assert "expected experts 0 to 2, got 4, beyond them [3]" in message


@pytest.mark.parametrize("number", ["9" * 5000, "\u0663", "99999999999"])
def test_a_layer_number_beyond_reason(number: str) -> None:
    """What no layer has as its number makes a tensor that nobody claims, not a failure."""
    config, arrays = parts("dense-tied")
    name = f"mtp.layers.{number}.x.weight"
    message, _ = refused(config, arrays | {name: arrays["model.norm.weight"]})
    assert f"1 that nothing in qwen35 claims ({name[:200]}" in message


def test_twice_the_same_tensor() -> None:
    """Two tensors for one place are refused."""
    config, arrays = parts("dense-tied")
    again = "model.language_model.norm.weight"
    message, _ = refused(config, arrays | {again: arrays["model.norm.weight"]})
    assert message.startswith(f"{again}: another tensor")


def test_mlx_layout() -> None:
    """A checkpoint of MLX, whose norms already have their one, comes with advice."""
    config, arrays = parts("moe-fused")
    arrays = {n.replace(".experts.", ".switch_mlp."): v for n, v in arrays.items()}
    message, hint = refused(config, arrays)
    assert "this is the layout of MLX" in message
    assert "the original" in hint


@pytest.mark.parametrize(
    ("name", "changed", "told"),
    [
        ("dense-tied", {"hidden_size": "64"}, "hidden_size: expected a whole number from 1 up"),
        (
            "dense-tied",
            {"linear_num_value_heads": 1 << 31},
            "linear_num_value_heads: 2147483648 of",
        ),
        ("dense-tied", {"max_position_embeddings": 1 << 32}, "expected at most 4294967295, got"),
        ("dense-tied", {"num_hidden_layers": 513}, "num_hidden_layers: expected at most 512, got"),
        ("moe-fused", {"num_experts": 1025}, "num_experts: expected at most 1024, got 1025"),
        ("deepseek-v3", {"n_routed_experts": 1 << 31}, "n_routed_experts: expected at most 1024"),
        ("llama", {"head_dim": 1 << 31}, "num_attention_heads: 4 of 2147483648 are no real sizes"),
        ("mistral", {"num_attention_heads": 1 << 31}, "num_attention_heads: 2147483648 of 32"),
        ("deepseek-v3", {"v_head_dim": 1 << 31}, "num_attention_heads: 4 of 2147483664 are no"),
        ("falcon-h1", {"mamba_d_state": 1 << 31}, "groups of a state-space layer: 2 of 2147483648"),
        (
            "dense-tied",
            {"max_position_embeddings": [1]},
            "max_position_embeddings: expected a whole",
        ),
        ("dense-tied", {"rms_norm_eps": float("nan")}, "rms_norm_eps: expected a finite number"),
        ("dense-tied", {"rms_norm_eps": 10**400}, "rms_norm_eps: expected a finite number"),
        (
            "dense-tied",
            {"rope_parameters": {"partial_rotary_factor": float("inf")}},
            "partial_rotary_factor: expected a finite number, got inf",
        ),
        (
            "dense-tied",
            {"rope_parameters": {"mrope_section": [-1, 2, 2]}},
            "mrope_section: expected sizes",
        ),
        ("moe-fused", {"num_experts_per_tok": 99}, "num_experts_per_tok: expected 1 to 4"),
        ("moe-fused", {"num_experts_per_tok": 0}, "num_experts_per_tok: expected 1 to 4"),
        ("dense-tied", {"linear_num_value_heads": 3}, "expected a multiple of the 2"),
        ("dense-tied", {"linear_value_head_dim": 16}, "expected 32 (linear_key_head_dim), got 16"),
        ("dense-tied", {"hidden_act": "gelu"}, "hidden_act: expected 'silu', got 'gelu'"),
        (
            "dense-tied",
            {"rope_parameters": {"rope_type": "odd"}},
            "rope_type: expected one of",
        ),
        (
            "dense-tied",
            {"rope_parameters": {"rope_type": "yarn"}},
            "factor: expected a number",
        ),
        ("dense-tied", {"rope_parameters": {"mrope_section": 3}}, "mrope_section: expected sizes"),
        ("dense-tied", {"rope_theta": "1e6", "rope_parameters": None}, "rope_theta: expected a n"),
        ("dense-tied", {"rms_norm_eps": "1e-6"}, "rms_norm_eps: expected a number, got '1e-6'"),
        ("dense-tied", {"layer_types": ["full_attention"]}, "layer_types: expected 5 entries"),
        ("dense-tied", {"layer_types": ["mamba"] * 5}, "layer_types[0]: expected linear_attention"),
        ("next-wide", {"norm_topk_prob": False}, "norm_topk_prob: expected True, got False"),
        ("next-wide", {"mlp_only_layers": [0]}, "mlp_only_layers: expected [], got [0]"),
        ("qwen2", {"rope_scaling": {"rope_type": "llama3"}, "rope_theta": 1e4}, "got 'llama3'"),
        ("qwen2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected 1.0, got 0.5"),
        ("qwen2", {"head_dim": 32}, "head_dim: expected 16, got 32"),
        ("qwen2moe", {"norm_topk_prob": True}, "norm_topk_prob: expected False, got True"),
        ("qwen2moe", {"tie_word_embeddings": True}, "tie_word_embeddings: expected False"),
        ("qwen3", {"attention_bias": True}, "attention_bias: expected False, got True"),
        ("qwen3moe", {"norm_topk_prob": None}, "norm_topk_prob: expected True, got False"),
        ("llama", {"num_key_value_heads": 3}, "expected a multiple of the 3 num_key_value_heads"),
        ("llama", {"hidden_size": 66}, "hidden_size: expected a multiple of the 4 num_attention_"),
        ("llama", {"head_dim": 15}, "head_dim: expected an even number, got 15"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act: expected 'silu', got 'gelu'"),
        (
            "llama3-tied",
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "low_freq_factor: expected a number, got None",
        ),
        (
            "llama-longrope",
            {"rope_parameters": {**LONG, "long_factor": [1.0] * 7}},
            "long_factor: expected 8 positive numbers (head_dim / 2), got 7 entries",
        ),
        (
            "llama-longrope",
            {"rope_parameters": {**LONG, "short_factor": None}},
            "short_factor: expected 8 positive numbers (head_dim / 2), got None",
        ),
        ("deepseek-v3", {"scoring_func": "softmax"}, "expected 'sigmoid', got 'softmax'"),
        ("deepseek-v3", {"topk_method": "greedy"}, "topk_method: expected 'noaux_tc', got"),
        ("deepseek-v3", {"rope_interleave": False}, "rope_interleave: expected True, got False"),
        ("deepseek-v3", {"attention_bias": True}, "attention_bias: expected False, got True"),
        ("deepseek-v3", {"moe_layer_freq": 2}, "moe_layer_freq: expected 1, got 2"),
        ("deepseek-v3", {"num_experts_per_tok": 9}, "expected at most the 8 n_routed_experts"),
        ("deepseek-v3", {"n_group": 8}, "expected groups of two or more of the 8 n_routed_exp"),
        ("deepseek-v3", {"topk_group": 5}, "topk_group: expected at most the 4 of n_group, got 5"),
        ("deepseek-v3", {"num_hidden_layers": 26}, "q_lora_rank: expected null, got 48"),
        ("deepseek-v3", {"rope_scaling": MSCALE}, "one as large as the other, got 0.5 and 1.0"),
        (
            "deepseek-v3",
            {"rope_scaling": {**MSCALE, "mscale": 1.0, "attention_factor": 1.0}},
            "rope_scaling: expected no attention_factor",
        ),
        ("deepseek-v3", {"rope_scaling": {"type": "linear"}}, "expected one of default, yarn"),
        ("deepseek-v2", {"norm_topk_prob": True}, "norm_topk_prob: expected False, got True"),
        ("deepseek-v2", {"n_group": 2}, "n_group: expected 1, got 2"),
        ("glm4moe-norms", {"scoring_func": "softmax"}, "expected 'sigmoid', got 'softmax'"),
        ("gpt-oss", {"layer_types": ["full_attention"] * 4}, "layer_types: expected ['sliding_"),
        ("gpt-oss", {"swiglu_limit": 9.0}, "swiglu_limit: expected 7.0, got 9.0"),
        ("gpt-oss", {"attention_bias": False}, "attention_bias: expected True, got False"),
        ("gpt-oss", {"tie_word_embeddings": True}, "tie_word_embeddings: expected False, got"),
        ("next-wide", {"scoring_func": "odd"}, "expected one of sigmoid, softmax, got 'odd'"),
    ],
)
def test_config_that_llama_cpp_cannot_follow(name: str, changed: dict[str, Any], told: str) -> None:
    """A config value that makes no sense, or that llama.cpp computes otherwise, names its key."""
    config, arrays = parts(name)
    message, _ = refused(config | changed, arrays)
    assert message.startswith("config.json: ")
    assert told in message
