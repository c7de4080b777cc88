"""Weights packed by compressed-tensors, for tests: its own functions pack and unpack."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)
Arrays = dict[str, np.ndarray]


def torch_of(x: np.ndarray) -> Any:
    """An array as a torch tensor of the same dtype."""
    import torch

    if x.dtype == BF16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def lattice(
    shape: tuple[int, int],
    *,
    group: int = 32,
    bits: int = 4,
    dtype: Any = BF16,
    seed: int = 0,
    least: float = 1e-4,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes, int8 of `shape`, over their whole range, and a scale for each group."""
    rng = np.random.default_rng(seed)
    half = 1 << (bits - 1)
    codes = rng.integers(-half, half, shape, dtype=np.int8)
    scales = np.exp(rng.uniform(np.log(least), np.log(0.1), (shape[0], shape[1] // group)))
    return codes, scales.astype(np.float32).astype(dtype)


def packed(stem: str, codes: np.ndarray, scales: np.ndarray, *, bits: int = 4) -> Arrays:
    """The three tensors of one weight, packed by compressed-tensors."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    return {
        f"{stem}.weight_packed": pack_to_int32(torch_of(codes), bits).numpy(),
        f"{stem}.weight_scale": scales,
        f"{stem}.weight_shape": np.array(codes.shape, np.int64),
    }


def unpacked(stem: str, arrays: Mapping[str, np.ndarray], **args: Any) -> np.ndarray:
    """What compressed-tensors makes of them, float32, computed in float32."""
    import torch
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    state = {
        n.removeprefix(stem + "."): torch_of(v)
        for n, v in arrays.items()
        if n.startswith(stem + ".")
    }
    state["weight_scale"] = state["weight_scale"].to(torch.float32)
    args = {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": True, **args}
    weights = QuantizationArgs(type="int", **args)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    found = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    return found.to(torch.float32).numpy()


def config(**args: Any) -> dict[str, Any]:
    """quantization_config of such a checkpoint; its list of what is not packed is wrong."""
    weights = {
        "num_bits": 4,
        "group_size": 32,
        "strategy": "group",
        "symmetric": True,
        "type": "int",
        **args,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["re:.*"],
    }
