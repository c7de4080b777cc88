"""Falcon-H1: attention and a Mamba-2 layer side by side in every block. llama.cpp knows none of its
multipliers: they are folded into the weights.

Source: llama.cpp, conversion/falcon_h1.py, src/models/falcon-h1.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, Keys
from numpy.typing import NDArray

from ..container import Value, f32, u32
from ..errors import ModelError
from ..tensor import F32, Array, Tensor, mapped
from .block import Block, Step
from .claims import Claims
from .config import Config
from .decoder import Attention, only_ropes
from .hybrid import place_hybrid
from .mamba import Mamba2, unlimited_time_steps
from .model import Model

DEFAULTS: dict[MODEL_ARCH, Mapping[str, Any]] = {
    MODEL_ARCH.FALCON_H1: {
        "attention_bias": False,
        "attention_in_multiplier": 1.0,
        "attention_out_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "key_multiplier": 1.0,
        "lm_head_multiplier": 1.0,
        "mamba_conv_bias": True,
        "mamba_d_conv": 4,
        "mamba_d_ssm": 1024,
        "mamba_d_state": 256,
        "mamba_n_groups": 1,
        "mamba_n_heads": 128,
        "mamba_norm_before_gate": True,
        "mamba_proj_bias": False,
        "mamba_rms_norm": False,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "mlp_multipliers": [1.0, 1.0],
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "projectors_bias": False,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "ssm_in_multiplier": 1.0,
        "ssm_multipliers": [1.0] * 5,
        "ssm_out_multiplier": 1.0,
        "vocab_size": 128000,
    }
}
"""What the config class of transformers 5.23 says of a key that config.json leaves out."""


class RowsScaled(Tensor):
    """Rows of `of`, each times its own factor (float32, (rows,)), in float32."""

    def __init__(self, of: Tensor, factors: NDArray[np.float32]) -> None:
        self.of, self.factors = of, factors
        self.name, self.shape, self.dtype, self.unit = of.name, of.shape, F32, of.unit

    def rows(self, start: int, stop: int) -> Array:
        values = self.of.rows(start, stop).astype(np.float32)
        made: NDArray[np.float32] = values * self.factors[start:stop, np.newaxis]
        return made


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family; it has no MTP blocks to keep."""
    del mtp
    for key, value in (
        ("hidden_act", "silu"),
        ("attention_bias", False),
        ("mlp_bias", False),
        ("projectors_bias", False),
        ("mamba_conv_bias", True),
        ("mamba_proj_bias", False),
    ):
        config.only(key, value)
    only_ropes(config)
    unlimited_time_steps(config)
    norm = bool(config.find("mamba_rms_norm"))
    if norm:
        config.only("mamba_norm_before_gate", False)
    attention = Attention.read(config)
    hidden, width = attention.hidden, config.integer("intermediate_size")
    mamba = Mamba2(
        hidden,
        config.integer("mamba_d_ssm"),
        config.integer("mamba_d_state"),
        config.integer("mamba_n_groups"),
        config.integer("mamba_n_heads"),
        config.integer("mamba_d_conv", least=2),
        norm=norm,
    )
    gate, down = (scaled(x) for x in _list(config, "mlp_multipliers", 2))
    by_rows = np.repeat(_list(config, "ssm_multipliers", 5), mamba.rows).astype(np.float32)
    into = (_one(config, "ssm_in_multiplier"), partial(RowsScaled, factors=by_rows))
    out = (_one(config, "ssm_out_multiplier"),)

    def part(block: Block) -> None:
        block.place("input_layernorm.weight", hidden)
        mamba.place(block, into, out)
        _attention(block, config, attention)
        block.place("pre_ff_layernorm.weight", hidden)
        block.place("feed_forward.gate_proj.weight", width, hidden, steps=(gate,))
        block.place("feed_forward.up_proj.weight", width, hidden)
        block.place("feed_forward.down_proj.weight", hidden, width, steps=(down,))

    ends = (_one(config, "embedding_multiplier"), _one(config, "lm_head_multiplier"))
    model = place_hybrid(
        arch,
        config,
        claims,
        part=part,
        values=_values(config, attention),
        common=_common(config, mamba, attention),
        last_norm="model.final_layernorm.weight",
        steps=((ends[0],), (ends[1],)),
    )
    if model.tied and config.number("embedding_multiplier") != config.number("lm_head_multiplier"):
        raise ModelError(
            "config.json: tie_word_embeddings: expected false, as embedding_multiplier and "
            "lm_head_multiplier differ",
            hint="folded into one matrix the two cannot both hold",
        )
    return model


def scaled(factor: float) -> Step:
    """A step that multiplies every value, in float32."""
    return partial(mapped, function=partial(np.multiply, np.float32(factor)))


def _one(config: Config, key: str) -> Step:
    return scaled(config.number(key))


def _list(config: Config, key: str, n: int) -> list[float]:
    given = config.find(key)
    if (
        not isinstance(given, list)
        or len(given) != n
        or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in given)
    ):
        raise ModelError(f"config.json: {key}: expected {n} numbers, got {given!r}")
    return given


def _attention(block: Block, config: Config, attention: Attention) -> None:
    """Place q, k, v and o, each with the multipliers around it."""
    into, key = _one(config, "attention_in_multiplier"), _one(config, "key_multiplier")
    for part, heads, steps in (
        ("q", attention.heads, (into,)),
        ("k", attention.kv_heads, (key, into)),
        ("v", attention.kv_heads, (into,)),
    ):
        rows = heads * attention.head
        block.place(f"self_attn.{part}_proj.weight", rows, attention.hidden, steps=steps)
    out, cols = _one(config, "attention_out_multiplier"), attention.heads * attention.head
    block.place("self_attn.o_proj.weight", attention.hidden, cols, steps=(out,))


def _common(config: Config, mamba: Mamba2, attention: Attention) -> dict[str, Value]:
    """The keys in front of general.file_type, in the converter's order."""
    return {
        Keys.LLM.CONTEXT_LENGTH: u32(config.integer("max_position_embeddings")),
        Keys.LLM.EMBEDDING_LENGTH: u32(mamba.hidden),
        Keys.LLM.FEED_FORWARD_LENGTH: u32(config.integer("intermediate_size")),
        Keys.Attention.HEAD_COUNT: u32(attention.heads),
        Keys.LLM.BLOCK_COUNT: u32(config.integer("num_hidden_layers")),
        **mamba.metadata(),
        Keys.Attention.LAYERNORM_RMS_EPS: f32(config.number("rms_norm_eps")),
    }


def _values(config: Config, attention: Attention) -> dict[str, Value]:
    """The keys behind it."""
    rope = Config(config.rope, config.defaults)
    return {
        Keys.LLM.VOCAB_SIZE: u32(config.integer("vocab_size")),
        Keys.Attention.HEAD_COUNT_KV: u32(attention.kv_heads),
        Keys.Attention.KEY_LENGTH: u32(attention.head),
        Keys.Attention.VALUE_LENGTH: u32(attention.head),
        Keys.Rope.FREQ_BASE: f32(rope.number("rope_theta")),
    }
