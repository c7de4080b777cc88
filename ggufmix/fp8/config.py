"""config.json of an FP8 checkpoint, and of one that no longer is."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KEY = "quantization_config"


def quantized(config: Mapping[str, Any], not_converted: Sequence[str]) -> dict[str, Any]:
    """The config with what engines have to know; all else stays as it is.

    The keys are those of Qwen3.6's and 3.8's FP8 checkpoints. No `scale_fmt`, whatever the scales:
    with "ue8m0" transformers expects them in one byte each, and SGLang quantizes activations in
    another way.
    """
    return {
        **config,
        KEY: {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "modules_to_not_convert": list(not_converted),
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        },
    }


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what it says of packed weights, at its root and under text_config."""
    left = {key: value for key, value in config.items() if key not in (KEY, "compression_config")}
    text = left.get("text_config")
    if isinstance(text, dict):
        left["text_config"] = {key: value for key, value in text.items() if key != KEY}
    return left


def says_quantized(config: Mapping[str, Any]) -> str | None:
    """The method that a config names for packed weights, or None."""
    for part in (config, config.get("text_config")):
        about = part.get(KEY) if isinstance(part, Mapping) else None
        if isinstance(about, Mapping):
            return str(about.get("quant_method", "no method"))
    return None
