"""gpt-oss: attention with sinks, over a window in every other layer; experts with biases.

Rows of gate and up lie in turn and become a tensor each. Experts are stored in MXFP4, as they were
published, under names ending in `_blocks`: (experts, rows, columns), whose blocks go unchanged; or,
as fine-tunes have them, in BF16 as (experts, columns, rows), which are transposed. Source:
llama.cpp, conversion/gpt_oss.py, src/models/openai-moe.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, Keys
from numpy.typing import NDArray

from ..container import u32
from ..tensor import take_columns, take_rows, transpose
from .block import Block
from .claims import Claims
from .config import Config
from .decoder import Attention, only_ropes, place_decoder
from .model import Model

DEFAULTS: Mapping[str, Any] = {
    "attention_bias": True,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "num_local_experts": 128,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
        "rope_theta": 150000.0,
    },
    "rope_theta": 150000.0,
    "sliding_window": 128,
    "vocab_size": 201088,
}
"""What the config class of transformers 5.23 says of a key that config.json leaves out."""

_PACKED = "_blocks"
"""Ending of experts in MXFP4."""


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family; it has no MTP blocks to keep."""
    del mtp
    n_layers = config.integer("num_hidden_layers")
    kinds = ["full_attention" if layer % 2 else "sliding_attention" for layer in range(n_layers)]
    for key, value in (
        ("attention_bias", True),
        ("layer_types", kinds),
        ("swiglu_alpha", 1.702),
        ("swiglu_limit", 7.0),
        ("tie_word_embeddings", False),
    ):
        config.only(key, value)
    only_ropes(config, "linear", "yarn")
    n = config.integer("num_local_experts", "num_experts")
    hidden, width = config.integer("hidden_size"), config.integer("intermediate_size")
    attention = Attention.read(config, biases="qkvo")

    def attend(block: Block) -> None:
        attention.place(block)
        block.place("self_attn.sinks", attention.heads, to="self_attn.sinks.weight")

    def feed_forward(block: Block) -> None:
        block.place("mlp.router.weight", n, hidden)
        block.place("mlp.router.bias", n)
        _experts(block, n, width, hidden)

    return place_decoder(
        arch,
        config,
        claims,
        attention=attend,
        feed_forward=feed_forward,
        values={
            Keys.Attention.SLIDING_WINDOW: u32(config.integer("sliding_window")),
            Keys.LLM.EXPERT_FEED_FORWARD_LENGTH: u32(width),
        },
        windows=True,
    )


def _experts(block: Block, n: int, width: int, hidden: int) -> None:
    """Place gate and up (n, width, hidden), down (n, hidden, width) and their biases."""
    at = "mlp.experts."
    if f"{at}gate_up_proj{_PACKED}" in block:
        both = block.claim(f"{at}gate_up_proj{_PACKED}", n, 2 * width, hidden)
        for part, rows in zip(("gate", "up"), in_turn(n * width), strict=True):
            block.put(f"{at}{part}_proj.weight", take_rows(both, rows, (n, width, hidden)))
    else:
        both = block.claim(f"{at}gate_up_proj", n, hidden, 2 * width)
        for part, columns in zip(("gate", "up"), in_turn(width), strict=True):
            block.put(f"{at}{part}_proj.weight", transpose(take_columns(both, columns)))
    both_bias = block.claim(f"{at}gate_up_proj_bias", n, 2 * width)
    for part, columns in zip(("gate", "up"), in_turn(width), strict=True):
        block.put(f"{at}{part}_proj.bias", take_columns(both_bias, columns))
    to = f"{at}down_proj.weight"
    if f"{at}down_proj{_PACKED}" in block:
        block.place(f"{at}down_proj{_PACKED}", n, hidden, width, to=to)
    else:
        block.place(f"{at}down_proj", n, width, hidden, steps=(transpose,), to=to)
    block.place(f"{at}down_proj_bias", n, hidden, to=f"{at}down_proj.bias")


@lru_cache(maxsize=4)
def in_turn(width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows or columns of gates, `width` of them, and of ups, where they lie in turn."""
    return np.arange(0, 2 * width, 2), np.arange(1, 2 * width, 2)
