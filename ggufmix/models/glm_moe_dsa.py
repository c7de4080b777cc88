"""GLM-5, 5.1 and 5.2: built like DeepSeek-V3, and an indexer chooses which tokens are attended to.
From GLM-5.2 on some layers take the choice of the one before. An MTP block is kept.

Source: llama.cpp, conversion/glm.py, src/models/glm-dsa.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ..container import array, u32
from ..errors import ModelError
from .block import Block
from .claims import Claims
from .config import Config
from .deepseek2 import place_latent
from .model import Model
from .mtp import behind_the_last, mtp_blocks

DEFAULTS: Mapping[str, Any] = {
    "attention_bias": False,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 6144,
    "index_head_dim": 128,
    "index_n_heads": 32,
    "index_topk": 2048,
    "intermediate_size": 12288,
    "kv_lora_rank": 512,
    "max_position_embeddings": 202752,
    "mlp_bias": False,
    "moe_intermediate_size": 2048,
    "n_group": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 78,
    "q_lora_rank": 2048,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_group": 1,
    "v_head_dim": 256,
    "vocab_size": 154880,
}
"""What the config class of transformers 5.23 says of a key that config.json leaves out; how the
router scores it says in code.
"""

INDEXER_TYPES = "{arch}.attention.indexer.types"
"""Which layers choose for themselves: an array of bools, not yet in gguf's list of keys."""


def place(arch: MODEL_ARCH, config: Config, claims: Claims, mtp: bool) -> Model:
    """Place a checkpoint of this family, its MTP blocks behind the last layer if `mtp`."""
    chooses = _chooses(config)
    hidden, rank = config.integer("hidden_size"), config.integer("q_lora_rank")
    heads, head = config.integer("index_n_heads"), config.integer("index_head_dim")

    def indexer(block: Block) -> None:
        at, layer = "self_attn.indexer.", block.layer or 0
        if not chooses[layer] if layer < len(chooses) else f"{at}wk.weight" not in block:
            return
        block.place(f"{at}wq_b.weight", heads * head, rank)
        block.place(f"{at}wk.weight", head, hidden)
        block.place(f"{at}k_norm.weight", head)
        block.place(f"{at}k_norm.bias", head)
        block.place(f"{at}weights_proj.weight", heads, hidden)

    further = behind_the_last(claims, len(chooses))
    stated = config.find("num_nextn_predict_layers")
    n_mtp = mtp_blocks(claims, len(further), stated, further, keep=mtp)
    more = {
        Keys.Attention.Indexer.HEAD_COUNT: u32(heads),
        Keys.Attention.Indexer.KEY_LENGTH: u32(head),
        Keys.Attention.Indexer.TOP_K: u32(config.integer("index_topk")),
        INDEXER_TYPES: array(GGUFValueType.BOOL, chooses),
    }
    config = config.filled(head_dim=config.integer("qk_rope_head_dim"))
    return place_latent(arch, config, claims, n_mtp, beside=indexer, more=more)


def _chooses(config: Config) -> list[bool]:
    """Which layers have an indexer of their own: `indexer_types`, else a pattern of letters, else
    one in `index_topk_freq` layers behind the first ones.

    Raises ModelError for another number of layers, a word that is not known, and a first layer that
    has none to take the choice of.
    """
    n_layers = config.integer("num_hidden_layers")
    kinds, words = config.find("indexer_types"), ("full", "shared")
    if kinds is None and (kinds := config.find("index_topk_pattern")) is not None:
        words = ("F", "S") if isinstance(kinds, str) else words
    if kinds is None:
        stated = config.filled(index_topk_freq=1, index_skip_topk_offset=2)
        every = stated.integer("index_topk_freq")
        offset = stated.integer("index_skip_topk_offset", least=0)
        return [max(i - offset + 1, 0) % every == 0 for i in range(n_layers)]
    if (
        not isinstance(kinds, str | list)
        or len(kinds) != n_layers
        or any(kind not in words for kind in kinds)
        or kinds[0] != words[0]
    ):
        raise ModelError(
            f"config.json: indexer_types: expected {n_layers} of {' and '.join(words)}, the first "
            f"{words[0]}, got {kinds!r}"
        )
    return [kind == words[0] for kind in kinds]
