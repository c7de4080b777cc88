"""The safetensors files of an output: which tensors, in which file, at which byte.

A file holds its tensors by falling size of a value, so each begins at a multiple of that; its
metadata is {"format": "pt"}, without which older versions of transformers refuse it. X.weight and
X.weight_scale_inv are in one file. Everything is known before a byte is written.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..sources.layout import INDEX, SINGLE
from ..writing import Extent


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the output. `dtype` as safetensors calls it; `value_bits` of one value."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    value_bits: int

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.value_bits // 8


@dataclass(frozen=True, slots=True)
class Piece:
    """What has to stay together: a weight with its scales, or one tensor that is copied.

    home     file of the source that it comes from
    entries  its tensors
    key      what it is made from; the caller's own
    """

    home: str
    entries: tuple[Entry, ...]
    key: Any

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(entry.size for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the output.

    number   of the file, from 0
    name     of the file
    pieces   that it holds, in the order in which they are worked off
    header   its first bytes
    offsets  of each tensor, by name, from the beginning of the file
    size     of the file
    """

    number: int
    name: str
    pieces: tuple[Piece, ...]
    header: bytes
    offsets: dict[str, int]
    size: int

    def extent(self, entry: Entry) -> Extent:
        """The place of one of its tensors."""
        return Extent(self.offsets[entry.name], entry.size, self.number)


def plan(pieces: Sequence[Piece], largest: int | None = None) -> list[Shard]:
    """Lay out the output.

    pieces   in stored order
    largest  bytes of tensors that a file may have, unless one piece alone has more; None: the
             files of the source, tensor by tensor
    """
    if largest is None:
        by_home: dict[str, list[Piece]] = defaultdict(list)
        for piece in pieces:
            by_home[piece.home].append(piece)
        split, names = list(by_home.values()), list(by_home)
    else:
        split, names = list(_filled(pieces, largest)), []
    n = len(split)
    if n == 1:
        names = [SINGLE]
    elif not names or any("/" in name for name in names):
        names = [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
    named = zip(names, split, strict=True)
    return [_laid_out(number, name, held) for number, (name, held) in enumerate(named)]


def index(shards: Sequence[Shard]) -> dict[str, Any] | None:
    """model.safetensors.index.json, or None where one file holds all."""
    if len(shards) == 1:
        return None
    entries = [(e, s.name) for s in shards for p in s.pieces for e in p.entries]
    return {
        "metadata": {"total_size": sum(e.size for e, _ in entries)},
        "weight_map": {e.name: name for e, name in sorted(entries, key=lambda item: item[0].name)},
    }


def names(shards: Sequence[Shard]) -> list[str]:
    """Names of all files of weights, the index included."""
    return [shard.name for shard in shards] + ([INDEX] if len(shards) > 1 else [])


def _filled(pieces: Sequence[Piece], largest: int) -> Iterator[list[Piece]]:
    held: list[Piece] = []
    size = 0
    for piece in pieces:
        if held and size + piece.size > largest:
            yield held
            held, size = [], 0
        held.append(piece)
        size += piece.size
    yield held


def _laid_out(number: int, name: str, pieces: Sequence[Piece]) -> Shard:
    entries = sorted((e for p in pieces for e in p.entries), key=lambda e: -e.value_bits)
    at = 0
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for entry in entries:
        head[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.size],
        }
        at += entry.size
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    offsets = {e.name: len(header) + head[e.name]["data_offsets"][0] for e in entries}
    return Shard(number, name, tuple(pieces), header, offsets, len(header) + at)
