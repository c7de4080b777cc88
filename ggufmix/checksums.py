"""Checksums that a GGUF file carries of itself, so that damage is found without its source.

    ggufmix.tensor.xxh64   array of UINT64, one for each tensor of the file, in the header's order:
                           XXH64 with seed 0 of the tensor's data, padding left out. In the first
                           part of a split file: one for each tensor of all parts, part after part;
                           the other parts have none
    ggufmix.tensor.source.xxh3   array of UINT64, as many and where the first one is: what the data
                           were made from, the rows as the encoder took them: after all transforms;
                           of blocks that were moved, as they are stored. Of each group of rows
                           XXH3-64, the seed being the number of its first row; added up, modulo
                           2^64. A group is 2 MiB of values, or less: whole rows of one matrix, in
                           units of what the source gives at once
    ggufmix.tensor.method.xxh3   array of UINT64, as many: what with. Of each matrix XXH3-64, the
                           seed being its number, of ggufmix's version, the encoder, dtype or type
                           of the rows, and the importance of the columns; added up, modulo 2^64
    ggufmix.header.xxh64   UINT64: XXH64 with seed 0 of all bytes in front of the tensor data, the
                           padding included, as they are in the file but for the eight bytes of this
                           very value, which count as zeros. In every part of a split file

The checksums of tensors are those that llama.cpp's `gguf-hash --xxh64` prints. Two tensors of one
source number and one method number have the same data: `convert --reuse` copies them. A plan holds
zeros for all numbers (`reserved`); the writer fills them in when the data is on disk (`sealed`).
Padding between tensors has no checksum: it is zeros.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import xxhash
from gguf import GGUFValueType

from .container import Value, array, value_at
from .errors import SourceError

TENSORS = "ggufmix.tensor.xxh64"
SOURCES = "ggufmix.tensor.source.xxh3"
METHODS = "ggufmix.tensor.method.xxh3"
HEADER = "ggufmix.header.xxh64"
ARRAYS = (TENSORS, SOURCES, METHODS)
"""A number for each tensor."""


def reserved(n_tensors: int) -> dict[str, Value]:
    """The key-values as a plan has them: room for the numbers."""
    room = {key: array(GGUFValueType.UINT64, [0] * n_tensors) for key in ARRAYS}
    return {**room, HEADER: Value(GGUFValueType.UINT64, 0)}


def sealed(
    header: bytes,
    values: Mapping[str, Value],
    numbers: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> bytes:
    """The header with its numbers filled in, as far as it has room for them.

    header   as `container.header` makes it of `values`, padding included
    numbers  by their key, as many as `values` has room for; those of other keys stay
    """
    made = bytearray(header)
    for key, of_tensors in numbers.items():
        if key in values:
            n = len(of_tensors)
            assert len(values[key].data) == n, "as many numbers as the plan has tensors"
            struct.pack_into(f"<{n}Q", made, value_at(values, key), *of_tensors)
    if HEADER in values:
        struct.pack_into("<Q", made, value_at(values, HEADER), of_header(made, values))
    return bytes(made)


def of_data(values: Mapping[str, Value]) -> str | None:
    """XXH64, hexadecimal, of the checksums of all tensors as they lie in a header: it stands for
    the data, whatever the other key-values are. None where the file has none.
    """
    found = values.get(TENSORS)
    if found is None or found.item is not GGUFValueType.UINT64:
        return None
    return xxhash.xxh64(struct.pack(f"<{len(found.data)}Q", *found.data)).hexdigest()


def damaged(where: str, name: str, stated: int, found: int) -> SourceError:
    """What there is to say of a tensor whose data have another checksum than its file says."""
    return SourceError(
        f"{where}: {name}: its data is not what the file's checksum says: expected XXH64 "
        f"{stated:016x}, got {found:016x}",
        hint="the file is damaged: get it again, or convert it again",
    )


def of_header(header: bytes | bytearray, values: Mapping[str, Value]) -> int:
    """What `ggufmix.header.xxh64` should be: of a header as it is in a file, and its values."""
    at = value_at(values, HEADER)
    digest = xxhash.xxh64(memoryview(header)[:at])
    digest.update(bytes(8))
    digest.update(memoryview(header)[at + 8 :])
    return digest.intdigest()
