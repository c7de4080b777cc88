"""Checkpoints for tests of whole FP8 folders: widths of whole blocks, weights of the sizes that
trained ones have, tokenizer files beside them.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from checkpoints import Hybrid
from sources.build import weights as write_weights
from sources.build import write_json
from tiny import Arrays, one_by_one

from ggufmix.sources.layout import INDEX

_TEXT = {
    "vocab_size": 256,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "max_position_embeddings": 512,
    "mtp_num_hidden_layers": 1,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e6,
        "partial_rotary_factor": 0.5,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    },
}

DENSE = Hybrid(
    "fp8-dense",
    "Qwen3_5ForConditionalGeneration",
    {**_TEXT, "intermediate_size": 384, "tie_word_embeddings": True},
    mtp=1,
)
MOE = Hybrid(
    "fp8-moe",
    "Qwen3_5MoeForConditionalGeneration",
    {
        **_TEXT,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "shared_expert_intermediate_size": 128,
    },
    fused_mtp=True,
    mtp=1,
)
SIDE = {
    "generation_config.json": b'{"do_sample": true}',
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "preprocessor_config.json": b"{}",
    "processor_config.json": b"{}",
    "README.md": "# Größe\n".encode(),
    "LICENSE": b"free",
    "additional_chat_templates/tool.jinja": b"{{ tools }}",
}


def bells(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The same tensors with matrices of normal deviates, as trained weights are by and large."""
    made: Arrays = {}
    for number, (name, values) in enumerate(arrays.items()):
        made[name] = values
        if values.ndim >= 2:
            rng = np.random.default_rng(number)
            spread = rng.standard_normal(values.shape, np.float32) / np.sqrt(values.shape[-1])
            made[name] = (spread * np.float32(0.7)).astype(values.dtype)
    return made


def split(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The same experts, one by one."""
    made: Arrays = {}
    for name, values in arrays.items():
        if ".experts." in name and values.ndim == 3:
            made |= one_by_one(name, values)
        else:
            made[name] = values
    return made


def vision(case: Hybrid) -> Arrays:
    """The vision tower that transformers makes of the config, in place of the tiny case's few."""
    import transformers

    config = transformers.AutoConfig.for_model(**case.raw_config())
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    return {
        name: np.zeros(tuple(values.shape), ml_dtypes.bfloat16)
        for name, values in model.state_dict().items()
        if name.startswith("model.visual.")
    }


def arrays_of(case: Hybrid) -> Arrays:
    """Every tensor of a checkpoint."""
    text = {n: v for n, v in case.arrays().items() if not n.startswith("model.visual.")}
    return bells({**text, **vision(case)})


def folder(at: Path, config: Mapping[str, Any], arrays: Arrays, shards: int = 1) -> Path:
    """Write a checkpoint with all that lies beside one."""
    at.mkdir(parents=True)
    write_json(at / "config.json", config)
    names = list(arrays)
    if shards == 1:
        write_weights(at / "model.safetensors", arrays)
    else:
        weight_map = {}
        for i in range(shards):
            file = f"model.safetensors-{i + 1:05}-of-{shards:05}.safetensors"
            held = {n: arrays[n] for n in names[i::shards]}
            write_weights(at / file, held)
            weight_map |= dict.fromkeys(held, file)
        size = sum(v.nbytes for v in arrays.values())
        write_json(at / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
    for name, data in SIDE.items():
        (at / name).parent.mkdir(exist_ok=True)
        (at / name).write_bytes(data)
    return at


def dense(at: Path, shards: int = 1) -> Path:
    """A Qwen3.5 dense model with vision and MTP, tied."""
    return folder(at, DENSE.raw_config(), arrays_of(DENSE), shards)


def moe(at: Path, shards: int = 1, *, fused: bool = True) -> Path:
    """A Qwen3.5 mixture with vision and MTP, its experts stacked or one by one."""
    arrays = arrays_of(MOE)
    return folder(at, MOE.raw_config(), arrays if fused else split(arrays), shards)


def stored(at: Path) -> dict[str, bytes]:
    """Every tensor of a folder: dtype, shape and bytes, read without the package."""
    found = {}
    for path in sorted(at.glob("*.safetensors")):
        raw = path.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        head = json.loads(raw[8:start])
        assert head.pop("__metadata__") == {"format": "pt"}
        for name, entry in head.items():
            first, last = (start + n for n in entry["data_offsets"])
            about = f"{entry['dtype']} {entry['shape']} ".encode()
            assert name not in found
            found[name] = about + raw[first:last]
    return found


def loaded(path: Path) -> Arrays:
    """The tensors of a file as safetensors' own reader gives them."""
    from safetensors import safe_open

    made: Arrays = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no dict
            values = file.get_tensor(name)
            kind = _DTYPES.get(str(values.dtype))
            raw = values.reshape(-1).view(torch.uint8).numpy() if kind else values.numpy()
            made[name] = raw.view(kind).reshape(values.shape) if kind else raw
    return made


def config_of(at: Path) -> dict[str, Any]:
    """config.json."""
    made: dict[str, Any] = json.loads((at / "config.json").read_text())
    return made


_DTYPES = {
    "torch.bfloat16": np.dtype(ml_dtypes.bfloat16),
    "torch.float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
}
