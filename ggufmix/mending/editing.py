"""Another header for a GGUF file whose tensor data stay where they are.

Tensor data begin where the header ends, rounded up to the alignment. So a header that takes the
same room is written in place; one that takes less is filled up with the key `ggufmix.padding`,
which later edits take back; one that takes more means a new file, into which the kernel copies the
data.
Offsets of tensors count from the start of the data and stay as they are: of a split file only the
first part is touched.

In place, the old header is first kept beside the file, on disk: an edit that dies half-way is
undone by `restore`.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import checksums
from ..container import Header, TensorInfo, Value, header, read_header, text
from ..errors import ModelError, SourceError, UsageError, WriteError
from ..rules.files import shipped
from ..sources import gguf_file
from ..writing import places

PADDING = "ggufmix.padding"
FIXED = ("general.alignment", "split.no", "split.count", "split.tensors.count", PADDING)
"""Keys that say how a file is laid out."""
_COPY = 1 << 26

Progress = Callable[[str, int, int], None]
"""Called with the name of the file, the bytes copied and those there are in all."""


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to be done: values to set, in their order, and keys to take away."""

    set: Mapping[str, Value]
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What an edit comes to.

    before     key-values as they are
    after      and as they will be
    in_place   the data stay where they are; else the file is copied
    """

    path: Path
    before: Mapping[str, Value]
    after: Mapping[str, Value]
    in_place: bool
    old: bytes
    new: bytes


def first_part(path: Path) -> Path:
    """The file that has the key-values: of a split one the first part, links followed."""
    return path.with_name(gguf_file.first_part(path.name)).resolve()


def read(path: Path) -> tuple[Header, bytes]:
    """Header of a file, and its bytes up to the data. Raises UsageError and SourceError."""
    if not path.is_file():
        raise UsageError(f"{path}: expected a GGUF file, there is none")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            foreign = {kind.id: name for name, kind in shipped().types.items()}
            found = read_header(file, size, str(path), foreign=foreign)
            file.seek(0)
            return found, file.read(min(found.data_at, size))
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error


def prepare(path: Path, edit: Edit) -> Change:
    """See what an edit comes to; nothing is written.

    Raises UsageError for keys that are not there or must stay, and where an earlier edit of this
    file was interrupted.
    """
    if kept(path).exists():
        raise UsageError(
            f"{path}: an earlier edit was interrupted: {kept(path).name} holds the header it had",
            hint="ggufmix meta FILE --restore puts it back",
        )
    found, old = read(path)
    for key in (*edit.set, *edit.remove):
        if key in FIXED:
            raise UsageError(f"{key} says how the file is laid out, it cannot be edited")
    missing = [key for key in edit.remove if key not in found.values]
    if missing:
        raise UsageError(f"{path}: has no key {missing[0]}", hint="nothing was changed")
    for name in (*found.values, *(info.name for info in found.tensors)):
        if "\ufffd" in name:
            raise SourceError(f"{path}: {name!r}: expected a name in UTF-8")
    after = {k: v for k, v in found.values.items() if k not in (*edit.remove, PADDING)}
    after |= edit.set
    new, filled = _of_size(after, found, len(old))
    if _is_sound(found.values, old):  # else a damaged header would pass for a sound one
        new = checksums.sealed(new, filled)
    return Change(path, found.values, filled, len(new) == len(old), old, new)


def _of_size(
    values: Mapping[str, Value], found: Header, room: int
) -> tuple[bytes, Mapping[str, Value]]:
    """A header that fills `room` if there is one, else the shortest; and its values."""
    shortest = _header(values, found.tensors, found.alignment)
    if len(shortest) >= room:
        return shortest, values
    least = len(_header({**values, PADDING: text("")}, found.tensors, found.alignment))
    if least > room:
        return shortest, values
    filled = {**values, PADDING: text(" " * (room - least))}
    return _header(filled, found.tensors, found.alignment), filled


def _header(values: Mapping[str, Value], infos: Iterable[TensorInfo], alignment: int) -> bytes:
    try:
        return header(values, infos, alignment)
    except ModelError as error:
        raise UsageError(str(error)) from error


def _is_sound(values: Mapping[str, Value], raw: bytes) -> bool:
    """Whether a header is what its checksum says, as far as it has one."""
    stated = values.get(checksums.HEADER)
    return stated is None or stated.data == checksums.of_header(raw, values)


def apply(change: Change, *, progress: Progress | None = None) -> None:
    """Do it. Raises WriteError; the file is then as it was, or `restore` makes it so."""
    try:
        file = os.open(change.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            places.lock(file)
            if os.pread(file, len(change.old), 0) != change.old:
                raise BlockingIOError
            if change.in_place:
                _replace_header(change, file)
            else:
                _copy(change, file, progress)
        finally:
            os.close(file)
    except BlockingIOError as error:
        raise WriteError(f"{change.path}: another run is editing it") from error
    except OSError as error:
        raise WriteError(f"{change.path}: {error.strerror}") from error


def restore(path: Path) -> None:
    """Put back the header that an interrupted edit has kept. Raises UsageError if none did."""
    if not kept(path).exists():
        raise UsageError(f"{path}: no edit was interrupted, there is no {kept(path).name}")
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _put(file, kept(path).read_bytes())
        finally:
            os.close(file)
        kept(path).unlink()
    except OSError as error:
        raise WriteError(f"{path}: {error.strerror}") from error


def kept(path: Path) -> Path:
    """Where the old header is while the new one is being written."""
    return path.with_name(f"{path.name}.header")


def _replace_header(change: Change, file: int) -> None:
    aside = kept(change.path)
    whole = places.begin(aside)
    try:
        places.put(whole, change.old, 0)
        os.fsync(whole)
    finally:
        os.close(whole)
    places.rename([aside])
    _put(file, change.new)
    aside.unlink()


def _put(file: int, head: bytes) -> None:
    places.put(file, head, 0)
    os.fsync(file)


def _copy(change: Change, old: int, progress: Progress | None) -> None:
    path = change.path
    new = places.begin(path)
    try:
        places.put(new, change.new, 0)
        first = at = len(change.old)
        end = os.fstat(old).st_size
        os.lseek(new, len(change.new), os.SEEK_SET)
        while at < end:
            n = _move(old, new, at, min(_COPY, end - at))
            if n == 0:
                raise OSError(errno.EIO, "ended while it was being copied")
            at += n
            if progress is not None:
                progress(path.name, at - first, end - first)
        os.fchmod(new, os.fstat(old).st_mode & 0o7777)
        os.fsync(new)
        places.rename([path])
    except BaseException:
        places.unfinished(path).unlink(missing_ok=True)
        raise
    finally:
        os.close(new)


def _move(old: int, new: int, at: int, n: int) -> int:
    """Copy within the kernel; between file systems that cannot, by hand."""
    try:
        return os.copy_file_range(old, new, n, offset_src=at)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (
            errno.EXDEV,
            errno.EINVAL,
            errno.ENOSYS,
            errno.EOPNOTSUPP,
        ):
            raise
    data = os.pread(old, min(n, 1 << 22), at)
    return os.write(new, data)
