"""Two plans side by side: which types change, and what that costs."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from typing import Any

from ..outline import Outline, active


def compare(a: Outline, b: Outline) -> dict[str, Any]:
    """What changes from `a` to `b`, in plain values.

    Keys: titles; changes (one a group of tensors of one role that change alike: role, layers,
    tensors, from, to, bytes as the difference, reasons); only_in_a and only_in_b (names); bytes,
    bits_per_weight and active_bytes as pairs (None where unknown).
    """
    right = {t.name: t for t in b.tensors}
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for t in a.tensors:
        other = right.get(t.name)
        if other is None or (t.type, t.encoder) == (other.type, other.encoder):
            continue
        kinds = (t.role, t.encoder or t.type, other.encoder or other.type)
        group = groups.setdefault(
            kinds,
            {
                "role": kinds[0],
                "from": kinds[1],
                "to": kinds[2],
                "tensors": 0,
                "layers": [],
                "bytes": 0,
                "reasons": [],
            },
        )
        group["tensors"] += 1
        group["bytes"] += other.bytes - t.bytes
        if t.layer is not None:
            group["layers"].append(t.layer)
        if other.reason not in group["reasons"]:
            group["reasons"].append(other.reason)
    left = {t.name for t in a.tensors}
    return {
        "titles": [a.title, b.title],
        "changes": sorted(groups.values(), key=lambda g: -abs(g["bytes"])),
        "only_in_a": [t.name for t in a.tensors if t.name not in right],
        "only_in_b": [t.name for t in b.tensors if t.name not in left],
        "bytes": [a.data_bytes, b.data_bytes],
        "file_bytes": [a.file_bytes, b.file_bytes],
        "bits_per_weight": [a.bits_per_weight, b.bits_per_weight],
        "active_bytes": [active(a)["bytes"], active(b)["bytes"]],
    }
