"""Tiny checkpoints of mixtures of experts that are no plain decoders: DeepSeek and Kimi, GLM-4.5,
gpt-oss.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tiny import F32, Arrays, Case, Shapes, mlp, one_by_one, weights


@dataclass(frozen=True)
class Mixture(Case):
    """A checkpoint whose experts are stored one by one, those of gpt-oss apart."""

    fused: bool = False

    def raw_config(self) -> dict[str, Any]:
        """config.json."""
        return {"architectures": [self.hf_class], "model_type": self.kind, **self.config}

    @property
    def kind(self) -> str:
        """model_type."""
        raise NotImplementedError

    def arrays(self) -> Arrays:
        """Every tensor of the checkpoint under its stored name."""
        made: Arrays = {}
        for name, shape in self._shapes():
            values = weights(name, shape, self.dtype, norm=1.0)
            stacked = ".experts." in name and len(shape) == 3
            made |= {name: values} if self.fused or not stacked else one_by_one(name, values)
        return made

    def _shapes(self) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        vocab, layers = c["vocab_size"], c["num_hidden_layers"]
        yield "model.embed_tokens.weight", (vocab, d)
        yield "model.norm.weight", (d,)
        yield "lm_head.weight", (vocab, d)
        for i in range(layers + c.get("num_nextn_predict_layers", 0)):
            p = f"model.layers.{i}."
            yield p + "input_layernorm.weight", (d,)
            yield p + "post_attention_layernorm.weight", (d,)
            yield from self._attention(p + "self_attn.")
            yield from self._feed_forward(p + "mlp.", i)
            if i >= layers:
                yield p + "eh_proj.weight", (d, 2 * d)
                for norm in ("enorm", "hnorm", "shared_head.norm"):
                    yield f"{p}{norm}.weight", (d,)
                yield p + "embed_tokens.weight", (vocab, d)
                yield p + "shared_head.head.weight", (vocab, d)

    def _attention(self, a: str) -> Shapes:
        raise NotImplementedError

    def _feed_forward(self, m: str, layer: int) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        if layer < c["first_k_dense_replace"]:
            yield from mlp(m, c["intermediate_size"], d)
            return
        n, f = c["n_routed_experts"], c["moe_intermediate_size"]
        yield m + "gate.weight", (n, d)
        if not self.hf_class.startswith("DeepseekV2"):
            yield m + "gate.e_score_correction_bias", (n,)
        yield m + "experts.gate_up_proj", (n, 2 * f, d)
        yield m + "experts.down_proj", (n, d, f)
        yield from mlp(m + "shared_experts.", c["n_shared_experts"] * f, d)


@dataclass(frozen=True)
class Latent(Mixture):
    """A checkpoint of DeepSeek, Kimi or GLM-4.7-Flash."""

    @property
    def wrapped(self) -> bool:
        return self.hf_class.startswith("Kimi")

    @property
    def kind(self) -> str:
        kinds = {"DeepseekV2ForCausalLM": "deepseek_v2", "Glm4MoeLiteForCausalLM": "glm4_moe_lite"}
        return kinds.get(self.hf_class, "deepseek_v3")

    def raw_config(self) -> dict[str, Any]:
        """config.json."""
        text = super().raw_config()
        if not self.wrapped:
            return text
        text |= {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "kimi_k2"}
        return {
            "architectures": [self.hf_class],
            "model_type": "kimi_k25",
            "text_config": text,
            "vision_config": {"model_type": "kimi_k25_vision", "vt_hidden_size": 16},
        }

    def arrays(self) -> Arrays:
        """Every tensor of the checkpoint under its stored name."""
        made = super().arrays()
        if not self.wrapped:
            return made
        made = {f"language_model.{name}": values for name, values in made.items()}
        for part in ("vision_tower.patch_embed.proj.bias", "mm_projector.pre_norm.bias"):
            made[part] = weights(part, (16,), self.dtype)
        return made

    def plain(self) -> Mixture:
        """The text model alone, as transformers has it."""
        return Latent(self.name, "DeepseekV3ForCausalLM", self.config) if self.wrapped else self

    def _attention(self, a: str) -> Shapes:
        c, d, heads = self.config, self.config["hidden_size"], self.config["num_attention_heads"]
        nope, rope, value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
        rank, q_rank = c["kv_lora_rank"], c["q_lora_rank"]
        if q_rank:
            yield a + "q_a_proj.weight", (q_rank, d)
            yield a + "q_a_layernorm.weight", (q_rank,)
            yield a + "q_b_proj.weight", (heads * (nope + rope), q_rank)
        else:
            yield a + "q_proj.weight", (heads * (nope + rope), d)
        yield a + "kv_a_proj_with_mqa.weight", (rank + rope, d)
        yield a + "kv_a_layernorm.weight", (rank,)
        yield a + "kv_b_proj.weight", (heads * (nope + value), rank)
        yield a + "o_proj.weight", (d, heads * value)


@dataclass(frozen=True)
class GlmDsa(Latent):
    """A checkpoint of GLM-5: each layer that has "F" in its pattern chooses tokens."""

    pattern: str = ""

    @property
    def kind(self) -> str:
        return "glm_moe_dsa"

    def _attention(self, a: str) -> Shapes:
        yield from super()._attention(a)
        c, layer = self.config, int(a.split(".")[2])
        if self.pattern[layer : layer + 1] != "S":
            heads, head = c["index_n_heads"], c["index_head_dim"]
            yield a + "indexer.wq_b.weight", (heads * head, c["q_lora_rank"])
            yield a + "indexer.wk.weight", (head, c["hidden_size"])
            yield a + "indexer.k_norm.weight", (head,)
            yield a + "indexer.k_norm.bias", (head,)
            yield a + "indexer.weights_proj.weight", (heads, c["hidden_size"])


@dataclass(frozen=True)
class Glm(Mixture):
    """A checkpoint of GLM-4.5."""

    @property
    def kind(self) -> str:
        return "glm4_moe"

    def _attention(self, a: str) -> Shapes:
        c = self.config
        yield from grouped(a, c, "qkv" if c.get("attention_bias") else "")
        if c.get("use_qk_norm"):
            yield a + "q_norm.weight", (c["head_dim"],)
            yield a + "k_norm.weight", (c["head_dim"],)


@dataclass(frozen=True)
class GptOss(Mixture):
    """A checkpoint of gpt-oss with experts in BF16."""

    fused: bool = True

    @property
    def kind(self) -> str:
        return "gpt_oss"

    def _attention(self, a: str) -> Shapes:
        yield from grouped(a, self.config, "qkvo")
        yield a + "sinks", (self.config["num_attention_heads"],)

    def _feed_forward(self, m: str, layer: int) -> Shapes:
        del layer  # they are all alike
        c, d = self.config, self.config["hidden_size"]
        n, f = c["num_local_experts"], c["intermediate_size"]
        yield m + "router.weight", (n, d)
        yield m + "router.bias", (n,)
        yield m + "experts.gate_up_proj", (n, d, 2 * f)
        yield m + "experts.gate_up_proj_bias", (n, 2 * f)
        yield m + "experts.down_proj", (n, f, d)
        yield m + "experts.down_proj_bias", (n, d)


def grouped(a: str, c: dict[str, Any], biases: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Matrices of grouped-query attention, and biases of some of them."""
    d, head = c["hidden_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    for part, rows, cols in (("q", q, d), ("k", kv, d), ("v", kv, d), ("o", d, q)):
        yield f"{a}{part}_proj.weight", (rows, cols)
        if part in biases:
            yield f"{a}{part}_proj.bias", (rows,)


_SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
}
_ROUTED = {
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "routed_scaling_factor": 1.7,
}
_OLD = "original_max_position_embeddings"
_YARN = {"beta_fast": 32, "beta_slow": 1, "factor": 4.0, _OLD: 128}


def _latent(**changed: Any) -> dict[str, Any]:
    base = {
        **_SIZES,
        **_ROUTED,
        "num_key_value_heads": 4,
        "kv_lora_rank": 32,
        "q_lora_rank": 48,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 24,
        "rms_norm_eps": 1e-6,
    }
    return base | changed


def _v3(**changed: Any) -> dict[str, Any]:
    base = {"n_group": 4, "topk_group": 2, "norm_topk_prob": True, "topk_method": "noaux_tc"}
    return _latent(**{**base, "scoring_func": "sigmoid", **changed})


def _scaled(kind: str, scale: float) -> dict[str, Any]:
    return {"rope_scaling": {**_YARN, "mscale": scale, "mscale_all_dim": scale, "type": kind}}


def _v2(**changed: Any) -> dict[str, Any]:
    base = {"topk_method": "greedy", "norm_topk_prob": False, "scoring_func": "softmax"}
    return _latent(**{**base, "n_shared_experts": 2, **changed})


def _glm(**changed: Any) -> dict[str, Any]:
    base = {
        **_SIZES,
        **_ROUTED,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
    }
    return base | changed


def _gpt_oss(**changed: Any) -> dict[str, Any]:
    base = {
        **_SIZES,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 48,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000.0,
        "rope_scaling": {**_YARN, "rope_type": "yarn"},
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }
    return base | changed


def _dsa(**changed: Any) -> dict[str, Any]:
    base = {"scoring_func": None, "n_group": 1, "topk_group": 1, "index_n_heads": 4}
    return _v3(**{**base, "index_head_dim": 64, "index_topk": 512, **changed})


V2, V3 = "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"
GLM, GPT_OSS = "Glm4MoeForCausalLM", "GptOssForCausalLM"

MIXTURES = (
    Latent("deepseek-v3", V3, _v3(num_nextn_predict_layers=1, **_scaled("yarn", 1.0))),
    Latent("deepseek-v3-plain", V3, _v3(n_group=1, topk_group=1, q_lora_rank=None), dtype=F32),
    Latent("deepseek-v3-as-saved", V3, _v3(scoring_func=None, head_dim=8, topk_method=None)),
    Latent("deepseek-v2", V2, _v2(q_lora_rank=None, **_scaled("yarn", 0.707))),
    Latent(
        "kimi-wrapped",
        "KimiK25ForConditionalGeneration",
        _v3(n_group=1, topk_group=1, **_scaled("yarn", 1.0)),
    ),
    Latent(
        "glm4moe-lite-mtp",
        "Glm4MoeLiteForCausalLM",
        _v3(scoring_func=None, n_group=1, topk_group=1, num_nextn_predict_layers=1),
        mtp=1,
    ),
    GlmDsa("glm-dsa", "GlmMoeDsaForCausalLM", _dsa()),
    GlmDsa(
        "glm-dsa-shared-mtp",
        "GlmMoeDsaForCausalLM",
        _dsa(indexer_types=["full", "shared", "full"], num_nextn_predict_layers=1),
        mtp=1,
        pattern="FSF",
    ),
    Glm("glm4moe-mtp", GLM, _glm(num_nextn_predict_layers=1), mtp=1),
    Glm("glm4moe-norms", GLM, _glm(use_qk_norm=True, attention_bias=False, n_shared_experts=2)),
    GptOss("gpt-oss", GPT_OSS, _gpt_oss()),
    GptOss(
        "gpt-oss-plain",
        GPT_OSS,
        _gpt_oss(
            rope_scaling=None, rope_parameters={"rope_type": "default", "rope_theta": 150000.0}
        ),
    ),
)
"""Every class and layout."""
