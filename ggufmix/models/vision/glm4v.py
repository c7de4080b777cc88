"""The vision tower of GLM-4.1V, 4.5V and 4.6V: a ViT with RMS norms and gates over patches of two
frames; a convolution joins four patches, a gated network makes the embedding.

Source: llama.cpp, conversion/qwen3vl.py and tools/mtmd/models/glm4v.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import MODEL_TENSOR as ROLE
from gguf import Keys, VisionProjectorType

from ...container import boolean, f32
from ..model import Model
from .tower import HEADS, HIDDEN, MERGED, WIDTH, Tower

PROJECTOR = VisionProjectorType.GLM4V
ROOTS = ("visual.",)
DEFAULTS: Mapping[str, Any] = {
    "attention_bias": False,
    "depth": 24,
    "hidden_act": "silu",
    "hidden_size": 1536,
    "image_size": 336,
    "intermediate_size": 13696,
    "num_heads": 12,
    "out_hidden_size": 4096,
    "patch_size": 14,
    "rms_norm_eps": 1e-5,
}
"""What the config classes of transformers 5.23 say of a key that config.json leaves out."""


def place(tower: Tower) -> Model:
    """Place a tower of this family."""
    vision = tower.vision
    for key, value in (("hidden_act", "silu"), ("spatial_merge_size", MERGED)):
        vision.only(key, value)
    hidden, width = vision.integer(*HIDDEN), vision.integer(*WIDTH)
    image, out = vision.integer("image_size"), tower.text_hidden
    positions = (image // vision.integer("patch_size")) ** 2
    vision.integer(*HEADS)
    vision.only("out_hidden_size", out)

    tower.patches("visual.patch_embed.proj", frames=True)
    tower.put("visual.embeddings.position_embedding.weight", ROLE.V_ENC_EMBD_POS, positions, hidden)
    tower.norm("visual.post_conv_layernorm", ROLE.V_ENC_EMBD_NORM, hidden, bias=False)
    for i in range(tower.layers):
        at = f"visual.blocks.{i}."
        biased = vision.find("attention_bias") is True
        qkv = f"{at}attn.qkv"
        tower.norm(at + "norm1", ROLE.V_ENC_INPUT_NORM, hidden, number=i, bias=False)
        tower.linear(qkv, ROLE.V_ENC_ATTN_QKV, 3 * hidden, hidden, number=i, bias=biased)
        tower.linear(at + "attn.proj", ROLE.V_ENC_ATTN_O, hidden, hidden, number=i, bias=False)
        tower.norm(at + "norm2", ROLE.V_ENC_POST_ATTN_NORM, hidden, number=i, bias=False)
        for part, role in (("gate", ROLE.V_ENC_FFN_GATE), ("up", ROLE.V_ENC_FFN_UP)):
            tower.linear(f"{at}mlp.{part}_proj", role, out, hidden, number=i, bias=False)
        down = f"{at}mlp.down_proj"
        tower.linear(down, ROLE.V_ENC_FFN_DOWN, hidden, out, number=i, bias=False)
    tower.norm("visual.post_layernorm", ROLE.V_POST_NORM, hidden, bias=False)
    tower.put("visual.downsample.weight", ROLE.V_MM_PATCH_MERGER, out, hidden, MERGED, MERGED)
    tower.put("visual.downsample.bias", ROLE.V_MM_PATCH_MERGER, out)
    merger = "visual.merger."
    tower.linear(merger + "proj", ROLE.V_MMPROJ_FC, out, out, bias=False)
    tower.norm(merger + "post_projection_norm", ROLE.V_MM_POST_NORM, out)
    tower.linear(merger + "gate_proj", ROLE.V_MM_GATE, width, out, bias=False)
    tower.linear(merger + "up_proj", ROLE.V_MM_UP, width, out, bias=False)
    tower.linear(merger + "down_proj", ROLE.V_MM_DOWN, out, width, bias=False)

    values = tower.values(PROJECTOR, image)
    values |= {
        Keys.ClipVision.USE_SILU: boolean(True),
        Keys.ClipVision.Attention.LAYERNORM_EPS: f32(vision.number("rms_norm_eps")),
    }
    return tower.model(values)
