"""GLM-4.5, 4.5-Air, 4.6 and 4.7: biases on q, k and v, in the large ones a norm on each head of q
and k, experts with a shared one, and a block for multi-token prediction. No value changes.

Source: llama.cpp, conversion/glm.py, src/models/glm4-moe.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import MODEL_ARCH, ExpertGatingFuncType, Keys

from ..container import Value, boolean, f32, u32
from .block import Block
from .claims import Claims
from .config import Config
from .decoder import Attention, only_ropes, place_decoder
from .mixture import Mixture
from .model import Model
from .mtp import behind_the_last, mtp_blocks, place_head

DEFAULTS: Mapping[str, Any] = {
    "attention_bias": False,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "max_position_embeddings": 131072,
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 96,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 46,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 1.0,
    "topk_group": 1,
    "use_qk_norm": False,
    "vocab_size": 151552,
}
"""What the config class of transformers 5.23 says of a key that config.json leaves out."""


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family, its MTP blocks behind the last layer if `mtp`."""
    config.only("scoring_func", "sigmoid")
    only_ropes(config, "linear", "yarn", "dynamic", part=True)
    biases = "qkv" if config.find("attention_bias") else ""
    attention = Attention.read(config, biases=biases, norms=bool(config.find("use_qk_norm")))
    mixture = Mixture.read(config, bias=True)
    n_layers, hidden = config.integer("num_hidden_layers"), config.integer("hidden_size")
    further = behind_the_last(claims, n_layers)
    stated = config.find("num_nextn_predict_layers", "num_mtp_layers")
    n_mtp = mtp_blocks(claims, len(further), stated, further, keep=mtp)

    def feed_forward(block: Block) -> None:
        mixture.place(block)
        if block.layer is not None and block.layer >= n_layers:
            place_head(block, config.integer("vocab_size"), hidden)

    return place_decoder(
        arch,
        config,
        claims,
        attention=attention.place,
        feed_forward=feed_forward,
        values=_values(config, attention, mixture, n_mtp),
        mtp_blocks=n_mtp,
    )


def _values(config: Config, attention: Attention, mixture: Mixture, n_mtp: int) -> dict[str, Value]:
    """The keys of this family, in the converter's order."""
    rotary = attention.head * Config(config.rope, config.defaults).number("partial_rotary_factor")
    values = {
        Keys.Rope.DIMENSION_COUNT: u32(int(rotary)),
        Keys.LLM.EXPERT_FEED_FORWARD_LENGTH: u32(mixture.width),
        Keys.LLM.EXPERT_SHARED_COUNT: u32(mixture.shared),
        Keys.LLM.LEADING_DENSE_BLOCK_COUNT: u32(mixture.dense),
        Keys.LLM.EXPERT_GATING_FUNC: u32(ExpertGatingFuncType.SIGMOID),
        Keys.LLM.EXPERT_WEIGHTS_SCALE: f32(config.number("routed_scaling_factor")),
        Keys.LLM.EXPERT_WEIGHTS_NORM: boolean(bool(config.find("norm_topk_prob"))),
    }
    if n_mtp:
        values[Keys.LLM.NEXTN_PREDICT_LAYERS] = u32(n_mtp)
    return values
