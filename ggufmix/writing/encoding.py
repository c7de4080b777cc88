"""Jobs of GGUF plans: rows of one tensor as blocks of the types that it has in the files."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import checksums, int4
from ..codecs import Encoded, decode, encode_band
from ..errors import (
    ImportanceError,
    NotFiniteError,
    OutlierError,
    SourceError,
    ValueAtError,
)
from ..measures import Measures, measure
from ..planning import Planned
from ..profiling import phase
from ..tensor import DTYPE_NAMES, Tensor
from . import origins
from .jobs import Extent, F, Made, Piece, Share

BAND_BYTES = 2 << 20
"""Source bytes of a band: large enough that Python is not felt, small enough for the caches and for
hundreds in flight.
"""

NOT_MEASURED = Measures()

_HINTS: dict[type[ValueAtError], str] = {
    NotFiniteError: "the checkpoint is damaged, or was saved from a run that had diverged",
    OutlierError: "--on-outlier bf16 writes such tensors in BF16",
}

E = TypeVar("E", bound=ValueAtError)


@dataclass(frozen=True, slots=True)
class Counts:
    """What was found in bands of a tensor.

    flushed    blocks whose scale went to zero
    wiped      blocks in which one value drowned all others
    groups     of 32, that Q4_X wrote; `recovered` of them lie on an INT4 lattice
    source     number of what they were made from, when all bands are seen; `method` of what with:
               see `origins`
    measures   of the source's values and what they were written as, where that was asked for; of
               blocks that are moved exactly only how many values they have
    """

    flushed: int = 0
    wiped: int = 0
    recovered: int = 0
    groups: int = 0
    measures: Measures = NOT_MEASURED
    source: int = 0
    method: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Both; `other` comes after."""
        return Counts(
            self.flushed + other.flushed,
            self.wiped + other.wiped,
            self.recovered + other.recovered,
            self.groups + other.groups,
            self.measures + other.measures,
            method=(self.method + other.method) % origins.MODULO,
        )


@dataclass(frozen=True, slots=True)
class Each(Generic[F]):
    """What was found for each target of a tensor, in their order."""

    of: tuple[F, ...]

    def __add__(self, other: Each[F]) -> Each[F]:
        """Both; `other` comes after."""
        return Each(tuple(a + b for a, b in zip(self.of, other.of, strict=True)))


@dataclass(frozen=True, slots=True)
class Target:
    """What a tensor becomes in one file, and where.

    ready  another file that has the same data: they are copied
    """

    planned: Planned
    extent: Extent
    ready: origins.Ready | None = None


@dataclass(frozen=True, slots=True)
class Encoding:
    """The job of one tensor: its rows are read once, and encoded once for all targets that want the
    same.

    name       GGUF name; with a number behind it where the source has a second form of that name
    targets    of one and the same tensor
    measuring  what is written is decoded again and measured, band by band
    """

    name: str
    targets: tuple[Target, ...]
    measuring: bool = False

    @property
    def tensor(self) -> Tensor:
        """That is read."""
        return self.targets[0].planned.placed.tensor

    @property
    def source_bytes(self) -> int:
        """Bytes of the rows that it is made from."""
        return self.targets[0].planned.source_bytes

    @property
    def n_rows(self) -> int:
        """Rows of all matrices."""
        return self.tensor.n_rows

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The tensor's places."""
        return tuple(target.extent for target in self.targets)

    @property
    def kinds(self) -> list[tuple[Planned, list[int]]]:
        """What has to be encoded, with the numbers of the targets that it is for."""
        found: dict[tuple[str, str | None], tuple[Planned, list[int]]] = {}
        for number, target in enumerate(self.targets):
            planned = target.planned
            entry = planned.importance.name if planned.importance is not None else None
            found.setdefault((planned.encoder.name, entry), (planned, []))[1].append(number)
        return list(found.values())

    def bands(self) -> Iterator[tuple[int, int]]:
        """Those of the tensor."""
        return bands_of(self.tensor)

    def memory(self, start: int, stop: int) -> int:
        """Bytes of the values, of a copy where a transform makes one, of the blocks in the source
        and of those that are made, of what these are decoded to, and of one row in float32, which
        encoders work on.
        """
        tensor = self.tensor
        copies = 2 if tensor.unit > 1 else 1
        row = tensor.cols * (copies * tensor.dtype.itemsize + 4 * self.measuring)
        blocks = sum(planned.row_bytes for planned, _ in self.kinds)
        if tensor.format is not None:
            blocks += tensor.format.row_bytes(tensor.cols)
        return (stop - start) * (row + blocks) + 4 * tensor.cols

    def make(self, start: int, stop: int) -> Made[Each[Counts]]:
        """Rows start..stop as blocks."""
        rows = Rows(self.tensor, start, stop)
        pieces: list[Piece] = []
        found = [Counts()] * len(self.targets)
        first = not start % self.tensor.matrix_rows
        for planned, numbers in self.kinds:
            ready = self.targets[numbers[0]].ready
            if ready is not None:
                blocks, counts = _taken(planned, ready, rows, measuring=self.measuring)
            else:
                blocks, counts = encoded(planned, rows, measuring=self.measuring)
                if first:
                    matrix = start // self.tensor.matrix_rows
                    counts = replace(counts, method=origins.method(planned, matrix))
            for number in numbers:
                at = start * planned.row_bytes
                pieces.append(Piece(number, at, blocks.data.cast("B")))
                found[number] = counts
        taken = [rows.shares(stored=stored) for stored in self._takes]
        return Made(pieces, Each(tuple(found)), taken, rows.stored if self._doubts else None)

    @property
    def _doubts(self) -> bool:
        """The source says a checksum, and the sums of what is written do not tell it."""
        made = [t.planned for t in self.targets if t.ready is None]
        return (
            self.tensor.checksum is not None and bool(made) and not any(p.unchanged for p in made)
        )

    def check_read(self, checksum: int) -> None:
        """Raise SourceError where the source's rows are not what its own checksum says."""
        if self.tensor.checksum not in (None, checksum):
            raise self._damaged(checksum)

    def _damaged(self, found: int) -> SourceError:
        tensor = self.tensor
        return checksums.damaged(tensor.file, tensor.name, tensor.checksum or 0, found)

    @property
    def _takes(self) -> list[bool]:
        """What is hashed: values (False), blocks as they are stored (True), or both."""
        return list(
            dict.fromkeys(origins.moves(t.planned) for t in self.targets if t.ready is None)
        )

    def concluded(
        self, found: Each[Counts], sums: tuple[int, ...], taken: tuple[int, ...]
    ) -> Each[Counts]:
        """What was found, with numbers of the source.

        Raises SourceError where data that were ready are not those they were to be, or data that
        stay as they are stored are not what the source's own checksum says.
        """
        self._check(sums)
        source_of = dict(zip(self._takes, taken, strict=True))
        return Each(
            tuple(
                replace(counts, source=source_of[origins.moves(target.planned)])
                if target.ready is None
                else replace(counts, source=target.ready.source, method=target.ready.method)
                for target, counts in zip(self.targets, found.of, strict=True)
            )
        )

    def _check(self, sums: tuple[int, ...]) -> None:
        stated = self.tensor.checksum
        for target, got in zip(self.targets, sums, strict=True):
            if stated not in (None, got) and target.planned.unchanged and target.ready is None:
                raise self._damaged(got)
            if target.ready is not None and target.ready.sum != got:
                raise SourceError(
                    f"{target.ready.where}: {target.planned.name}: changed while it was copied: "
                    f"expected XXH64 {target.ready.sum:016x}, got {got:016x}",
                    hint="without --reuse, or with it once more, nothing of it is taken unseen",
                )


def bands_of(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Bands of about BAND_BYTES, in units of the tensor, that cross no matrix."""
    step = origins.step(tensor, BAND_BYTES)
    for matrix in range(0, tensor.n_rows, tensor.matrix_rows):
        end = matrix + tensor.matrix_rows
        for start in range(matrix, end, step):
            yield start, min(start + step, end)


class Rows:
    """A band of a tensor, read when it is asked for, and once."""

    def __init__(self, tensor: Tensor, start: int, stop: int) -> None:
        self.tensor, self.start, self.stop = tensor, start, stop
        self._values: NDArray[Any] | None = None
        self._blocks: NDArray[np.uint8] | None = None

    @property
    def values(self) -> NDArray[Any]:
        """Of a dtype that `encode_band` takes, (rows, cols)."""
        tensor = self.tensor
        if self._values is None and tensor.checksum is not None and tensor.format is not None:
            blocks = self.blocks  # which are hashed, too
            with phase("transforming"):
                self._values = decode(blocks, tensor.format)
        elif self._values is None:
            with phase("transforming"):
                self._values = tensor.rows(self.start, self.stop)
        return self._values

    @property
    def blocks(self) -> NDArray[np.uint8]:
        """As they are stored."""
        if self._blocks is None:
            with phase("transforming"):
                self._blocks = self.tensor.blocks(self.start, self.stop)
        return self._blocks

    @property
    def stored(self) -> memoryview:
        """Their bytes as they are stored, of a tensor with a checksum."""
        return self._whole(stored=self.tensor.format is not None).view(np.uint8).data

    def shares(self, *, stored: bool) -> list[Share]:
        """What they have of the groups that are hashed, of blocks or of values."""
        with phase("hashing"):
            return origins.shares(self.tensor, self._whole(stored=stored), self.start)

    def _whole(self, *, stored: bool) -> NDArray[Any]:
        return np.ascontiguousarray(self.blocks if stored else self.values)

    def first(self) -> Rows:
        """The first of them, read with the others."""
        one = Rows(self.tensor, self.start, self.start + 1)
        one._values = self.values[:1]
        return one


def encoded(
    planned: Planned, rows: Rows, *, measuring: bool = False
) -> tuple[NDArray[np.uint8], Counts]:
    """A band in the type that is planned, uint8 (rows, row bytes), and what was found."""
    tensor, importance = rows.tensor, planned.importance
    if planned.copied:
        same = Measures((rows.stop - rows.start) * tensor.cols if measuring else 0)
        return np.ascontiguousarray(rows.blocks), Counts(measures=same)
    if planned.widened:
        return _widened(planned, rows, measuring=measuring)
    vector = importance.vector(rows.start // tensor.matrix_rows) if importance is not None else None
    try:
        values = rows.values
        with phase("encoding"):
            band: Encoded = encode_band(values, planned.encoder, vector)
    except (NotFiniteError, OutlierError) as error:
        raise _placed(error, planned, rows.start + error.row) from error
    except ImportanceError as error:
        raise ImportanceError(f"{planned.name}: {error}", hint=error.hint) from error
    found = Counts(band.flushed, band.wiped)
    if planned.encoder.name == "Q4_X":
        with phase("measuring"):
            recovered = int4.recover(values, band.blocks)
        found = replace(found, recovered=recovered, groups=values.size // 32)
    if measuring:
        found = replace(found, measures=_measured(planned, rows, band.blocks))
    return band.blocks, found


def _measured(planned: Planned, rows: Rows, blocks: NDArray[np.uint8]) -> Measures:
    values = rows.values
    with phase("measuring"):
        return measure(values, decode(blocks, planned.encoder.format), row=rows.start)


def _taken(
    planned: Planned, ready: origins.Ready, rows: Rows, *, measuring: bool
) -> tuple[NDArray[np.uint8], Counts]:
    """A band as another file has it."""
    blocks = ready.stored.raw(rows.start, rows.stop)
    return blocks, Counts(measures=_measured(planned, rows, blocks)) if measuring else Counts()


def _widened(planned: Planned, rows: Rows, *, measuring: bool) -> tuple[NDArray[np.uint8], Counts]:
    """A band whose codes and scales go into blocks of another format."""
    blocks, stored = rows.blocks, rows.tensor.format
    assert stored is not None
    try:
        with phase("transforming"):
            made, rounded, flushed = int4.widen(blocks, stored)
    except OutlierError as error:
        raise _placed(error, planned, rows.start + error.row) from error
    found = Counts(flushed)
    if measuring and rounded:
        found = replace(found, measures=_measured(planned, rows, made))
    elif measuring:
        n_values = (rows.stop - rows.start) * rows.tensor.cols
        found = replace(found, measures=Measures(n_values))
    return made, found


def _placed(error: E, planned: Planned, row: int) -> E:
    """The error with the place where the tensor and the source have the value."""
    tensor = planned.placed.tensor
    origin = tensor.origin(row)
    where = f"{origin.file}: {origin.name}" if origin.file else origin.name
    return type(error)(
        f"{planned.name}: row {row}, column {error.column}: {error} "
        f"(from {where}, {tensor.format or DTYPE_NAMES[tensor.dtype]})",
        row=row,
        column=error.column,
        hint=_HINTS[type(error)],
    )


def encodings(targets: Iterable[Target], *, measuring: bool = False) -> list[Encoding]:
    """The jobs that fill targets, in the order in which tensors come first: one for each tensor."""
    groups: dict[tuple[str, int], list[Target]] = {}
    for target in targets:
        key = target.planned.name, id(target.planned.placed.tensor)
        groups.setdefault(key, []).append(target)
    forms: Counter[str] = Counter()
    jobs = []
    for (name, _), group in groups.items():
        forms[name] += 1
        own = name if forms[name] == 1 else f"{name} #{forms[name]}"
        jobs.append(Encoding(own, tuple(group), measuring))
    return jobs


def by_part(jobs: Iterable[Encoding], found: Mapping[str, Each[F]]) -> dict[int, dict[str, F]]:
    """What was found, by the number of the part and by the name of the tensor."""
    parts: dict[int, dict[str, F]] = defaultdict(dict)
    for job in jobs:
        if job.name in found:  # not so where it has no rows
            for target, item in zip(job.targets, found[job.name].of, strict=True):
                parts[target.extent.part][target.planned.name] = item
    return parts
