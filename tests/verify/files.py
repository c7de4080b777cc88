"""GGUF files taken apart and put together again, for tests that damage them."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from ggufmix import checksums, codecs
from ggufmix.container import Header, TensorInfo, Value, aligned, header, read_header

Values = dict[str, Value]


def head_of(path: Path) -> Header:
    """The header of a file."""
    with path.open("rb") as file:
        return read_header(file, path.stat().st_size, path.name)


def size_of(info: TensorInfo) -> int:
    """Bytes of a tensor."""
    kind = codecs.FORMATS[info.type.name]
    return int(np.prod(info.shape)) // kind.values * kind.bytes


def data_of(path: Path) -> dict[str, bytes]:
    """The bytes of every tensor."""
    head, raw = head_of(path), path.read_bytes()
    at = head.data_at
    return {t.name: raw[at + t.offset : at + t.offset + size_of(t)] for t in head.tensors}


def put_together(
    path: Path, values: Mapping[str, Value], infos: list[TensorInfo], data: Mapping[str, bytes]
) -> Path:
    """Write a file of these parts, offsets made anew."""
    at, placed = 0, []
    for info in infos:
        placed.append(replace(info, offset=at))
        at = aligned(at + len(data[info.name]))
    with path.open("wb") as file:
        file.write(header(values, placed))
        for info in placed:
            file.write(data[info.name] + bytes(-len(data[info.name]) % 32))
    return path


def rebuilt(
    path: Path,
    out: Path,
    *,
    values: Callable[[Values], Values] = lambda v: v,
    tensors: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda t: t,
    types: Mapping[str, str] | None = None,
) -> Path:
    """The file with other key-values or data; `types`: of tensors whose data is of another type.
    Tensors that are left out of the data are left out.
    """
    head = head_of(path)
    data = tensors(data_of(path))
    infos = [
        replace(t, type=GGMLQuantizationType[(types or {}).get(t.name, t.type.name)])
        for t in head.tensors
        if t.name in data
    ]
    return put_together(out, values(dict(head.values)), infos, data)


def anonymous(values: Values) -> Values:
    """Without what ggufmix says of itself: as another tool's file."""
    return {k: v for k, v in values.items() if not k.startswith("ggufmix.")}


def sealed(path: Path) -> Path:
    """The checksum of the header, made anew: as `ggufmix meta` leaves a file that it has edited."""
    head, raw = head_of(path), bytearray(path.read_bytes())
    at = checksums.value_at(head.values, checksums.HEADER)
    total = checksums.of_header(raw[: head.data_at], head.values)
    raw[at : at + 8] = total.to_bytes(8, "little")
    path.write_bytes(raw)
    return path


def regions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Every kind of place in a file: (what, first byte, byte behind the last)."""
    head, size = head_of(path), path.stat().st_size
    bare = len(header(head.values, (), 1))
    infos = len(header(head.values, head.tensors, 1))
    yield "magic", 0, 4
    yield "version", 4, 8
    yield "counts", 8, 24
    yield "key-values", 24, bare
    yield "tensor infos", bare, infos
    if infos < head.data_at:
        yield "padding of the header", infos, head.data_at
    at, before = head.data_at, ""
    for t in sorted(head.tensors, key=lambda t: t.offset):
        start = head.data_at + t.offset
        if at < start:
            yield f"padding behind {before}", at, start
        at, before = start + size_of(t), t.type.name
        yield f"data of {t.type.name}", start, at
    if at < size:
        yield "padding at the end", at, size
