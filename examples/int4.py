"""Pack the example's experts as INT4, as Kimi-K2-Thinking's are published.

    python examples/int4.py demo/tiny-int4

compressed-tensors' `pack-quantized`: for a weight X of (rows, columns) X.weight_packed, eight codes
of 4 bits in an int32, the first one lowest, stored as code + 8; X.weight_scale, BF16, for each
group of 32 columns; X.weight_shape. The weights were rounded (scale: largest / 7), not trained on
it: what a checkpoint looks like is the same.
"""

# SPDX-License-Identifier: MIT

import json
import shutil
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

SOURCE = Path(__file__).parent / "tiny-qwen35moe"
GROUP = 32


def packed(weight: np.ndarray) -> dict[str, np.ndarray]:
    """The three tensors of a weight, float32 (rows, columns)."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, columns // GROUP, GROUP)
    scales = (np.abs(groups).max(2) / 7).astype(ml_dtypes.bfloat16)
    codes = np.rint(groups / scales.astype(np.float32)[..., None]).clip(-7, 7).astype(np.int32) + 8
    words = codes.reshape(rows, columns // 8, 8) << np.arange(0, 32, 4, dtype=np.int32)
    return {
        "weight_packed": np.bitwise_or.reduce(words, axis=2),
        "weight_scale": scales,
        "weight_shape": np.array(weight.shape, np.int64),
    }


def main(out: Path) -> None:
    """Write the checkpoint into a folder."""
    tensors = {}
    for name, weight in load_file(SOURCE / "model.safetensors").items():
        if ".experts." in name:
            stem = name.removesuffix("weight")
            made = packed(weight.astype(np.float32))
            tensors |= {stem + part: values for part, values in made.items()}
        else:
            tensors[name] = weight
    out.mkdir(parents=True, exist_ok=True)
    for file in SOURCE.glob("*.json"):
        shutil.copy(file, out)
    config = json.loads((SOURCE / "config.json").read_text())
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": GROUP,
    }
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["re:.*self_attn.*", "re:.*linear_attn.*", "re:.*shared_expert.*", "lm_head"],
    }
    (out / "config.json").write_text(json.dumps(config, indent=1))
    save_file(tensors, out / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
