"""Nemotron-H and Nemotron 3: blocks of one mixer each, a Mamba-2 layer, attention without
positions, a network without a gate or routed experts of such networks.

Rows of q and k lie as in Llama: without positions the order means nothing, but it is that of
llama.cpp's converter. Source: llama.cpp, conversion/nemotron.py, src/models/nemotron-h.cpp and
nemotron-h-moe.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, Keys

from ..container import Value, boolean, f32, i32s, u32
from ..errors import ModelError
from .block import Block
from .claims import Claims
from .config import Config
from .decoder import Attention
from .hybrid import CONTEXT, heads_by_block, place_hybrid
from .keys import common_values, named
from .mamba import Mamba2, unlimited_time_steps
from .mixture import routed
from .model import Model
from .mtp import mtp_blocks

DEFAULTS: dict[MODEL_ARCH, Mapping[str, Any]] = {
    MODEL_ARCH.NEMOTRON_H: {
        "attention_bias": False,
        "conv_kernel": 4,
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 21504,
        "layer_norm_epsilon": 1e-5,
        "mamba_head_dim": 64,
        "mamba_hidden_act": "silu",
        "mamba_num_heads": 128,
        "mamba_proj_bias": False,
        "max_position_embeddings": 4096,
        "mlp_bias": False,
        "mlp_hidden_act": "relu2",
        "moe_intermediate_size": 7688,
        "moe_shared_expert_intermediate_size": 7688,
        "n_group": 1,
        "n_groups": 8,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_key_value_heads": 8,
        "routed_scaling_factor": 1.0,
        "ssm_state_size": 128,
        "topk_group": 1,
        "use_bias": False,
        "use_conv_bias": True,
        "vocab_size": 131072,
    }
}
"""What the config class of transformers 5.23 says of a key that config.json leaves out."""

MAMBA, ATTENTION, NETWORK, EXPERTS = "M*-E"
"""The letters of `hybrid_override_pattern`."""

_LETTERS = {letter: letter for letter in (MAMBA, ATTENTION, NETWORK, EXPERTS)}
_WORDS = {
    "mamba": MAMBA,
    "linear_attention": MAMBA,
    "attention": ATTENTION,
    "full_attention": ATTENTION,
    "mlp": NETWORK,
    "moe": EXPERTS,
}


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family, its MTP block behind the last layer if `mtp`."""
    for key, value in (
        ("attention_bias", False),
        ("mamba_hidden_act", "silu"),
        ("mamba_proj_bias", False),
        ("mlp_bias", False),
        ("mlp_hidden_act", "relu2"),
        ("use_bias", False),
        ("use_conv_bias", True),
    ):
        config.only(key, value)
    unlimited_time_steps(config)
    kinds = _kinds(config)
    with_experts = EXPERTS in kinds
    if with_experts and NETWORK in kinds:
        raise ModelError(
            "config.json: hybrid_override_pattern: expected networks (-) or experts (E), got both",
            hint="llama.cpp has either in all blocks",
        )
    config = config.filled(
        num_hidden_layers=len(kinds), norm_eps=config.number("layer_norm_epsilon")
    )
    if with_experts:
        arch = MODEL_ARCH.NEMOTRON_H_MOE
        routed(config)
    attention = replace(Attention.read(config, pairs=True), prefix="mixer.")
    hidden, heads = attention.hidden, config.integer("mamba_num_heads")
    mamba = Mamba2(
        hidden,
        heads * config.integer("mamba_head_dim"),
        config.integer("ssm_state_size"),
        config.integer("n_groups"),
        heads,
        config.integer("conv_kernel", least=2),
        prefix="mixer.",
    )

    def mixer(block: Block, kind: str) -> None:
        if kind == MAMBA:
            mamba.place(block)
        elif kind == ATTENTION:
            attention.place(block)
        elif kind == NETWORK:
            _network(block, "mixer.", "mlp.", config.integer("intermediate_size"), hidden)
        else:
            _experts(block, config)

    def part(block: Block) -> None:
        block.place("norm.weight", hidden, to="input_layernorm.weight")
        mixer(block, kinds[block.layer or 0])

    def behind(block: Block) -> None:  # two layers of the checkpoint make one block
        first, second = (block.at(len(kinds), f"mtp.layers.{i}.") for i in range(2))
        first.place("eh_proj.weight", hidden, 2 * hidden)
        first.place("enorm.weight", hidden)
        first.place("hnorm.weight", hidden)
        first.place("norm.weight", hidden, to="input_layernorm.weight")
        mixer(first, ATTENTION)
        second.place("norm.weight", hidden, to="post_attention_layernorm.weight")
        mixer(second, EXPERTS)
        second.place("final_layernorm.weight", hidden, to="shared_head.norm.weight")

    stated, stored = config.find("num_nextn_predict_layers"), "mtp.layers.0.norm.weight" in claims
    n_mtp = mtp_blocks(claims, int(stored), stated, ("mtp.",), keep=mtp)
    return place_hybrid(
        arch,
        config,
        claims,
        part=part,
        values=_values(config, attention, mamba, with_experts, n_mtp),
        common=_common(arch, config, kinds, n_mtp, attention),
        last_norm="backbone.norm_f.weight",
        embedding="backbone.embeddings.weight",
        blocks="backbone.layers.",
        behind=behind if n_mtp else None,
    )


def _kinds(config: Config) -> str:
    """One letter for each block: `hybrid_override_pattern`, or the words that transformers writes.

    Raises ModelError for a letter or word that is not known, and for another number of blocks than
    is stated.
    """
    listed, known = config.find("layers_block_type", "layer_types"), _WORDS
    if listed is None:
        listed, known = config.find("hybrid_override_pattern"), _LETTERS
    if not isinstance(listed, str | list) or not listed:
        raise ModelError(
            "config.json: hybrid_override_pattern: expected a letter for each block, or "
            f"layers_block_type with a word for each, got {listed!r}"
        )
    for layer, kind in enumerate(listed):
        if kind not in list(known):
            raise ModelError(
                f"config.json: block {layer}: expected one of {', '.join(known)}, got {kind!r}"
            )
    stated = config.find("num_hidden_layers")
    if stated not in (None, len(listed)):
        raise ModelError(
            f"config.json: num_hidden_layers: expected the {len(listed)} blocks that are listed, "
            f"got {stated!r}"
        )
    return "".join(known[kind] for kind in listed)


def _network(block: Block, prefix: str, to: str, width: int, hidden: int) -> None:
    """Place a network without a gate: up (width, hidden), down (hidden, width)."""
    block.place(f"{prefix}up_proj.weight", width, hidden, to=f"{to}up_proj.weight")
    block.place(f"{prefix}down_proj.weight", hidden, width, to=f"{to}down_proj.weight")


def _experts(block: Block, config: Config) -> None:
    """Place routed experts, which may work in a narrower space than the model, and the one that
    every token goes through.
    """
    hidden, n = config.integer("hidden_size"), config.integer("n_routed_experts")
    latent = _latent(config)
    block.place("mixer.gate.weight", n, hidden, to="mlp.gate.weight")
    to = "mlp.gate.e_score_correction.bias"
    block.place("mixer.gate.e_score_correction_bias", n, to=to)
    if latent:
        block.place("mixer.fc1_latent_proj.weight", latent, hidden)
        block.place("mixer.fc2_latent_proj.weight", hidden, latent)
    width = config.integer("moe_intermediate_size")
    block.experts("mlp.experts.", n, width, latent or hidden, stored="mixer.experts.", gated=False)
    width = config.integer("moe_shared_expert_intermediate_size")
    _network(block, "mixer.shared_experts.", "mlp.shared_experts.", width, hidden)


def _latent(config: Config) -> int:
    """Width of the space of the experts, 0 if it is that of the model."""
    return 0 if config.find("moe_latent_size") is None else config.integer("moe_latent_size")


def _common(
    arch: MODEL_ARCH, config: Config, kinds: str, n_mtp: int, attention: Attention
) -> dict[str, Value]:
    """The keys in front of general.file_type, in the converter's order."""
    dense, name = arch is MODEL_ARCH.NEMOTRON_H, MODEL_ARCH_NAMES[arch]
    width = config.integer("intermediate_size" if dense else "moe_intermediate_size")
    widths = [width * (kind in (NETWORK, EXPERTS)) for kind in kinds]
    has_attention = [kind == ATTENTION for kind in kinds]
    eps = f32(config.number("layer_norm_epsilon"))
    own = {
        Keys.LLM.CONTEXT_LENGTH: u32(CONTEXT),
        Keys.LLM.FEED_FORWARD_LENGTH: i32s([*widths, *[width] * n_mtp]),
        **heads_by_block(attention.kv_heads, [*has_attention, *[True] * n_mtp]),
        Keys.Attention.LAYERNORM_RMS_EPS: eps,
        Keys.Attention.LAYERNORM_EPS: eps,
    }
    others = ("key_length", "value_length", *["expert_"] * dense)
    values = common_values(config, name, len(kinds) + n_mtp) | named(own, name)
    return {k: v for k, v in values.items() if not k.rsplit(".", 1)[1].startswith(others)}


def _values(
    config: Config, attention: Attention, mamba: Mamba2, with_experts: bool, n_mtp: int
) -> dict[str, Value]:
    """The keys behind it."""
    values = {
        Keys.LLM.VOCAB_SIZE: u32(config.integer("vocab_size")),
        Keys.Rope.DIMENSION_COUNT: u32(attention.hidden // attention.heads),
        **mamba.metadata_as_granite(),
        Keys.Rope.SCALING_FINETUNED: boolean(False),
        Keys.Attention.KEY_LENGTH: u32(attention.head),
        Keys.Attention.VALUE_LENGTH: u32(attention.head),
    }
    if with_experts:
        shared = config.integer("moe_shared_expert_intermediate_size")
        values |= {
            Keys.LLM.EXPERT_FEED_FORWARD_LENGTH: u32(config.integer("moe_intermediate_size")),
            Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH: u32(shared),
            Keys.LLM.EXPERT_SHARED_COUNT: u32(config.integer("n_shared_experts")),
            Keys.LLM.EXPERT_WEIGHTS_NORM: boolean(bool(config.find("norm_topk_prob"))),
            Keys.LLM.EXPERT_WEIGHTS_SCALE: f32(config.number("routed_scaling_factor")),
        }
        if latent := _latent(config):
            values[Keys.LLM.MOE_LATENT_SIZE] = u32(latent)
    if n_mtp:
        values[Keys.LLM.NEXTN_PREDICT_LAYERS] = u32(n_mtp)
    return values
