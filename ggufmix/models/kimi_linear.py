"""Kimi Linear: Kimi delta attention (KDA), whose state decays by channel, in most layers, latent
attention without positions in the others, routed experts behind some dense blocks.

Source: llama.cpp, conversion/kimi_linear.py, src/models/kimi-linear.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from gguf import MODEL_ARCH, Keys

from ..container import f32, u32
from ..errors import ModelError
from ..tensor import mapped, reshape
from .block import Block
from .claims import Claims
from .config import Config
from .delta_net import minus_exp
from .hybrid import attention_layers, heads_by_block, place_hybrid
from .latent import Latent
from .mixture import Mixture, leading_dense
from .model import Model

DEFAULTS: dict[MODEL_ARCH, Mapping[str, Any]] = {
    MODEL_ARCH.KIMI_LINEAR: {
        "attention_bias": False,
        "hidden_act": "silu",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "kv_lora_rank": 512,
        "linear_conv_kernel_dim": 4,
        "linear_head_dim": 128,
        "linear_num_heads": 32,
        "max_position_embeddings": 1048576,
        "moe_intermediate_size": 1024,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 27,
        "num_local_experts": 256,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-5,
        "routed_scaling_factor": 2.446,
        "topk_group": 1,
        "v_head_dim": 128,
        "vocab_size": 163840,
    }
}
"""What the config class of transformers 5.23 says of a key that config.json leaves out."""

EXPERT_PARTS = ("w1", "w3", "w2")


@dataclass(frozen=True, slots=True)
class DeltaAttention:
    """Sizes of delta attention.

    hidden  width of the model
    heads   of queries, of keys and of values
    head    width of each, and of the latent vectors of both gates
    kernel  taps of the convolutions
    """

    hidden: int
    heads: int
    head: int
    kernel: int

    @classmethod
    def read(cls, config: Config) -> DeltaAttention:
        """The sizes in a config: in a table of their own, or as transformers writes them too.

        Raises ModelError for a number of heads that llama.cpp could not load.
        """
        stated = config.find("linear_attn_config")
        otherwise = {
            "head_dim": config.find("linear_head_dim"),
            "num_heads": config.find("linear_num_heads"),
            "short_conv_kernel_size": config.find("linear_conv_kernel_dim"),
        }
        linear = Config(stated if isinstance(stated, Mapping) else {}, otherwise)
        heads = config.integer("num_attention_heads")
        if linear.integer("num_heads") != heads:
            raise ModelError(
                f"config.json: linear_attn_config: num_heads: expected the {heads} "
                f"num_attention_heads, got {linear.integer('num_heads')}",
                hint="llama.cpp has one number for both",
            )
        kernel = linear.integer("short_conv_kernel_size", least=2)
        return cls(config.integer("hidden_size"), heads, linear.integer("head_dim"), kernel)

    def place(self, block: Block) -> None:
        """Place q, k, v with a convolution each, the gates of decay (f) and of the output (g), the
        strength of writing (b), the norm of a head and the output.
        """
        rows, at = self.heads * self.head, "self_attn."
        taps = partial(reshape, shape=(1, rows, 1, self.kernel))
        for part in "qkv":
            block.place(f"{at}{part}_proj.weight", rows, self.hidden)
            block.place(f"{at}{part}_conv1d.weight", rows, 1, self.kernel, steps=(taps,))
        for gate in "fg":
            block.place(f"{at}{gate}_a_proj.weight", self.head, self.hidden)
            block.place(f"{at}{gate}_b_proj.weight", rows, self.head)
        decay = partial(mapped, function=minus_exp)
        block.place(f"{at}A_log", 1, 1, self.heads, 1, steps=(decay,))
        block.place(f"{at}dt_bias", rows, to=f"{at}dt_proj.bias")
        block.place(f"{at}b_proj.weight", self.heads, self.hidden)
        block.place(f"{at}o_norm.weight", self.head)
        block.place(f"{at}o_proj.weight", self.hidden, rows)


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family; it has no MTP blocks to keep."""
    del mtp
    for key, value in (
        ("attention_bias", False),
        ("hidden_act", "silu"),
        ("mla_use_nope", True),
        ("moe_layer_freq", 1),
        ("moe_renormalize", True),
        ("moe_router_activation_func", "sigmoid"),
        ("n_group", 1),
        ("norm_topk_prob", True),
        ("num_expert_group", 1),
        ("q_lora_rank", None),
        ("tie_word_embeddings", False),
    ):
        config.only(key, value)
    config = config.filled(
        num_key_value_heads=config.integer("num_attention_heads"), scoring_func="sigmoid"
    )
    delta, latent, mixture = DeltaAttention.read(config), Latent.read(config), _mixture(config)
    full = _full(config)

    def part(block: Block) -> None:
        block.place("input_layernorm.weight", delta.hidden)
        (latent if full[block.layer or 0] else delta).place(block)
        block.place("post_attention_layernorm.weight", delta.hidden)
        mixture.place(block)

    values = {
        **heads_by_block(1, full),
        Keys.LLM.VOCAB_SIZE: u32(config.integer("vocab_size")),
        Keys.SSM.CONV_KERNEL: u32(delta.kernel),
        Keys.KDA.HEAD_DIM: u32(delta.head),
        Keys.Attention.KV_LORA_RANK: u32(latent.rank),
        Keys.Rope.DIMENSION_COUNT: u32(latent.rope),
        Keys.Attention.KEY_LENGTH: u32(latent.rank + latent.rope),
        Keys.Attention.KEY_LENGTH_MLA: u32(latent.nope + latent.rope),
        Keys.Attention.VALUE_LENGTH_MLA: u32(latent.value),
        Keys.LLM.EXPERT_FEED_FORWARD_LENGTH: u32(mixture.width),
        Keys.LLM.EXPERT_SHARED_COUNT: u32(mixture.shared),
        Keys.LLM.LEADING_DENSE_BLOCK_COUNT: u32(mixture.dense),
        Keys.LLM.EXPERT_WEIGHTS_SCALE: f32(config.number("routed_scaling_factor")),
    }
    return place_hybrid(arch, config, claims, part=part, values=values)


def _mixture(config: Config) -> Mixture:
    """The feed-forward networks, as Kimi's own config spells them or as transformers does."""
    return Mixture(
        config.integer("hidden_size"),
        config.integer("num_experts", "num_local_experts"),
        config.integer("moe_intermediate_size"),
        config.integer("num_shared_experts", "n_shared_experts"),
        leading_dense(config),
        config.integer("intermediate_size"),
        bias=True,
        prefix="block_sparse_moe.",
        parts=EXPERT_PARTS,
    )


def _full(config: Config) -> list[bool]:
    """Which layers have latent attention: `layer_types`, or numbers from 1 up in
    `linear_attn_config`.
    """
    stated = attention_layers(config, ("linear_attention",))
    if stated is not None:
        return stated
    linear, n_layers = config.find("linear_attn_config"), config.integer("num_hidden_layers")
    which = linear.get("full_attn_layers") if isinstance(linear, Mapping) else None
    if not isinstance(which, list) or any(i not in range(1, n_layers + 1) for i in which):
        raise ModelError(
            "config.json: linear_attn_config: full_attn_layers: expected numbers from 1 to "
            f"{n_layers}, got {which!r}"
        )
    return [layer + 1 in which for layer in range(n_layers)]
