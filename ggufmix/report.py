"""What a person reads: plans, models, formats and losses as tables. Text only; nothing is decided
here.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WIDE = 160
"""Columns where there is no terminal to ask: nothing is cut off in a file."""


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr that obeys NO_COLOR and does not fold lines when piped."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not made.is_terminal:
        made = Console(stderr=stderr, highlight=False, width=WIDE, no_color=True)
    return made


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
) -> Table:
    """A plain table: heads, then rows of text; columns named in `right` are aligned that way."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        made.add_column(head, justify="right" if head in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def count(n: float) -> str:
    """A number of weights in three figures: 34.7 B, 2.00 M."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if n >= size:
            return f"{n / size:.3g} {unit}" if n / size >= 100 else f"{n / size:#.3g} {unit}"
    return f"{n:.0f}"


def size(n_bytes: float) -> str:
    """A number of bytes in binary units: 34.4 GiB."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1024
    raise AssertionError


def shape(dims: Sequence[int]) -> str:
    """GGUF order, as llama.cpp prints it: 2048 x 512 x 256."""
    return " x ".join(map(str, dims))


def plan_lines(tensors: Iterable[Mapping[str, Any]]) -> Table:
    """One line a tensor of `Plan.as_dict()["tensors"]`."""
    return table(
        ("tensor", "shape", "type", "bytes", "reason"),
        ([t["name"], shape(t["shape"]), _type(t), f"{t['bytes']:,}", t["reason"]] for t in tensors),
        right=("bytes",),
    )


def _type(tensor: Mapping[str, Any]) -> str:
    kind, encoder = tensor["type"], tensor["encoder"]
    return f"{kind} ({encoder})" if encoder != kind else str(kind)


def types(parts: Mapping[str, Mapping[str, int]]) -> Table:
    """Types with their tensors, weights, bytes and share, in the order given."""
    total = sum(p["bytes"] for p in parts.values()) or 1
    return table(
        ("type", "tensors", "weights", "bytes", "share", "bits/weight"),
        (
            [
                name,
                str(p["tensors"]),
                count(p["weights"]),
                size(p["bytes"]),
                f"{100 * p['bytes'] / total:.1f} %",
                f"{8 * p['bytes'] / p['weights']:.2f}" if p["weights"] else "",
            ]
            for name, p in parts.items()
        ),
        right=("tensors", "weights", "bytes", "share", "bits/weight"),
    )


def roles(parts: Mapping[str, Mapping[str, Any]]) -> Table:
    """Roles with their types and reasons, in the order given."""
    return table(
        ("role", "tensors", "weights", "bytes", "type", "reason"),
        (
            [
                name,
                str(p["tensors"]),
                count(p["weights"]),
                size(p["bytes"]),
                ", ".join(p["types"]),
                p["reasons"][0] if len(p["reasons"]) == 1 else f"{len(p['reasons'])} reasons",
            ]
            for name, p in parts.items()
        ),
        right=("tensors", "weights", "bytes"),
    )
