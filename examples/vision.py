"""Give the trained example a vision tower of random weights: a checkpoint laid out as those of
Qwen3.5, to try --mmproj on without a download.

    python examples/vision.py demo/tiny-vision
"""

# SPDX-License-Identifier: MIT

import json
import shutil
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

EXAMPLE = Path(__file__).parent / "tiny-qwen35moe"
VISION = {
    "model_type": "qwen3_5_moe_vision",
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 144,  # like 4304, the real one, no multiple of 32
    "num_heads": 4,
    "patch_size": 16,
    "num_position_embeddings": 36,
    "out_hidden_size": 256,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "deepstack_visual_indexes": [],
    "hidden_act": "gelu_pytorch_tanh",
}


def tower() -> dict[str, np.ndarray]:
    """Every tensor of the tower by name, BF16."""
    hidden, width, patch = VISION["hidden_size"], VISION["intermediate_size"], VISION["patch_size"]
    linear = {"patch_embed.proj": (hidden, 3, 2, patch, patch)}
    norms = ["merger.norm"]
    for block in range(VISION["depth"]):
        at = f"blocks.{block}."
        norms += [at + "norm1", at + "norm2"]
        linear |= {at + "attn.qkv": (3 * hidden, hidden), at + "attn.proj": (hidden, hidden)}
        linear |= {at + "mlp.linear_fc1": (width, hidden), at + "mlp.linear_fc2": (hidden, width)}
    linear["merger.linear_fc1"] = (4 * hidden, 4 * hidden)
    linear["merger.linear_fc2"] = (VISION["out_hidden_size"], 4 * hidden)
    draw = np.random.default_rng(0).standard_normal
    made = {"pos_embed.weight": 0.02 * draw((VISION["num_position_embeddings"], hidden))}
    for name, shape in linear.items():
        made[f"{name}.weight"] = draw(shape) / np.sqrt(np.prod(shape[1:]))
        made[f"{name}.bias"] = np.zeros(shape[0])
    for name in norms:
        made |= {f"{name}.weight": np.ones(hidden), f"{name}.bias": np.zeros(hidden)}
    return {f"model.visual.{name}": x.astype(ml_dtypes.bfloat16) for name, x in made.items()}


def main(out: Path) -> None:
    """Write the checkpoint into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(EXAMPLE / name, out)
    text = json.loads((EXAMPLE / "config.json").read_text())
    config = {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "text_config": {k: v for k, v in text.items() if k != "architectures"},
        "vision_config": VISION,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2))
    images = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (out / "preprocessor_config.json").write_text(json.dumps(images))
    tensors = {
        name.replace("model.", "model.language_model.", 1): values
        for name, values in load_file(EXAMPLE / "model.safetensors").items()
    }
    save_file(tensors | tower(), out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
