"""Tiny checkpoints for tests, made by a formula: the same bytes with any version of torch or numpy.

A value is a hash of its tensor's name and its index, scaled by the fan-in, rounded to the stored
dtype. Names and shapes are written down in checkpoints.py and decoders.py a second time, apart from
ggufmix/models; transformers loads them and reports no key too few or too many.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

BF16, F32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
DTYPE_NAMES = {BF16: "BF16", F32: "F32"}

GATE_UP_DOWN = ("gate_proj", "up_proj", "down_proj")

Arrays = dict[str, np.ndarray]
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 in [-1, 1): splitmix64 of (crc32(name) << 32) + index, its upper 24 bits."""
    n = int(np.prod(shape))
    x = np.arange(n, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    with np.errstate(over="ignore"):
        x = (x + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    u = (x >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    return u.reshape(shape)


def weights(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], *, norm: float = 0.0
) -> np.ndarray:
    """Values of one tensor: spread so that a model of them says something, and is not flat. The
    weights of norms lie around `norm`.
    """
    u = noise(name, shape)
    if name.endswith("linear_attn.norm.weight"):
        return (1 + 0.3 * u).astype(F32)
    if name.endswith("A_log"):
        return u.astype(F32)
    if name.endswith(
        (
            "norm.weight",
            "norm_f.weight",
            "layernorm.weight",
            "pre_fc_norm_embedding.weight",
            "pre_fc_norm_hidden.weight",
        )
    ):
        return (norm + 0.3 * u).astype(dtype)
    if name.endswith(("dt_bias", ".bias", "_proj_bias", "expert_bias", ".D")):
        return u.astype(dtype)
    if name.endswith("sinks"):
        return (3 * u).astype(dtype)
    gain = (
        6.0
        if name.endswith(("lm_head.weight", "embed_tokens.weight", "embeddings.weight"))
        else 1.3
    )
    return (u * np.float32(gain / np.sqrt(shape[-1]))).astype(dtype)


@dataclass(frozen=True)
class Case:
    """One tiny checkpoint. `fused` says how experts are stored; `mtp` how many MTP blocks there
    are.
    """

    name: str
    hf_class: str
    config: dict[str, Any]
    fused: bool = True
    dtype: np.dtype[Any] = BF16
    mtp: int = 0

    def __str__(self) -> str:
        return self.name

    @property
    def moe(self) -> bool:
        keys = ("num_experts", "num_local_experts", "n_routed_experts")
        return any(key in self.config for key in keys)

    def plain(self) -> Case:
        """The case whose checkpoint transformers is given: of a wrapper it may be the text model
        alone.
        """
        return self

    def raw_config(self) -> dict[str, Any]:
        """config.json."""
        raise NotImplementedError

    def arrays(self) -> Arrays:
        """Every tensor of the checkpoint under its stored name."""
        raise NotImplementedError


def mlp(prefix: str, width: int, hidden: int) -> Shapes:
    yield prefix + "gate_proj.weight", (width, hidden)
    yield prefix + "up_proj.weight", (width, hidden)
    yield prefix + "down_proj.weight", (hidden, width)


def one_by_one(
    name: str, values: np.ndarray, *, prefix: str | None = None, parts: Sequence[str] = GATE_UP_DOWN
) -> Arrays:
    """Stacked experts as one tensor each, under `prefix` if it is another one."""
    own, part = name.rsplit(".", 1)
    at = prefix or own
    gate, up, down = parts
    if part == "down_proj":
        return {f"{at}.{i}.{down}.weight": v for i, v in enumerate(values)}
    half = values.shape[1] // 2
    return {
        f"{at}.{i}.{called}.weight": v
        for i, both in enumerate(values)
        for called, v in ((gate, both[:half]), (up, both[half:]))
    }


def write(directory: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    """Write config.json and model.safetensors into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, values in arrays.items():
        end = at + values.nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[values.dtype],
            "shape": list(values.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(v.tobytes() for v in arrays.values())
    (directory / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return directory
