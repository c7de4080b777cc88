"""A GGUF file read as it lies: its tensors in bands, what its checksums say, what lies between.

Checksums: see ggufmix/checksums.py. Only files on this machine.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import checksums
from ..codecs import FORMATS
from ..container import Header, TensorInfo, Value, aligned, header
from ..errors import ModelError, UsageError
from ..sources import GgufTensor
from ..sources.gguf_file import number_of, part_missing, part_names, read_checked
from ..sources.storage import Bytes, LocalFolder, shown
from ..writing import Extent, Made, Nothing, Piece

BAND_BYTES = 4 << 20
"""That are read at once."""
MOST_SHOWN = 8
"""Tensors with another checksum that are named one by one."""


@dataclass(frozen=True)
class Part:
    """One file: of a split set one part.

    header  as it was understood
    raw     as it lies: the bytes in front of the tensor data, padding included
    """

    data: Bytes
    header: Header
    raw: bytes

    @property
    def name(self) -> str:
        """Of the file, for messages."""
        return self.data.name


@contextmanager
def parts_of(path: Path) -> Iterator[list[Part]]:
    """Every part of a file, in order, open as long as the block lasts. Raises UsageError and
    SourceError.
    """
    if not path.is_file():
        raise UsageError(f"{shown(str(path))}: expected a GGUF file, there is none")
    folder = LocalFolder(path.parent)
    try:
        yield _parts(folder, path)
    finally:
        folder.close()


def _parts(folder: LocalFolder, path: Path) -> list[Part]:
    first = _part(folder, path.name)
    count = number_of(first.header.values, "split.count", first.name, 1)
    if count <= 1:
        return [first]
    names = part_names(path.name, count)
    lost = next((name for name in names if not folder.has(name)), None)
    if lost is not None:
        raise part_missing(lost, count)
    return [_part(folder, name) for name in names]


def _part(folder: LocalFolder, name: str) -> Part:
    data = folder.open(name)
    found = read_checked(data)
    return Part(data, found, data.read(0, min(found.data_at, data.size)))


def stated_sums(parts: Sequence[Part]) -> dict[str, int] | None:
    """The checksums that a file carries of its tensors, by name; None where it has none, or not as
    many as tensors.
    """
    stated = parts[0].header.values.get(checksums.TENSORS)
    names = [info.name for part in parts for info in part.header.tensors]
    if stated is None or not isinstance(stated.data, list) or len(stated.data) != len(names):
        return None
    return dict(zip(names, stated.data, strict=True))


def is_sealed(part: Part) -> bool:
    """Whether a part carries a checksum of its header."""
    stated = part.header.values.get(checksums.HEADER)
    return stated is not None and isinstance(stated.data, int)


def seal_broken(part: Part) -> bool:
    """Whether the header of a part is not what the checksum says that it carries."""
    values = part.header.values
    return is_sealed(part) and bool(
        checksums.of_header(part.raw, values) != values[checksums.HEADER].data
    )


def written_otherwise(part: Part) -> bool:
    """Whether the header's bytes are not those that its content is written as."""
    values: Mapping[str, Value] = part.header.values
    try:
        again = header(values, part.header.tensors, part.header.alignment)
    except (ModelError, TypeError, AttributeError):
        return True
    return again != part.raw


def strays(part: Part) -> Iterator[str]:
    """Sentences on bytes that are not zero where nothing should be, and on bytes behind the end."""
    at, before = part.header.data_at, "the header"
    for info in sorted(part.header.tensors, key=lambda i: i.offset):
        start = part.header.data_at + info.offset
        yield from _nonzero(part, at, start, before)
        at, before = start + _size(info), shown(info.name)
    end = aligned(at, part.header.alignment)
    yield from _nonzero(part, at, min(end, part.data.size), before)
    if part.data.size > end:
        more = part.data.size - end
        yield f"{part.name}: {more} bytes follow the last tensor, expected the end of the file"


def _nonzero(part: Part, start: int, stop: int, before: str) -> Iterator[str]:
    for at in range(start, stop, BAND_BYTES):
        found = part.data.read(at, min(BAND_BYTES, stop - at))
        if found.strip(b"\0"):
            where = at + len(found) - len(found.lstrip(b"\0"))
            yield f"{part.name}: byte {where}, padding behind {before}: expected 0"
            return


def _size(info: TensorInfo) -> int:
    n, kind = 1, FORMATS[info.type.name]
    for dim in info.shape:
        n *= dim
    return n // kind.values * kind.bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """A job that reads one tensor; the runner takes its checksum."""

    stored: GgufTensor

    @property
    def name(self) -> str:
        """GGUF name."""
        return self.stored.name

    @property
    def source_bytes(self) -> int:
        """Bytes of the tensor."""
        return self.stored.n_rows * self.stored.row_bytes

    @property
    def n_rows(self) -> int:
        """Rows of all matrices."""
        return self.stored.n_rows

    @property
    def extents(self) -> tuple[Extent]:
        """The tensor."""
        return (Extent(0, self.source_bytes),)

    def bands(self) -> Iterator[tuple[int, int]]:
        """Of about BAND_BYTES."""
        step = max(1, BAND_BYTES // max(self.stored.row_bytes, 1))
        for start in range(0, self.n_rows, step):
            yield start, min(start + step, self.n_rows)

    def make(self, start: int, stop: int) -> Made[Nothing]:
        """The bytes of rows start..stop."""
        raw = self.stored.raw(start, stop)
        return Made((piece(self.stored, start, raw),), Nothing())


def piece(stored: GgufTensor, start: int, raw: Any) -> Piece:
    """The bytes of a band from row `start` on, in the tensor."""
    return Piece(0, start * stored.row_bytes, raw.data.cast("B"))


def sum_problems(found: Mapping[str, int], stated: Mapping[str, int]) -> Iterator[str]:
    """Sentences on tensors whose bytes are not those that the file's checksums say."""
    damaged = [name for name, n in found.items() if n != stated[name]]
    for name in damaged[:MOST_SHOWN]:
        yield f"{shown(name)}: its bytes are not those its checksum says: damaged"
    if damaged[MOST_SHOWN:]:
        yield f"and {len(damaged) - MOST_SHOWN} more tensors: damaged"
