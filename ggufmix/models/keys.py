"""The keys that every text model has, in the order, with the names and of the types that
llama.cpp's converter uses.

Source: llama.cpp, conversion/base.py, TextModel.set_gguf_parameters (2026-08-04). Per-layer lists
become i32 arrays.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from collections.abc import Mapping

from gguf import ExpertGatingFuncType, Keys

from ..container import Value, boolean, f32, i32s, text, u32
from ..errors import ModelError
from .config import Config

_SIZES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        Keys.LLM.CONTEXT_LENGTH,
        (
            "max_position_embeddings",
            "n_ctx",
            "n_positions",
            "max_length",
            "max_sequence_length",
            "model_max_length",
        ),
    ),
    (Keys.LLM.EMBEDDING_LENGTH, ("hidden_size", "n_embd", "dim")),
    (Keys.LLM.FEED_FORWARD_LENGTH, ("intermediate_size", "n_inner", "hidden_dim")),
    (Keys.Attention.HEAD_COUNT, ("num_attention_heads", "n_head", "n_heads")),
    (Keys.Attention.HEAD_COUNT_KV, ("num_key_value_heads", "n_kv_heads")),
)
_EPSILONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (Keys.Attention.LAYERNORM_RMS_EPS, ("rms_norm_eps", "norm_eps")),
    (Keys.Attention.LAYERNORM_EPS, ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")),
)
_EXPERTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (Keys.LLM.EXPERT_COUNT, ("num_local_experts", "num_experts", "n_routed_experts")),
    (Keys.LLM.EXPERT_USED_COUNT, ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")),
    (Keys.LLM.EXPERT_GROUP_COUNT, ("n_group",)),
    (Keys.LLM.EXPERT_GROUP_USED_COUNT, ("topk_group",)),
)
_PER_LAYER = (
    Keys.LLM.FEED_FORWARD_LENGTH,
    Keys.Attention.HEAD_COUNT,
    Keys.Attention.HEAD_COUNT_KV,
)
_GATES = {"sigmoid": ExpertGatingFuncType.SIGMOID, "softmax": ExpertGatingFuncType.SOFTMAX}
_GATE_KEYS = ("score_function", "scoring_func", "score_func", "moe_router_activation_func")
_YARN: tuple[tuple[str, tuple[str, ...]], ...] = (
    (Keys.Rope.SCALING_YARN_EXT_FACTOR, ("extrapolation_factor",)),
    (Keys.Rope.SCALING_YARN_ATTN_FACTOR, ("attention_factor", "attn_factor")),
    (Keys.Rope.SCALING_YARN_BETA_FAST, ("beta_fast",)),
    (Keys.Rope.SCALING_YARN_BETA_SLOW, ("beta_slow",)),
)
_PLAIN_ROPES = ("default", "dynamic", "llama3")  # nothing to write, or the family writes it


def common_values(config: Config, arch: str, block_count: int) -> dict[str, Value]:
    """The keys of every text model, "{arch}." in front. What the config does not state is not
    written.

    Raises ModelError for a value of the wrong kind, and for a rope type or expert gate that GGUF
    does not know.
    """
    values = {Keys.LLM.BLOCK_COUNT: u32(block_count)}
    _add(values, config, _SIZES)
    if config.find("is_causal") is False:
        values[Keys.Attention.CAUSAL] = boolean(False)
    values |= _rope(config)
    for key, names in _EPSILONS:
        if config.find(*names) is not None:
            values[key] = f32(config.number(*names))
    _add(values, config, _EXPERTS)
    _check_experts(values)
    if (gate := config.find(*_GATE_KEYS)) is not None:
        if gate not in _GATES:
            raise ModelError(
                f"config.json: {_GATE_KEYS[1]}: expected one of {', '.join(_GATES)}, got {gate!r}"
            )
        values[Keys.LLM.EXPERT_GATING_FUNC] = u32(_GATES[gate])
    if config.find("head_dim") is not None:
        values[Keys.Attention.KEY_LENGTH] = values[Keys.Attention.VALUE_LENGTH] = u32(
            config.integer("head_dim")
        )
    return named(values, arch)


def expert_widths(config: Config, *, shared: bool) -> dict[str, Value]:
    """The widths of routed experts and of a shared one, where they are stated apart."""
    values = {Keys.LLM.EXPERT_FEED_FORWARD_LENGTH: u32(config.integer("moe_intermediate_size"))}
    if shared:
        width = config.integer("shared_expert_intermediate_size")
        values[Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH] = u32(width)
    return values


def named(values: Mapping[str, Value], arch: str) -> dict[str, Value]:
    """The same values under keys of one architecture: "{arch}" in each key of `gguf.Keys` filled
    in.
    """
    return {key.format(arch=arch): value for key, value in values.items()}


def _add(
    values: dict[str, Value], config: Config, table: tuple[tuple[str, tuple[str, ...]], ...]
) -> None:
    for key, names in table:
        value = config.find(*names)
        if key in _PER_LAYER and isinstance(value, list) and value and all(map(_is_count, value)):
            values[key] = i32s(value)
        elif value is not None:
            values[key] = u32(config.integer(*names, least=0))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_experts(values: Mapping[str, Value]) -> None:
    """llama.cpp aborts for a file that says otherwise."""
    count, used = values.get(Keys.LLM.EXPERT_COUNT), values.get(Keys.LLM.EXPERT_USED_COUNT)
    if count is not None and used is not None and count.data and not 1 <= used.data <= count.data:
        raise ModelError(
            f"config.json: num_experts_per_tok: expected 1 to {count.data} (the experts there "
            f"are), got {used.data}"
        )


def _rope(config: Config) -> dict[str, Value]:
    rope = config.rope
    full = Config(rope.get("full_attention") or rope, {})
    sliding = Config(rope.get("sliding_attention") or {}, {})
    values = _scaling(full, config)
    if (sections := rope.get("mrope_section")) is not None:
        if not isinstance(sections, list) or not all(map(_is_count, sections)):
            raise ModelError(f"config.json: mrope_section: expected sizes, got {sections!r}")
        values[Keys.Rope.DIMENSION_SECTIONS] = i32s([*sections, 0, 0, 0, 0][:4])
    for key, where in ((Keys.Rope.FREQ_BASE, full), (Keys.Rope.FREQ_BASE_SWA, sliding)):
        if where.find("rope_theta") is not None:
            values[key] = f32(where.number("rope_theta"))
    return values


def _scaling(rope: Config, config: Config) -> dict[str, Value]:
    kind = rope.find("rope_type")
    if kind in ("su", "longrope"):
        return {Keys.Rope.SCALING_TYPE: text("longrope")}
    if kind in ("linear", "yarn"):
        values = {
            Keys.Rope.SCALING_TYPE: text(kind),
            Keys.Rope.SCALING_FACTOR: f32(rope.number("factor")),
        }
        if kind == "yarn":
            before = "original_max_position_embeddings"
            length = (
                config.integer("max_position_embeddings")
                if rope.find(before) is None
                else rope.integer(before)
            )
            values[Keys.Rope.SCALING_ORIG_CTX_LEN] = u32(length)
            for key, names in _YARN:
                if rope.find(*names) is not None:
                    values[key] = f32(rope.number(*names))
            values |= _attention_factor(rope)
        return values
    if kind is not None and kind not in _PLAIN_ROPES:
        known = ", ".join((*_PLAIN_ROPES, "linear", "yarn", "longrope"))
        raise ModelError(f"config.json: rope_type: expected one of {known}, got {kind!r}")
    return {}


def _attention_factor(rope: Config) -> dict[str, Value]:
    """What llama.cpp must multiply its own attention factor of YaRN with to get a stated one.

    It takes 0.1 ln(factor) + 1 whatever the key of the converter says (src/llama-context.cpp,
    2026-08-04).
    """
    if rope.find("attention_factor") is None:
        return {}
    own = 0.1 * math.log(max(rope.number("factor"), 1.0)) + 1
    ratio = rope.number("attention_factor") / own
    return {} if abs(ratio - 1) < 1e-6 else {Keys.Rope.SCALING_ATTN_FACTOR: f32(ratio)}
