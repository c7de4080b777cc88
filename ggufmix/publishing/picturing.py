"""The layers of a file as a picture: roles down, blocks across, a colour and a letter for each
type; and the same with errors, as far up its type's band as a tensor is.

Geometry only, in pixels of the drawing: templates/picture.svg makes it visible.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..codecs import FORMATS
from ..inspection import ranges
from ..outline import Entry, Outline, bits_of
from ..verifying import percent, share
from .measurements import Tested
from .words import clean

MOST_COLUMNS, MOST_ROWS = 256, 60
SIDE, HEIGHT, GAP, HEAD = 210, 18, 4, 22
"""Width of the column right of the cells; height of a row, what is between two and above all."""
WIDE, NARROW, ROOM = 46, 8.5, 820
"""Widths of a cell: most, where its type is spelled out, and least; what all of them share."""
CHARACTER = 6.4
"""Width of a character of the text beside the cells, about."""
RAMP = ("f6efc0", "cfe3b0", "93cbb0", "55aebb", "3a87b5", "33609f", "2a3a75")
"""From few bits to many: lightness falls all the way, so that it is read without colour too."""
LETTERS = string.ascii_letters
VECTORS = "vectors"
_BLOCK = re.compile(r"\bblk\.\d+\.")


@dataclass(frozen=True, slots=True)
class Key:
    """A type in the legend. `ink`: the colour of text on its own, black or white."""

    kind: str
    letter: str
    fill: str
    ink: str
    bits: float


@dataclass(frozen=True, slots=True)
class Cell:
    """A tensor, or a few that share a place. `bar`: height of the error, of HEIGHT; `mark`: what is
    written in it.
    """

    x: float
    width: float
    key: Key | None
    mark: str
    hint: str
    bar: float = 0.0
    grade: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Tensors of one role. `summary`: the same in words."""

    label: str
    y: float
    cells: tuple[Cell, ...]
    summary: str


@dataclass(frozen=True, slots=True)
class Picture:
    """`ticks`: (middle, block number) along the upper edge; `left_out`: what there was no room
    for, in words.
    """

    title: str
    told: str
    left: float
    width: float
    height: float
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[Row, ...]
    left_out: str
    tight: bool


def legend(outlines: Iterable[Outline]) -> dict[str, Key]:
    """The types of some files, fewest bits first, each with a colour and a letter of its own."""
    bits = {t.type: bits_of(t.type) or t.bits for found in outlines for t in found.tensors}
    ordered = sorted(bits, key=lambda kind: (bits[kind], kind))
    made = {}
    for i, kind in enumerate(ordered):
        fill = _ramp(i / max(len(ordered) - 1, 1))
        ink = "#ffffff" if _luminance(fill) < 0.179 else "#000000"  # the one with more contrast
        made[kind] = Key(clean(kind, 16), LETTERS[i % len(LETTERS)], fill, ink, bits[kind])
    return made


def _ramp(at: float) -> str:
    place = at * (len(RAMP) - 1)
    low = min(int(place), len(RAMP) - 2)
    part = place - low
    pairs = zip(bytes.fromhex(RAMP[low]), bytes.fromhex(RAMP[low + 1]), strict=True)
    return "#" + bytes(round(a + part * (b - a)) for a, b in pairs).hex()


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [c / 255 for c in bytes.fromhex(colour[1:])]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@dataclass(frozen=True)
class _Grid:
    """Where tensors stand: rows by label, columns by block."""

    columns: dict[int, int]
    rows: dict[str, list[Entry]]
    cell: float
    left_out: str

    @property
    def left(self) -> float:
        """Width of the column of labels."""
        return 12 + CHARACTER * max(map(len, self.rows), default=0)

    @property
    def width(self) -> float:
        return self.left + max(len(self.columns), 1) * self.cell + SIDE

    def x(self, t: Entry) -> float:
        return self.left + (self.columns[t.layer] if t.layer is not None else 0) * self.cell

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        every = next(n for n in (1, 2, 5, 10, 20, 50) if n * self.cell >= 26 or n == 50)
        return tuple(
            (self.left + (i + 0.5) * self.cell, str(layer))
            for layer, i in self.columns.items()
            if i % every == 0
        )


def _grid(outline: Outline) -> _Grid:
    layers = sorted({t.layer for t in outline.tensors if t.layer is not None})
    columns = {layer: i for i, layer in enumerate(layers[:MOST_COLUMNS])}
    rows: dict[str, list[Entry]] = {}
    for t in _as_the_data_flow(outline.tensors):
        if t.layer is None or t.layer in columns:
            rows.setdefault(_label(t), []).append(t)
    if VECTORS in rows:
        rows[VECTORS] = rows.pop(VECTORS)
    left_out = []
    if len(layers) > MOST_COLUMNS:
        left_out.append(f"{len(layers) - MOST_COLUMNS} of {len(layers)} blocks")
    if len(rows) > MOST_ROWS:
        left_out.append(f"{len(rows) - MOST_ROWS} of {len(rows)} roles")
        rows = dict(list(rows.items())[:MOST_ROWS])
    cell = min(max(ROOM / max(len(columns), 1), NARROW), 18)
    if len(columns) * WIDE <= ROOM:
        cell = WIDE
    return _Grid(columns, rows, cell, " and ".join(left_out))


def _as_the_data_flow(tensors: Sequence[Entry]) -> list[Entry]:
    """Embeddings, blocks, output; within blocks by kind: attention, recurrence, feed-forward."""

    def place(t: Entry) -> tuple[int, str]:
        if t.layer is None:
            return (9 if t.name.startswith("output") else 0), ""
        stem = _stem(t.name)
        known = ("attn", "ssm", "shortconv", "ffn")
        kind = next((i for i, word in enumerate(known, 1) if stem.startswith(word)), 5)
        return kind, stem

    return sorted(tensors, key=place)


def _stem(name: str) -> str:
    """blk.3.attn_q.weight -> attn_q; v.blk.3.ln1.weight -> v.ln1."""
    return _BLOCK.sub("", name, count=1).removesuffix(".weight")


def _label(t: Entry) -> str:
    return VECTORS if t.dims < 2 else clean(_stem(t.name), 21)


def of_types(outline: Outline, keys: Mapping[str, Key]) -> Picture:
    """Each tensor in the colour of its type."""
    grid = _grid(outline)
    rows = []
    for number, (label, members) in enumerate(grid.rows.items()):
        cells = []
        for _, here in groupby(sorted(members, key=_place), key=_place):
            most = max(here, key=lambda t: t.bytes)
            key = keys[most.type]
            mark = key.kind if grid.cell >= WIDE else key.letter
            hint = f"{clean(most.name, 80)}: {key.kind}"
            cells.append(Cell(grid.x(most), grid.cell - 1, key, mark, hint))
        rows.append(Row(label, _y(number), tuple(cells), _fitting(in_words(members))))
    told = "; ".join(f"{label}: {in_words(members)}" for label, members in grid.rows.items())
    return _picture(grid, rows, "Types by role and block", told)


def of_errors(outline: Outline, tested: Mapping[str, Tested]) -> Picture | None:
    """Each tensor that was compared with its source; roles that are exact throughout are counted.
    None where there is no other.
    """
    grid = _grid(outline)
    rows: list[Row] = []
    exact = 0
    told = []
    for label, members in grid.rows.items():
        known = [(t, tested[t.name]) for t in members if t.name in tested]
        if not any(_share(t) for _, t in known):
            exact += bool(known)
            continue
        worst = max((t for _, t in known), key=_share)
        counts = Counter(t.verdict for _, t in known)
        words = [f"worst {_error(worst)}"]
        words += [f"{counts[grade]} {grade}" for grade in ("WARN", "FAIL") if counts[grade]]
        cells = []
        pairs = sorted(known, key=lambda pair: _place(pair[0]))
        for _, here in groupby(pairs, key=lambda pair: _place(pair[0])):
            entry, found = max(here, key=lambda pair: _share(pair[1]))
            cells.append(_error_cell(grid, entry, found))
        rows.append(Row(label, _y(len(rows)), tuple(cells), ", ".join(words)))
        told.append(f"{label}: {', '.join(words)}")
    if not rows:
        return None
    if exact:
        told.append(f"{exact} roles are exact throughout and have no line")
    return _picture(grid, rows, "Errors by role and block", "; ".join(told))


def _error_cell(grid: _Grid, entry: Entry, found: Tested) -> Cell:
    far = _share(found)
    marks = {"GOOD": "" if far else "·", "WARN": "!", "FAIL": "×"}
    if grid.cell >= WIDE and found.verdict == "GOOD" and far:
        marks["GOOD"] = _error(found)
    hint = f"{clean(entry.name, 80)}: {found.type}, {_error(found)}, {found.verdict}"
    bar = HEIGHT * min(far, 1.0)
    return Cell(grid.x(entry), grid.cell - 1, None, marks[found.verdict], hint, bar, found.verdict)


def _share(t: Tested) -> float:
    kind = FORMATS.get(t.type)
    if kind is None or t.rrmse is None:
        return {"GOOD": 0.0, "WARN": 1.0, "FAIL": 2.0}[t.verdict]
    return share(kind, t.rrmse, t.verdict)


def _error(t: Tested) -> str:
    return "not finite" if t.rrmse is None else percent(t.rrmse) if t.rrmse else "exact"


def _place(t: Entry) -> int:
    return -1 if t.layer is None else t.layer


def _y(number: int) -> float:
    return HEAD + number * (HEIGHT + GAP)


def in_words(members: Sequence[Entry]) -> str:
    """Types of one role, the most common one first: Q4_K; Q6_K in 0-2, 7."""
    layers: dict[str, set[int]] = {}
    counts: Counter[str] = Counter()
    for t in members:
        counts[t.type] += 1
        layers.setdefault(t.type, set()).update([t.layer] if t.layer is not None else [])
    (first, _), *others = counts.most_common()
    words = [clean(first, 16)]
    for kind, n in others:
        where = ranges(layers[kind])
        words.append(f"{clean(kind, 16)} in {where}" if layers[kind] else f"{clean(kind, 16)} ×{n}")
    return "; ".join(words)


def _fitting(text: str) -> str:
    room = int(SIDE / CHARACTER)
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _picture(grid: _Grid, rows: Sequence[Row], title: str, told: str) -> Picture:
    return Picture(
        title,
        told,
        grid.left,
        grid.width,
        _y(len(rows)),
        grid.ticks,
        tuple(rows),
        grid.left_out,
        tight=grid.cell < 12,
    )


def roles(outline: Outline) -> list[tuple[str, int, int, int, str]]:
    """The picture as a table: role, tensors, weights, bytes, types and their blocks."""
    grid = _grid(outline)
    return [
        (label, len(m), sum(t.weights for t in m), sum(t.bytes for t in m), in_words(m))
        for label, m in grid.rows.items()
    ]
