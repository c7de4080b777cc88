"""How far the work is: a bar on a terminal, a line now and then elsewhere. Only ever on stderr."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from .report import console, count, size

LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


class Shown:
    """`step(tensor, done, total)` after each piece of work, in source bytes or another unit; less
    done than before is a new piece of work.
    """

    def __init__(self, bar: Progress | None, unit: str = "bytes") -> None:
        self._unit = unit
        self._bar = bar
        self._task = bar.add_task("", total=None, visible=False) if bar else None
        self._done = 0
        self._said = self._begun = time.monotonic()

    def step(self, tensor: str, done: int, total: int) -> None:
        """`done` of `total` are worked off, the last of them of this tensor (or file)."""
        if done < self._done:
            self._said = self._begun = time.monotonic()
            if self._bar is not None and self._task is not None:
                self._bar.reset(self._task)
        self._done = done
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, completed=done, total=total, description=tensor, visible=True
            )
            return
        now = time.monotonic()
        if done and now - self._said >= LINE_EVERY:
            self._said = now
            rate = done / (now - self._begun)
            left = (total - done) / rate
            print(
                f"{self._said_of(done)} of {self._said_of(total)}, {self._said_of(rate)}/s, "
                f"{left:.0f} s left, {tensor}",
                file=sys.stderr,
                flush=True,
            )

    def _said_of(self, amount: float) -> str:
        if self._unit == "bytes":
            return size(amount)
        slow = amount < 10 and amount != round(amount)
        return f"{amount:.2g} {self._unit}" if slow else f"{count(amount)} {self._unit}"


@contextmanager
def shown(unit: str = "bytes") -> Iterator[Shown]:
    """Progress for the time of a block. `unit`: of what is done, "tokens" for example."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield Shown(None, unit)
        return
    amounts: tuple[ProgressColumn, ...] = (DownloadColumn(True), TransferSpeedColumn())
    if unit != "bytes":
        amounts = (MofNCompleteColumn(), TextColumn(unit))
    columns = (
        BarColumn(),
        *amounts,
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=screen, transient=True) as bar:
        yield Shown(bar, unit)
