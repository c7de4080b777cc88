"""Ranges that are fetched before they are asked for, or kept for who asks next: bounded memory."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

BUDGET_BYTES = 64 << 20
"""Of all ranges of one folder that are fetched ahead or kept."""

WORKERS = 32
"""Threads that fetch ahead; begun as they are needed."""

STALE_SECONDS = 20.0
"""After this a range that nobody asked for may make room."""

Key = tuple[int, int]
"""Number of the file, and offset."""

Fetch = Callable[[], NDArray[np.uint8]]
T = TypeVar("T")


@dataclass(slots=True)
class _Range:
    size: int
    kept: bool
    future: Future[NDArray[np.uint8]] = field(default_factory=Future)
    born: float = field(default_factory=time.monotonic)

    @property
    def may_go(self) -> bool:
        if not self.future.done():
            return False
        return self.kept or time.monotonic() - self.born > STALE_SECONDS


class Ahead:
    """A pool of fetching threads, and the ranges that they fetched."""

    def __init__(self) -> None:
        self.closed = False
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._workers: list[threading.Thread] = []
        self._waiting = 0
        self._lock = threading.Lock()
        self._ranges: OrderedDict[Key, _Range] = OrderedDict()
        self._held = 0

    def run(self, task: Callable[[], T]) -> Future[T]:
        """Run something in the pool."""
        future: Future[T] = Future()
        with self._lock:
            self._enqueue(lambda: _settle(future, task))
        return future

    def begin(self, key: Key, size: int, fetch: Fetch) -> bool:
        """Fetch a range that is asked for soon, once. False where there is no room for it."""
        with self._lock:
            if key in self._ranges:
                return True
            if not self._room(size):
                return False
            made = self._ranges[key] = _Range(size, kept=False)
            self._held += size
            self._enqueue(lambda: _settle(made.future, fetch))
        return True

    def take(self, key: Key, size: int) -> NDArray[np.uint8] | None:
        """A range that was begun, waited for and given away; None if it was not. Raises what
        fetching it raised.
        """
        with self._lock:
            found = self._ranges.get(key)
            if found is None or found.kept or found.size != size:
                return None
            self._drop(key)
        return found.future.result()

    def shared(self, key: Key, size: int, fetch: Fetch) -> NDArray[np.uint8] | None:
        """A range that several ask for: fetched by the first, kept while there is room. None where
        there is none. Raises what fetching it raised.
        """
        with self._lock:
            found = self._ranges.get(key)
            mine = found is None
            if found is None:
                if not self._room(size):
                    return None
                found = self._ranges[key] = _Range(size, kept=True)
                self._held += size
            elif not found.kept or found.size != size:
                return None
            self._ranges.move_to_end(key)
        if mine:
            _settle(found.future, fetch)
            if found.future.exception() is not None:
                with self._lock:
                    self._drop(key)
        return found.future.result()

    def close(self) -> None:
        """Let the threads end; what is waiting gets a ValueError."""
        with self._lock:
            self.closed = True
            for _ in self._workers:
                self._tasks.put(None)
            self._ranges.clear()
            self._held = 0

    def _room(self, size: int) -> bool:
        while self._held + size > BUDGET_BYTES:
            key = next((k for k, r in self._ranges.items() if r.may_go), None)
            if key is None:
                return False
            self._drop(key)
        return True

    def _drop(self, key: Key) -> None:
        gone = self._ranges.pop(key, None)
        self._held -= gone.size if gone is not None else 0

    def _enqueue(self, task: Callable[[], None]) -> None:
        if self.closed:
            raise ValueError("read after its checkpoint was closed")
        self._waiting += 1
        self._tasks.put(task)
        if self._waiting > len(self._workers) and len(self._workers) < WORKERS:
            worker = threading.Thread(target=self._work, daemon=True, name="fetching")
            self._workers.append(worker)
            worker.start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            with self._lock:
                self._waiting -= 1


def _settle(future: Future[Any], task: Callable[[], Any]) -> None:
    try:
        future.set_result(task())
    except BaseException as error:  # it is raised where the result is asked for
        future.set_exception(error)
