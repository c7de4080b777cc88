"""An importance matrix as llama-quantize sees it: entries by tensor name, out of one file or of
several merged ones.

Arithmetic is float32 in llama.cpp's order (tools/quantize/quantize.cpp for the values,
tools/imatrix/imatrix.cpp for merging): files are added in the order given, then divided.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..container import Value, text, u32
from ..errors import ImportanceError, UsageError
from .files import File, Piece, index

CHUNK_SIZE = 512
"""Tokens of a chunk where no file says it: llama-imatrix's default context."""

_MAX_TEXT = 127  # bytes that llama-quantize keeps of a string


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """What was measured for one tensor.

    pieces      where it lies, one for each file that has it
    n_values    values over all matrices
    counts      int64, (1,) or (matrices,): tokens that the sums are of; each holds for
                n_values / len(counts) values. Of one legacy file alone: its number of calls
    chunk_size  tokens of a chunk, by which legacy values become sums
    as_is       the only file is a legacy one: its means are used as they are
    """

    name: str
    pieces: tuple[Piece, ...]
    n_values: int
    counts: NDArray[np.int64]
    chunk_size: int
    as_is: bool

    def sums(self, start: int, stop: int) -> NDArray[np.float32]:
        """Sums of squared inputs, float32, of the values start..stop, over all files."""
        total: NDArray[np.float32] | None = None
        with np.errstate(all="ignore"):  # what is not finite is found by `examine`
            for piece in self.pieces:
                part = piece.read(start, stop)
                if piece.legacy:
                    part = part * np.float32(self.chunk_size)
                total = part if total is None else total + part
        assert total is not None
        return total

    @property
    def has_maxima(self) -> bool:
        """Whether every file has largest magnitudes beside the sums."""
        return all(piece.maxima_at is not None for piece in self.pieces)

    def maxima(self, start: int, stop: int) -> NDArray[np.float32]:
        """Largest magnitudes of inputs, float32, of the values start..stop, over all files. Not to
        be called where there are none.
        """
        every = [piece.read_maxima(start, stop) for piece in self.pieces]
        largest: NDArray[np.float32] = np.maximum.reduce(every)
        return largest

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        """Importance, float32, of the values start..stop: the mean squared input of a column, ones
        for a matrix that no token reached.
        """
        with np.errstate(all="ignore"):
            if self.as_is:
                raw, calls = self.pieces[0].read(start, stop), self.counts[0]
                return raw / np.float32(calls) if calls > 0 else raw
            each = self.n_values // len(self.counts)
            first, last = start // each, (stop - 1) // each
            counts = self.counts[first : last + 1]
            if first < last:
                counts = np.repeat(counts, each)[start - first * each : stop - first * each]
            mean = self.sums(start, stop) / np.maximum(counts, 1).astype(np.float32)
            return np.where(counts > 0, mean, np.float32(1))

    @property
    def tokens(self) -> NDArray[np.int64]:
        """`counts` in tokens, those of a legacy file estimated from its calls."""
        return self.counts * self.chunk_size if self.as_is else self.counts


@dataclass(frozen=True, slots=True, eq=False)
class Imatrix:
    """One importance matrix.

    files        what it was read from, in order
    entries      by tensor name, in the order of the bytes of the names
    datasets     texts it was computed on, as the files name them
    chunk_count  chunks it was computed on, 0 where that is not known
    chunk_size   tokens of a chunk
    include      entries with one of these in their names are used, all where there are none
    exclude      entries with one of these in their names are not
    idle         those of both that no entry's name holds
    """

    files: tuple[File, ...]
    entries: Mapping[str, Entry]
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()

    def chosen(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Imatrix:
        """The entries that are to be used, as llama-quantize's `--include-weights` and
        `--exclude-weights` choose them. Raises UsageError for both, and where none is left.
        """
        if include and exclude:
            raise UsageError("--include-weights and --exclude-weights: expected one, got both")
        idle = tuple(w for w in (*include, *exclude) if not any(w in name for name in self.entries))
        made = replace(self, include=tuple(include), exclude=tuple(exclude), idle=idle)
        kept = {name: entry for name, entry in self.entries.items() if not made.leaves_out(name)}
        if not kept:
            flag = "--include-weights" if include else "--exclude-weights"
            raise UsageError(
                f"{flag} {', '.join(include or exclude)}: leaves no entry of {self.name}",
                hint="they are parts of names, such as ffn_down; `ggufmix imatrix FILE` lists them",
            )
        return replace(made, entries=kept)

    def leaves_out(self, name: str) -> bool:
        """Whether a tensor of this name is to go without importance."""
        wanted = not self.include or any(word in name for word in self.include)
        return not wanted or any(word in name for word in self.exclude)

    def renamed(self, name: Callable[[str], str | None]) -> Imatrix:
        """The same under other names; entries for which there is none are left out."""
        entries = {
            new: replace(entry, name=new)
            for old, entry in self.entries.items()
            if (new := name(old)) is not None
        }
        return replace(self, entries=entries)

    @property
    def last_chunk(self) -> int:
        """Chunks by the largest count, as llama-imatrix reckons them when it writes."""
        return _chunks(self.entries, self.chunk_size)

    @property
    def name(self) -> str:
        """Base names of the files, for people."""
        return ", ".join(file.path.name for file in self.files)

    def keys(self) -> dict[str, Value]:
        """The keys that llama-quantize adds to its output, without directories.

        `quantize.imatrix.file` names all files; only the first dataset is named, as there. Strings
        end after 127 bytes.
        """
        found = {"quantize.imatrix.file": _short(self.name)}
        if self.datasets:
            found["quantize.imatrix.dataset"] = _short(re.split(r"[/\\]", self.datasets[0])[-1])
        found["quantize.imatrix.entries_count"] = u32(len(self.entries))
        if 0 < self.chunk_count < 1 << 31:
            found["quantize.imatrix.chunks_count"] = u32(self.chunk_count)
        return found


def _chunks(entries: Mapping[str, Entry], chunk_size: int) -> int:
    return max(int(entry.tokens.max()) for entry in entries.values()) // chunk_size


def _short(line: str) -> Value:
    return text(line.encode(errors="replace")[:_MAX_TEXT].decode(errors="ignore"))


def read(paths: Sequence[str | os.PathLike[str]]) -> Imatrix:
    """Open importance matrices, one or several to be merged, in GGUF or the legacy format.

    Merging adds sums and counts, as `llama-imatrix --in-file` does; legacy files, which hold means,
    are scaled by the chunk size of the first file that says one, else 512.
    Raises UsageError where a file is not there, SourceError where one is damaged or no imatrix,
    ImportanceError where files contradict each other. Values are not looked at: see `examine`.
    """
    assert paths
    files = tuple(index(Path(path)) for path in paths)
    size = next((f.chunk_size for f in files if f.chunk_size), CHUNK_SIZE)
    pieces: dict[str, list[Piece]] = {}
    for file in files:
        for name, piece in file.entries.items():
            pieces.setdefault(name, []).append(piece)
    as_is = len(files) == 1 and files[0].legacy
    entries = {
        name: _merged(name, pieces[name], size, as_is) for name in sorted(pieces, key=str.encode)
    }
    chunks = files[0].chunk_count if len(files) == 1 else _chunks(entries, size)
    datasets = tuple(dataset for file in files for dataset in file.datasets)
    return Imatrix(files, entries, datasets, chunks, size)


def _merged(name: str, pieces: Sequence[Piece], chunk_size: int, as_is: bool) -> Entry:
    first = pieces[0]
    counts = np.zeros(1, np.int64)
    for piece in pieces:
        if piece.n != first.n or 1 < len(piece.counts) != len(counts) > 1:
            raise ImportanceError(
                f"{name}: {piece.path} has {piece.n} values of {len(piece.counts)} matrices, "
                f"{first.path} has {first.n} of {len(counts)}",
                hint="they were not computed from the same model",
            )
        scale = chunk_size if piece.legacy and not as_is else 1
        counts = counts + piece.counts * scale  # one count holds for every matrix
    return Entry(name, tuple(pieces), first.n, counts, chunk_size, as_is)
