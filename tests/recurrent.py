"""Tiny checkpoints of Nemotron-H, whose blocks are one mixer each, of Bamba, and of Kimi Linear,
delta attention among latent attention.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hybrids import Mixed, attention, mamba2
from tiny import F32, Arrays, Shapes, mlp, one_by_one

KINDS = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}


class OneByOne(Mixed):
    """A checkpoint whose experts are stored one by one."""

    def stored(self, name: str, values: np.ndarray) -> Arrays:
        """Experts one by one, what else there is as it is."""
        raise NotImplementedError

    def arrays(self) -> Arrays:
        """Every tensor of the checkpoint under its stored name."""
        made: Arrays = {}
        for name, values in super().arrays().items():
            made |= self.stored(name, values)
        return made


@dataclass(frozen=True)
class NemotronH(OneByOne):
    """Mamba-2, attention and networks without a gate, one of them in each block."""

    kind = "nemotron_h"

    @property
    def pattern(self) -> str:
        """One letter for each block."""
        stated = self.config.get("hybrid_override_pattern")
        return stated or "".join(KINDS[word] for word in self.config["layers_block_type"])

    def stored(self, name: str, values: np.ndarray) -> Arrays:
        """Experts one by one, what else there is as it is."""
        at, part = name.rsplit(".", 1)
        if not at.endswith(".experts"):
            return {name: values}
        return {f"{at}.{i}.{part}.weight": v for i, v in enumerate(values)}

    def _shapes(self) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        yield "backbone.embeddings.weight", (c["vocab_size"], d)
        yield "backbone.norm_f.weight", (d,)
        yield "lm_head.weight", (c["vocab_size"], d)
        for i, kind in enumerate(self.pattern):
            yield from self._block(f"backbone.layers.{i}.", kind)
        if self.mtp:
            for norm in ("enorm", "hnorm"):
                yield f"mtp.layers.0.{norm}.weight", (d,)
            yield "mtp.layers.0.eh_proj.weight", (d, 2 * d)
            yield from self._block("mtp.layers.0.", "*")
            yield from self._block("mtp.layers.1.", "E")
            yield "mtp.layers.1.final_layernorm.weight", (d,)

    def _block(self, p: str, kind: str) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        yield p + "norm.weight", (d,)
        m = p + "mixer."
        if kind == "M":
            inner = c["mamba_num_heads"] * c["mamba_head_dim"]
            shared = c["n_groups"] * c["ssm_state_size"]
            yield from mamba2(m, d, inner, shared, c["mamba_num_heads"])
        elif kind == "*":
            yield from attention(c, m)
        elif kind == "-":
            yield from _two(m, c["intermediate_size"], d)
        else:
            n, width = c["n_routed_experts"], c["moe_intermediate_size"]
            latent = c.get("moe_latent_size")
            yield m + "gate.weight", (n, d)
            yield m + "gate.e_score_correction_bias", (n,)
            if latent:
                yield m + "fc1_latent_proj.weight", (latent, d)
                yield m + "fc2_latent_proj.weight", (d, latent)
            yield m + "experts.up_proj", (n, width, latent or d)
            yield m + "experts.down_proj", (n, latent or d, width)
            yield from _two(m + "shared_experts.", c["moe_shared_expert_intermediate_size"], d)


def _two(prefix: str, width: int, d: int) -> Shapes:
    yield prefix + "up_proj.weight", (width, d)
    yield prefix + "down_proj.weight", (d, width)


@dataclass(frozen=True)
class Bamba(Mixed):
    """Mamba-2 layers among attention, in which half of each head turns."""

    kind = "bamba"

    def _shapes(self) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        yield "model.embed_tokens.weight", (c["vocab_size"], d)
        yield "model.final_layernorm.weight", (d,)
        yield "lm_head.weight", (c["vocab_size"], d)
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            yield p + "input_layernorm.weight", (d,)
            yield p + "pre_ff_layernorm.weight", (d,)
            if i in c["attn_layer_indices"]:
                yield from attention(c, p + "self_attn.")
            else:
                shared = c["mamba_n_groups"] * c["mamba_d_state"]
                yield from mamba2(p + "mamba.", d, 2 * d, shared, c["mamba_n_heads"])
            yield from mlp(p + "feed_forward.", c["intermediate_size"], d)


@dataclass(frozen=True)
class KimiLinear(OneByOne):
    """Delta attention with a decay for each channel, latent attention, experts."""

    kind = "kimi_linear"

    def stored(self, name: str, values: np.ndarray) -> Arrays:
        """Experts one by one, what else there is as it is."""
        split = ".experts." in name
        return one_by_one(name, values, parts=("w1", "w3", "w2")) if split else {name: values}

    def _shapes(self) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        yield "model.embed_tokens.weight", (c["vocab_size"], d)
        yield "model.norm.weight", (d,)
        yield "lm_head.weight", (c["vocab_size"], d)
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            yield p + "input_layernorm.weight", (d,)
            yield p + "post_attention_layernorm.weight", (d,)
            if i + 1 in c["linear_attn_config"]["full_attn_layers"]:
                yield from self._latent(p + "self_attn.")
            else:
                yield from self._delta(p + "self_attn.")
            if i < c["first_k_dense_replace"]:
                yield from mlp(p + "mlp.", c["intermediate_size"], d)
                continue
            m, n, f = p + "block_sparse_moe.", c["num_experts"], c["moe_intermediate_size"]
            yield m + "gate.weight", (n, d)
            yield m + "gate.e_score_correction_bias", (n,)
            yield m + "experts.gate_up_proj", (n, 2 * f, d)
            yield m + "experts.down_proj", (n, d, f)
            yield from mlp(m + "shared_experts.", c["num_shared_experts"] * f, d)

    def _delta(self, a: str) -> Shapes:
        d, c = self.config["hidden_size"], self.config["linear_attn_config"]
        heads, head = c["num_heads"], c["head_dim"]
        for part in "qkv":
            yield f"{a}{part}_proj.weight", (heads * head, d)
            yield f"{a}{part}_conv1d.weight", (heads * head, 1, c["short_conv_kernel_size"])
        for gate in "fg":
            yield f"{a}{gate}_a_proj.weight", (head, d)
            yield f"{a}{gate}_b_proj.weight", (heads * head, head)
        yield a + "A_log", (1, 1, heads, 1)
        yield a + "dt_bias", (heads * head,)
        yield a + "b_proj.weight", (heads, d)
        yield a + "o_norm.weight", (head,)
        yield a + "o_proj.weight", (d, heads * head)

    def _latent(self, a: str) -> Shapes:
        c, d, heads = self.config, self.config["hidden_size"], self.config["num_attention_heads"]
        nope, rope, value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
        rank = c["kv_lora_rank"]
        yield a + "q_proj.weight", (heads * (nope + rope), d)
        yield a + "kv_a_proj_with_mqa.weight", (rank + rope, d)
        yield a + "kv_a_layernorm.weight", (rank,)
        yield a + "kv_b_proj.weight", (heads * (nope + value), rank)
        yield a + "o_proj.weight", (d, heads * value)


_NEMOTRON = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "intermediate_size": 96,
    "mlp_hidden_act": "relu2",
    "mamba_num_heads": 12,
    "mamba_head_dim": 16,
    "mamba_hidden_act": "silu",
    "ssm_state_size": 16,
    "n_groups": 2,
    "conv_kernel": 4,
    "layer_norm_epsilon": 1e-5,
    "norm_eps": 1e-5,
}
_EXPERTS = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 48,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}


def _nemotron(**changed: Any) -> dict[str, Any]:
    return _NEMOTRON | changed


_BAMBA = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attn_layer_indices": [1],
    "attn_rotary_emb": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_n_groups": 2,
    "mamba_expand": 2,
}


def _kimi(linear: dict[str, Any], **changed: Any) -> dict[str, Any]:
    base = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "model_max_length": 512,
        "mla_use_nope": True,
        "q_lora_rank": None,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 24,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "moe_intermediate_size": 32,
        "moe_renormalize": True,
        "moe_router_activation_func": "sigmoid",
        "num_experts": 8,
        "num_experts_per_token": 3,
        "num_shared_experts": 1,
        "num_expert_group": 1,
        "topk_group": 1,
        "use_grouped_topk": True,
        "routed_scaling_factor": 2.446,
        "num_nextn_predict_layers": 0,
        "pad_token_id": 0,
    }
    layers = {"full_attn_layers": [2, 5], "kda_layers": [1, 3, 4]}
    linear = {"head_dim": 32, "num_heads": 4, "short_conv_kernel_size": 4, **layers, **linear}
    return base | changed | {"linear_attn_config": linear}


NEMOTRON, KIMI = "NemotronHForCausalLM", "KimiLinearForCausalLM"

RECURRENT = (
    NemotronH(
        "nemotron-h", NEMOTRON, _nemotron(hybrid_override_pattern="M-M*-", num_hidden_layers=5)
    ),
    NemotronH(
        "nemotron-h-moe",
        NEMOTRON,
        _nemotron(**_EXPERTS, hybrid_override_pattern="MEM*E", num_hidden_layers=5),
    ),
    NemotronH(
        "nemotron-h-moe-mtp",
        NEMOTRON,
        _nemotron(
            **_EXPERTS,
            hybrid_override_pattern="EM*E",
            num_hidden_layers=4,
            num_nextn_predict_layers=1,
        ),
        mtp=1,
    ),
    NemotronH(
        "nemotron-h-latent",
        NEMOTRON,
        _nemotron(
            **_EXPERTS | {"n_group": 4, "topk_group": 2, "norm_topk_prob": False},
            moe_latent_size=48,
            layers_block_type=["mamba", "moe", "attention", "moe"],
            num_hidden_layers=4,
            num_nextn_predict_layers=1,
        ),
        dtype=F32,
        mtp=1,
    ),
    Bamba("bamba", "BambaForCausalLM", dict(_BAMBA)),
    KimiLinear("kimi-linear", KIMI, _kimi({})),
    KimiLinear(
        "kimi-linear-dense",
        KIMI,
        _kimi(
            {"full_attn_layers": [1], "kda_layers": [2, 3], "short_conv_kernel_size": 3},
            num_hidden_layers=3,
            first_k_dense_replace=2,
            num_shared_experts=2,
        ),
        dtype=F32,
    ),
)
"""Every class and layout."""
