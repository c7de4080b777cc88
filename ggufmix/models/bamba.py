"""Bamba: Mamba-2 layers among attention, in which a part of each head turns with the position.

Rows of q and k lie as in Llama, in the part that turns. llama.cpp's converter reorders whole heads:
in its file other values turn together than in the model. Source: llama.cpp, conversion/granite.py,
src/models/granite-hybrid.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gguf import MODEL_ARCH, Keys

from ..container import boolean, u32
from ..errors import ModelError
from .block import Block
from .claims import Claims
from .config import Config
from .decoder import Attention, only_ropes
from .hybrid import heads_by_block, place_hybrid
from .mamba import Mamba2, unlimited_time_steps
from .model import Model

DEFAULTS: Mapping[str, Any] = {
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_state": 256,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_n_heads": 128,
    "mamba_proj_bias": False,
    "max_position_embeddings": 262144,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": 128000,
}
"""What the config class of transformers 5.23 says of a key that config.json leaves out."""


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family; it has no MTP blocks to keep."""
    del mtp
    for key, value in (
        ("hidden_act", "silu"),
        ("attention_bias", False),
        ("mamba_conv_bias", True),
        ("mamba_expand", 2),
        ("mamba_proj_bias", False),
        ("mlp_bias", False),
    ):
        config.only(key, value)
    only_ropes(config, part=True)
    unlimited_time_steps(config)
    read = Attention.read(config, pairs=True)
    rope = Config(config.rope, config.defaults)
    turned = int(read.head * rope.number("partial_rotary_factor"))
    config.only("attn_rotary_emb", turned)
    attention = replace(read, turned=turned)
    hidden, width = attention.hidden, config.integer("intermediate_size")
    mamba = Mamba2(
        hidden,
        2 * hidden,
        config.integer("mamba_d_state"),
        config.integer("mamba_n_groups"),
        config.integer("mamba_n_heads"),
        config.integer("mamba_d_conv", least=2),
    )
    with_attention = _with_attention(config)

    def part(block: Block) -> None:
        block.place("input_layernorm.weight", hidden)
        (attention if with_attention[block.layer or 0] else mamba).place(block)
        block.place("pre_ff_layernorm.weight", hidden, to="post_attention_layernorm.weight")
        block.mlp("feed_forward.", width, hidden, to="mlp.")

    values = {
        **heads_by_block(attention.kv_heads, with_attention),
        Keys.LLM.VOCAB_SIZE: u32(config.integer("vocab_size")),
        Keys.Rope.DIMENSION_COUNT: u32(turned),
        **mamba.metadata_as_granite(),
        Keys.Rope.SCALING_FINETUNED: boolean(True),  # how llama.cpp is told of positions here
    }
    return place_hybrid(
        arch,
        config,
        claims,
        part=part,
        values=values,
        last_norm="model.final_layernorm.weight",
    )


def _with_attention(config: Config) -> list[bool]:
    """Which layers have attention, by their numbers. Raises ModelError for others."""
    n_layers, which = config.integer("num_hidden_layers"), config.find("attn_layer_indices")
    if not isinstance(which, list) or any(i not in range(n_layers) for i in which):
        raise ModelError(
            f"config.json: attn_layer_indices: expected numbers of the {n_layers} layers, "
            f"got {which!r}"
        )
    return [layer in which for layer in range(n_layers)]
