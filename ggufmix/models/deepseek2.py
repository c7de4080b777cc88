"""DeepSeek-V2 and V3, Kimi-K2 and its successors: latent attention (MLA), experts with shared ones.

Source: llama.cpp, conversion/deepseek.py, src/models/deepseek2.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import MODEL_ARCH, Keys

from ..container import Value, boolean, f32, u32
from ..errors import ModelError
from .block import Block
from .claims import Claims
from .config import Config
from .decoder import Part, only_ropes, place_decoder
from .latent import Latent
from .mixture import Mixture
from .model import Model
from .mtp import behind_the_last, place_head

_COMMON: Mapping[str, Any] = {
    "hidden_act": "silu",
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "v_head_dim": 128,
}
V2: Mapping[str, Any] = {
    **_COMMON,
    "first_k_dense_replace": 0,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "moe_intermediate_size": 1407,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "vocab_size": 102400,
}
V3: Mapping[str, Any] = {
    **_COMMON,
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "max_position_embeddings": 4096,
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_group": 4,
    "vocab_size": 129280,
}
"""What the config classes of transformers 5.23 say of a key that config.json leaves out. How the
router scores they say in code: llama.cpp's converter leaves the key out then, and llama.cpp takes
softmax, which is another model of V3.
"""

_WITHOUT_LATENT_QUERIES = (26, 27)  # layers of the models llama.cpp takes for V2-Lite's kind
_OTHERWISE = "llama.cpp would load the file and compute something else"


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family. MTP blocks are left out whatever `mtp` says: llama.cpp has
    none of these models.
    """
    del mtp
    if further := behind_the_last(claims, config.integer("num_hidden_layers")):
        claims.leave_out(further, "of MTP blocks, which llama.cpp does not have for this model")
    config = config.filled(head_dim=config.integer("qk_rope_head_dim"))
    return place_latent(arch, config, claims, 0)


def place_latent(
    arch: MODEL_ARCH,
    config: Config,
    claims: Claims,
    n_mtp: int,
    *,
    beside: Part | None = None,
    more: Mapping[str, Value] | None = None,
) -> Model:
    """Place a checkpoint whose layers are built like DeepSeek's, `n_mtp` MTP blocks behind them.

    beside  places what a block has beside latent attention
    more    keys behind those of the family
    """
    gate = config.defaults["scoring_func"]
    for key, value in (
        ("attention_bias", False),
        ("rope_interleave", True),
        ("scoring_func", gate),
    ):
        config.only(key, value)
    if gate == "softmax":
        config.only("norm_topk_prob", False)
        _note_groups(config, claims)
    else:
        config.only("topk_method", "noaux_tc")
    attention, layers = Latent.read(config), config.integer("num_hidden_layers")
    if attention.q_rank and layers in _WITHOUT_LATENT_QUERIES:
        raise ModelError(
            f"config.json: q_lora_rank: expected null, got {attention.q_rank}",
            hint=f"llama.cpp takes a model of {layers} layers for one without latent queries",
        )
    mixture = Mixture.read(config, bias=gate == "sigmoid")

    def attend(block: Block) -> None:
        attention.place(block)
        if beside is not None:
            beside(block)

    def feed_forward(block: Block) -> None:
        mixture.place(block)
        if block.layer is not None and block.layer >= layers:
            place_head(block, config.integer("vocab_size"), mixture.hidden)

    return place_decoder(
        arch,
        config.filled(num_key_value_heads=attention.heads),
        claims,
        attention=attend,
        feed_forward=feed_forward,
        values=_values(config, attention, mixture, n_mtp) | dict(more or {}),
        mtp_blocks=n_mtp,
    )


def _values(config: Config, attention: Latent, mixture: Mixture, n_mtp: int) -> dict[str, Value]:
    """The keys of this family, in the converter's order.

    To llama.cpp there is one head of keys and values. Beyond the converter, a rank of 0 says that
    queries are not latent: but for some numbers of layers llama.cpp does not load a file without.
    """
    values = {
        Keys.Attention.HEAD_COUNT_KV: u32(1),
        Keys.LLM.LEADING_DENSE_BLOCK_COUNT: u32(mixture.dense),
        Keys.LLM.VOCAB_SIZE: u32(config.integer("vocab_size")),
        Keys.Attention.Q_LORA_RANK: u32(attention.q_rank),
        Keys.Attention.KV_LORA_RANK: u32(attention.rank),
        Keys.Attention.KEY_LENGTH: u32(attention.rank + attention.rope),
        Keys.Attention.VALUE_LENGTH: u32(attention.rank),
        Keys.Attention.KEY_LENGTH_MLA: u32(attention.nope + attention.rope),
        Keys.Attention.VALUE_LENGTH_MLA: u32(attention.value),
        Keys.LLM.EXPERT_FEED_FORWARD_LENGTH: u32(mixture.width),
        Keys.LLM.EXPERT_SHARED_COUNT: u32(mixture.shared),
        Keys.LLM.EXPERT_WEIGHTS_SCALE: f32(config.number("routed_scaling_factor")),
    }
    if config.find("norm_topk_prob"):
        values[Keys.LLM.EXPERT_WEIGHTS_NORM] = boolean(True)
    values[Keys.Rope.DIMENSION_COUNT] = u32(attention.rope)
    values |= _yarn(config)
    if n_mtp:
        values[Keys.LLM.NEXTN_PREDICT_LAYERS] = u32(n_mtp)
    return values


def _yarn(config: Config) -> dict[str, Value]:
    """What YaRN multiplies attention with. llama.cpp computes it where `mscale` and
    `mscale_all_dim` are one and the same, as in all models of this family that were published.
    """
    only_ropes(config, "yarn")
    rope = config.rope
    scale, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    if rope.get("rope_type") == "yarn":
        if not all_dim or scale != all_dim:
            raise ModelError(
                "config.json: rope_scaling: expected mscale and mscale_all_dim, one as large as "
                f"the other, got {scale} and {all_dim}",
                hint=_OTHERWISE,
            )
        if any(rope.get(key) is not None for key in ("attention_factor", "attn_factor")):
            raise ModelError(
                "config.json: rope_scaling: expected no attention_factor", hint=_OTHERWISE
            )
    if all_dim is None:
        return {}
    return {Keys.Rope.SCALING_YARN_LOG_MUL: f32(0.1 * Config(rope, {}).number("mscale_all_dim"))}


def _note_groups(config: Config, claims: Claims) -> None:
    """V2 chooses groups by their best expert, llama.cpp by their best two."""
    if config.find("topk_method") == "greedy":
        for key in ("n_group", "topk_group"):
            config.only(key, 1)
    elif (config.find("n_group") or 1) > 1:
        claims.notes.append(
            "topk_method group_limited_greedy: llama.cpp chooses groups of experts by their best "
            "two, not by their best: some tokens go to other experts"
        )
