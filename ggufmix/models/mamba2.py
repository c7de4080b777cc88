"""Mamba-2 models: nothing but state-space layers, each behind its norm.

Source: llama.cpp, conversion/mamba.py, src/models/mamba2.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import MODEL_ARCH, Keys

from ..container import f32, u32
from ..errors import ModelError
from .block import Block
from .claims import Claims
from .config import Config
from .hybrid import CONTEXT, place_hybrid
from .mamba import Mamba2, unlimited_time_steps
from .model import Model

DEFAULTS: dict[MODEL_ARCH, Mapping[str, Any]] = {
    MODEL_ARCH.MAMBA2: {
        "conv_kernel": 4,
        "expand": 2,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "layer_norm_epsilon": 1e-5,
        "n_groups": 8,
        "num_heads": 128,
        "num_hidden_layers": 64,
        "state_size": 128,
        "use_bias": False,
        "use_conv_bias": True,
        "vocab_size": 32768,
    }
}
"""What the config class of transformers 5.23 says of a key that config.json leaves out."""


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family; it has no MTP blocks to keep."""
    del mtp
    for key, value in (("hidden_act", "silu"), ("use_bias", False), ("use_conv_bias", True)):
        config.only(key, value)
    unlimited_time_steps(config)
    hidden, heads = config.integer("hidden_size"), config.integer("num_heads")
    inner = config.integer("expand") * hidden
    if heads * config.integer("head_dim") != inner:
        raise ModelError(
            f"config.json: num_heads: expected {inner} (expand * hidden_size) / head_dim "
            f"{config.integer('head_dim')}, got {heads}"
        )
    mamba = Mamba2(
        hidden,
        inner,
        config.integer("state_size"),
        config.integer("n_groups"),
        heads,
        config.integer("conv_kernel", least=2),
        prefix="mixer.",
    )

    def part(block: Block) -> None:
        block.place("norm.weight", hidden, to="input_layernorm.weight")
        mamba.place(block)

    common = {
        Keys.LLM.CONTEXT_LENGTH: u32(CONTEXT),
        Keys.LLM.EMBEDDING_LENGTH: u32(hidden),
        Keys.LLM.FEED_FORWARD_LENGTH: u32(0),
        Keys.Attention.HEAD_COUNT: u32(0),
        Keys.LLM.BLOCK_COUNT: u32(config.integer("num_hidden_layers")),
        **mamba.metadata(),
        Keys.Attention.LAYERNORM_RMS_EPS: f32(config.number("layer_norm_epsilon")),
    }
    return place_hybrid(
        arch,
        config,
        claims,
        part=part,
        values={},
        common=common,
        last_norm="backbone.norm_f.weight",
        embedding="backbone.embeddings.weight",
        blocks="backbone.layers.",
    )
