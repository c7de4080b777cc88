"""The vision tower of Qwen3.5 (3.6 and 3.8 use its classes): a ViT over patches of two frames,
whose projector joins four patches to one embedding.

Source: llama.cpp, conversion/qwen3vl.py and tools/mtmd/models/qwen3vl.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import MODEL_TENSOR as ROLE
from gguf import GGUFValueType, Keys, VisionProjectorType

from ...container import array, boolean, f32, u32
from ..model import Model
from .tower import HEADS, HIDDEN, MERGED, WIDTH, Tower

PROJECTOR = VisionProjectorType.QWEN3VL
ROOTS = ("visual.",)
DEFAULTS: Mapping[str, Any] = {
    "depth": 27,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "num_position_embeddings": 2304,
    "out_hidden_size": 3584,
    "patch_size": 16,
}
"""What the config classes of transformers 5.23 say of a key that config.json leaves out."""

EPSILON = 1e-6
"""Of every layer norm, whatever config.json says: transformers has it in the code."""


def place(tower: Tower) -> Model:
    """Place a tower of this family."""
    vision = tower.vision
    for key, value in (
        ("hidden_act", "gelu_pytorch_tanh"),
        ("spatial_merge_size", MERGED),
        ("deepstack_visual_indexes", []),
    ):
        vision.only(key, value)
    hidden, width = vision.integer(*HIDDEN), vision.integer(*WIDTH)
    positions = vision.integer("num_position_embeddings")
    vision.integer(*HEADS)
    merged = hidden * MERGED**2

    tower.patches("visual.patch_embed.proj", frames=True)
    tower.put("visual.pos_embed.weight", ROLE.V_ENC_EMBD_POS, positions, hidden)
    for i in range(tower.layers):
        at = f"visual.blocks.{i}."
        tower.norm(at + "norm1", ROLE.V_ENC_INPUT_NORM, hidden, number=i)
        tower.linear(at + "attn.qkv", ROLE.V_ENC_ATTN_QKV, 3 * hidden, hidden, number=i)
        tower.linear(at + "attn.proj", ROLE.V_ENC_ATTN_O, hidden, hidden, number=i)
        tower.norm(at + "norm2", ROLE.V_ENC_POST_ATTN_NORM, hidden, number=i)
        tower.linear(at + "mlp.linear_fc1", ROLE.V_ENC_FFN_UP, width, hidden, number=i)
        tower.linear(at + "mlp.linear_fc2", ROLE.V_ENC_FFN_DOWN, hidden, width, number=i)
    tower.norm("visual.merger.norm", ROLE.V_POST_NORM, hidden)
    tower.linear("visual.merger.linear_fc1", ROLE.V_MMPROJ, merged, merged, number=0)
    tower.linear("visual.merger.linear_fc2", ROLE.V_MMPROJ, tower.text_hidden, merged, number=2)

    side = int(positions**0.5 * vision.integer("patch_size"))
    values = tower.values(PROJECTOR, side)
    values |= {
        Keys.ClipVision.USE_GELU: boolean(True),
        Keys.ClipVision.SPATIAL_MERGE_SIZE: u32(MERGED),
        Keys.ClipVision.Attention.LAYERNORM_EPS: f32(EPSILON),
        Keys.ClipVision.IS_DEEPSTACK_LAYERS: array(GGUFValueType.BOOL, [False] * tower.layers),
    }
    return tower.model(values)
