"""Files under way: where they may be put, `.part`, locks, room, syncs."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import WriteError


def check_name(path: Path) -> None:
    """Raise WriteError for the name of a file that no text can hold: journals and pages say it."""
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise WriteError(
            f"{path}: expected the name of a file in UTF-8", hint="give it another name"
        ) from error


def check_place(path: Path, *, overwrite: bool) -> None:
    """Raise WriteError where `write` would refuse to put a file at `path`."""
    check_name(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        mode = 0
    except OSError as error:
        raise WriteError(f"{path}: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise WriteError(f"{path} is a directory, expected the name of a file")
    if mode and not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise WriteError(f"{path} is no regular file", hint="give another name with -o")
    if mode and not overwrite:
        raise WriteError(f"{path} exists", hint="--overwrite replaces it")
    if not path.parent.is_dir():
        raise WriteError(f"{path.parent} is no directory", hint="create it first")
    try:
        mode = unfinished(path).lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise WriteError(f"{unfinished(path)}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise WriteError(f"{unfinished(path)} is no regular file, and in the way")


def check_room(sizes: Mapping[Path, int]) -> None:
    """Raise WriteError unless each disk has room for the files that go there, in bytes. What
    unfinished ones take already counts.
    """
    by_disk: dict[int, dict[Path, int]] = {}
    for path, size in sizes.items():
        by_disk.setdefault(path.parent.stat().st_dev, {})[path] = size
    for there in by_disk.values():
        folder = next(iter(there)).parent
        needed = missing(there)
        if (free := shutil.disk_usage(folder).free) < needed:
            kept = needed < sum(there.values())
            raise WriteError(
                f"{folder}: too little space: {needed} bytes needed, {free} free",
                hint="what was written before is kept" if kept else "nothing was written",
            )


def missing(sizes: Mapping[Path, int]) -> int:
    """How many bytes of files the unfinished ones do not take yet."""
    return max(0, sum(sizes.values()) - sum(_taken(unfinished(path)) for path in sizes))


def _taken(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


def unfinished(path: Path) -> Path:
    """The name that a file has until it is whole."""
    return path.with_name(path.name + ".part")


def begin(path: Path, *, fresh: bool = True, named: bool = False, again: bool = False) -> int:
    """Open what is to become `path` and lock it: two runs would write one file as both.

    fresh  empty it
    named  it may have its name already: then it is made unfinished again
    again  this run has written into it: it must still be there
    """
    there = path if named and not unfinished(path).exists() and path.exists() else unfinished(path)
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    out = os.open(there, flags if again else flags | os.O_CREAT, 0o666)
    try:
        lock(out)
        if not os.path.samestat(os.fstat(out), os.lstat(there)):
            raise BlockingIOError  # the other run has ended between our two calls
        if there == path:
            os.replace(path, unfinished(path))
        if fresh:
            os.ftruncate(out, 0)
    except (BlockingIOError, FileNotFoundError) as error:
        os.close(out)
        raise WriteError(
            f"{path}: another run is writing it", hint="wait for it, or give another name with -o"
        ) from error
    except BaseException:
        os.close(out)
        raise
    return out


def reserve(out: int, size: int) -> None:
    """Give the file its size, and on disks that can promise it the room."""
    try:
        os.posix_fallocate(out, 0, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (
            errno.EOPNOTSUPP,
            errno.EINVAL,
            errno.ENOSYS,
        ):
            raise
    os.ftruncate(out, size)


def put(out: int, data: bytes | memoryview, at: int) -> None:
    """Write all of `data` at byte `at`."""
    view = memoryview(data)
    while view:
        n = os.pwrite(out, view, at)
        view, at = view[n:], at + n


def rename(paths: Sequence[Path]) -> None:
    """Give finished files their names, for good."""
    for path in paths:
        os.replace(unfinished(path), path)
    for folder in dict.fromkeys(path.parent for path in paths):
        sync_folder(folder)


def lock(out: int) -> None:
    """Take an open file for this process. Raises BlockingIOError where another has it."""
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL):
            raise  # those: a file system without locks, where the user has to see to it


def sync_folder(folder: Path) -> None:
    """Return when the names of the files in a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
