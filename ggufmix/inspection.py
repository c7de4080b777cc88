"""What a GGUF file or a checkpoint holds: from its headers, and from its data on request."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import int4, models, sources
from .container import Value
from .errors import UsageError
from .tensor import Tensor

BAND_BYTES = 2 << 20
"""Values that a scan reads at once."""

SHOWN_ITEMS = 8
"""Items of a metadata array that are shown; the rest is a count."""

RECURRENT = ("ssm_", "shortconv.", "time_mix_")
ATTENTION = ("attn_k.", "attn_k_b.", "attn_kv_b.")
FUSED = "attn_qkv."
AHEAD = "nextn."


def inspect(src: str | os.PathLike[str], *, scan: bool = False) -> dict[str, Any]:
    """Describe a GGUF file (all parts of a split one) or a checkpoint in plain values.

    src is a path, or an address such as hf://owner/name.

    Keys: architecture, files, tensors, weights, bits_per_weight, recurrent_layers and
    attention_layers (as "0-2, 4-6"), mtp_layers where there are blocks of multi-token prediction
    (they are among the others too), types (name -> tensors, weights, bytes), metadata (long arrays
    cut to their first items). Of a checkpoint: packed (how weights are packed, and what becomes of
    them), and if any are, carried (the share whose codes and scales blocks can hold); and with
    scan, which reads all of it: exact_groups and inexact_groups (packed INT4 whose scale float16
    holds, or not), lattice_groups of lattice_candidates (groups of 32 weights stored as floats that
    lie on an INT4 lattice, so that q4_x keeps them), and lattice_tensors (all of whose groups do).
    Raises UsageError for a path that is not there, SourceError for a file that is wrong.
    """
    if sources.is_remote(src):
        checkpoint = sources.suffix(src) != ".gguf"
    else:
        path = Path(src)
        if not path.exists():
            raise UsageError(f"{src} does not exist")
        checkpoint = path.is_dir() or path.suffix == ".safetensors"
    if checkpoint:
        return _checkpoint(src, scan)
    if scan:
        raise UsageError(f"{src}: --scan is for checkpoints")
    return _file(src)


def _file(path: str | os.PathLike[str]) -> dict[str, Any]:
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


def _checkpoint(path: str | os.PathLike[str], scan: bool) -> dict[str, Any]:
    with sources.open_checkpoint(path) as checkpoint:
        found = sources.presented(checkpoint.tensors, checkpoint.config, "nearest")
        model = models.place(checkpoint.config, found.tensors)
        types: dict[str, dict[str, int]] = {}
        for name, tensor in found.tensors.items():
            if isinstance(tensor, sources.Packed):
                _count(types, tensor.packing, tensor.n_values, tensor.stored_bytes)
            else:
                stored = checkpoint.tensors[name]
                _count(types, stored.stored, stored.n_values, stored.n_rows * stored.row_bytes)
        described = _described(
            model.arch,
            [file.name for file in checkpoint.files],
            types,
            _layers(placed.name for placed in model.tensors),
            {key: _shown(value) for key, value in model.values.items()},
        )
        described["packed"] = _packed(found.packed)
        if found.packed:
            described["carried"] = _carried(found.packed, model, described["weights"])
        return described | (_scanned(found) if scan else {})


def _packed(packed: Iterable[sources.Packed]) -> str:
    """Such as "3 INT4: codes and scales carried over as Q4_0; 2 INT4: dequantized (asymmetric)"."""
    kinds = Counter(
        f"{p.packing}: codes and scales carried over as {p.format}"
        if p.format is not None
        else f"{p.packing}: dequantized ({p.note})"
        for p in packed
    )
    return "; ".join(f"{n} {what}" for what, n in kinds.items()) or "none"


def _carried(packed: Sequence[sources.Packed], model: models.Model, weights: int) -> str:
    """Such as "100.0 % of the packed weights, which are 97.2 % of all"."""
    of = sum(p.n_values for p in packed)
    kept = sum(p.tensor.n_values for p in model.tensors if p.tensor.format is not None)
    share, whole = 100 * kept / max(of, 1), 100 * of / max(weights, 1)
    return f"{share:.1f} % of the packed weights, which are {whole:.1f} % of all"


def _scanned(found: sources.Presented) -> dict[str, int]:
    groups = candidates = on_lattice = whole = 0
    for tensor in found.tensors.values():
        if isinstance(tensor, sources.Packed):
            if tensor.format is not None:
                groups += tensor.groups
                for start, stop in _bands(tensor):
                    tensor.blocks(start, stop)
        elif len(tensor.shape) >= 2 and tensor.n_values and not tensor.cols % 32:
            count = sum(int4.recover(tensor.rows(start, stop)) for start, stop in _bands(tensor))
            candidates += tensor.n_values // 32
            on_lattice += count
            whole += count == tensor.n_values // 32
    inexact = sum(packed.inexact() for packed in found.packed)
    return {
        "exact_groups": groups - inexact,
        "inexact_groups": inexact,
        "lattice_groups": on_lattice,
        "lattice_candidates": candidates,
        "lattice_tensors": whole,
    }


def _bands(tensor: Tensor) -> Iterator[tuple[int, int]]:
    step = max(1, BAND_BYTES // (4 * tensor.cols) // tensor.unit) * tensor.unit
    for start in range(0, tensor.n_rows, step):
        yield start, min(start + step, tensor.n_rows)


def _described(
    architecture: str,
    files: list[str],
    types: Mapping[str, Mapping[str, int]],
    layers: Mapping[str, str],
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
        **layers,
        "types": dict(sorted(types.items(), key=lambda item: -item[1]["bytes"])),
        "metadata": dict(metadata),
    }


def _count(types: dict[str, dict[str, int]], name: str, weights: int, n_bytes: int) -> None:
    entry = types.setdefault(name, {"tensors": 0, "weights": 0, "bytes": 0})
    entry["tensors"] += 1
    entry["weights"] += weights
    entry["bytes"] += n_bytes


def _layers(names: Iterable[str]) -> dict[str, str]:
    recurrent: set[int] = set()
    attention: set[int] = set()
    fused: set[int] = set()
    named: set[int] = set()
    every: set[int] = set()
    kinds = (
        (RECURRENT, recurrent),
        (ATTENTION, attention),
        (FUSED, fused),
        (AHEAD, named),
        ("", every),
    )
    for name in names:
        match = re.match(r"(?:v\.)?blk\.(\d+)\.(.*)", name)
        if match is None:
            continue
        for prefixes, layers in kinds:
            if match[2].startswith(prefixes):
                layers.add(int(match[1]))
    # The attn_qkv of a linear-attention block is no attention; a block with separate q and k
    # is, whatever else it has.
    found = {
        "recurrent_layers": ranges(recurrent),
        "attention_layers": ranges(attention | (fused - recurrent)),
    }
    if named:  # of several such blocks only the first has tensors of its own
        found["mtp_layers"] = ranges(layer for layer in every if layer >= min(named))
    return found


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
