"""What is fetched ahead and kept: by a store in memory that counts."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufmix.errors import SourceError
from ggufmix.sources.remote import ahead, folder
from ggufmix.sources.remote.folder import RemoteBytes, RemoteFile, RemoteFolder, Store
from ggufmix.sources.remote.patience import Patience, TransientError

MB = 1 << 20
DATA = np.random.default_rng(7).integers(0, 256, 24 * MB, dtype=np.uint8)
BOUNDS = [1 * MB, 1 * MB + 16, 9 * MB, 13 * MB, 24 * MB]


class Held(RemoteFile):
    """A file in memory. `fetched` has the ranges; `most` is the largest number at a time."""

    def __init__(self, delay: float = 0.0) -> None:
        self.size = len(DATA)
        self.delay = delay
        self.fetched: list[tuple[int, int]] = []
        self.most = self.now = 0
        self.lock = threading.Lock()
        self.fault: Exception | None = None

    def fetch(self, offset: int, view: memoryview) -> None:
        with self.lock:
            self.fetched.append((offset, len(view)))
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.delay)
        with self.lock:
            self.now -= 1
        if self.fault is not None:
            raise self.fault
        view[:] = DATA[offset : offset + len(view)].data


class One(Store):
    """A store of one file."""

    where = "one"

    def __init__(self, file: Held) -> None:
        self.file = file

    def names(self) -> list[str]:
        return ["x"]

    def everything(self) -> list[str]:
        return ["x"]

    def open(self, name: str) -> RemoteFile | None:
        return self.file if name == "x" else None


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def data(held: Held) -> Iterator[RemoteBytes]:
    """The file, its header read: 1 MiB, then tensors of 16 bytes, 8, 4 and 11 MiB."""
    with _opened(held) as (_, data):
        yield data


class _opened:  # noqa: N801
    def __init__(self, held: Held) -> None:
        self.folder = RemoteFolder(One(held), Patience())

    def __enter__(self) -> tuple[RemoteFolder, RemoteBytes]:
        data = self.folder.open("x")
        data.read(0, BOUNDS[0])
        data.divided(BOUNDS)
        return self.folder, data

    def __exit__(self, *_: object) -> None:
        self.folder.close()


def read(data: RemoteBytes, offset: int, n: int) -> None:
    """Read and compare."""
    buffer = np.empty(n, np.uint8)
    data.readinto(offset, buffer)
    assert np.array_equal(buffer, DATA[offset : offset + n])


def come(held: Held, n: int) -> None:
    """Wait until n ranges have been fetched, and no other is under way."""
    until = time.monotonic() + 10
    while (len(held.fetched) < n or held.now) and time.monotonic() < until:
        time.sleep(0.005)
    assert len(held.fetched) == n


def test_a_header_is_read_once(held: Held, data: RemoteBytes) -> None:
    """A header of several reads, read again by the fingerprint, costs its bytes once."""
    assert held.fetched == [(0, folder.HEAD_BYTES), (folder.HEAD_BYTES, MB - folder.HEAD_BYTES)]
    assert data.read(0, MB) == DATA[:MB].tobytes()
    assert data.read(5, 100) == DATA[5:105].tobytes()
    assert len(held.fetched) == 2


def test_bands_in_order(held: Held, data: RemoteBytes) -> None:
    """The bands of a tensor are fetched once each, side by side, and none of the next tensor."""
    held.fetched.clear()
    held.delay = 0.02
    for at in range(9 * MB, 13 * MB, MB // 4):
        read(data, at, MB // 4)
    assert sorted(held.fetched) == [(at, MB // 4) for at in range(9 * MB, 13 * MB, MB // 4)]
    assert held.most >= 4


def test_the_last_band_is_shorter(held: Held, data: RemoteBytes) -> None:
    """Rows do not divide: the band at the end was fetched at the length it is asked for."""
    held.fetched.clear()
    step = 3 * MB + 256
    for at in range(13 * MB, 24 * MB, step):
        read(data, at, min(step, 24 * MB - at))
    assert sum(n for _, n in held.fetched) == 11 * MB
    assert len(held.fetched) == 4


def test_other_orders_cost_little(held: Held, data: RemoteBytes) -> None:
    """Backwards, and every second band: what is guessed wrong is one band at most."""
    held.fetched.clear()
    for at in reversed(range(13 * MB, 24 * MB, MB)):
        read(data, at, MB)
    for at in range(1 * MB + 16, 8 * MB, 2 * MB):
        read(data, at, MB)
    time.sleep(0.1)
    assert len(held.fetched) <= 11 + 4 + 2


def test_small_pieces_of_rows(held: Held, data: RemoteBytes) -> None:
    """Columns of 4096 rows, as packed weights are read, cost a few requests and not 4096."""
    held.fetched.clear()
    for start in (0, 256, 1024):
        for row in range(4096):
            read(data, 9 * MB + row * 1024 + start % 1024, 256)
    assert len(held.fetched) <= 2 + 4
    assert sum(n for _, n in held.fetched) <= 4 * MB + 2 * 256


def test_a_small_tensor_alone(held: Held, data: RemoteBytes) -> None:
    """Sixteen bytes are fetched as sixteen bytes."""
    held.fetched.clear()
    read(data, MB, 16)
    assert held.fetched == [(MB, 16)]


def test_memory_is_bounded(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is fetched ahead and left lying, no more than the budget is held."""
    monkeypatch.setattr(ahead, "BUDGET_BYTES", 3 * MB)
    with _opened(held) as (whole, data):
        data.expect([(at, MB) for at in range(9 * MB, 20 * MB, MB)])
        assert whole.ahead._held == 3 * MB
        for at in range(9 * MB, 20 * MB, MB):
            read(data, at, MB)
        assert whole.ahead._held <= 3 * MB
        for row in range(300):
            read(data, 13 * MB + row * 32768, 64)
        assert whole.ahead._held <= 3 * MB


def test_what_nobody_took_makes_room(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses that were wrong do not end reading ahead for good."""
    monkeypatch.setattr(ahead, "BUDGET_BYTES", 2 * MB)
    monkeypatch.setattr(ahead, "STALE_SECONDS", 0.0)
    with _opened(held) as (whole, data):
        held.fetched.clear()
        data.expect([(9 * MB, MB), (10 * MB, MB)])
        come(held, 2)
        held.fetched.clear()
        read(data, 13 * MB, MB)
        read(data, 14 * MB, MB)
        assert (14 * MB, MB) in held.fetched
        assert whole.ahead._held <= 2 * MB


def test_an_error_belongs_to_its_reader(held: Held, data: RemoteBytes) -> None:
    """What goes wrong ahead is raised where the range is asked for, and only there."""
    held.fetched.clear()
    read(data, 9 * MB, MB)
    read(data, 10 * MB, MB)
    come(held, 4)  # 11 and 12 too
    held.fault = SourceError("x: gone")
    read(data, 11 * MB, MB)
    with pytest.raises(SourceError, match="gone"):
        read(data, 13 * MB, MB)
    come(held, 6)  # 14 too
    held.fault = None
    with pytest.raises(SourceError, match="gone"):
        read(data, 14 * MB, MB)
    read(data, 15 * MB, MB)


def test_a_line_that_breaks_often(held: Held, data: RemoteBytes) -> None:
    """Attempts are counted that bring nothing: over a line that breaks each 64 KiB a long range
    arrives too, and none that does not move goes on for ever.
    """

    def fetch(offset: int, view: memoryview) -> None:
        n = min(len(view), got)
        view[:n] = DATA[offset : offset + n].data
        if n < len(view):
            raise TransientError("reset", got=n)

    held.fetch = fetch  # type: ignore[method-assign]
    got = 64 << 10
    read(data, 13 * MB, 3 * MB)
    got = 63 << 10
    with pytest.raises(
        SourceError, match=f"gave up after 10 attempts at byte {17 * MB + 10 * got}"
    ):
        read(data, 17 * MB, 3 * MB)


def test_past_the_end(data: RemoteBytes) -> None:
    """A tensor that ends outside the file is the file's error."""
    with pytest.raises(SourceError, match="x: truncated: expected bytes up to 25165825"):
        read(data, 24 * MB - 1, 2)


def test_closing_wakes_who_waits(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a long wait for a server that is down ends it at once."""
    monkeypatch.setattr("ggufmix.sources.remote.patience.FIRST_WAIT", 60.0)
    whole = RemoteFolder(One(held), Patience())
    data = whole.open("x")
    data.divided(BOUNDS)
    held.fault = TransientError("down")
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        reading = pool.submit(data.read, 13 * MB, MB)
        time.sleep(0.05)
        whole.close()
        with pytest.raises(ValueError, match="closed"):
            reading.result()
    assert time.monotonic() - began < 10


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 24 * MB - 1),
            st.one_of(st.integers(0, 2000), st.integers(100_000, 3 * MB)),
            st.integers(1, 4),
        ),
        max_size=12,
    )
)
def test_any_reads(reads: list[tuple[int, int, int]]) -> None:
    """Any ranges in any order, some of them gone on with, by four threads: the file's bytes."""
    with _opened(Held()) as (_, data), ThreadPoolExecutor(4) as pool:
        ranges = [
            (offset + i * n, min(n, 24 * MB - offset - i * n))
            for offset, n, times in reads
            for i in range(times)
            if offset + i * n < 24 * MB
        ]
        list(pool.map(lambda r: read(data, *r), ranges))


def test_side_files(example: Path) -> None:
    """Names of side files are checked before a path is made of them."""
    with _opened(Held()) as (whole, _):
        for name in ("../x", "/x", "a/../../x", "..\\x", "a\0b", ""):
            with pytest.raises(SourceError, match="expected the name of a file in the folder"):
                whole.path(name)
        assert whole.path("y") is None
