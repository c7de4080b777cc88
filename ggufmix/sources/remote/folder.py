"""A folder that is not on this machine: files read by ranges, small ones fetched whole.

What differs between a hub, a web server and a store is behind `Store` and `RemoteFile`: one attempt
at one range. Here is what they share: attempts, headers read once, reading ahead.

Rows are asked for in bands, in order, by several threads. The bands that follow in the same tensor
are fetched meanwhile, as many more each time as the guess was right; so the time that a request
costs is paid about once per tensor. A few columns of many rows (packed weights) come in small
reads: from the third on, the piece of the tensor around them is fetched and kept for the next ones.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import tempfile
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ..storage import Bytes, Folder, parts_of, shown
from .ahead import Ahead
from .patience import Patience

HEAD_BYTES = 128 << 10
"""Of a file that are fetched when it is opened: most headers are shorter."""

MAX_HEAD_BYTES = 32 << 20
"""Of a file's header that are kept, because a fingerprint reads it again."""

MAX_BANDS_AHEAD = 8

SMALL_BYTES = 128 << 10
"""Reads below this are small."""

PIECE_BYTES = 1 << 20
"""Of a tensor that is read in many small reads."""

MAX_SIDE_BYTES = 256 << 20
"""The largest side file that is fetched; vocabularies end at some tens of megabytes."""

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "tiktoken.model")
SIDE_FILES = (
    *VOCABULARIES,
    "README.md",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
)
OTHER_VOCABULARIES = (
    "spiece.model",
    "tekken.json",
    "tokenizer.model.v3",
    "vocab.json",
    "vocab.txt",
)
"""Not read, but named where there is no other."""

TEMPLATES = "additional_chat_templates"


class RemoteFile(ABC):
    """One file of a Store, pinned to the state that it had when it was opened.

    size      in bytes
    revision  what the store calls that state, or None
    head      its first bytes, where opening it brought them
    """

    size: int
    revision: str | None = None
    head: bytes = b""

    @abstractmethod
    def fetch(self, offset: int, view: memoryview) -> None:
        """One attempt to fill `view` with the bytes at `offset`, from any thread.

        Raises TransientError for what may pass; SourceError where the file is gone, has changed, or
        cannot be read by ranges.
        """


class Store(ABC):
    """A folder somewhere. `where` is for messages: no password, no query."""

    where: str

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the files right in the folder, sorted, as far as they can be known."""

    @abstractmethod
    def open(self, name: str) -> RemoteFile | None:
        """A file, or None where there is none. One attempt: raises as `RemoteFile.fetch`."""

    def templates(self) -> list[str]:
        """Names of the .jinja files in the folder of further chat templates."""
        return []

    @abstractmethod
    def everything(self) -> list[str] | None:
        """Names of the files in the folder, and below where they can be known; None where only
        those can that are asked for by name.
        """

    def close(self) -> None:
        """Close connections."""
        return


class RemoteBytes(Bytes):
    """A file of a RemoteFolder."""

    def __init__(self, folder: RemoteFolder, number: int, name: str, file: RemoteFile) -> None:
        self.name = name
        self.size = file.size
        self.revision = file.revision
        self._folder = folder
        self._number = number
        self._file = file
        self._head = bytes(file.head)
        self._lock = threading.Lock()
        self._bounds: Sequence[int] = ()
        self._windows: dict[int, int] = {}  # where a read may go on -> bands to fetch ahead
        self._small: dict[int, int] = {}  # start of a tensor -> small reads of it

    def warm(self) -> None:
        """Fetch the first bytes."""
        if self.size:
            self._read_head(0, np.empty(min(HEAD_BYTES, self.size), np.uint8))

    def divided(self, bounds: Sequence[int]) -> None:
        """Hear where tensors begin and where the last one ends."""
        self._bounds = bounds

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Begin to fetch what is read next."""
        for offset, n in ranges:
            if n and offset + n > len(self._head):
                self._folder.ahead.begin((self._number, offset), n, partial(self._got, offset, n))

    def readinto(self, offset: int, buffer: NDArray[np.uint8]) -> None:
        """Fill a 1-D buffer with the bytes at `offset`. Raises SourceError past the end, where the
        file has changed, or after so many attempts.
        """
        n = len(buffer)
        if offset + n > self.size:
            raise SourceError(
                f"{self.name}: truncated: expected bytes up to {offset + n}, the file ends at "
                f"{self.size}"
            )
        self._folder.check_open(self.name)
        if offset + n <= len(self._head):
            buffer[:] = np.frombuffer(self._head, np.uint8, n, offset)
            return
        in_head = not self._bounds or offset < self._bounds[0]
        start, end = (0, self.size) if in_head else self._tensor_at(offset)
        if n >= SMALL_BYTES and not in_head:
            self._look_ahead(offset, n, start, end)
        ready = self._folder.ahead.take((self._number, offset), n)
        if ready is not None:
            buffer[:] = ready
        elif in_head:
            self._read_head(offset, buffer)
        elif n >= SMALL_BYTES or not self._from_pieces(offset, buffer, start, end):
            self._fill(offset, buffer)

    def _tensor_at(self, offset: int) -> tuple[int, int]:
        last = len(self._bounds) - 1
        tensor = min(bisect_right(self._bounds, offset), last) - 1
        return self._bounds[tensor], self._bounds[tensor + 1]

    def _read_head(self, offset: int, buffer: NDArray[np.uint8]) -> None:
        """Read what is in front of the tensors, and keep it."""
        end = offset + len(buffer)
        if end > MAX_HEAD_BYTES or offset > len(self._head):
            self._fill(offset, buffer)
            return
        with self._lock:
            have = len(self._head)
            if end > have:
                wanted = end if have else min(max(end, HEAD_BYTES), self.size)
                self._head += self._got(have, wanted - have).tobytes()
        buffer[:] = np.frombuffer(self._head, np.uint8, len(buffer), offset)

    def _from_pieces(self, offset: int, buffer: NDArray[np.uint8], start: int, end: int) -> bool:
        """Read from pieces that are kept, in a tensor that is read in many small reads. A read in
        order is none of them: the next one begins where it ends.
        """
        seen = self._small[start] = self._small.get(start, 0) + 1
        at, stop = offset, offset + len(buffer)
        if seen < 3 or stop > end:
            return False
        while at < stop:
            piece = start + (at - start) // PIECE_BYTES * PIECE_BYTES
            n = min(PIECE_BYTES, end - piece)
            held = self._folder.ahead.shared((self._number, piece), n, partial(self._got, piece, n))
            if held is None:
                return False
            upto = min(stop, piece + n)
            buffer[at - offset : upto - offset] = held[at - piece : upto - piece]
            at = upto
        return True

    def _look_ahead(self, offset: int, n: int, start: int, end: int) -> None:
        """Begin to fetch the bands that follow, of the same tensor."""
        with self._lock:
            window = self._windows.pop(offset, None)
            if window is None and offset != start:
                return
            window = min(2 * window, MAX_BANDS_AHEAD) if window else 1
            self._windows[offset + n] = window
            while len(self._windows) > 64:  # reads that were not gone on with
                self._windows.pop(next(iter(self._windows)))
        for at in range(offset + n, min(end, offset + n * (window + 1)), n):
            length = min(n, end - at)
            if not self._folder.ahead.begin(
                (self._number, at), length, partial(self._got, at, length)
            ):
                return

    def _got(self, offset: int, n: int) -> NDArray[np.uint8]:
        buffer = np.empty(n, np.uint8)
        self._fill(offset, buffer)
        return buffer

    def _fill(self, offset: int, buffer: NDArray[np.uint8]) -> None:
        view = buffer.data
        self._folder.patience.insist(
            lambda got: self._file.fetch(offset + got, view[got:]),
            self.name,
            lambda got: f" at byte {offset + got}",
        )


class RemoteFolder(Folder):
    """A folder of a Store."""

    def __init__(self, store: Store, patience: Patience) -> None:
        self.where = store.where
        self.ahead = Ahead()
        self.patience = patience
        self._store = store
        self._lock = threading.Lock()
        self._files: dict[str, Future[RemoteBytes | None]] = {}
        self._names: list[str] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def check_open(self, name: str) -> None:
        """Raise ValueError once the folder is closed."""
        if self.patience.closed.is_set():
            raise ValueError(f"{name}: read after its checkpoint was closed")

    def names(self) -> list[str]:
        """Names of the files right in the folder, as far as the store can tell."""
        if self._names is None:
            self._names = self.patience.insist(lambda _: self._store.names(), self.where)
        return self._names

    def has(self, name: str, *, listed_in: str | None = None) -> bool:
        """Whether there is such a file."""
        return self._found(name, listed_in) is not None

    def open(self, name: str, *, listed_in: str | None = None) -> RemoteBytes:
        """The bytes of a file. Raises SourceError."""
        found = self._found(name, listed_in)
        if found is None:
            raise SourceError(f"{shown(name)}: no such file in {self.where}")
        return found

    def expect(self, names: Sequence[str]) -> None:
        """Begin to open files and to fetch their first bytes."""
        for name in names:
            try:
                parts = parts_of(name)
            except SourceError:
                continue  # said when it is opened
            self._opened("/".join(parts))

    def path(self, name: str, *, listed_in: str | None = None) -> Path | None:
        """Where a small file lies, fetched if need be; None where there is none."""
        parts = parts_of(name, listed_in)
        if not self.has(name, listed_in=listed_in):
            return None
        path = self._place().joinpath(*parts)
        if not path.is_file():
            self._fetch(name, path)
        return path

    @property
    def directory(self) -> Path:
        """A temporary directory with the side files, fetched when it is first asked for and gone
        when the folder is closed.
        """
        self.expect(SIDE_FILES)
        if not any(self.has(name) for name in VOCABULARIES):
            self.expect(OTHER_VOCABULARIES)
            for name in OTHER_VOCABULARIES:
                self.path(name)
        templates = self.patience.insist(lambda _: self._store.templates(), self.where)
        for name in (*SIDE_FILES, *(f"{TEMPLATES}/{t}" for t in templates)):
            self.path(name)
        return self._place()

    def gather(self, unwanted: Callable[[str], str | None]) -> list[tuple[str, str]]:
        """Fetch what is wanted of the folder. Returns the rest, with the reasons."""
        names = self.patience.insist(lambda _: self._store.everything(), self.where)
        if names is None:
            self.directory  # noqa: B018
            return [("other files", "a web server does not say what lies there")]
        left = [(name, why) for name in names if (why := unwanted(name)) is not None]
        wanted = [name for name in names if unwanted(name) is None]
        self.expect(wanted)
        for name in wanted:
            if self.open(name).size > MAX_SIDE_BYTES:
                left.append((name, f"more than {MAX_SIDE_BYTES >> 20} MiB"))
            else:
                self.path(name)
        return left

    def abandon(self) -> None:
        """End waits between attempts and requests that are under way."""
        self.patience.closed.set()
        self._store.close()

    def close(self) -> None:
        """Close connections and remove the temporary directory."""
        self.patience.closed.set()
        self.ahead.close()
        self._store.close()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def _place(self) -> Path:
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="ggufmix-")
        return Path(self._directory.name)

    def _fetch(self, name: str, path: Path) -> None:
        data = self.open(name)
        if data.size > MAX_SIDE_BYTES:
            raise SourceError(
                f"{shown(name)}: expected at most {MAX_SIDE_BYTES} bytes, got {data.size}"
            )
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(data.read(0, data.size))

    def _found(self, name: str, listed_in: str | None) -> RemoteBytes | None:
        parts = parts_of(name, listed_in)
        return self._opened("/".join(parts)).result()

    def _opened(self, name: str) -> Future[RemoteBytes | None]:
        with self._lock:
            if name not in self._files:
                self.check_open(shown(name))
                number = len(self._files)
                self._files[name] = self.ahead.run(lambda: self._begin(number, name))
            return self._files[name]

    def _begin(self, number: int, name: str) -> RemoteBytes | None:
        file = self.patience.insist(lambda _: self._store.open(name), shown(name))
        if file is None:
            return None
        data = RemoteBytes(self, number, shown(name), file)
        data.warm()
        return data
