"""Listings: the tensors of a model as a table of names, shapes and dtypes, without any weights.

    # comment
    name<TAB>shape<TAB>dtype
    blk.0.ffn_down.weight<TAB>10944x4096<TAB>BF16

Under GGUF names shapes are in GGUF's order (row length first), under Hugging Face names in that
of safetensors (row length last). The header of a GGUF file makes the same tensors.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..codecs import Format
from ..container import Header, Value, read_header
from ..errors import SourceError, UsageError
from ..tensor import DTYPE_NAMES, F32, Array, Tensor
from .gguf_file import check_extents, check_part, join, number_of, part_missing, part_names

SUFFIX = ".tsv"
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_GGUF_NAME = re.compile(r"(blk\.\d+\.|token_embd\.|output(_norm)?\.)")
_MAX_VALUES = 2**62


class ListedTensor(Tensor):
    """A tensor of which only name, shape and stored type are known.

    stored  the type it is stored in, such as "BF16" or "Q8_0"; `dtype` is what its values would
            be read as
    """

    def __init__(self, name: str, shape: tuple[int, ...], stored: str) -> None:
        self.name, self.shape, self.stored = name, shape, stored
        self.dtype = _DTYPES.get(stored, F32)

    def rows(self, start: int, stop: int) -> Array:
        """Raises UsageError: there is nothing to read."""
        raise UsageError(
            f"{self.name}: a listing holds no weights, asked for rows {start} to {stop}",
            hint="plan takes listings; convert wants the checkpoint",
        )


@dataclass(frozen=True)
class Listing:
    """Tensors by name, in the order of the file.

    where   name of the file, for messages
    names   whose names and order of dimensions they were: "gguf" or "hf"
    values  key-values of the header, where it was a GGUF file
    size    bytes of the file, where it was a GGUF file
    damage  of a GGUF file: where tensors end outside the file, overlap or are misaligned
    parts   of a GGUF file: header and bytes of each part by its name; of a whole one there is one
    """

    where: str
    names: Literal["gguf", "hf"]
    tensors: dict[str, ListedTensor]
    values: dict[str, Value] = field(default_factory=dict)
    size: int | None = None
    damage: tuple[str, ...] = ()
    parts: Mapping[str, tuple[Header, int]] = field(default_factory=dict)


def read_listing(path: Path) -> Listing:
    """Read a listing. Raises UsageError for a path that is not there, SourceError with the line for
    one that is wrong.
    """
    if not path.is_file():
        raise UsageError(f"{path} is no file")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path.name}: expected text in UTF-8: {error}") from error
    rows: dict[str, tuple[tuple[int, ...], str]] = {}
    head = False
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t")
        where = f"{path.name}:{number}"
        if cells[:3] == ["name", "shape", "dtype"]:
            head = True
            continue
        if not head or len(cells) < 3:
            raise SourceError(
                f"{where}: expected name, shape and dtype with tabs between, got {line[:60]!r}",
                hint="the first line that is no comment is: name<TAB>shape<TAB>dtype",
            )
        name, dims, kind = cells[:3]
        if name in rows:
            raise SourceError(f"{where}: {name} is listed twice")
        rows[name] = _shape(dims, where), kind.strip().upper()
    if not rows:
        raise SourceError(f"{path.name}: expected tensors, the listing has none")
    is_gguf = any(_GGUF_NAME.match(name) for name in rows)
    tensors = {
        name: ListedTensor(name, dims[::-1] if is_gguf else dims, kind)
        for name, (dims, kind) in rows.items()
    }
    return Listing(path.name, "gguf" if is_gguf else "hf", tensors)


def read_gguf(path: Path, foreign: Iterable[Format] = ()) -> Listing:
    """The tensors of a GGUF file's header; of a split file any part, the others beside it.

    foreign  types that gguf does not know
    Raises as `container.read_header`; UsageError for a path that is not there, SourceError for a
    part that is not, or is of another file.
    """
    if not path.is_file():
        raise UsageError(f"{path} is no file")
    known = {kind.name: kind for kind in foreign}
    header, size = _header(path, known)
    count = number_of(header.values, "split.count", path.name, 1)
    parts = [(path.name, header, size)]
    if count != 1:
        parts = []
        for number, name in enumerate(part_names(path.name, count)):
            if not path.with_name(name).is_file():
                raise part_missing(name, count)
            parts.append((name, *_header(path.with_name(name), known)))
            check_part(parts[-1][1], number, count, parts[0][1], name)
    values = parts[0][1].values
    tensors = join(((name, _tensors(head)) for name, head, _ in parts), values)
    damage = []
    for name, head, held in parts:
        try:
            check_extents(head, held, name, known)
        except SourceError as error:
            damage.append(str(error))
    whole = sum(held for _, _, held in parts)
    named = {name: (head, held) for name, head, held in parts}
    return Listing(parts[0][0], "gguf", tensors, values, whole, tuple(damage), named)


def _header(path: Path, foreign: Mapping[str, Format]) -> tuple[Header, int]:
    size = path.stat().st_size
    names = {kind.id: name for name, kind in foreign.items()}
    with path.open("rb") as file:
        return read_header(file, size, path.name, foreign=names), size


def _tensors(header: Header) -> Iterator[tuple[str, ListedTensor]]:
    for info in header.tensors:
        yield info.name, ListedTensor(info.name, info.shape[::-1], info.type.name)


def _shape(text: str, where: str) -> tuple[int, ...]:
    dims = text.strip().lower().split("x")
    if not all(d.isascii() and d.isdigit() and int(d) > 0 for d in dims) or len(dims) > 4:
        raise SourceError(f"{where}: expected a shape such as 4096x11008, got {text!r}")
    shape = tuple(map(int, dims))
    if math.prod(shape) > _MAX_VALUES:
        raise SourceError(f"{where}: a shape of {text} is too large to be meant")
    return shape
