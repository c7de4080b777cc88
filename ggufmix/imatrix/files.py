"""One imatrix file: which entries it holds and where their values lie. Nothing large is read.

GGUF (llama.cpp tools/imatrix/imatrix.cpp): keys `imatrix.datasets`, `imatrix.chunk_count` and
`imatrix.chunk_size`; for each weight two F32 tensors, `NAME.in_sum2` [cols, matrices], sums of
squared inputs, and `NAME.counts` [1, matrices], how many tokens they are of.

Legacy (same file, and ik_llama.cpp), little-endian: i32 entries; each i32 length, name, i32 calls,
i32 values, f32 values (means times calls); then, in newer ones, i32 chunks, i32 length, dataset.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from ..container import MAGIC, Header, TensorInfo, read_header
from ..errors import SourceError, UsageError

MAX_NAME = 1024  # bytes; ggml itself ends at 63
MAX_COUNT = float(1 << 53)
MAX_CHUNK = 1 << 24
SUMS, COUNTS = ".in_sum2", ".counts"
MAXIMA = ".in_max"
"""Ending of the largest magnitudes, which ggufmix alone writes; llama.cpp's reader
(common/imatrix-loader.cpp) passes over tensors with other endings than its two.
"""
KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """An entry as one file holds it.

    at      where its float32 values start in the file, in bytes
    n       how many values there are
    counts  int64, (1,) or (matrices,): tokens; of a legacy file (1,): calls
    legacy  the values are means times calls, not sums
    maxima_at  where as many largest magnitudes start, or None where there are none
    """

    path: Path
    at: int
    n: int
    counts: NDArray[np.int64]
    legacy: bool
    maxima_at: int | None = None

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Values start..stop as stored. Raises SourceError where the file has changed."""
        return self._read(self.at, start, stop)

    def read_maxima(self, start: int, stop: int) -> NDArray[np.float32]:
        """Largest magnitudes, likewise. Not to be called where there are none."""
        assert self.maxima_at is not None
        return self._read(self.maxima_at, start, stop)

    def _read(self, at: int, start: int, stop: int) -> NDArray[np.float32]:
        try:
            values = np.fromfile(self.path, "<f4", stop - start, offset=at + 4 * start)
        except OSError as error:
            raise SourceError(f"{self.path}: {error.strerror}") from error
        if len(values) != stop - start:
            raise SourceError(f"{self.path}: became shorter since it was opened")
        return values.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class File:
    """What an imatrix file says of itself. `chunk_size` is 0 where it is not said (legacy)."""

    path: Path
    legacy: bool
    entries: dict[str, Piece]
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int


def index(path: Path) -> File:
    """The index of an imatrix file of either format, told apart by the magic.

    Raises UsageError where there is no such file; SourceError with the file and the entry for one
    that is truncated, contradicts itself, or is no imatrix.
    """
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise UsageError(f"{path}: expected an imatrix file; {what}")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            is_gguf = file.read(len(MAGIC)) == MAGIC
            file.seek(0)
            return _gguf(path, file, size) if is_gguf else _Legacy(path, file, size).index()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error


def _gguf(path: Path, file: BinaryIO, size: int) -> File:
    head = read_header(file, size, str(path))
    tensors = {info.name: info for info in head.tensors}
    names = [n.removesuffix(SUMS) for n in tensors if n.endswith(SUMS)]
    orphans = [n for n in tensors if n.endswith(COUNTS) and n.removesuffix(COUNTS) not in names]
    if orphans:
        raise SourceError(f"{path}: {orphans[0]} has no {SUMS} beside it")
    if not names:
        raise SourceError(
            f"{path}: holds no importance matrix",
            hint="llama-imatrix computes one" if "general.architecture" in head.values else None,
        )
    for key in KEYS:
        if key not in head.values:
            raise SourceError(f"{path}: {key} is missing", hint="llama-quantize refuses it too")
    datasets = head.values[KEYS[0]]
    if datasets.item is not GGUFValueType.STRING:
        raise SourceError(f"{path}: {KEYS[0]}: expected an array of strings")
    entries = {}
    for name in names:
        if name + COUNTS not in tensors:
            raise SourceError(f"{path}: {name}{SUMS} has no {COUNTS} beside it")
        at, n = _place(path, head, tensors[name + SUMS], size)
        counts = _counts(path, file, name, *_place(path, head, tensors[name + COUNTS], size))
        if n % len(counts):
            raise SourceError(
                f"{path}: {name}: {n} values do not divide into {len(counts)} matrices"
            )
        maxima_at = None
        if name + MAXIMA in tensors:
            maxima_at, many = _place(path, head, tensors[name + MAXIMA], size)
            if many != n:
                raise SourceError(f"{path}: {name}: {n} values, {many} of {MAXIMA}")
        entries[name] = Piece(path, at, n, counts, legacy=False, maxima_at=maxima_at)
    texts = (d.decode(errors="replace") if isinstance(d, bytes) else d for d in datasets.data)
    chunk_size = _u32(path, head, KEYS[2])
    if chunk_size > MAX_CHUNK:
        raise SourceError(f"{path}: {KEYS[2]}: chunks of {chunk_size} tokens cannot be")
    return File(path, False, entries, tuple(texts), _u32(path, head, KEYS[1]), chunk_size)


def _u32(path: Path, head: Header, key: str) -> int:
    value = head.values[key]
    if value.type is not GGUFValueType.UINT32:
        raise SourceError(f"{path}: {key}: expected UINT32, got {value.type.name}")
    return int(value.data)


def _place(path: Path, head: Header, info: TensorInfo, size: int) -> tuple[int, int]:
    if info.type is not GGMLQuantizationType.F32:
        raise SourceError(f"{path}: {info.name}: expected F32, got {info.type.name}")
    n = 1
    for dim in info.shape:
        n *= dim
    at = head.data_at + info.offset
    if n < 1:
        raise SourceError(f"{path}: {info.name} is empty")
    if at + 4 * n > size:
        raise SourceError(
            f"{path}: truncated: {info.name} needs {4 * n} bytes at {at}, the file has {size}"
        )
    return at, n


def _counts(path: Path, file: BinaryIO, name: str, at: int, n: int) -> NDArray[np.int64]:
    file.seek(at)
    raw = np.frombuffer(file.read(4 * n), "<f4").astype(np.float64)
    if not ((raw >= 0) & (raw < MAX_COUNT)).all():
        wrong = int(np.flatnonzero(~((raw >= 0) & (raw < MAX_COUNT)))[0])
        raise SourceError(
            f"{path}: {name}: expected counts of tokens, got {raw[wrong]:g} for matrix {wrong}"
        )
    return np.floor(raw + 0.5).astype(np.int64)


class _Legacy:
    """Reads the old format from front to back, past the values. Every length is held against the
    bytes that are left.
    """

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size, self.at = path, file, size, 0

    def index(self) -> File:
        n_entries = self.number("the number of entries")
        if n_entries < 1 or n_entries > self.size // 17:  # an entry is 17 bytes or more
            raise SourceError(
                f"{self.path}: {n_entries} entries cannot be in {self.size} bytes",
                hint="this is no imatrix, neither GGUF nor legacy",
            )
        entries: dict[str, Piece] = {}
        for number in range(n_entries):
            name = self.text(f"the name of entry {number}")
            if name in entries:
                raise SourceError(f"{self.path}: entry {name} appears twice")
            calls = self.number(f"{name}: calls")
            n = self.number(f"{name}: the number of values")
            if calls < 0 or n < 1:
                raise SourceError(f"{self.path}: {name}: {n} values of {calls} calls")
            entries[name] = Piece(self.path, self.at, n, np.array([calls], np.int64), legacy=True)
            self.skip(4 * n, f"{name}: {n} values")
        chunks = self.number("the number of chunks") if self.at < self.size else 0
        dataset = self.text("the dataset", least=0) if self.at < self.size else ""
        return File(self.path, True, entries, (dataset,) if dataset else (), chunks, 0)

    def number(self, what: str) -> int:
        return int(struct.unpack("<i", self.take(4, what))[0])

    def text(self, what: str, least: int = 1) -> str:
        n = self.number(f"the length of {what}")
        if not least <= n <= MAX_NAME * (4 if least == 0 else 1):
            raise SourceError(f"{self.path}: {what}: {n} bytes cannot be")
        raw = self.take(n, what)
        try:
            found = raw.decode()
        except UnicodeDecodeError:
            found = "\0"
        if "\0" in found:
            if least == 0:  # a path in another encoding harms nobody
                return raw.decode(errors="replace").replace("\0", "")
            raise SourceError(
                f"{self.path}: {what}: {raw[:40]!r} is no name",
                hint="this is no imatrix, neither GGUF nor legacy",
            )
        return found

    def take(self, n: int, what: str) -> bytes:
        self.fits(n, what)
        data = self.file.read(n)
        self.at += n
        return data

    def skip(self, n: int, what: str) -> None:
        self.fits(n, what)
        self.at += n
        self.file.seek(self.at)

    def fits(self, n: int, what: str) -> None:
        if n > self.size - self.at:
            raise SourceError(
                f"{self.path}: truncated: {what} needs {n} bytes at {self.at}, "
                f"the file has {self.size}"
            )
