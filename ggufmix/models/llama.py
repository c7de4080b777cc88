"""Llama, Mistral and Mixtral: rows of q and k in llama.cpp's order for its "norm" rope, factors for
the rope of Llama 3 and for LongRoPE, and in Mixtral routed experts.

Source: llama.cpp, conversion/llama.py, src/models/llama.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_TENSOR, Keys
from numpy.typing import NDArray

from ..container import Value, f32, u32
from ..errors import ModelError
from ..tensor import Tensor, held
from .block import Block
from .claims import Claims
from .config import Config
from .decoder import Attention, only_ropes, place_decoder
from .model import Model

LLAMA: Mapping[str, Any] = {
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "vocab_size": 32000,
}
MISTRAL: Mapping[str, Any] = {
    **LLAMA,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
}
MIXTRAL: Mapping[str, Any] = {
    **MISTRAL,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
}
"""What the config classes of transformers 5.23 say of a key that config.json leaves out."""

_OLD_CONTEXT = "original_max_position_embeddings"
_LONG_SHORT = (
    (MODEL_TENSOR.ROPE_FACTORS_LONG, "long_factor"),
    (MODEL_TENSOR.ROPE_FACTORS_SHORT, "short_factor"),
)


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family; it has no MTP blocks to keep."""
    del mtp
    hidden, width = config.integer("hidden_size"), config.integer("intermediate_size")
    only_ropes(config, "linear", "yarn", "dynamic", "llama3", "longrope", "su")
    biases = "qkvo" if config.find("attention_bias") else ""
    attention = Attention.read(config, biases=biases, pairs=True)
    n_experts = config.find("num_local_experts")
    config = config.filled(num_key_value_heads=attention.heads)
    if n_experts is None:
        config = config.filled(head_dim=attention.head)
    mlp_biases = bool(config.find("mlp_bias"))

    def feed_forward(block: Block) -> None:
        if n_experts is None:
            block.mlp("mlp.", width, hidden, biases=mlp_biases)
        else:
            _mixture(block, config.integer("num_local_experts"), width, hidden)

    values: dict[str, Value] = {
        Keys.LLM.VOCAB_SIZE: u32(config.integer("vocab_size")),
        Keys.Rope.DIMENSION_COUNT: u32(attention.head),
    }
    made: dict[MODEL_TENSOR, Tensor] = {}
    kind = config.rope.get("rope_type")
    if kind == "llama3":
        factors = llama3_factors(config, attention.head)
        made[MODEL_TENSOR.ROPE_FREQS] = held("rope_parameters", factors)
    elif kind in ("longrope", "su"):
        values |= _longrope_values(config)
        for role, key in _LONG_SHORT:
            made[role] = held(key, _longrope_factors(config, key, attention.head))
    return place_decoder(
        arch,
        config,
        claims,
        attention=attention.place,
        feed_forward=feed_forward,
        values=values,
        made=made,
    )


def _mixture(block: Block, n: int, width: int, hidden: int) -> None:
    """Place Mixtral's experts as they are published, or as transformers 5 holds them."""
    old = "block_sparse_moe."
    router = "mlp.gate.weight" if "mlp.gate.weight" in block else f"{old}gate.weight"
    block.place(router, n, hidden, to="mlp.gate.weight")
    parts = ("w1", "w3", "w2")
    block.experts("mlp.experts.", n, width, hidden, stored=f"{old}experts.", parts=parts)


def llama3_factors(config: Config, head: int) -> NDArray[np.float32]:
    """What llama.cpp divides each frequency by for the rope of Llama 3.

    Returns float32, (head / 2,): 1 for short waves, `factor` for waves longer than the context
    before, and between them a blend.
    """
    rope = Config(config.rope, {"rope_theta": 10000.0})
    factor, low, high, old = (
        rope.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor", _OLD_CONTEXT)
    )
    if not (factor > 0 and 0 < low < high and old > 0):
        raise ModelError(
            "config.json: rope_parameters: expected positive factors with low_freq_factor below "
            f"high_freq_factor, got factor {factor}, {low}, {high} and {_OLD_CONTEXT} {old}"
        )
    exponents = np.arange(0, head, 2, dtype=np.float32) / np.float32(head)
    waves = np.float32(2 * math.pi) * np.float32(rope.number("rope_theta")) ** exponents
    smooth = (np.float32(old) / waves - np.float32(low)) / np.float32(high - low)
    blend = 1 / ((1 - smooth) / np.float32(factor) + smooth)
    long = np.where(waves > old / low, np.float32(factor), blend)
    made: NDArray[np.float32] = np.where(waves < old / high, 1, long).astype(np.float32)
    return made


def _longrope_values(config: Config) -> dict[str, Value]:
    """The context before and the attention factor. llama.cpp's converter writes neither for this
    architecture, nor the factors: its file computes another model.

    Source: transformers 5.23, modeling_rope_utils.py, _compute_longrope_parameters.
    """
    rope = Config(config.rope, {})
    old = rope.integer(_OLD_CONTEXT, least=2)
    values = {Keys.Rope.SCALING_ORIG_CTX_LEN: u32(old)}
    if rope.find("attention_factor") is not None:
        attention = rope.number("attention_factor")
    else:
        stated = rope.find("factor") is not None
        ratio = rope.number("factor") if stated else config.number("max_position_embeddings") / old
        attention = math.sqrt(1 + math.log(ratio) / math.log(old)) if ratio > 1 else 1.0
    values[Keys.Rope.SCALING_ATTN_FACTOR] = f32(attention)
    return values


def _longrope_factors(config: Config, key: str, head: int) -> NDArray[np.float32]:
    given = config.rope.get(key)
    if (
        not isinstance(given, list)
        or len(given) != head // 2
        or not all(isinstance(x, int | float) and not isinstance(x, bool) and x > 0 for x in given)
    ):
        got = f"{len(given)} entries" if isinstance(given, list) else repr(given)
        raise ModelError(
            f"config.json: {key}: expected {head // 2} positive numbers (head_dim / 2), got {got}"
        )
    return np.array(given, np.float32)
