"""Where bytes come from: a folder of files, and positioned reads of one of them.

`Bytes` and `Folder` are all that the file formats know of storage, so another kind of it (range
requests, a test's buffer) needs no change elsewhere. Local files are read with `preadv` into
buffers of the reader, never mapped: mapped pages count as resident memory. Reading takes no lock
and moves no file position, so any number of threads may read one file. What is announced with
`divided` and `expect` helps storage that is far away; others need not listen.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError

MAX_OPEN = 64
"""Files of one folder that are open at once; macOS lets a process have 256 of all kinds."""

MAX_JSON_BYTES = 1 << 28
"""The largest JSON side file that is read; real ones end at some tens of megabytes."""


def shown(name: str) -> str:
    """A name as it may stand in a message: no control characters, 200 characters at most."""
    name = name if len(name) <= 200 else name[:197] + "..."
    return name if name.isprintable() and name else ascii(name)


class Bytes(ABC):
    """The bytes of one file, read at any offset from any thread.

    name      of the file inside its folder, for messages
    size      in bytes
    revision  what names this state of the file where it lies, of storage that has such a name
    path      of a file on this machine; not for messages
    """

    name: str
    size: int
    revision: str | None = None
    path: Path | None = None

    @abstractmethod
    def readinto(self, offset: int, buffer: NDArray[np.uint8]) -> None:
        """Fill a 1-D buffer with the bytes at `offset`. Raises SourceError past the end."""

    def read(self, offset: int, n: int) -> bytes:
        """`n` bytes at `offset`. Raises SourceError past the end."""
        if offset + n > self.size:
            raise _ends(self.name, offset + n, self.size)
        buffer = np.empty(n, np.uint8)
        self.readinto(offset, buffer)
        return buffer.tobytes()

    def divided(self, bounds: Sequence[int]) -> None:  # noqa: B027
        """Hear where tensors begin and where the last one ends, in rising order: whoever reads
        ahead stops there. The header is read by now, and is in front of the first.
        """

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:  # noqa: B027
        """Hear which ranges (offset, bytes) are read next, each of them once."""


class _Handle:
    """An open file descriptor. It closes with the last reference, so never under a reader."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class LocalBytes(Bytes):
    """A file on this machine. It is opened again after its folder has released it."""

    def __init__(self, folder: LocalFolder, name: str, path: Path) -> None:
        self.name = name
        self._folder = folder
        self.path: Path = path
        self._state: tuple[int, int] | None = None
        self._handle: _Handle | None = None
        self._open()

    def _open(self) -> _Handle:
        if self._folder.closed:
            raise ValueError(f"{self.name}: read after its checkpoint was closed")
        try:
            handle = _Handle(os.open(self.path, os.O_RDONLY))
            status = os.fstat(handle.fd)
        except OSError as error:
            raise _unreadable(self.name, error) from error
        state = (status.st_size, status.st_mtime_ns)
        if self._state not in (None, state):
            raise SourceError(f"{self.name}: changed while it was being read")
        self._state = state
        self.size = status.st_size
        self._handle = handle
        self._folder.opened(self)
        return handle

    def release(self) -> None:
        """Let go of the descriptor; the next read opens the file again."""
        self._handle = None

    def readinto(self, offset: int, buffer: NDArray[np.uint8]) -> None:
        """Fill a 1-D buffer with the bytes at `offset`. Raises SourceError past the end."""
        handle = self._handle or self._open()  # a reference of our own: open until we are done
        view, wanted, got = buffer.data, len(buffer), 0
        try:
            while got < wanted:  # one turn, but for reads past 2 GiB and signals
                n = os.preadv(handle.fd, [view[got:] if got else view], offset + got)
                if n == 0:
                    raise _ends(self.name, offset + wanted, offset + got)
                got += n
        except OSError as error:
            raise _unreadable(self.name, error) from error


class OfFolder:
    """What is read from the files of a folder, and closes them: best by `with`."""

    _folder: Folder

    def close(self) -> None:
        """Close all files. Reads that are under way finish; later ones raise ValueError."""
        self._folder.close()

    def abandon(self) -> None:
        """Let no reader wait any longer for what is far away: it gets a ValueError."""
        self._folder.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Folder(ABC):
    """Files beside each other: a checkpoint, or the parts of a GGUF file.

    where   for messages
    """

    where: str

    @property
    @abstractmethod
    def directory(self) -> Path:
        """A directory of this machine that has the small files of the folder: config, tokenizer,
        model card. Not for messages.
        """

    def gather(self, unwanted: Callable[[str], str | None]) -> list[tuple[str, str]]:  # noqa: ARG002
        """Have everything in `directory` that lies in the folder and below, but what is `unwanted`:
        of a name the reason, or None. Returns the names that are not there, with the reasons; none
        where `directory` is the folder. Raises SourceError.
        """
        return []

    @abstractmethod
    def path(self, name: str, *, listed_in: str | None = None) -> Path | None:
        """Where a small file of the folder lies on this machine, or None where there is none.
        Raises as `has`.
        """

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the files right in the folder, sorted. Raises SourceError."""

    @abstractmethod
    def has(self, name: str, *, listed_in: str | None = None) -> bool:
        """Whether there is such a file.

        name        one component, or several below the folder, "/" between them
        listed_in   the file that mentions it, for the message
        Raises SourceError for a name that leads out of the folder.
        """

    @abstractmethod
    def open(self, name: str, *, listed_in: str | None = None) -> Bytes:
        """The bytes of a file. Raises SourceError, where `has` does and where there is no file."""

    def expect(self, names: Sequence[str]) -> None:  # noqa: B027
        """Hear which files are opened next, to be read from their start."""

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object of the folder, or None where there is no such file.

        NaN and Infinity are taken as numbers: transformers writes them into config.json.
        Raises SourceError with line and column where the file is not JSON, or is not an object.
        """
        if not self.has(name):
            return None
        data = self.open(name)
        if data.size > MAX_JSON_BYTES:
            raise SourceError(f"{name}: expected at most {MAX_JSON_BYTES} bytes, got {data.size}")
        found = _parsed(name, data.read(0, data.size))
        if not isinstance(found, dict):
            raise SourceError(f"{name}: expected a JSON object, got {type(found).__name__}")
        return found

    @abstractmethod
    def close(self) -> None:
        """Close all files. Reads that are under way finish; later ones raise ValueError."""

    def abandon(self) -> None:  # noqa: B027
        """Let no reader wait any longer for what is far away: it gets a ValueError."""


def parts_of(name: str, listed_in: str | None = None) -> tuple[str, ...]:
    """The components of a name inside a folder. Raises SourceError for one that leads out of it:
    absolute, with "..", or with what is no "/" but taken for one somewhere.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\\" in name or "\0" in name:
        raise astray(name, listed_in)
    return parts


def astray(name: str, listed_in: str | None) -> SourceError:
    """What there is to say of a name that leads out of the folder."""
    by = "" if listed_in is None else f"{listed_in}: "
    return SourceError(f"{by}expected the name of a file in the folder, got {shown(name)!r}")


class LocalFolder(Folder):
    """A directory. `where` is its last component, for messages; the full path stays in here."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = root.name if root.name not in ("", "..") else root.resolve().name or str(root)
        self.closed = False
        self._open: list[LocalBytes] = []

    @property
    def directory(self) -> Path:
        """The directory itself."""
        return self.root

    def names(self) -> list[str]:
        """Names of the regular files right in the folder, links to such included, sorted."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(entry.name for entry in entries if entry.is_file())
        except OSError as error:
            raise _unreadable(self.where, error) from error

    def path(self, name: str, *, listed_in: str | None = None) -> Path | None:
        """Where a file of the folder lies, or None where there is none.

        name        one component, or several below the folder, "/" between them
        listed_in   the file that mentions it, for the message
        Raises SourceError for a name that leads out of the folder: absolute, with "..", or through
        a linked directory. The file itself may be a link, as it is in the hub's cache.
        """
        parts = parts_of(name, listed_in)
        path = self.root.joinpath(*parts)
        try:
            if len(parts) > 1 and not path.parent.resolve().is_relative_to(self.root.resolve()):
                raise astray(name, listed_in)
            return path if path.is_file() else None
        except (OSError, RuntimeError) as error:  # too long, not permitted, a loop of links
            raise SourceError(
                f"{shown(name)}: cannot be looked up: {error.__class__.__name__}"
            ) from error

    def has(self, name: str, *, listed_in: str | None = None) -> bool:
        """Whether `path` finds a file. Raises SourceError."""
        return self.path(name, listed_in=listed_in) is not None

    def open(self, name: str, *, listed_in: str | None = None) -> LocalBytes:
        """The bytes of a file that `path` finds. Raises SourceError."""
        path = self.path(name, listed_in=listed_in)
        if path is None:
            raise SourceError(f"{shown(name)}: no such file in {self.where}")
        return LocalBytes(self, shown(name), path)

    def opened(self, file: LocalBytes) -> None:
        """Note that a file was opened; where there are too many, release the oldest."""
        self._open.append(file)
        while len(self._open) > MAX_OPEN:
            self._open.pop(0).release()

    def close(self) -> None:
        """Close all files. Reads that are under way finish; later ones raise ValueError."""
        self.closed = True
        while self._open:
            self._open.pop().release()


def _parsed(name: str, text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        pass  # the standard library knows NaN and byte order marks, and names the line
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise SourceError(f"{name}: not valid JSON: {error.msg} at {place}", hint=_AGAIN) from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{name}: not valid JSON: no UTF-8 at byte {error.start}", hint=_AGAIN
        ) from error
    except RecursionError as error:
        raise SourceError(f"{name}: not valid JSON: nested too deeply") from error
    except ValueError as error:
        raise SourceError(f"{name}: not valid JSON: {error}") from error


_AGAIN = "the file may be damaged or cut short: download it again"


def _ends(name: str, expected: int, size: int) -> SourceError:
    return SourceError(
        f"{name}: truncated: expected bytes up to {expected}, the file ends at {size}", hint=_AGAIN
    )


def _unreadable(name: str, error: OSError) -> SourceError:
    return SourceError(f"{name}: cannot be read: {error.strerror or error}")
