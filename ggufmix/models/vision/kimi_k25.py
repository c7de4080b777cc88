"""The vision tower of Kimi-K2.5 (MoonViT): a ViT with a grid of positions and rotary ones, and a
projector that joins four patches to one embedding.

Rows of queries and keys stand in pairs, (width, height) by turns for each frequency; llama.cpp
wants those of the width first, then those of the height. Source: llama.cpp, conversion/kimivl.py
and tools/mtmd/models/kimik25.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from gguf import MODEL_TENSOR as ROLE
from gguf import Keys, VisionProjectorType
from numpy.typing import NDArray

from ...container import boolean, f32, u32
from ...errors import ModelError
from ...tensor import take_columns, take_rows
from ..config import Config, check_channels
from ..model import Model
from .tower import HEADS, HIDDEN, MERGED, WIDTH, Tower

PROJECTOR = VisionProjectorType.KIMIK25
ROOTS = ("vision_tower.", "mm_projector.")
DEFAULTS: Mapping[str, Any] = {
    "init_pos_emb_height": 64,
    "init_pos_emb_time": 4,
    "init_pos_emb_width": 64,
    "merge_kernel_size": [2, 2],
    "patch_size": 14,
    "projector_hidden_act": "gelu",
    "projector_ln_eps": 1e-5,
    "vt_hidden_size": 1152,
    "vt_intermediate_size": 4304,
    "vt_num_attention_heads": 16,
    "vt_num_hidden_layers": 27,
}
"""What the model's own config class says of a key that config.json leaves out."""

LEAST_PATCHES = 8
MOST_PATCHES = 16384
"""Of an image: what the converter writes, and its default for in_patch_limit."""


def place(tower: Tower) -> Model:
    """Place a tower of this family."""
    vision = tower.vision
    for key, value in (
        ("merge_kernel_size", [MERGED, MERGED]),
        ("projector_hidden_act", "gelu"),
        ("projector_ln_eps", DEFAULTS["projector_ln_eps"]),  # llama.cpp has one for all norms
    ):
        vision.only(key, value)
    hidden, width, heads = (vision.integer(*keys) for keys in (HIDDEN, WIDTH, HEADS))
    height, across = vision.integer("init_pos_emb_height"), vision.integer("init_pos_emb_width")
    order = _order(hidden, heads)
    merged = hidden * MERGED**2

    patch = "vision_tower.patch_embed."
    tower.patches(patch + "proj", frames=False)
    tower.put(patch + "pos_emb.weight", ROLE.V_ENC_EMBD_POS, height, across, hidden)
    for i in range(tower.layers):
        at = f"vision_tower.encoder.blocks.{i}."
        tower.norm(at + "norm0", ROLE.V_ENC_INPUT_NORM, hidden, number=i)
        qkv = (at + "wqkv.weight", ROLE.V_ENC_ATTN_QKV, 3 * hidden, hidden)
        tower.put(*qkv, number=i, steps=(partial(take_rows, index=order),))
        bias = (at + "wqkv.bias", ROLE.V_ENC_ATTN_QKV, 3 * hidden)
        tower.put(*bias, number=i, steps=(partial(take_columns, index=order),))
        tower.linear(at + "wo", ROLE.V_ENC_ATTN_O, hidden, hidden, number=i)
        tower.norm(at + "norm1", ROLE.V_ENC_POST_ATTN_NORM, hidden, number=i)
        tower.linear(at + "mlp.fc0", ROLE.V_ENC_FFN_UP, width, hidden, number=i)
        tower.linear(at + "mlp.fc1", ROLE.V_ENC_FFN_DOWN, hidden, width, number=i)
    tower.norm("vision_tower.encoder.final_layernorm", ROLE.V_POST_NORM, hidden)
    tower.norm("mm_projector.pre_norm", ROLE.V_MM_INP_NORM, hidden)
    tower.linear("mm_projector.proj.0", ROLE.V_MMPROJ, merged, merged, number=1)
    tower.linear("mm_projector.proj.2", ROLE.V_MMPROJ, tower.text_hidden, merged, number=2)

    side = vision.integer("patch_size")
    most = Config(tower.image, {"in_patch_limit": MOST_PATCHES}).integer("in_patch_limit")
    values = tower.values(PROJECTOR, height * side)
    values |= {
        "vision.pos_emb_height": u32(height),
        "vision.pos_emb_width": u32(across),
        "vision.pos_emb_time": u32(vision.integer("init_pos_emb_time")),
        Keys.ClipVision.USE_GELU: boolean(True),
        Keys.ClipVision.Attention.LAYERNORM_EPS: f32(vision.number("projector_ln_eps")),
        Keys.ClipVision.Projector.SCALE_FACTOR: u32(MERGED),
        Keys.ClipVision.IMAGE_MIN_PIXELS: u32(LEAST_PATCHES * side**2),
        Keys.ClipVision.IMAGE_MAX_PIXELS: u32(most * side**2),
    }
    return tower.model(values)


def _order(hidden: int, heads: int) -> NDArray[np.int64]:
    """Rows of the joint matrix of queries, keys and values in llama.cpp's order. Raises ModelError
    for heads that cannot be rotated in two dimensions.
    """
    check_channels("vt_hidden_size", 3, hidden)
    if hidden % (4 * heads):
        raise ModelError(
            f"config.json: vt_hidden_size: expected a multiple of 4 * {heads} "
            f"(vt_num_attention_heads), got {hidden}"
        )
    rows = np.arange(3 * hidden)
    rotated = rows[: 2 * hidden].reshape(2 * heads, hidden // heads // 4, 2, 2)
    return np.concatenate([rotated.transpose(0, 2, 1, 3).ravel(), rows[2 * hidden :]])
