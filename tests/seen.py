"""What transformers makes of an image: embeddings of a tiny checkpoint's vision tower and
projector, in float32.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from visions import TEXT_HIDDEN, VISIONS, Vision

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

_TEXT = {
    "model_type": "deepseek_v3",
    "hidden_size": TEXT_HIDDEN,
    "vocab_size": 64,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
    "moe_intermediate_size": 8,
    "n_routed_experts": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}


def seen(name: str, image: np.ndarray, directory: Path) -> np.ndarray:
    """Embeddings of an image, uint8 (height, width, 3): float32 (tokens, width).

    Every tensor of the tower has its place in transformers' model, and none is missing: the names
    and shapes of visions.py are right. `directory`: to write a checkpoint to.
    """
    case = VISIONS[name]
    said = case.of_images()
    patch = case.config["patch_size"]
    mean, std = (torch.tensor(said[key])[:, None, None] for key in ("image_mean", "image_std"))
    pixels = (torch.tensor(image).permute(2, 0, 1).float() / 255 - mean) / std
    down, across = image.shape[0] // patch, image.shape[1] // patch
    grid = torch.tensor([[1, down, across]])
    with torch.no_grad():
        if name.startswith("kimi"):
            rows = pixels.reshape(3, down, patch, across, patch).permute(1, 3, 0, 2, 4)
            model = _kimi(case, directory)
            patches = rows.reshape(-1, 3, patch, patch)
            return model.get_image_features(patches, grid).pooler_output[0].numpy()
        # two frames of the same image; patches by squares of two by two
        both = pixels[None].repeat(2, 1, 1, 1)
        rows = both.reshape(1, 2, 3, down // 2, 2, patch, across // 2, 2, patch)
        patches = rows.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(down * across, -1)
        return _tower(case)(patches, grid_thw=grid).pooler_output.numpy()


_TOWERS = {
    "Qwen3_5ForConditionalGeneration": "Qwen3_5VisionModel",
    "Qwen3_5MoeForConditionalGeneration": "Qwen3_5MoeVisionModel",
    "Glm4vForConditionalGeneration": "Glm4vVisionModel",
    "Glm4vMoeForConditionalGeneration": "Glm4vMoeVisionModel",
}


def _tower(case: Vision) -> torch.nn.Module:
    family = getattr(transformers, _TOWERS[case.hf_class])
    model = family(family.config_class(**case.config))
    prefix = "model.visual."
    weights = {
        key.removeprefix(prefix): torch.tensor(values.astype(np.float32))
        for key, values in case.arrays().items()
        if key.startswith(prefix)
    }
    model.load_state_dict(weights, strict=True)
    return model.eval()


def _kimi(case: Vision, directory: Path) -> torch.nn.Module:
    """Read by transformers, which puts q and k into an order of its own as it does."""
    c = case.config
    vision = {
        "patch_size": c["patch_size"],
        "pos_emb_height": c["init_pos_emb_height"],
        "pos_emb_width": c["init_pos_emb_width"],
        "pos_emb_time": c["init_pos_emb_time"],
        "num_attention_heads": c["vt_num_attention_heads"],
        "num_hidden_layers": c["vt_num_hidden_layers"],
        "hidden_size": c["vt_hidden_size"],
        "intermediate_size": c["vt_intermediate_size"],
    }
    config = transformers.Kimi_K25Config(
        text_config=_TEXT, vision_config=vision, projection_hidden_size=c["vt_hidden_size"]
    )
    model, said = transformers.Kimi_K25ForConditionalGeneration.from_pretrained(
        case.write(directory), config=config, dtype=torch.float32, output_loading_info=True
    )
    missing = {key for key in said["missing_keys"] if "language_model" not in key}
    assert missing <= {"lm_head.weight"}
    assert not said["unexpected_keys"]
    assert not said["mismatched_keys"]
    return model.eval().model
