"""Jamba: Mamba-1 layers, attention now and then, routed experts in some of the blocks. No
positions.

Source: llama.cpp, conversion/jamba.py, src/models/jamba.cpp and mamba-base.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from gguf import MODEL_ARCH, Keys

from ..container import Value, f32, u32
from ..errors import ModelError
from ..tensor import mapped, reshape
from .block import Block
from .claims import Claims
from .config import Config
from .decoder import Attention
from .delta_net import minus_exp
from .hybrid import heads_by_block, place_hybrid
from .model import Model

DEFAULTS: dict[MODEL_ARCH, Mapping[str, Any]] = {
    MODEL_ARCH.JAMBA: {
        "attn_layer_offset": 4,
        "attn_layer_period": 8,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "mamba_conv_bias": True,
        "mamba_d_conv": 4,
        "mamba_d_state": 16,
        "mamba_expand": 2,
        "mamba_proj_bias": False,
        "max_position_embeddings": 262144,
        "num_attention_heads": 32,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "vocab_size": 65536,
    }
}
"""What the config class of transformers 5.23 says of a key that config.json leaves out."""


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family; it has no MTP blocks to keep."""
    del mtp
    for key, value in (
        ("hidden_act", "silu"),
        ("mamba_conv_bias", True),
        ("mamba_expand", 2),
        ("mamba_proj_bias", False),
    ):
        config.only(key, value)
    attention = Attention.read(config)
    if attention.heads * attention.head != attention.hidden:
        raise ModelError(f"config.json: head_dim: expected none, got {attention.head}")
    hidden, width = attention.hidden, config.integer("intermediate_size")
    n_experts = config.integer("num_experts", "num_local_experts")
    with_attention, with_experts = _every(config, "attn"), _every(config, "expert")
    if n_experts == 1:
        with_experts = [False] * len(with_experts)

    def part(block: Block) -> None:
        layer = block.layer or 0
        block.place("input_layernorm.weight", hidden)
        if with_attention[layer]:
            attention.place(block)
        else:
            _mamba(block, config, hidden)
        block.place("pre_ff_layernorm.weight", hidden)
        if with_experts[layer]:
            block.place("feed_forward.router.weight", n_experts, hidden)
            block.experts("feed_forward.experts.", n_experts, width, hidden)
        else:
            block.mlp("feed_forward.", width, hidden)

    return place_hybrid(
        arch,
        config,
        claims,
        part=part,
        values={},
        common=_keys(config, heads_by_block(attention.kv_heads, with_attention), n_experts),
        last_norm="model.final_layernorm.weight",
    )


def _every(config: Config, what: str) -> list[bool]:
    """Which layers have attention, or experts: one in each period."""
    period = config.integer(f"{what}_layer_period")
    offset = config.integer(f"{what}_layer_offset", least=0)
    if offset >= period:
        raise ModelError(
            f"config.json: {what}_layer_offset: expected less than the {period} of "
            f"{what}_layer_period, got {offset}"
        )
    return [layer % period == offset for layer in range(config.integer("num_hidden_layers"))]


def _rank(config: Config) -> int:
    """Width that time steps come from: a sixteenth of the model's unless stated."""
    if config.find("mamba_dt_rank") in (None, "auto"):
        return -(-config.integer("hidden_size") // 16)
    return config.integer("mamba_dt_rank")


def _mamba(block: Block, config: Config, hidden: int) -> None:
    """Place a Mamba-1 layer: decay (inner, state), time steps, B and C from matrices of their own,
    each behind a norm.
    """
    inner, state, rank = 2 * hidden, config.integer("mamba_d_state"), _rank(config)
    kernel = config.integer("mamba_d_conv", least=2)
    flat = partial(reshape, shape=(inner, kernel))
    block.place("mamba.in_proj.weight", 2 * inner, hidden)
    block.place("mamba.conv1d.weight", inner, 1, kernel, steps=(flat,))
    block.place("mamba.conv1d.bias", inner)
    block.place("mamba.x_proj.weight", rank + 2 * state, inner)
    block.place("mamba.dt_layernorm.weight", rank)
    block.place("mamba.b_layernorm.weight", state)
    block.place("mamba.c_layernorm.weight", state)
    block.place("mamba.dt_proj.weight", inner, rank)
    block.place("mamba.dt_proj.bias", inner)
    block.place("mamba.A_log", inner, state, steps=(partial(mapped, function=minus_exp),))
    block.place("mamba.D", inner)
    block.place("mamba.out_proj.weight", hidden, inner)


def _keys(config: Config, heads: Mapping[str, Value], n_experts: int) -> dict[str, Value]:
    """The keys of this family, in the converter's order."""
    hidden = config.integer("hidden_size")
    return {
        Keys.LLM.BLOCK_COUNT: u32(config.integer("num_hidden_layers")),
        Keys.LLM.CONTEXT_LENGTH: u32(config.integer("max_position_embeddings")),
        Keys.LLM.EMBEDDING_LENGTH: u32(hidden),
        Keys.LLM.FEED_FORWARD_LENGTH: u32(config.integer("intermediate_size")),
        Keys.Attention.HEAD_COUNT: u32(config.integer("num_attention_heads")),
        **heads,
        Keys.SSM.CONV_KERNEL: u32(config.integer("mamba_d_conv")),
        Keys.SSM.INNER_SIZE: u32(2 * hidden),
        Keys.SSM.STATE_SIZE: u32(config.integer("mamba_d_state")),
        Keys.SSM.TIME_STEP_RANK: u32(_rank(config)),
        Keys.Attention.LAYERNORM_RMS_EPS: f32(config.number("rms_norm_eps")),
        Keys.LLM.EXPERT_COUNT: u32(n_experts),
        Keys.LLM.EXPERT_USED_COUNT: u32(config.integer("num_experts_per_tok")),
    }
