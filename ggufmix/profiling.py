"""Where the time of a run goes.

    with profiling.recorded() as profile:
        pipeline.convert(...)
    profile.stages

A run has stages, one after the other. Within them threads are in phases; whoever does a piece of
work says so with `phase`, and the work inside it that has a phase of its own does not count twice.
Nothing is recorded but within `recorded`: `phase` costs a look at a variable of the context then.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

_recording: contextvars.ContextVar[_Recording | None] = contextvars.ContextVar(
    "recording", default=None
)
_NOTHING = nullcontext()


@dataclass(slots=True)
class Spent:
    """Time in a phase.

    clock    seconds in which at least one thread was in it
    threads  seconds of all threads together
    """

    clock: float = 0.0
    threads: float = 0.0


@dataclass(slots=True)
class Stage:
    """A part of the run: seconds that went by, those of a stage within it left out, and phases."""

    clock: float = 0.0
    phases: dict[str, Spent] = field(default_factory=dict)


@dataclass(slots=True)
class Profile:
    """What was recorded.

    stages  by their names, in the order in which they began
    clock   seconds in all
    """

    stages: dict[str, Stage] = field(default_factory=dict)
    clock: float = 0.0


@contextmanager
def recorded() -> Iterator[Profile]:
    """Record what this thread, and those that `following` starts, do within the block."""
    profile = Profile()
    token = _recording.set(_Recording(profile))
    begun = time.perf_counter()
    try:
        yield profile
    finally:
        profile.clock = time.perf_counter() - begun
        _recording.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """A stage of the run, entered by the one thread that conducts it."""
    recording = _recording.get()
    if recording is None:
        yield
        return
    outer = recording.begin(name)
    try:
        yield
    finally:
        recording.begin(outer)


def phase(name: str) -> AbstractContextManager[None]:
    """What this thread does within the block."""
    recording = _recording.get()
    return _NOTHING if recording is None else recording.phase(name)


def following(work: Callable[[], None]) -> Callable[[], None]:
    """The same work for another thread, recorded where that of this thread is."""
    context = contextvars.copy_context()
    return lambda: context.run(work)


class _Recording:
    """A Profile under way: which stage is on, and how many threads are in a phase since when."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._changed = threading.Lock()
        self._here = threading.local()
        self._inside: dict[int, tuple[int, float]] = {}  # of a Spent: threads, since when
        self._stage = ""
        self._since = time.perf_counter()

    def begin(self, name: str) -> str:
        """Another stage from now on; returns the one before. "": none."""
        with self._changed:
            now = time.perf_counter()
            if self._stage:
                self._profile.stages[self._stage].clock += now - self._since
            if name:
                self._profile.stages.setdefault(name, Stage())
            before, self._stage, self._since = self._stage, name, now
        return before

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        with self._changed:
            at = self._profile.stages.setdefault(self._stage, Stage())
            spent = at.phases.setdefault(name, Spent())
        outer = self._switch(spent)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, to: Spent | None) -> Spent | None:
        """Count this thread to `to` from now on; returns what it was counted to."""
        before: tuple[Spent, float] | None = getattr(self._here, "at", None)
        with self._changed:
            now = time.perf_counter()
            if before is not None:
                spent, since = before
                spent.threads += now - since
                n, first = self._inside[id(spent)]
                self._inside[id(spent)] = n - 1, first
                if n == 1:
                    spent.clock += now - first
            if to is not None:
                n, first = self._inside.get(id(to), (0, now))
                self._inside[id(to)] = n + 1, first if n else now
        self._here.at = None if to is None else (to, now)
        return None if before is None else before[0]
