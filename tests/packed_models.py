"""Tiny checkpoints as others pack them: names and shapes of tests/checkpoints.py, the weights in
MXFP4, GPTQ, AWQ, compressed-tensors' INT4, INT8 or NVFP4; and the same model with its values in
float32.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import int4
import ml_dtypes
import numpy as np
import packings
from checkpoints import CASES, Case
from sources import build

Made = tuple[packings.Arrays, np.ndarray]
"""What a weight is stored as, and its values, float32."""

GROUP = 32


@dataclass(frozen=True)
class Packing:
    """How the weights of one checkpoint are packed.

    case   the checkpoint of CASES whose shapes it has
    make   packs a weight: stem, rows, columns, seed
    about  quantization_config
    which  part of the names of those that are packed
    sizes  what of the case's config is another
    """

    case: str
    make: Callable[[str, int, int, int], Made]
    about: Mapping[str, Any]
    which: str = "_proj.weight"
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def like(self) -> Case:
        """The checkpoint before it is packed."""
        case = CASES[self.case]
        return replace(case, config={**case.config, **self.sizes})

    def checkpoint(
        self, case: Case | None = None
    ) -> tuple[dict[str, Any], packings.Arrays, packings.Arrays]:
        """config.json, the tensors, and the tensors with their values in float32; of the case, or
        of one that is like it.
        """
        case = case or self.like
        packed: packings.Arrays = {}
        plain: packings.Arrays = {}
        for name, values in case.arrays().items():
            wide = values.astype(np.float32)
            packed[name], plain[name] = values, wide
            if self.which not in name or name.endswith("bias"):
                continue
            seed = zlib.crc32(name.encode())
            stem = name.removesuffix(".weight")
            made, like = self.make(stem, *_matrix(case, values), seed)
            del packed[name]
            packed |= made
            plain[name] = like.reshape(wide.shape) if case.name != "gpt-oss" else like
        return with_config(case, self.about), packed, plain


def _matrix(case: Case, values: np.ndarray) -> tuple[int, ...]:
    if case.name == "gpt-oss":
        experts, columns, rows = values.shape
        return experts, rows, columns
    return values.shape


def with_config(case: Case, about: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a case with a quantization_config, beside the text model's keys."""
    config = case.raw_config()
    config.get("text_config", config)["quantization_config"] = dict(about)
    return config


def _scale(cols: int) -> float:
    """About the step that keeps a row of noise at unit gain."""
    return 0.25 / np.sqrt(cols)


def _grouped(rows: int, cols: int, seed: int, **options: Any) -> tuple[np.ndarray, ...]:
    codes, zeros, scales = packings.grouped(rows, cols, group=GROUP, seed=seed, **options)
    even = scales.astype(np.float32) ** 0.1 * _scale(cols)
    return codes, zeros, even.astype(np.float16)


def _gptq(symmetric: bool, **options: Any) -> Callable[[str, int, int, int], Made]:
    def make(stem: str, rows: int, cols: int, seed: int) -> Made:
        made = _grouped(rows, cols, seed, symmetric=symmetric)
        return packings.gptq(stem, *made, **options), packings.dequantized(*made)

    return make


def _awq(stem: str, rows: int, cols: int, seed: int) -> Made:
    made = _grouped(rows, cols, seed)
    return packings.awq(stem, *made), packings.dequantized(*made)


def _int4(stem: str, rows: int, cols: int, seed: int) -> Made:
    codes, _, scales = _grouped(rows, cols, seed)
    made = int4.packed(stem, codes.astype(np.int8) - 8, scales.astype(ml_dtypes.bfloat16))
    return made, int4.unpacked(stem, made)


def _int8(stem: str, rows: int, cols: int, seed: int) -> Made:
    """A scale for each row; activations have none, as they are scaled token by token."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-128, 128, (rows, cols), dtype=np.int8)
    scales = (_scale(cols) * rng.uniform(0.01, 0.02, (rows, 1))).astype(ml_dtypes.bfloat16)
    made = {f"{stem}.weight": codes, f"{stem}.weight_scale": scales}
    return made, codes * scales.astype(np.float32)


def _experts_in_mxfp4(stem: str, *shape: int) -> Made:
    *outer, seed = shape
    codes, scales, values = packings.mxfp4(*outer, seed=seed)
    apart = packings.pairs(codes).reshape(*scales.shape, 16)
    made = {f"{stem}_blocks": apart, f"{stem}_scales": scales}
    return made, np.ascontiguousarray(values.transpose(0, 2, 1))


def _nvfp4(stem: str, rows: int, cols: int, seed: int) -> Made:
    """By compressed-tensors, with the reciprocal of a power of two, so that values are exact."""
    codes, scales, values = packings.nvfp4(rows, cols, seed=seed)
    whole = np.float32(2.0 ** np.round(np.log2(np.sqrt(cols) * 600)))
    made = {
        f"{stem}.weight_packed": packings.pairs(codes),
        f"{stem}.weight_scale": scales,
        f"{stem}.weight_global_scale": np.array([whole]),
        f"{stem}.input_global_scale": np.array([3.0], np.float32),
    }
    return made, values / whole


def _modelopt(stem: str, rows: int, cols: int, seed: int) -> Made:
    codes, scales, values = packings.nvfp4(rows, cols, seed=seed)
    whole = np.float32(0.9 / np.sqrt(cols) / 600)
    made = {
        f"{stem}.weight": packings.pairs(codes),
        f"{stem}.weight_scale": scales,
        f"{stem}.weight_scale_2": np.array(whole),
        f"{stem}.input_scale": np.array(np.float32(0.01)),
    }
    return made, values * whole


_NVFP4 = {
    "quant_method": "compressed-tensors",
    "format": "nvfp4-pack-quantized",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4}}},
}
_INT8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "strategy": "channel", "symmetric": True, "type": "int"},
        }
    },
}
_GPTQ = packings.gptq_config(group_size=GROUP)
PACKINGS = {
    "gpt-oss-mxfp4": Packing("gpt-oss", _experts_in_mxfp4, {"quant_method": "mxfp4"}, ".experts."),
    "gptq": Packing("qwen3", _gptq(True), _GPTQ),
    "gptq-v2-asymmetric": Packing(
        "qwen3moe", _gptq(False, version=2), {**_GPTQ, "sym": False, "checkpoint_format": "gptq_v2"}
    ),
    "awq": Packing("qwen3", _awq, packings.AWQ_CONFIG | {"group_size": GROUP}),
    "int4": Packing("qwen3moe", _int4, int4.config()),
    "int8": Packing("qwen3moe", _int8, _INT8),
    "nvfp4": Packing("qwen3moe", _nvfp4, _NVFP4, sizes={"moe_intermediate_size": 64}),
    "nvfp4-modelopt": Packing(
        "qwen3",
        _modelopt,
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        sizes={"intermediate_size": 128},
    ),
    "kimi-k25": Packing("kimi-wrapped", _int4, int4.config(), ".experts."),
}
"""Every packing with a model to run."""


def write(folder: Path, config: Mapping[str, Any], arrays: packings.Arrays) -> Path:
    """A checkpoint without a vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    build.write_json(folder / "config.json", config)
    build.weights(folder / "model.safetensors", arrays)
    return folder
