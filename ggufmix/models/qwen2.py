"""Qwen2, Qwen2.5 and Qwen2-MoE (Qwen1.5-MoE): biases on q, k and v; in the second, routed experts
with a shared one. No value changes.

Source: llama.cpp, conversion/qwen.py, src/models/qwen2.cpp and qwen2moe.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import MODEL_ARCH

from .block import Block
from .claims import Claims
from .config import Config
from .decoder import Attention, only_ropes, place_decoder
from .keys import expert_widths
from .model import Model

_COMMON: Mapping[str, Any] = {
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
DEFAULTS: dict[MODEL_ARCH, Mapping[str, Any]] = {
    MODEL_ARCH.QWEN2: {
        **_COMMON,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
    },
    MODEL_ARCH.QWEN2MOE: {
        **_COMMON,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "moe_intermediate_size": 1408,
        "norm_topk_prob": False,
        "num_attention_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 24,
        "num_key_value_heads": 16,
        "shared_expert_intermediate_size": 5632,
    },
}
"""What the config classes of transformers 5.23 say of a key that config.json leaves out."""


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family; it has no MTP blocks to keep."""
    del mtp
    hidden, width = config.integer("hidden_size"), config.integer("intermediate_size")
    only_ropes(config, "linear", "yarn", "dynamic")
    config.only("qkv_bias", True)
    config.only("head_dim", hidden // config.integer("num_attention_heads"))
    mixture = arch is MODEL_ARCH.QWEN2MOE
    if mixture:
        for key, value in (
            ("norm_topk_prob", False),
            ("decoder_sparse_step", 1),
            ("mlp_only_layers", []),
            ("tie_word_embeddings", False),
        ):
            config.only(key, value)

    def feed_forward(block: Block) -> None:
        if mixture:
            block.mixture(config, shared=True)
        else:
            block.mlp("mlp.", width, hidden)

    return place_decoder(
        arch,
        config,
        claims,
        attention=Attention.read(config, biases="qkv").place,
        feed_forward=feed_forward,
        values=expert_widths(config, shared=True) if mixture else {},
    )
