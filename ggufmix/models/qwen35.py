"""Qwen3-Next and Qwen3.5 (3.6 and 3.8 use its classes): gated delta-net blocks with a full
attention block now and then.

What changes on the way to GGUF (source: llama.cpp, conversion/qwen.py, 2026-08-04):
- RMS norms are stored as weight - 1 and become the weight, except the gated norm inside linear
  attention; `A_log` becomes -exp(A_log).
- Qwen3.5 groups the value heads by key head; ggml repeats key heads in tiles. With r value heads
  per key head, value head (k, j) moves from k * r + j to j * n_k + k wherever value heads are
  counted.
- Qwen3-Next stores q, k, v, z per key head in one matrix: they become all q, all k, all v, and all
  z apart. Its heads keep their order.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, Keys
from numpy.typing import NDArray

from ..container import Value, i32s, u32
from ..errors import ModelError
from ..tensor import mapped, reshape, take_columns, take_rows
from .block import Block, Step
from .claims import Claims
from .config import Config
from .keys import common_values, named
from .model import Model
from .names import Names

Rows = NDArray[np.int64]

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


def _minus_exp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    # Through float64, rounded once: float32 exp differs between CPUs, and from torch's by a last
    # bit in 1 of 100 values.
    exp: NDArray[np.float32] = np.exp(x.astype(np.float64)).astype(np.float32)
    return -exp


NORM: tuple[Step, ...] = (partial(mapped, function=_plus_one),)


@dataclass(frozen=True, slots=True)
class _Moves:
    """Steps that take value heads from grouped to tiled order, wherever they are counted."""

    head_rows: tuple[Step, ...] = ()
    head_columns: tuple[Step, ...] = ()
    inner_rows: tuple[Step, ...] = ()
    inner_columns: tuple[Step, ...] = ()
    channel_rows: tuple[Step, ...] = ()


@dataclass(frozen=True)
class _Sizes:
    """Sizes of a model and the orders that follow from them. The orders are made once and shared by
    all layers.
    """

    arch: MODEL_ARCH
    hidden: int
    heads: int
    kv_heads: int
    head: int
    keys: int
    values: int
    key: int
    value: int
    kernel: int

    @classmethod
    def read(cls, config: Config, arch: MODEL_ARCH) -> _Sizes:
        sizes = cls(
            arch,
            config.integer("hidden_size"),
            config.integer("num_attention_heads"),
            config.integer("num_key_value_heads"),
            config.integer("head_dim"),
            config.integer("linear_num_key_heads"),
            config.integer("linear_num_value_heads"),
            config.integer("linear_key_head_dim"),
            config.integer("linear_value_head_dim"),
            config.integer("linear_conv_kernel_dim"),
        )
        if sizes.values % sizes.keys:
            raise ModelError(
                f"config.json: linear_num_value_heads: expected a multiple of the {sizes.keys} "
                f"linear_num_key_heads, got {sizes.values}"
            )
        if sizes.key != sizes.value:
            raise ModelError(
                f"config.json: linear_value_head_dim: expected {sizes.key} (linear_key_head_dim), "
                f"got {sizes.value}",
                hint="llama.cpp has one size for both",
            )
        return sizes

    @property
    def inner(self) -> int:
        """Value channels of linear attention."""
        return self.values * self.value

    @property
    def channels(self) -> int:
        """Query, key and value channels, which the convolution runs over."""
        return 2 * self.keys * self.key + self.inner

    @cached_property
    def moves(self) -> _Moves:
        """Where value heads move: nowhere if each key head has one, or in Qwen3-Next."""
        if self.arch is MODEL_ARCH.QWEN3NEXT or self.values == self.keys:
            return _Moves()
        heads = np.arange(self.values).reshape(self.keys, -1).T.ravel()
        inner = (heads[:, None] * self.value + np.arange(self.value)).ravel()
        before = self.channels - self.inner
        channels = np.concatenate([np.arange(before), before + inner])
        return _Moves(
            head_rows=(partial(take_rows, index=heads),),
            head_columns=(partial(take_columns, index=heads),),
            inner_rows=(partial(take_rows, index=inner),),
            inner_columns=(partial(take_columns, index=inner),),
            channel_rows=(partial(take_rows, index=channels),),
        )

    @cached_property
    def ungrouped(self) -> tuple[Rows, Rows]:
        """Rows of qkvz that are all q, all k, all v; and those that are all z."""
        v = self.inner // self.keys
        groups = np.arange(self.channels + self.inner).reshape(self.keys, -1)
        q, k, v_, z = np.split(groups, [self.key, 2 * self.key, 2 * self.key + v], axis=1)
        return np.concatenate([q.ravel(), k.ravel(), v_.ravel()]), z.ravel()


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family. Source of the tensor list: llama.cpp,
    src/models/qwen35.cpp and its neighbours.
    """
    sizes = _Sizes.read(config, arch)
    for key, value in (
        ("hidden_act", "silu"),
        ("attn_output_gate", True),
        ("norm_topk_prob", True),
        ("decoder_sparse_step", 1),
        ("mlp_only_layers", []),
    ):
        config.only(key, value)
    n_layers = config.integer("num_hidden_layers")
    n_mtp = _mtp_blocks(config, claims, mtp)
    block_count = n_layers + n_mtp
    recurrent = _recurrent(config, n_layers) + [False] * n_mtp

    root = Block(claims, Names(arch, block_count), [])
    vocab_rows, tied = root.embedding(config)
    root.place("model.norm.weight", sizes.hidden, steps=NORM)
    for layer in range(n_layers):
        _decoder(root.at(layer), sizes, config, recurrent[layer])
    for i in range(n_mtp):
        _decoder(root.at(n_layers + i, f"mtp.layers.{i}."), sizes, config, recurrent=False)
    if n_mtp:
        _mtp_head(root.at(n_layers, "mtp."), sizes, vocab_rows)
    name = MODEL_ARCH_NAMES[arch]
    claims.finish(name)

    common = common_values(config, name, block_count)
    values = common | named(_values(config, sizes, n_mtp, recurrent), name)
    return Model(
        name, values, len(common), root.placed, claims.notes, vocab_rows, tied, block_count, n_mtp
    )


def _mtp_blocks(config: Config, claims: Claims, mtp: bool) -> int:
    """How many MTP blocks to write. The tensors decide: a config may promise blocks that a
    checkpoint lacks, or the reverse.
    """
    numbers = claims.numbers("mtp.layers.")
    if not mtp:
        claims.leave_out(
            "mtp.", f"of {len(numbers)} MTP block{'s' * (len(numbers) != 1)}, as asked"
        )
        return 0
    stated = config.find("mtp_num_hidden_layers") or len(numbers)
    if stated != len(numbers):
        claims.notes.append(
            f"config.json states {stated} MTP blocks, the checkpoint has {len(numbers)}: "
            f"{len(numbers)} written"
        )
    elif numbers:
        claims.notes.append(
            f"kept {len(numbers)} MTP block{'s' * (len(numbers) != 1)} behind the last layer"
        )
    return len(numbers)


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


def _decoder(block: Block, sizes: _Sizes, config: Config, recurrent: bool) -> None:
    hidden = sizes.hidden
    block.place("input_layernorm.weight", hidden, steps=NORM)
    if recurrent:
        _linear_attention(block, sizes)
    else:
        _full_attention(block, sizes)
    block.place("post_attention_layernorm.weight", hidden, steps=NORM)
    if sizes.arch is MODEL_ARCH.QWEN35:
        block.mlp("mlp.", config.integer("intermediate_size"), hidden)
    else:
        n, width = config.integer("num_experts"), config.integer("moe_intermediate_size")
        block.place("mlp.gate.weight", n, hidden)
        block.experts("mlp.experts.", n, width, hidden)
        block.place("mlp.shared_expert_gate.weight", 1, hidden)
        block.mlp("mlp.shared_expert.", config.integer("shared_expert_intermediate_size"), hidden)


def _full_attention(block: Block, sizes: _Sizes) -> None:
    hidden, heads, kv_heads = sizes.hidden, sizes.heads * sizes.head, sizes.kv_heads * sizes.head
    block.place("self_attn.q_proj.weight", 2 * heads, hidden)  # per head: query, then its gate
    block.place("self_attn.k_proj.weight", kv_heads, hidden)
    block.place("self_attn.v_proj.weight", kv_heads, hidden)
    block.place("self_attn.o_proj.weight", hidden, heads)
    block.place("self_attn.q_norm.weight", sizes.head, steps=NORM)
    block.place("self_attn.k_norm.weight", sizes.head, steps=NORM)


def _linear_attention(block: Block, sizes: _Sizes) -> None:
    hidden, inner, channels, values = sizes.hidden, sizes.inner, sizes.channels, sizes.values
    moves = sizes.moves
    if sizes.arch is MODEL_ARCH.QWEN3NEXT:
        mixed = block.claim("linear_attn.in_proj_qkvz.weight", channels + inner, hidden)
        for name, rows in zip(("in_proj_qkv", "in_proj_z"), sizes.ungrouped, strict=True):
            block.put(f"linear_attn.{name}.weight", take_rows(mixed, rows))
        block.place("linear_attn.in_proj_ba.weight", 2 * values, hidden)
    else:
        block.place("linear_attn.in_proj_qkv.weight", channels, hidden, steps=moves.channel_rows)
        block.place("linear_attn.in_proj_z.weight", inner, hidden, steps=moves.inner_rows)
        block.place("linear_attn.in_proj_a.weight", values, hidden, steps=moves.head_rows)
        block.place("linear_attn.in_proj_b.weight", values, hidden, steps=moves.head_rows)
    flat = partial(reshape, shape=(channels, sizes.kernel))
    block.place(
        "linear_attn.conv1d.weight", channels, 1, sizes.kernel, steps=(flat, *moves.channel_rows)
    )
    block.place(
        "linear_attn.A_log",
        values,
        steps=(*moves.head_columns, partial(mapped, function=_minus_exp)),
    )
    block.place(
        "linear_attn.dt_bias", values, steps=moves.head_columns, to="linear_attn.dt_proj.bias"
    )
    block.place("linear_attn.norm.weight", sizes.value)
    block.place("linear_attn.out_proj.weight", hidden, inner, steps=moves.inner_columns)


def _mtp_head(block: Block, sizes: _Sizes, vocab_rows: int) -> None:
    """What joins the last hidden state and the next token's embedding in front of the first MTP
    block.
    """
    hidden = sizes.hidden
    block.place("fc.weight", hidden, 2 * hidden, to="eh_proj.weight")
    block.place("pre_fc_norm_embedding.weight", hidden, steps=NORM, to="enorm.weight")
    block.place("pre_fc_norm_hidden.weight", hidden, steps=NORM, to="hnorm.weight")
    block.place("norm.weight", hidden, steps=NORM, to="shared_head.norm.weight")
    if "embed_tokens.weight" in block:
        block.place("embed_tokens.weight", vocab_rows, hidden)


def _values(config: Config, sizes: _Sizes, n_mtp: int, recurrent: list[bool]) -> dict[str, Value]:
    """The keys of this family, in the converter's order."""
    values: dict[str, Value] = {}
    if sizes.arch is not MODEL_ARCH.QWEN35:
        values[Keys.LLM.EXPERT_FEED_FORWARD_LENGTH] = u32(config.integer("moe_intermediate_size"))
        values[Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH] = u32(
            config.integer("shared_expert_intermediate_size")
        )
    if n_mtp:
        values[Keys.LLM.NEXTN_PREDICT_LAYERS] = u32(n_mtp)
    values[Keys.SSM.CONV_KERNEL] = u32(sizes.kernel)
    values[Keys.SSM.STATE_SIZE] = u32(sizes.key)
    values[Keys.SSM.GROUP_COUNT] = u32(sizes.keys)
    values[Keys.SSM.TIME_STEP_RANK] = u32(sizes.values)
    values[Keys.SSM.INNER_SIZE] = u32(sizes.inner)
    values |= _layer_kinds(config, recurrent, n_mtp)
    rope = config.rope
    values[Keys.Rope.DIMENSION_COUNT] = u32(
        int(sizes.head * rope.get("partial_rotary_factor", 0.25))
    )
    if sizes.arch is not MODEL_ARCH.QWEN3NEXT and rope.get("mrope_section") is None:
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
