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
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from .report import console, size

LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


class Shown:
    """`begin(total)` once the source bytes are known, then `step(tensor, done)` after each piece of
    work.
    """

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._task = bar.add_task("reading", total=None, visible=False) if bar else None
        self._done = 0
        self._total = 0
        self._said = self._begun = time.monotonic()

    def begin(self, total: int) -> None:
        """Start over with `total` source bytes to go."""
        self._done, self._total = 0, total
        self._said = self._begun = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.reset(self._task, total=total, visible=True)

    def step(self, tensor: str, done: int) -> None:
        """`done` more source bytes, of the tensor with this name, are written."""
        self._done += done
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=done, description=tensor, visible=True)
            return
        now = time.monotonic()
        if now - self._said >= LINE_EVERY:
            self._said = now
            rate = self._done / (now - self._begun)
            left = (
                f" of {size(self._total)}, {(self._total - self._done) / rate:.0f} s left"
                if self._total
                else ""
            )
            print(
                f"{size(self._done)}{left}, {size(rate)}/s, {tensor}", file=sys.stderr, flush=True
            )


@contextmanager
def shown() -> Iterator[Shown]:
    """Progress for the time of a block."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield Shown(None)
        return
    columns = (
        BarColumn(),
        DownloadColumn(True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=screen, transient=True) as bar:
        yield Shown(bar)
