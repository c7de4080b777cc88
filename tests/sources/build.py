"""Write checkpoints, sound ones and others, byte by byte."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

NAMES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3",
    np.dtype(np.int64): "I64",
    np.dtype(np.int32): "I32",
    np.dtype(np.uint8): "U8",
    np.dtype(np.int8): "I8",
    np.dtype(np.bool_): "BOOL",
}


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def header(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The header of tensors that lie in this order."""
    at, found = 0, {}
    for name, values in tensors.items():
        found[name] = entry(NAMES[values.dtype], list(values.shape), at, at + values.nbytes)
        at += values.nbytes
    return found


def framed(text: bytes, data: bytes = b"") -> bytes:
    """A safetensors file of a header's JSON and data."""
    return len(text).to_bytes(8, "little") + text + data


def weights(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    """Write a sound safetensors file."""
    text = json.dumps({"__metadata__": {"format": "pt"}, **header(tensors)}).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(framed(text, b"".join(v.tobytes() for v in tensors.values())))
    return path


def counted(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Values 0, 1, 2, ... of a shape."""
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


def write_json(path: Path, value: Any) -> Path:
    """Write a side file."""
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def single(folder: Path, tensors: Mapping[str, np.ndarray] | None = None) -> Path:
    """A checkpoint of one file."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", {"architectures": ["TestForCausalLM"]})
    weights(folder / "model.safetensors", tensors or {"a.weight": counted(4, 8)})
    return folder


def sharded(folder: Path, n: int = 2) -> Path:
    """A checkpoint of n files, `t<i>.weight` and `u<i>.weight` in the i-th, and an index."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", {})
    weight_map: dict[str, str] = {}
    for i in range(1, n + 1):
        file = f"model-{i:05}-of-{n:05}.safetensors"
        weights(folder / file, {f"t{i}.weight": counted(2, 4) + i, f"u{i}.weight": counted(3) - i})
        weight_map |= {f"t{i}.weight": file, f"u{i}.weight": file}
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": 44 * n}, "weight_map": weight_map},
    )
    return folder
