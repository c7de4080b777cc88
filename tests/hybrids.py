"""Tiny checkpoints of hybrids: blocks of attention among convolutions or state-space layers."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tiny import F32, Arrays, Case, Shapes, mlp, one_by_one, weights

ATTENTION = ("attention", "full_attention")


@dataclass(frozen=True)
class Mixed(Case):
    """A checkpoint of a hybrid, its norms around 1."""

    kind = ""

    def raw_config(self) -> dict[str, Any]:
        """config.json."""
        return {"architectures": [self.hf_class], "model_type": self.kind, **self.config}

    def arrays(self) -> Arrays:
        """Every tensor of the checkpoint under its stored name."""
        return {name: weights(name, s, self.dtype, norm=1.0) for name, s in self._shapes()}

    def _shapes(self) -> Shapes:
        raise NotImplementedError


def attention(c: dict[str, Any], prefix: str, output: str = "o_proj") -> Shapes:
    d, heads = c["hidden_size"], c["num_attention_heads"]
    head = c.get("head_dim") or d // heads
    for part, n in (("q", heads), ("k", c["num_key_value_heads"]), ("v", c["num_key_value_heads"])):
        yield f"{prefix}{part}_proj.weight", (n * head, d)
    yield f"{prefix}{output}.weight", (d, heads * head)


@dataclass(frozen=True)
class Lfm2(Mixed):
    """LFM2, with `num_experts` in the config LFM2-MoE. `width` of its dense networks."""

    width: int = 64

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "lfm2_moe" if self.moe else "lfm2"

    def arrays(self) -> Arrays:
        made: Arrays = {}
        for name, values in super().arrays().items():
            if ".experts." in name and not self.fused:
                made |= one_by_one(name, values, parts=("w1", "w3", "w2"))
            else:
                made[name] = values.astype(F32) if name.endswith("expert_bias") else values
        return made

    def _shapes(self) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        yield "model.embed_tokens.weight", (c["vocab_size"], d)
        yield "model.embedding_norm.weight", (d,)
        if not c.get("tie_embedding", c.get("tie_word_embeddings", True)):
            yield "lm_head.weight", (c["vocab_size"], d)
        with_attention = c.get("full_attn_idxs") or [
            i for i, kind in enumerate(c["layer_types"]) if kind in ATTENTION
        ]
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            yield p + "operator_norm.weight", (d,)
            yield p + "ffn_norm.weight", (d,)
            if i in with_attention:
                yield from attention(c, p + "self_attn.", "out_proj")
                for part in "qk":
                    norm = f"{p}self_attn.{part}_layernorm.weight"
                    yield norm, (d // c["num_attention_heads"],)
            else:
                yield p + "conv.conv.weight", (d, 1, c.get("conv_L_cache", 3))
                yield p + "conv.in_proj.weight", (3 * d, d)
                yield p + "conv.out_proj.weight", (d, d)
            f = p + "feed_forward."
            if self.moe and i >= c["num_dense_layers"]:
                n, w = c["num_experts"], c["moe_intermediate_size"]
                yield f + "gate.weight", (n, d)
                yield f + "expert_bias", (n,)
                yield f + "experts.gate_up_proj", (n, 2 * w, d)
                yield f + "experts.down_proj", (n, d, w)
            else:
                yield f + "w1.weight", (self.width, d)
                yield f + "w3.weight", (self.width, d)
                yield f + "w2.weight", (d, self.width)


@dataclass(frozen=True)
class Granite(Mixed):
    """Granite 4, with routed experts if the config says more than 0."""

    kind = "granitemoehybrid"

    def _shapes(self) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        yield "model.embed_tokens.weight", (c["vocab_size"], d)
        yield "model.norm.weight", (d,)
        if not c.get("tie_word_embeddings"):
            yield "lm_head.weight", (c["vocab_size"], d)
        for i, kind in enumerate(c["layer_types"]):
            p = f"model.layers.{i}."
            yield p + "input_layernorm.weight", (d,)
            yield p + "post_attention_layernorm.weight", (d,)
            if kind in ATTENTION:
                yield from attention(c, p + "self_attn.")
            else:
                groups, state = c["mamba_n_groups"], c["mamba_d_state"]
                yield from mamba2(p + "mamba.", d, 2 * d, groups * state, c["mamba_n_heads"])
            if n := c["num_local_experts"]:
                m, w = p + "block_sparse_moe.", c["intermediate_size"]
                yield m + "router.layer.weight", (n, d)
                yield m + "input_linear.weight", (n, 2 * w, d)
                yield m + "output_linear.weight", (n, d, w)
            w = c["shared_intermediate_size"]
            yield p + "shared_mlp.input_linear.weight", (2 * w, d)
            yield p + "shared_mlp.output_linear.weight", (d, w)


@dataclass(frozen=True)
class Mamba2(Mixed):
    """Nothing but Mamba-2 layers."""

    kind = "mamba2"

    def _shapes(self) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        yield "backbone.embeddings.weight", (c["vocab_size"], d)
        yield "backbone.norm_f.weight", (d,)
        if not c.get("tie_word_embeddings"):
            yield "lm_head.weight", (c["vocab_size"], d)
        for i in range(c["num_hidden_layers"]):
            p = f"backbone.layers.{i}."
            yield p + "norm.weight", (d,)
            shared = c["n_groups"] * c["state_size"]
            yield from mamba2(p + "mixer.", d, 2 * d, shared, c["num_heads"])


@dataclass(frozen=True)
class FalconH1(Mixed):
    """Attention and Mamba-2 in every block."""

    kind = "falcon_h1"

    def _shapes(self) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        yield "model.embed_tokens.weight", (c["vocab_size"], d)
        yield "model.final_layernorm.weight", (d,)
        if not c.get("tie_word_embeddings"):
            yield "lm_head.weight", (c["vocab_size"], d)
        shared = c["mamba_n_groups"] * c["mamba_d_state"]
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            yield p + "input_layernorm.weight", (d,)
            yield p + "pre_ff_layernorm.weight", (d,)
            yield from attention(c, p + "self_attn.")
            norm = c["mamba_rms_norm"]
            inner, heads = c["mamba_d_ssm"], c["mamba_n_heads"]
            yield from mamba2(p + "mamba.", d, inner, shared, heads, norm)
            yield from mlp(p + "feed_forward.", c["intermediate_size"], d)


@dataclass(frozen=True)
class Jamba(Mixed):
    """Mamba-1, attention and experts in turn."""

    kind = "jamba"

    def arrays(self) -> Arrays:
        made: Arrays = {}
        for name, values in super().arrays().items():
            split = ".experts." in name and not self.fused
            made |= one_by_one(name, values) if split else {name: values}
        return made

    def _shapes(self) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        inner, state, rank = 2 * d, c["mamba_d_state"], c["mamba_dt_rank"]
        n, width = c["num_experts"], c["intermediate_size"]
        yield "model.embed_tokens.weight", (c["vocab_size"], d)
        yield "model.final_layernorm.weight", (d,)
        if not c.get("tie_word_embeddings"):
            yield "lm_head.weight", (c["vocab_size"], d)
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            yield p + "input_layernorm.weight", (d,)
            yield p + "pre_ff_layernorm.weight", (d,)
            if i % c["attn_layer_period"] == c["attn_layer_offset"]:
                yield from attention(c, p + "self_attn.")
            else:
                m = p + "mamba."
                yield m + "in_proj.weight", (2 * inner, d)
                yield m + "conv1d.weight", (inner, 1, 4)
                yield m + "conv1d.bias", (inner,)
                yield m + "x_proj.weight", (rank + 2 * state, inner)
                for part, size in (("dt", rank), ("b", state), ("c", state)):
                    yield f"{m}{part}_layernorm.weight", (size,)
                yield m + "dt_proj.weight", (inner, rank)
                yield m + "dt_proj.bias", (inner,)
                yield m + "A_log", (inner, state)
                yield m + "D", (inner,)
                yield m + "out_proj.weight", (d, inner)
            f = p + "feed_forward."
            if i % c["expert_layer_period"] == c["expert_layer_offset"]:
                yield f + "router.weight", (n, d)
                yield f + "experts.gate_up_proj", (n, 2 * width, d)
                yield f + "experts.down_proj", (n, d, width)
            else:
                yield from mlp(f, width, d)


def mamba2(prefix: str, d: int, inner: int, shared: int, heads: int, norm: bool = True) -> Shapes:
    """A Mamba-2 layer; `shared` rows of B, and of C."""
    channels = inner + 2 * shared
    yield prefix + "in_proj.weight", (inner + channels + heads, d)
    yield prefix + "conv1d.weight", (channels, 1, 4)
    yield prefix + "conv1d.bias", (channels,)
    for part in ("dt_bias", "A_log", "D"):
        yield prefix + part, (heads,)
    if norm:
        yield prefix + "norm.weight", (inner,)
    yield prefix + "out_proj.weight", (d, inner)


def _config(**changed: Any) -> dict[str, Any]:
    base = {
        "vocab_size": 128,
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    return base | changed


_LFM2 = {"norm_eps": 1e-5, "rope_theta": 1000000.0, "conv_L_cache": 3}
_CONV = ["conv", "full_attention", "conv", "full_attention"]
_LFM2MOE = {
    **_LFM2,
    "intermediate_size": 96,
    "layer_types": _CONV,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "num_dense_layers": 1,
    "use_expert_bias": True,
    "norm_topk_prob": True,
}
_MAMBA, _GRANITE_ALL = ["mamba", "attention", "mamba", "attention"], ["attention"] * 4
_GRANITE = {
    "layer_types": _MAMBA,
    "intermediate_size": 32,
    "shared_intermediate_size": 48,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_multiplier": 0.5,
    "embedding_multiplier": 0.25,
    "residual_multiplier": 1.75,
    "logits_scaling": 1.75,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
}
_GRANITE_DENSE = {**_GRANITE, "num_local_experts": 0, "num_experts_per_tok": 0}
_MAMBA2 = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_heads": 8,
    "head_dim": 16,
    "state_size": 16,
    "n_groups": 2,
    "expand": 2,
    "conv_kernel": 4,
    "layer_norm_epsilon": 1e-5,
}
_FALCON = {
    "head_dim": 32,
    "intermediate_size": 96,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "mamba_d_ssm": 96,
    "mamba_n_heads": 6,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_n_groups": 2,
    "mamba_expand": 2,
    "mamba_rms_norm": True,
    "mamba_norm_before_gate": False,
    "attention_in_multiplier": 0.9,
    "attention_out_multiplier": 0.8,
    "key_multiplier": 0.7,
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.6,
    "ssm_multipliers": [0.8, 1.1, 0.9, 1.3, 0.7],
    "mlp_multipliers": [0.9, 0.4],
    "embedding_multiplier": 0.3,
    "lm_head_multiplier": 0.4,
}
_FALCON_PLAIN = {
    "mamba_rms_norm": False,
    "mamba_n_groups": 1,
    "embedding_multiplier": 0.4,
}
_JAMBA = {
    "intermediate_size": 96,
    "rms_norm_eps": 1e-6,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 3,
    "attn_layer_offset": 2,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 4,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "use_mamba_kernels": False,
}
_ROPE = {"position_embedding_type": "rope"}
_TIED = {"tie_word_embeddings": True}

HYBRIDS = (
    Lfm2(
        "lfm2",
        "Lfm2ForCausalLM",
        _config(
            **_LFM2,
            block_ff_dim=96,
            block_auto_adjust_ff_dim=True,
            block_ffn_dim_multiplier=1.2,
            block_multiple_of=32,
            layer_types=_CONV,
        ),
        width=96,
    ),
    Lfm2(
        "lfm2-untied",
        "Lfm2ForCausalLM",
        _config(
            **_LFM2 | {"conv_L_cache": 4},
            intermediate_size=80,
            block_auto_adjust_ff_dim=False,
            full_attn_idxs=[1, 2],
            tie_embedding=False,
        ),
        dtype=F32,
        width=80,
    ),
    Lfm2("lfm2moe", "Lfm2MoeForCausalLM", _config(**_LFM2MOE), fused=False, width=96),
    Lfm2("lfm2moe-fused", "Lfm2MoeForCausalLM", _config(**_LFM2MOE), width=96),
    Granite("granite4", "GraniteMoeHybridForCausalLM", _config(**_GRANITE, **_TIED)),
    Granite(
        "granite4-dense-rope",
        "GraniteMoeHybridForCausalLM",
        _config(**_GRANITE_DENSE | {"intermediate_size": 48}, **_ROPE),
    ),
    Granite(
        "granite4-attention",
        "GraniteMoeHybridForCausalLM",
        _config(
            **_GRANITE_DENSE | {"layer_types": _GRANITE_ALL, "intermediate_size": 48},
            **_ROPE,
        ),
    ),
    Granite(
        "granite4-attention-experts",
        "GraniteMoeHybridForCausalLM",
        _config(**_GRANITE | {"layer_types": _GRANITE_ALL}, **_ROPE, **_TIED),
        dtype=F32,
    ),
    Mamba2("mamba2", "Mamba2ForCausalLM", dict(_MAMBA2)),
    Mamba2("mamba2-tied", "Mamba2ForCausalLM", _MAMBA2 | _TIED | {"n_groups": 1}, dtype=F32),
    FalconH1("falcon-h1", "FalconH1ForCausalLM", _config(**_FALCON)),
    FalconH1(
        "falcon-h1-tied",
        "FalconH1ForCausalLM",
        _config(**_FALCON | _FALCON_PLAIN, **_TIED),
        dtype=F32,
    ),
    Jamba("jamba", "JambaForCausalLM", _config(**_JAMBA), fused=False),
    Jamba("jamba-fused-tied", "JambaForCausalLM", _config(**_JAMBA, **_TIED), dtype=F32),
)
