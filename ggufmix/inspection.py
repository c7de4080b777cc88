"""What a GGUF file or a checkpoint directory holds, from its headers alone."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import models, sources
from .container import Value
from .errors import UsageError

SHOWN_ITEMS = 8
"""Items of a metadata array that are shown; the rest is a count."""

RECURRENT = ("ssm_", "shortconv.", "time_mix_")
ATTENTION = ("attn_k.", "attn_k_b.", "attn_kv_b.")
FUSED = "attn_qkv."


def inspect(src: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a GGUF file (all parts of a split one) or a checkpoint directory in plain values.

    Keys: architecture, files, tensors, weights, bits_per_weight, recurrent_layers and
    attention_layers (as "0-2, 4-6"), types (name -> tensors, weights, bytes), metadata (long arrays
    cut to their first items). Raises UsageError for a path that is not there, SourceError for a
    file that is wrong.
    """
    path = Path(src)
    if not path.exists():
        raise UsageError(f"{src} does not exist")
    return _file(path) if path.is_file() and path.suffix != ".safetensors" else _checkpoint(path)


def _file(path: Path) -> dict[str, Any]:
    with sources.open_gguf(path) as found:
        types: dict[str, dict[str, int]] = {}
        for tensor in found.tensors.values():
            _count(types, tensor.kind.name, tensor.n_values, tensor.n_rows * tensor.row_bytes)
        architecture = found.values.get("general.architecture")
        return _described(
            str(architecture.data) if architecture else "unknown",
            [file.name for file in found.files],
            types,
            _layers(found.tensors),
            {key: _shown(value) for key, value in found.values.items()},
        )


def _checkpoint(path: Path) -> dict[str, Any]:
    with sources.open_checkpoint(path) as checkpoint:
        model = models.place(checkpoint.config, checkpoint.tensors)
        types: dict[str, dict[str, int]] = {}
        for tensor in checkpoint.tensors.values():
            _count(types, tensor.stored, tensor.n_values, tensor.n_rows * tensor.row_bytes)
        return _described(
            model.arch,
            [file.name for file in checkpoint.files],
            types,
            _layers(placed.name for placed in model.tensors),
            {key: _shown(value) for key, value in model.values.items()},
        )


def _described(
    architecture: str,
    files: list[str],
    types: Mapping[str, Mapping[str, int]],
    layers: tuple[str, str],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    weights = sum(t["weights"] for t in types.values())
    n_bytes = sum(t["bytes"] for t in types.values())
    return {
        "architecture": architecture,
        "files": ", ".join(files),
        "tensors": sum(t["tensors"] for t in types.values()),
        "weights": weights,
        "bytes": n_bytes,
        "bits_per_weight": round(8 * n_bytes / weights, 3) if weights else 0.0,
        "recurrent_layers": layers[0],
        "attention_layers": layers[1],
        "types": dict(sorted(types.items(), key=lambda item: -item[1]["bytes"])),
        "metadata": dict(metadata),
    }


def _count(types: dict[str, dict[str, int]], name: str, weights: int, n_bytes: int) -> None:
    entry = types.setdefault(name, {"tensors": 0, "weights": 0, "bytes": 0})
    entry["tensors"] += 1
    entry["weights"] += weights
    entry["bytes"] += n_bytes


def _layers(names: Iterable[str]) -> tuple[str, str]:
    recurrent: set[int] = set()
    attention: set[int] = set()
    fused: set[int] = set()
    for name in names:
        match = re.match(r"blk\.(\d+)\.(.*)", name)
        if match is None:
            continue
        for prefixes, layers in ((RECURRENT, recurrent), (ATTENTION, attention), (FUSED, fused)):
            if match[2].startswith(prefixes):
                layers.add(int(match[1]))
    # The attn_qkv of a linear-attention block is no attention; a block with separate q and k
    # is, whatever else it has.
    return ranges(recurrent), ranges(attention | (fused - recurrent))


def ranges(numbers: Iterable[int]) -> str:
    """{0, 1, 2, 4} as "0-2, 4"; "none" for nothing."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in runs) or "none"


def _shown(value: Value) -> Any:
    if value.item is None:
        return _readable(value.data)
    items = [_readable(item) for item in value.data[:SHOWN_ITEMS]]
    return [*items, f"... {len(value.data)} items"] if len(value.data) > SHOWN_ITEMS else items


def _readable(data: Any) -> Any:
    return data.decode(errors="replace") if isinstance(data, bytes) else data
