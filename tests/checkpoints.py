"""Tiny checkpoints for tests: those of the Qwen3.5 family, and with the plain decoders, mixtures of
experts and other hybrids all there are.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from decoders import DECODERS
from hybrids import HYBRIDS as OTHER_HYBRIDS
from mixtures import MIXTURES
from recurrent import RECURRENT
from tiny import BF16, F32, Arrays, Case, Shapes, mlp, noise, one_by_one, weights, write

__all__ = ["BF16", "CASES", "F32", "Arrays", "Case", "Hybrid", "noise", "weights", "write"]


@dataclass(frozen=True)
class Hybrid(Case):
    """A checkpoint of the Qwen3.5 family. `fused_mtp` says how experts of MTP blocks are stored."""

    fused_mtp: bool = False

    @property
    def wrapped(self) -> bool:
        return self.hf_class.endswith("ForConditionalGeneration")

    def raw_config(self) -> dict[str, Any]:
        """config.json."""
        kinds = {"Qwen3_5": "qwen3_5", "Qwen3_5Moe": "qwen3_5_moe", "Qwen3Next": "qwen3_next"}
        kind = kinds[self.hf_class.split("For")[0]]
        if not self.wrapped:
            text = kind if kind == "qwen3_next" else kind + "_text"
            return {
                "architectures": [self.hf_class],
                "model_type": text,
                **self.config,
            }
        tied = self.config.get("tie_word_embeddings", False)
        vision = {
            "model_type": kind + "_vision",
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "patch_size": 4,
            "out_hidden_size": self.config["hidden_size"],
            "num_position_embeddings": 4,
        }
        text_config = {"model_type": kind + "_text", **self.config}
        return {
            "architectures": [self.hf_class],
            "model_type": kind,
            "tie_word_embeddings": tied,
            "text_config": text_config,
            "vision_config": vision,
        }

    def arrays(self) -> Arrays:
        """Every tensor of the checkpoint under its stored name."""
        made: Arrays = {}
        for name, shape in self._shapes():
            values = weights(name, shape, self.dtype)
            split = not (self.fused_mtp if name.startswith("mtp.") else self.fused)
            if ".experts." in name and split:
                made |= one_by_one(name, values)
            else:
                made[name] = values
        if self.wrapped:
            inner = "model.language_model."
            made = {
                inner + n.removeprefix("model.") if n.startswith("model.") else n: v
                for n, v in made.items()
            }
            for part in ("patch_embed.proj.bias", "blocks.0.norm1.weight", "merger.norm.bias"):
                made["model.visual." + part] = weights(part, (16,), self.dtype)
        return made

    def _shapes(self) -> Shapes:
        c = self.config
        hidden, vocab, layers = c["hidden_size"], c["vocab_size"], c["num_hidden_layers"]
        interval = c.get("full_attention_interval", 4)
        kinds = c.get("layer_types") or [
            "linear_attention" if (i + 1) % interval else "full_attention" for i in range(layers)
        ]
        yield "model.embed_tokens.weight", (vocab, hidden)
        yield "model.norm.weight", (hidden,)
        if not c.get("tie_word_embeddings"):
            yield "lm_head.weight", (vocab, hidden)
        for i, kind in enumerate(kinds):
            yield from self._block(f"model.layers.{i}.", kind == "linear_attention")
        for i in range(self.mtp):
            yield from self._block(f"mtp.layers.{i}.", False)
        if self.mtp:
            yield "mtp.fc.weight", (hidden, 2 * hidden)
            for norm in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
                yield f"mtp.{norm}.weight", (hidden,)

    def _block(self, p: str, linear: bool) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        yield p + "input_layernorm.weight", (d,)
        yield p + "post_attention_layernorm.weight", (d,)
        if linear:
            a = p + "linear_attn."
            n_k, n_v = c["linear_num_key_heads"], c["linear_num_value_heads"]
            dim = c["linear_key_head_dim"]
            qk, v = 2 * n_k * dim, n_v * dim
            if self.hf_class.startswith("Qwen3Next"):
                yield a + "in_proj_qkvz.weight", (qk + 2 * v, d)
                yield a + "in_proj_ba.weight", (2 * n_v, d)
            else:
                yield a + "in_proj_qkv.weight", (qk + v, d)
                yield a + "in_proj_z.weight", (v, d)
                yield a + "in_proj_a.weight", (n_v, d)
                yield a + "in_proj_b.weight", (n_v, d)
            yield a + "conv1d.weight", (qk + v, 1, c.get("linear_conv_kernel_dim", 4))
            yield a + "A_log", (n_v,)
            yield a + "dt_bias", (n_v,)
            yield a + "norm.weight", (dim,)
            yield a + "out_proj.weight", (d, v)
        else:
            a, h = p + "self_attn.", c["head_dim"]
            q, kv = c["num_attention_heads"] * h, c["num_key_value_heads"] * h
            yield a + "q_proj.weight", (2 * q, d)
            yield a + "k_proj.weight", (kv, d)
            yield a + "v_proj.weight", (kv, d)
            yield a + "o_proj.weight", (d, q)
            yield a + "q_norm.weight", (h,)
            yield a + "k_norm.weight", (h,)
        m = p + "mlp."
        if not self.moe:
            yield from mlp(m, c["intermediate_size"], d)
            return
        n, f = c["num_experts"], c["moe_intermediate_size"]
        yield m + "gate.weight", (n, d)
        yield m + "shared_expert_gate.weight", (1, d)
        yield from mlp(m + "shared_expert.", c["shared_expert_intermediate_size"], d)
        yield m + "experts.gate_up_proj", (n, 2 * f, d)
        yield m + "experts.down_proj", (n, d, f)


def _config(**changed: Any) -> dict[str, Any]:
    base = {
        "vocab_size": 128,
        "hidden_size": 64,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "max_position_embeddings": 512,
    }
    return base | changed


def _rope(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5, **more}


_MROPE = {"rope_parameters": _rope(mrope_section=[2, 1, 1], mrope_interleaved=True)}
_DENSE = {"intermediate_size": 96, **_MROPE}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
}
_MOE = {**_EXPERTS, **_MROPE}
_NEXT = {**_EXPERTS, "rope_parameters": _rope()}
_TIED = {"tie_word_embeddings": True}
_FULL, _LINEAR = "full_attention", "linear_attention"

HYBRIDS = (
    Hybrid("dense-tied", "Qwen3_5ForCausalLM", _config(**_DENSE, **_TIED)),
    Hybrid(
        "dense-wrapped-mtp",
        "Qwen3_5ForConditionalGeneration",
        _config(**_DENSE, linear_num_value_heads=2, mtp_num_hidden_layers=1),
        mtp=1,
    ),
    Hybrid(
        "dense-irregular",
        "Qwen3_5ForCausalLM",
        _config(
            **_DENSE,
            linear_num_value_heads=6,
            layer_types=[_FULL, _LINEAR, _LINEAR, _FULL, _LINEAR],
        ),
        dtype=F32,
    ),
    Hybrid(
        "dense-defaults",  # all about rope is left to the class
        "Qwen3_5ForCausalLM",
        _config(
            intermediate_size=96,
            head_dim=256,
            num_attention_heads=1,
            num_key_value_heads=1,
            num_hidden_layers=4,
        ),
    ),
    Hybrid("moe-fused", "Qwen3_5MoeForCausalLM", _config(**_MOE, linear_num_value_heads=8)),
    Hybrid(
        "moe-wrapped-mtp",
        "Qwen3_5MoeForConditionalGeneration",
        _config(**_MOE, **_TIED, mtp_num_hidden_layers=1),
        mtp=1,
    ),
    Hybrid("moe-one-by-one", "Qwen3_5MoeForCausalLM", _config(**_MOE), fused=False),
    Hybrid(
        "next-one-by-one-mtp",
        "Qwen3NextForCausalLM",
        _config(**_NEXT, intermediate_size=96),
        fused=False,
        mtp=1,
    ),
    Hybrid(
        "next-fused",  # rope as older configs state it, at the root
        "Qwen3NextForCausalLM",
        _config(
            **_EXPERTS,
            linear_num_value_heads=2,
            rope_theta=5e5,
            partial_rotary_factor=0.5,
            full_attention_interval=2,
        ),
    ),
    Hybrid("next-wide", "Qwen3NextForCausalLM", _config(**_NEXT, linear_num_value_heads=8)),
)

CASES: dict[str, Case] = {
    case.name: case for case in (*HYBRIDS, *DECODERS, *MIXTURES, *OTHER_HYBRIDS, *RECURRENT)
}
"""Every class and layout. What a name does not say: value heads of hybrids are 1 to 4 times the key
heads; weights are BF16, once F32.
"""
