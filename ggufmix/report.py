"""What a person reads: plans, models, formats and losses as tables. Text only; nothing is decided
here.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table

WIDE = 160
"""Columns where there is no terminal to ask."""

NARROW = 100
"""Columns at least: folded inside its cells a table of numbers cannot be read, broken lines can."""


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr that obeys NO_COLOR; plain and wide when piped. Text is text: a
    regular expression or a chat template has brackets, and they are no markup.
    """
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = WIDE
        made.no_color = True
    elif not stderr:
        made.width = max(made.width, NARROW)
    return made


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
) -> Table:
    """A plain table: heads, then rows of text; columns named in `right` are aligned that way."""
    made = Table(box=None, pad_edge=False, header_style="bold", show_header=any(heads))
    for head in heads:
        made.add_column(head, justify="right" if head in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(_printable, row))
    return made


def _printable(cell: str) -> str:
    """Names and values come from files that anyone may have written: no control characters."""
    if cell.isprintable():
        return cell
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in cell)


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
    """One line a tensor of `Plan.as_dict()["tensors"]`; what was asked for where something else is
    written, and what that costs in bytes and in bits per weight.
    """
    tensors = list(tensors)
    heads = ["tensor", "shape", "type", "bytes", "asked", "price", "reason"]
    rows = [
        [t["name"], shape(t["shape"]), _type(t), f"{t['bytes']:,}", *_price(t), t["reason"]]
        for t in tensors
    ]
    if not any(t["asked"] for t in tensors):
        heads = heads[:4] + heads[6:]
        rows = [row[:4] + row[6:] for row in rows]
    return table(heads, rows, right=("bytes", "price"))


def _price(tensor: Mapping[str, Any]) -> tuple[str, str]:
    if not tensor["asked"]:
        return "", ""
    return tensor["asked"], f"{tensor['price_bytes']:+,} ({tensor['price_bits']:+.2f} bits)"


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


def active(found: Mapping[str, Any]) -> str:
    """A line on `outline.active`: what one token reads."""
    parts = ", ".join(f"{name} {size(n)}" for name, n in found["types"].items())
    if found["bytes"] is None:
        return (
            f"one token reads {size(found['least'])} and its experts' share of {found['experts']}: "
            "how many are used is not known, --config config.json says it"
        )
    how = (
        f" ({found['experts_used']} of {found['experts']} experts, one row of embeddings)"
        if found["experts"]
        else " (one row of embeddings)"
    )
    return f"one token reads {size(found['bytes'])}{how}: {parts}"


def comparison(found: Mapping[str, Any]) -> Group:
    """Two plans side by side, of `comparison.compare`."""
    a, b = found["titles"]
    rows = [
        [
            change["role"],
            str(change["tensors"]),
            f"{change['from']} -> {change['to']}",
            f"{'-' if change['bytes'] < 0 else '+'}{size(abs(change['bytes']))}",
            "; ".join(change["reasons"][:2]),
        ]
        for change in found["changes"]
    ]
    totals = [
        ["bytes of data", *(f"{n:,} ({size(n)})" for n in found["bytes"])],
        ["bits per weight", *(f"{n:.3f}" for n in found["bits_per_weight"])],
        ["one token reads", *("unknown" if n is None else size(n) for n in found["active_bytes"])],
    ]
    return Group(
        table(("role", "tensors", "types", "bytes", f"reason in {b}"), rows, right=("tensors",)),
        "",
        table(("", a, b), totals),
    )


def spent(stages: Mapping[str, Any], clock: float) -> Table:
    """Seconds of stages and their phases, of `profiling.Profile`."""
    rows = []
    for name, stage in stages.items():
        rows.append([name, f"{stage.clock:.2f}", ""])
        by_time = sorted(stage.phases.items(), key=lambda item: -item[1].threads)
        rows += [[f"  {n}", f"{p.clock:.2f}", f"{p.threads:.2f}"] for n, p in by_time]
    return table(
        ("", "seconds", "of all threads"),
        [*rows, ["in all", f"{clock:.2f}", ""]],
        right=("seconds", "of all threads"),
    )


def findings(severities: Sequence[str], where: str) -> str:
    """A closing line on what lint found."""
    if not severities:
        return f"{where}: nothing found"
    kinds = ("error", "warning", "note")
    counts = [(severities.count(kind), kind) for kind in kinds]
    return f"{where}: " + ", ".join(f"{n} {kind}{'s' * (n != 1)}" for n, kind in counts if n)


def caches(found: Mapping[str, Any]) -> Table:
    """Cache types of `advice.advise` with their bytes and the total."""
    return table(
        ("cache", "bytes", "with weights and state", "flash attention on CPU in"),
        (
            [kind, size(c["bytes"]), size(found["total"][kind]), _both(c["cpu"])]
            for kind, c in found["cache"].items()
        ),
        right=("bytes", "with weights and state"),
    )


def _both(cpu: str) -> str:
    return {"both": "llama.cpp and ik_llama.cpp", "ik": "ik_llama.cpp"}.get(cpu, cpu)


def fits(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines on where a file fits, of `advice.advise`."""
    needed, memory, gtt = found["needed_bytes"], found["memory_bytes"], found["gtt_bytes"]
    yield f"with a q8_0 cache it needs {size(needed)}"
    if memory is not None:
        yield f"memory of {size(memory)}: {'fits' if found['in_memory']['q8_0'] else 'too small'}"
        if gtt is None:
            yield (
                f"on an APU, with the usual GTT of half of that ({size(memory // 2)}): "
                f"{'fits' if found['in_gtt']['q8_0'] else 'too small'}; --gtt takes the real limit"
            )
    if gtt is not None:
        yield f"GTT of {size(gtt)}: {'fits' if found['in_gtt']['q8_0'] else 'too small'}"
    if not found.get("in_gtt", {}).get("q8_0"):
        yield found["raise_gtt"]
