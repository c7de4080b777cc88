"""GLM-4.7-Flash: built like DeepSeek-V3, with a block for multi-token prediction.

Source: llama.cpp, conversion/glm.py, src/models/deepseek2.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import MODEL_ARCH

from .claims import Claims
from .config import Config
from .deepseek2 import place_latent
from .model import Model
from .mtp import behind_the_last, mtp_blocks

DEFAULTS: Mapping[str, Any] = {
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "kv_lora_rank": 512,
    "max_position_embeddings": 202752,
    "moe_intermediate_size": 1536,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 20,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 47,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 1.8,
    "scoring_func": "sigmoid",
    "topk_group": 1,
    "v_head_dim": 256,
    "vocab_size": 154880,
}
"""What the config class of transformers 5.23 says of a key that config.json leaves out; how the
router scores it says in code.
"""


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family, its MTP blocks behind the last layer if `mtp`."""
    further = behind_the_last(claims, config.integer("num_hidden_layers"))
    stated = config.find("num_nextn_predict_layers")
    n_mtp = mtp_blocks(claims, len(further), stated, further, keep=mtp)
    return place_latent(arch, config, claims, n_mtp)
