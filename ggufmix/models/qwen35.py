"""Qwen3-Next and Qwen3.5 (3.6 and 3.8 use its classes): gated delta nets, full attention now and
then, and in the larger ones routed experts with a shared one.

RMS norms are stored as weight - 1 and become the weight, except the gated norm inside linear
attention, whose own changes are told in delta_net.py. Source: llama.cpp, conversion/qwen.py
(2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, Keys
from numpy.typing import NDArray

from ..container import Value, i32s, u32
from ..errors import ModelError
from ..tensor import mapped
from .block import Block, Step
from .claims import Claims
from .config import Config
from .decoder import note_rope
from .delta_net import DeltaNet
from .keys import common_values, expert_widths, named
from .model import Model
from .mtp import mtp_blocks
from .names import Names

_HYBRID: Mapping[str, Any] = {
    "head_dim": 256,
    "hidden_act": "silu",
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 32768,
    "num_attention_heads": 16,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
_MOE: Mapping[str, Any] = {
    "hidden_size": 2048,
    "moe_intermediate_size": 512,
    "num_key_value_heads": 2,
    "shared_expert_intermediate_size": 512,
}
_QWEN35: Mapping[str, Any] = {**_HYBRID, "vocab_size": 248320}

DEFAULTS: dict[MODEL_ARCH, Mapping[str, Any]] = {
    MODEL_ARCH.QWEN35: {
        **_QWEN35,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_key_value_heads": 4,
    },
    MODEL_ARCH.QWEN35MOE: {
        **_QWEN35,
        **_MOE,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 40,
    },
    MODEL_ARCH.QWEN3NEXT: {
        **_HYBRID,
        **_MOE,
        "intermediate_size": 5632,
        "norm_topk_prob": True,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "num_hidden_layers": 48,
        "vocab_size": 151936,
    },
}
"""What the config classes of transformers 5.23 say of a key that config.json leaves out."""

RECURRENT_LAYERS = "{arch}.attention.recurrent_layers"  # not in gguf.Keys
MROPE_SECTIONS = [11, 11, 10]  # Qwen3.5's own default; llama.cpp refuses a file without the key


def _plus_one(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x + np.float32(1)


NORM: tuple[Step, ...] = (partial(mapped, function=_plus_one),)


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family. Source of the tensor list: llama.cpp,
    src/models/qwen35.cpp and its neighbours.
    """
    delta_net = DeltaNet.read(config, fused=arch is MODEL_ARCH.QWEN3NEXT)
    hidden = config.integer("hidden_size")
    for key, value in (
        ("hidden_act", "silu"),
        ("attn_output_gate", True),
        ("norm_topk_prob", True),
        ("decoder_sparse_step", 1),
        ("mlp_only_layers", []),
    ):
        config.only(key, value)
    n_layers = config.integer("num_hidden_layers")
    stored = len(claims.numbers("mtp.layers."))
    n_mtp = mtp_blocks(claims, stored, config.find("mtp_num_hidden_layers"), ("mtp.",), keep=mtp)
    block_count = n_layers + n_mtp
    recurrent = _recurrent(config, n_layers) + [False] * n_mtp

    root = Block(claims, Names(arch, block_count), [])
    vocab_rows, tied = root.embedding(config)
    root.place("model.norm.weight", hidden, steps=NORM)
    for layer in range(n_layers):
        _decoder(root.at(layer), arch, config, delta_net if recurrent[layer] else None)
    for i in range(n_mtp):
        _decoder(root.at(n_layers + i, f"mtp.layers.{i}."), arch, config, None)
    if n_mtp:
        _mtp_head(root.at(n_layers, "mtp."), hidden, vocab_rows)
    name = MODEL_ARCH_NAMES[arch]
    claims.finish(name)
    note_rope(config, claims)

    values = common_values(config, name, block_count)
    values |= named(_values(arch, config, delta_net, n_mtp, recurrent), name)
    return Model(name, values, root.placed, claims.notes, vocab_rows, tied, block_count, n_mtp)


def _recurrent(config: Config, n_layers: int) -> list[bool]:
    """Which layers are linear attention."""
    kinds = config.find("layer_types")
    if kinds is None:
        interval = (
            config.integer("full_attention_interval")
            if config.find("full_attention_interval")
            else 4
        )
        return [(layer + 1) % interval != 0 for layer in range(n_layers)]
    known = ("linear_attention", "full_attention")
    if not isinstance(kinds, list) or len(kinds) != n_layers:
        got = len(kinds) if isinstance(kinds, list) else repr(kinds)
        raise ModelError(
            f"config.json: layer_types: expected {n_layers} entries (num_hidden_layers), got {got}"
        )
    for layer, kind in enumerate(kinds):
        if kind not in known:
            raise ModelError(
                f"config.json: layer_types[{layer}]: expected {' or '.join(known)}, got {kind!r}"
            )
    return [kind == "linear_attention" for kind in kinds]


def _decoder(block: Block, arch: MODEL_ARCH, config: Config, delta_net: DeltaNet | None) -> None:
    """Place one block; without a delta net it is one of full attention."""
    hidden = config.integer("hidden_size")
    block.place("input_layernorm.weight", hidden, steps=NORM)
    if delta_net is not None:
        delta_net.place(block)
    else:
        _full_attention(block, config, hidden)
    block.place("post_attention_layernorm.weight", hidden, steps=NORM)
    if arch is MODEL_ARCH.QWEN35:
        block.mlp("mlp.", config.integer("intermediate_size"), hidden)
    else:
        block.mixture(config, shared=True)


def _full_attention(block: Block, config: Config, hidden: int) -> None:
    head = config.integer("head_dim")
    heads = config.integer("num_attention_heads") * head
    kv_heads = config.integer("num_key_value_heads") * head
    block.place("self_attn.q_proj.weight", 2 * heads, hidden)  # per head: query, then its gate
    block.place("self_attn.k_proj.weight", kv_heads, hidden)
    block.place("self_attn.v_proj.weight", kv_heads, hidden)
    block.place("self_attn.o_proj.weight", hidden, heads)
    block.place("self_attn.q_norm.weight", head, steps=NORM)
    block.place("self_attn.k_norm.weight", head, steps=NORM)


def _mtp_head(block: Block, hidden: int, vocab_rows: int) -> None:
    """What joins the last hidden state and the next token's embedding in front of the first MTP
    block.
    """
    block.place("fc.weight", hidden, 2 * hidden, to="eh_proj.weight")
    block.place("pre_fc_norm_embedding.weight", hidden, steps=NORM, to="enorm.weight")
    block.place("pre_fc_norm_hidden.weight", hidden, steps=NORM, to="hnorm.weight")
    block.place("norm.weight", hidden, steps=NORM, to="shared_head.norm.weight")
    if "embed_tokens.weight" in block:
        block.place("embed_tokens.weight", vocab_rows, hidden)


def _values(
    arch: MODEL_ARCH, config: Config, delta_net: DeltaNet, n_mtp: int, recurrent: list[bool]
) -> dict[str, Value]:
    """The keys of this family, in the converter's order."""
    values: dict[str, Value] = {}
    if arch is not MODEL_ARCH.QWEN35:
        values |= expert_widths(config, shared=True)
    if n_mtp:
        values[Keys.LLM.NEXTN_PREDICT_LAYERS] = u32(n_mtp)
    values |= delta_net.metadata()
    values |= _layer_kinds(config, recurrent, n_mtp)
    rope = Config(config.rope, config.defaults)
    rotary = config.integer("head_dim") * rope.number("partial_rotary_factor")
    values[Keys.Rope.DIMENSION_COUNT] = u32(int(rotary))
    if arch is not MODEL_ARCH.QWEN3NEXT and rope.find("mrope_section") is None:
        values[Keys.Rope.DIMENSION_SECTIONS] = i32s([*MROPE_SECTIONS, 0])
    return values


def _layer_kinds(config: Config, recurrent: list[bool], n_mtp: int) -> dict[str, Value]:
    """The interval of full attention; and where the layers follow none, each layer's kind.

    llama.cpp reads the list first (src/models/qwen35.cpp), but its converter never writes it: an
    irregular model converted by it loads with wrong layers or not at all.
    """
    stated = config.find("full_attention_interval")
    interval = stated if isinstance(stated, int) and stated > 0 else 4
    trunk = recurrent[: len(recurrent) - n_mtp]
    for every in dict.fromkeys([interval, *range(1, len(trunk) + 2)]):
        if trunk == [(layer + 1) % every != 0 for layer in range(len(trunk))]:
            return {Keys.LLM.FULL_ATTENTION_INTERVAL: u32(every)}
    kinds = i32s([int(kind) for kind in recurrent])
    return {Keys.LLM.FULL_ATTENTION_INTERVAL: u32(interval), RECURRENT_LAYERS: kinds}
