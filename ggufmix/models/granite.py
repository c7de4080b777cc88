"""Granite 4: Mamba-2 layers among attention, behind either routed experts with a shared one or only
the latter. Where every layer has attention it is plain Granite.

Rows of q and k lie as in Llama. Source: llama.cpp, conversion/granite.py,
src/models/granite-hybrid.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import MODEL_ARCH, Keys

from ..container import Value, boolean, f32, u32
from ..errors import ModelError
from ..tensor import take_rows
from .block import Block, half_rows
from .claims import Claims
from .config import Config
from .decoder import Attention, only_ropes
from .hybrid import CONTEXT, attention_layers, heads_by_block, place_hybrid
from .mamba import Mamba2, unlimited_time_steps
from .model import Model

DEFAULTS: dict[MODEL_ARCH, Mapping[str, Any]] = {
    MODEL_ARCH.GRANITE_HYBRID: {
        "attention_bias": False,
        "attention_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "logits_scaling": 1.0,
        "mamba_conv_bias": True,
        "mamba_d_conv": 4,
        "mamba_d_state": 256,
        "mamba_expand": 2,
        "mamba_n_groups": 1,
        "mamba_n_heads": 128,
        "mamba_proj_bias": False,
        "max_position_embeddings": 2048,
        "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_local_experts": 8,
        "residual_multiplier": 1.0,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "shared_intermediate_size": 1024,
        "vocab_size": 32000,
    }
}
"""What the config class of transformers 5.23 says of a key that config.json leaves out."""

RECURRENT = ("mamba", "linear_attention")
_SCALES = (
    (Keys.Attention.SCALE, "attention_multiplier"),
    (Keys.LLM.EMBEDDING_SCALE, "embedding_multiplier"),
    (Keys.LLM.RESIDUAL_SCALE, "residual_multiplier"),
    (Keys.LLM.LOGIT_SCALE, "logits_scaling"),
)


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family; it has no MTP blocks to keep."""
    del mtp
    for key, value in (
        ("hidden_act", "silu"),
        ("attention_bias", False),
        ("mamba_conv_bias", True),
        ("mamba_expand", 2),
        ("mamba_n_groups", 1),
        ("mamba_proj_bias", False),
    ):
        config.only(key, value)
    only_ropes(config, "linear", "yarn", "dynamic")
    unlimited_time_steps(config)
    config = config.filled(num_key_value_heads=config.integer("num_attention_heads"))
    attention, n_layers = Attention.read(config, pairs=True), config.integer("num_hidden_layers")
    with_attention = attention_layers(config, RECURRENT) or [False] * n_layers
    n_experts = config.integer("num_local_experts", least=0)
    if all(with_attention):
        arch = MODEL_ARCH.GRANITE_MOE if n_experts else MODEL_ARCH.GRANITE
    hidden = attention.hidden
    mamba = Mamba2(
        hidden,
        2 * hidden,
        config.integer("mamba_d_state"),
        config.integer("mamba_n_groups"),
        config.integer("mamba_n_heads"),
        config.integer("mamba_d_conv", least=2),
    )

    def part(block: Block) -> None:
        block.place("input_layernorm.weight", hidden)
        if with_attention[block.layer or 0]:
            attention.place(block)
        else:
            mamba.place(block)
        block.place("post_attention_layernorm.weight", hidden)
        _feed_forward(block, config, n_experts, hidden)

    values = _values(config, attention, with_attention, n_experts)
    values |= mamba.metadata_as_granite()
    rope = config.find("position_embedding_type") == "rope"
    values[Keys.Rope.SCALING_FINETUNED] = boolean(rope)  # how llama.cpp is told of positions here
    if not rope:
        values[Keys.LLM.CONTEXT_LENGTH] = u32(CONTEXT)
    return place_hybrid(arch, config, claims, part=part, values=values)


def _feed_forward(block: Block, config: Config, n_experts: int, hidden: int) -> None:
    """Place routed experts if there are any, and the network that every token goes through."""
    if n_experts:
        width = config.integer("intermediate_size")
        block.place("block_sparse_moe.router.layer.weight", n_experts, hidden)
        _gated(block, "block_sparse_moe.", "mlp.experts.", (n_experts, width, hidden))
    width = config.integer("shared_intermediate_size")
    to = "mlp.shared_expert." if n_experts else "mlp."
    _gated(block, "shared_mlp.", to, (width, hidden))


def _gated(block: Block, prefix: str, to: str, shape: tuple[int, ...]) -> None:
    """Place gated networks whose gate and up, each of `shape`, are one matrix with the gate first;
    of several networks stacked.
    """
    *outer, width, hidden = shape
    both = block.claim(f"{prefix}input_linear.weight", *outer, 2 * width, hidden)
    n = outer[0] if outer else 1
    for half, name in enumerate(("gate_proj", "up_proj")):
        block.put(f"{to}{name}.weight", take_rows(both, half_rows(n, width, half), shape))
    name = f"{prefix}output_linear.weight"
    block.place(name, *outer, hidden, width, to=f"{to}down_proj.weight")


def _values(
    config: Config, attention: Attention, with_attention: list[bool], n_experts: int
) -> dict[str, Value]:
    """The keys of this family up to those of the state-space layers, in the converter's order."""
    values = heads_by_block(attention.kv_heads, with_attention)
    shared = config.integer("shared_intermediate_size")
    if not n_experts:
        values[Keys.LLM.FEED_FORWARD_LENGTH] = u32(shared)
    values[Keys.LLM.VOCAB_SIZE] = u32(config.integer("vocab_size"))
    values[Keys.Rope.DIMENSION_COUNT] = u32(attention.head)
    for key, name in _SCALES:
        if not config.number(name) > 0:
            raise ModelError(
                f"config.json: {name}: expected a number above 0, got {config.number(name)}"
            )
        values[key] = f32(config.number(name))
    values[Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH] = u32(shared)
    return values
