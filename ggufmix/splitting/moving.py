"""`split` and `merge`: the bytes of tensors, from files to files."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .. import checksums, writing
from ..errors import SourceError, UsageError
from ..sources import GgufFile, GgufTensor, open_gguf
from ..writing import Extent, Made, Nothing, Part, Piece, Sums
from .dividing import Division, Item, Limits, divide, joined, whole

BAND_BYTES = 8 << 20
"""That are copied at once."""


@dataclass(frozen=True, slots=True)
class Moving:
    """The job of one tensor: `offset` in the file that is part number `part` of the output."""

    tensor: GgufTensor
    offset: int
    part: int

    @property
    def name(self) -> str:
        """GGUF name."""
        return self.tensor.name

    @property
    def source_bytes(self) -> int:
        """Bytes of its data."""
        return self.tensor.n_rows * self.tensor.row_bytes

    @property
    def n_rows(self) -> int:
        """Rows of all matrices."""
        return self.tensor.n_rows

    @property
    def extents(self) -> tuple[Extent]:
        """Its place."""
        return (Extent(self.offset, self.source_bytes, self.part),)

    def bands(self) -> Iterator[tuple[int, int]]:
        """Some rows each."""
        step = max(1, BAND_BYTES // self.tensor.row_bytes)
        for start in range(0, self.n_rows, step):
            yield start, min(start + step, self.n_rows)

    def make(self, start: int, stop: int) -> Made[Nothing]:
        """Rows start..stop as they are."""
        raw = self.tensor.raw(start, stop)
        return Made((Piece(0, start * self.tensor.row_bytes, raw.data.cast("B")),), Nothing())


def split(
    src: str | os.PathLike[str],
    limits: Limits,
    out: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    overwrite: bool = False,
    progress: writing.Progress | None = None,
) -> list[Path]:
    """Write a GGUF file as several, without encoding anything.

    out  what the names of the parts begin with; by default the name of `src`, beside it
    Returns the paths of the parts. Raises the errors of `open_gguf` and `writing.write`;
    SourceError where a tensor is not what its checksum in the file says.
    """
    begin = Path(out) if out is not None else Path(src)
    with open_gguf(src) as file:
        divisions = divide(begin, file.values, _items(file), limits)
        _move(file, divisions, threads, progress, overwrite=overwrite)
    return [division.path for division in divisions]


def merge(
    first: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    threads: int | None = None,
    overwrite: bool = False,
    progress: writing.Progress | None = None,
) -> Path:
    """Write the parts of a GGUF file as one, without encoding anything: the bytes that the file
    would have had if it had never been split.

    first  any of the parts; the others lie beside it
    Raises as `split`, and UsageError where the file has no parts.
    """
    with open_gguf(first) as file:
        if "split.count" not in file.values:
            raise UsageError(f"{first}: is whole already: expected a part of a split file")
        division = whole(Path(out), joined(file.values), _items(file))
        _move(file, [division], threads, progress, overwrite=overwrite)
    return division.path


def _items(file: GgufFile) -> list[Item]:
    return [
        Item(t.name, t.shape[::-1] or (1,), t.kind.id, t.n_rows * t.row_bytes)
        for t in file.tensors.values()
    ]


def _move(
    file: GgufFile,
    divisions: Sequence[Division],
    threads: int | None,
    progress: writing.Progress | None,
    *,
    overwrite: bool,
) -> None:
    for name in file.broken_seals():
        raise SourceError(
            f"{name}: its header is not what its checksum says: damaged, or edited by another "
            "program",
            hint=f"if it was edited: ggufmix meta {name} --remove-kv {checksums.HEADER}",
        )
    for division in divisions:
        for source in file.files:
            if source.path is None or not division.path.exists():
                continue
            if source.path.samefile(division.path):
                raise UsageError(
                    f"{division.path}: expected another file than the source",
                    hint="give another name with -o",
                )
    known = file.numbers(checksums.TENSORS) or {}

    def sealed(division: Division, sums: Sums, _: Mapping[str, Nothing]) -> bytes:
        _compare(file.where, known, sums)
        return checksums.sealed(division.header, division.values)

    writing.write(
        [Part(d.path, d.header, d.size, partial(sealed, d)) for d in divisions],
        [
            Moving(file.tensors[item.name], offset, number)
            for number, division in enumerate(divisions)
            for item, offset in zip(division.items, division.offsets, strict=True)
        ],
        threads=writing.thread_count(threads),
        overwrite=overwrite,
        progress=progress,
    )


def _compare(where: str, stated: Mapping[str, int], sums: Sums) -> None:
    for name, want in stated.items():
        if sums[name][0] != want:
            raise checksums.damaged(where, name, want, sums[name][0])
