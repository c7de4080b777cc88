"""How often and how long a source far away is asked again."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ...errors import SourceError

T = TypeVar("T")

ATTEMPTS = 10
"""Attempts for one range in a row that bring less than PROGRESS_BYTES, the first included: with the
waits between them, over a minute.
"""

PROGRESS_BYTES = 64 << 10

FIRST_WAIT = 0.5
"""Seconds before the second attempt; doubled each time, up to LONGEST_WAIT, and of that a random
part between half and all.
"""

LONGEST_WAIT = 15.0

LONGEST_ORDER = 120.0
"""Seconds that a server may order to wait."""


class TransientError(Exception):
    """A failure that may pass.

    got   bytes of the range that came before it
    wait  seconds that the server asks for
    """

    def __init__(self, what: str, *, got: int = 0, wait: float | None = None) -> None:
        super().__init__(what)
        self.got = got
        self.wait = wait


class Patience:
    """Attempts at ranges from many threads. What one server orders to wait holds for all."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self._not_before = 0.0

    def insist(
        self,
        attempt: Callable[[int], T],
        where: str,
        place: Callable[[int], str] = lambda _: "",
    ) -> T:
        """Call `attempt(got)` until it does not raise TransientError, and return what it gives;
        `got` bytes of the range have come already. Raises SourceError after so many attempts in
        a row, naming `where` and `place(got)`; ValueError if the folder is closed meanwhile.
        """
        got, wait, left = 0, FIRST_WAIT, ATTEMPTS
        while left:
            self._rest(self._not_before - time.monotonic(), where)
            try:
                return attempt(got)
            except TransientError as caught:
                trouble = caught
            got += trouble.got
            if trouble.got >= PROGRESS_BYTES:
                wait, left = FIRST_WAIT, ATTEMPTS
            left -= 1
            if trouble.wait is not None:
                until = time.monotonic() + min(trouble.wait, LONGEST_ORDER)
                self._not_before = max(self._not_before, until)
            elif left:
                self._rest(wait * random.uniform(0.5, 1.0), where)  # noqa: S311
                wait = min(2 * wait, LONGEST_WAIT)
        raise SourceError(
            f"{where}: gave up after {ATTEMPTS} attempts{place(got)}: {trouble}",
            hint="try again when the network or the server has recovered",
        )

    def _rest(self, seconds: float, where: str) -> None:
        if self.closed.wait(max(0.0, seconds)):
            raise ValueError(f"{where}: read after its checkpoint was closed")
