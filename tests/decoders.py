"""Tiny checkpoints of plain decoders: Llama, Mistral, Mixtral, Qwen2 and Qwen3."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tiny import F32, Arrays, Case, Shapes, mlp, one_by_one, weights


@dataclass(frozen=True)
class Decoder(Case):
    """A checkpoint of a plain decoder. `biases` says which projections of attention have one."""

    biases: str = ""

    def raw_config(self) -> dict[str, Any]:
        """config.json."""
        kinds = {"Qwen2Moe": "qwen2_moe", "Qwen3Moe": "qwen3_moe"}
        kind = self.hf_class.removesuffix("ForCausalLM")
        return {
            "architectures": [self.hf_class],
            "model_type": kinds.get(kind, kind.lower()),
            **self.config,
        }

    def arrays(self) -> Arrays:
        """Every tensor of the checkpoint under its stored name."""
        made: Arrays = {}
        for name, shape in self._shapes():
            values = weights(name, shape, self.dtype, norm=1.0)
            if ".experts." not in name or self.fused:
                made[name] = values
            elif self.hf_class.startswith("Mixtral"):
                prefix = name.rsplit(".", 1)[0].replace(".mlp.", ".block_sparse_moe.")
                made |= one_by_one(name, values, prefix=prefix, parts=("w1", "w3", "w2"))
            else:
                made |= one_by_one(name, values)
        if self.hf_class.startswith("Mixtral") and not self.fused:
            made = {n.replace(".mlp.gate.", ".block_sparse_moe.gate."): v for n, v in made.items()}
        return made

    def _shapes(self) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        yield "model.embed_tokens.weight", (c["vocab_size"], d)
        yield "model.norm.weight", (d,)
        if not c.get("tie_word_embeddings"):
            yield "lm_head.weight", (c["vocab_size"], d)
        for i in range(c["num_hidden_layers"]):
            yield from self._block(f"model.layers.{i}.")

    def _block(self, p: str) -> Shapes:
        c, d = self.config, self.config["hidden_size"]
        heads = c["num_attention_heads"]
        head = c.get("head_dim") or d // heads
        kv = c.get("num_key_value_heads") or heads
        yield p + "input_layernorm.weight", (d,)
        yield p + "post_attention_layernorm.weight", (d,)
        a = p + "self_attn."
        for part, rows, cols in (
            ("q", heads * head, d),
            ("k", kv * head, d),
            ("v", kv * head, d),
            ("o", d, heads * head),
        ):
            yield f"{a}{part}_proj.weight", (rows, cols)
            if part in self.biases:
                yield f"{a}{part}_proj.bias", (rows,)
        if self.hf_class.startswith("Qwen3"):
            yield a + "q_norm.weight", (head,)
            yield a + "k_norm.weight", (head,)
        m = p + "mlp."
        if not self.moe:
            for name, shape in mlp(m, c["intermediate_size"], d):
                yield name, shape
                if c.get("mlp_bias"):
                    yield name.replace(".weight", ".bias"), shape[:1]
            return
        n = c.get("num_experts") or c["num_local_experts"]
        f = c.get("moe_intermediate_size") or c["intermediate_size"]
        yield m + "gate.weight", (n, d)
        yield m + "experts.gate_up_proj", (n, 2 * f, d)
        yield m + "experts.down_proj", (n, d, f)
        if "shared_expert_intermediate_size" in c:
            yield m + "shared_expert_gate.weight", (1, d)
            yield from mlp(m + "shared_expert.", c["shared_expert_intermediate_size"], d)


def _config(**changed: Any) -> dict[str, Any]:
    base = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }
    return base | changed


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


_TIED = {"tie_word_embeddings": True}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_QWEN2MOE = {**_EXPERTS, "shared_expert_intermediate_size": 48, "norm_topk_prob": False}
_QWEN3MOE = {**_EXPERTS, "head_dim": 32, "norm_topk_prob": True}
_RENAMED = {  # as transformers 5 writes it
    "num_local_experts" if key == "num_experts" else key: value for key, value in _QWEN3MOE.items()
}
_MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_OLD = "original_max_position_embeddings"
_LONG = {
    _OLD: 128,
    "long_factor": [1.0 + 0.5 * i for i in range(8)],
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
}

LLAMA, MISTRAL, MIXTRAL = "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"
QWEN2, QWEN3 = "Qwen2ForCausalLM", "Qwen3ForCausalLM"
QWEN2MOE, QWEN3MOE = "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"

DECODERS = (
    Decoder("llama", LLAMA, _config(num_key_value_heads=None, **_rope("linear", factor=2.0))),
    Decoder("llama3-tied", LLAMA, _config(**_TIED, **_rope("llama3", **_LLAMA3, **{_OLD: 64}))),
    Decoder(
        "llama-biases",
        LLAMA,
        _config(attention_bias=True, mlp_bias=True, head_dim=32),
        biases="qkvo",
        dtype=F32,
    ),
    Decoder("llama-longrope", LLAMA, _config(**_rope("longrope", **_LONG))),
    Decoder("mistral", MISTRAL, _config(head_dim=32, sliding_window=None)),
    Decoder("mixtral", MIXTRAL, _config(**_MIXTRAL), fused=False),
    Decoder("mixtral-fused", MIXTRAL, _config(**_MIXTRAL)),
    Decoder("qwen2", QWEN2, _config(use_sliding_window=False), biases="qkv"),
    Decoder("qwen2-tied", QWEN2, _config(**_TIED), biases="qkv"),
    Decoder("qwen2moe", QWEN2MOE, _config(**_QWEN2MOE), biases="qkv", fused=False),
    Decoder("qwen3", QWEN3, _config(head_dim=32, **_TIED)),
    Decoder(
        "qwen3-yarn",
        QWEN3,
        _config(head_dim=32, **_rope("yarn", factor=4.0, **{_OLD: 128}, attention_factor=1.3)),
    ),
    Decoder("qwen3moe-fused", QWEN3MOE, _config(**_RENAMED)),
    Decoder("qwen3moe", QWEN3MOE, _config(**_QWEN3MOE, **_TIED), fused=False),
)
"""Every class and layout, each kind of rope once."""
