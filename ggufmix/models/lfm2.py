"""LFM2 and LFM2-MoE: short convolutions with gates, attention now and then, in the second routed
experts behind some dense blocks. No value changes.

Source: llama.cpp, conversion/lfm2.py, src/models/lfm2.cpp and lfm2moe.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from gguf import MODEL_ARCH, ExpertGatingFuncType, Keys

from ..container import Value, u32
from ..errors import ModelError
from ..tensor import reshape
from .block import Block
from .claims import Claims
from .config import Config
from .decoder import Attention, only_ropes
from .hybrid import attention_layers, heads_by_block, place_hybrid
from .model import Model

_COMMON: Mapping[str, Any] = {
    "conv_L_cache": 3,
    "conv_bias": False,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "vocab_size": 65536,
}
DEFAULTS: dict[MODEL_ARCH, Mapping[str, Any]] = {
    MODEL_ARCH.LFM2: {
        **_COMMON,
        "block_auto_adjust_ff_dim": True,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256,
        "hidden_size": 2560,
        "intermediate_size": 12288,
    },
    MODEL_ARCH.LFM2MOE: {
        **_COMMON,
        "hidden_size": 2048,
        "intermediate_size": 7168,
        "moe_intermediate_size": 1792,
        "norm_topk_prob": True,
        "num_dense_layers": 2,
        "num_experts": 32,
        "num_experts_per_tok": 4,
        "routed_scaling_factor": 1.0,
        "use_expert_bias": True,
    },
}
"""What the config classes of transformers 5.23 say of a key that config.json leaves out."""

EXPERT_PARTS = ("w1", "w3", "w2")


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family; it has no MTP blocks to keep."""
    del mtp
    only_ropes(config, "linear", "yarn", "dynamic")
    moe = arch is MODEL_ARCH.LFM2MOE
    config.only("conv_bias", False)
    if moe:
        for key, value in (
            ("norm_topk_prob", True),
            ("routed_scaling_factor", 1.0),
            ("use_expert_bias", True),
        ):
            config.only(key, value)
    hidden, kernel = config.integer("hidden_size"), config.integer("conv_L_cache", least=2)
    read = Attention.read(config, norms=True)
    if read.heads * read.head != hidden:
        raise ModelError(
            f"config.json: head_dim: expected {hidden // read.heads} (hidden_size / "
            f"num_attention_heads), got {read.head}",
            hint="llama.cpp has one width for both",
        )
    attention = replace(read, output="out_proj", norm="layernorm")
    with_attention = _with_attention(config)
    width = _width(config, adjusted=not moe)
    n_dense = config.integer("num_dense_layers", least=0) if moe else len(with_attention)

    def part(block: Block) -> None:
        layer = block.layer or 0
        block.place("operator_norm.weight", hidden)
        if with_attention[layer]:
            attention.place(block)
        else:
            _convolution(block, hidden, kernel)
        block.place("ffn_norm.weight", hidden)
        if layer < n_dense:
            for name, rows, cols in (("w1", width, hidden), ("w3", width, hidden)):
                block.place(f"feed_forward.{name}.weight", rows, cols)
            block.place("feed_forward.w2.weight", hidden, width)
        else:
            _mixture(block, config, hidden)

    values: dict[str, Value] = heads_by_block(attention.kv_heads, with_attention)
    values[Keys.LLM.FEED_FORWARD_LENGTH] = u32(width)
    if moe:
        values |= {
            Keys.LLM.EXPERT_FEED_FORWARD_LENGTH: u32(config.integer("moe_intermediate_size")),
            Keys.LLM.LEADING_DENSE_BLOCK_COUNT: u32(n_dense),
            Keys.LLM.EXPERT_GATING_FUNC: u32(ExpertGatingFuncType.SIGMOID),
        }
    values[Keys.LLM.VOCAB_SIZE] = u32(config.integer("vocab_size"))
    values[Keys.ShortConv.L_CACHE] = u32(kernel)
    return place_hybrid(
        arch, config, claims, part=part, values=values, last_norm="model.embedding_norm.weight"
    )


def _with_attention(config: Config) -> list[bool]:
    """Which layers have attention: `layer_types`, once `full_attn_idxs`, else all."""
    stated = attention_layers(config, ("conv",))
    if stated is not None:
        return stated
    n_layers, which = config.integer("num_hidden_layers"), config.find("full_attn_idxs")
    if which is None:
        return [True] * n_layers
    if not isinstance(which, list) or any(i not in range(n_layers) for i in which):
        raise ModelError(
            f"config.json: full_attn_idxs: expected numbers of the {n_layers} layers, got {which!r}"
        )
    return [layer in which for layer in range(n_layers)]


def _width(config: Config, *, adjusted: bool) -> int:
    """Width of a dense feed-forward network: what is stated is cut to two thirds and rounded up."""
    width = config.integer("block_ff_dim", "intermediate_size")
    if not adjusted or not config.find("block_auto_adjust_ff_dim"):
        return width
    width = int(2 * width / 3)
    if not config.null("block_ffn_dim_multiplier"):
        width = int(config.number("block_ffn_dim_multiplier") * width)
        of = config.integer("block_multiple_of")
        width = -(-width // of) * of
    return width


def _convolution(block: Block, hidden: int, kernel: int) -> None:
    """Place a short convolution between its gates: in (3 * hidden, hidden), taps (hidden, kernel)
    and out (hidden, hidden).
    """
    flat = partial(reshape, shape=(hidden, kernel))
    block.place("conv.conv.weight", hidden, 1, kernel, steps=(flat,))
    block.place("conv.in_proj.weight", 3 * hidden, hidden)
    block.place("conv.out_proj.weight", hidden, hidden)


def _mixture(block: Block, config: Config, hidden: int) -> None:
    n, width = config.integer("num_experts"), config.integer("moe_intermediate_size")
    block.place("feed_forward.gate.weight", n, hidden)
    block.place("feed_forward.expert_bias", n, to="mlp.gate.e_score_correction.bias")
    block.experts("feed_forward.experts.", n, width, hidden, parts=EXPERT_PARTS)
