"""KL divergence over the position in the context, one line for each context that was measured.

Geometry only, in pixels of the drawing; both axes are logarithmic, as contexts grow by doubling.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .measurements import Point, Scored

WIDTH, HEIGHT = 640, 230
LEFT, RIGHT, TOP, BOTTOM = 64, 104, 12, 40
DASHES = ("", "7 3", "2 3", "9 3 2 3")
MOST_TICKS = 9
LEAST, MOST = 1e-12, 1e6
"""Nats that are drawn."""


@dataclass(frozen=True, slots=True)
class Line:
    """A context: its points as an SVG path, its dashes, its name, and the height of that beside
    the plot.
    """

    path: str
    dash: str
    name: str
    y: float


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines, and (place, text) of the ticks of both axes. `told`: the same in words."""

    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    told: str


def of_scores(scores: Iterable[Scored]) -> Plot | None:
    """The plot of what was measured of one file; None where nothing was by position."""
    found = {f"{row.ctx} tokens": _usable(row.kld_by_position) for row in scores}
    found = {name: points for name, points in found.items() if len(points) > 1}
    if not found:
        return None
    every = [p for points in found.values() for p in points]
    across = _axis([p.position + 1 for p in every], (2.0,))
    kld = [p.kld for p in every]
    up = _axis(kld, (10.0,) if max(kld) > 1000 * min(kld) else (1.0, 2.0, 5.0, 10.0))

    def x(p: Point) -> float:
        return LEFT + across.part(p.position + 1) * (WIDTH - LEFT - RIGHT)

    def y(p: Point) -> float:
        return HEIGHT - BOTTOM - up.part(p.kld) * (HEIGHT - TOP - BOTTOM)

    lines: list[Line] = []
    told: list[str] = []
    for i, (name, points) in enumerate(found.items()):
        path = " ".join(f"{x(p):.1f},{y(p):.1f}" for p in points)
        lines.append(Line(path, DASHES[i % len(DASHES)], name, TOP + 18 * i))
        first, last = points[0], points[-1]
        told.append(
            f"{name}: {first.kld:.3g} at position {first.position + 1}, "
            f"{last.kld:.3g} at position {last.position + 1}"
        )
    return Plot(
        tuple(lines),
        tuple((LEFT + across.part(v) * (WIDTH - LEFT - RIGHT), f"{v:g}") for v in across.ticks),
        tuple((HEIGHT - BOTTOM - up.part(v) * (HEIGHT - TOP - BOTTOM), f"{v:g}") for v in up.ticks),
        "; ".join(told),
    )


def _usable(points: Sequence[Point]) -> list[Point]:
    """Those that can be drawn, in order: a logarithm has no zero, and no divergence is beyond."""
    fit = (p for p in points if 0 <= p.position < 2**40 and LEAST <= p.kld <= MOST)
    return sorted(fit, key=lambda p: p.position)


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    ticks: tuple[float, ...]

    def part(self, value: float) -> float:
        """How far along it a value is, 0 to 1."""
        return (math.log(value) - self.low) / (self.high - self.low)


def _axis(values: Sequence[float], steps: Sequence[float]) -> _Axis:
    """From one step to another around all values: of (2,) the powers of two, of (1, 2, 5, 10) the
    powers of ten and their double and half.
    """
    base = steps[-1]
    low = math.floor(math.log(min(values), base) - 1e-9) - 1
    high = math.ceil(math.log(max(values), base) + 1e-9) + 1
    ladder = sorted({s * base**n for n in range(low, high + 1) for s in steps[:-1] or (1,)})
    start = max(i for i, step in enumerate(ladder) if step <= min(values) * (1 + 1e-9))
    end = min(i for i, step in enumerate(ladder) if step >= max(values) * (1 - 1e-9))
    end = max(end, start + 1)
    every = -(-(end - start + 1) // MOST_TICKS)
    ends = math.log(ladder[start]), math.log(ladder[end])
    return _Axis(*ends, tuple(ladder[start : end + 1 : every]))
