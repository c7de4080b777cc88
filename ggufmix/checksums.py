"""Checksums that a GGUF file carries of itself, so that damage is found without its source.

    ggufmix.tensor.xxh64   array of UINT64, one for each tensor of the file, in the header's order:
                           XXH64 with seed 0 of the tensor's data, padding left out. In the first
                           part of a split file: one for each tensor of all parts, part after part;
                           the other parts have none
    ggufmix.header.xxh64   UINT64: XXH64 with seed 0 of all bytes in front of the tensor data, the
                           padding included, as they are in the file but for the eight bytes of this
                           very value, which count as zeros. In every part of a split file

The numbers of tensors are those that llama.cpp's `gguf-hash --xxh64` prints. A plan holds zeros for
all of them (`reserved`); the writer fills them in when the data is on disk (`sealed`). Padding
between tensors has no checksum: it is zeros.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import xxhash
from gguf import GGUFValueType

from .container import Value, array, value_at

TENSORS = "ggufmix.tensor.xxh64"
HEADER = "ggufmix.header.xxh64"


def reserved(n_tensors: int) -> dict[str, Value]:
    """The key-values as a plan has them: room for the numbers."""
    return {
        TENSORS: array(GGUFValueType.UINT64, [0] * n_tensors),
        HEADER: Value(GGUFValueType.UINT64, 0),
    }


def sealed(
    header: bytes, values: Mapping[str, Value], tensors: Sequence[int] | None = None
) -> bytes:
    """The header with its numbers filled in, as far as it has room for them.

    header   as `container.header` makes it of `values`, padding included
    tensors  checksums, as many as `values` has room for; None: those that are in it stay
    """
    made = bytearray(header)
    if TENSORS in values and tensors is not None:
        assert len(values[TENSORS].data) == len(tensors), "as many sums as the plan has tensors"
        struct.pack_into(f"<{len(tensors)}Q", made, value_at(values, TENSORS), *tensors)
    if HEADER in values:
        struct.pack_into("<Q", made, value_at(values, HEADER), of_header(made, values))
    return bytes(made)


def of_header(header: bytes | bytearray, values: Mapping[str, Value]) -> int:
    """What `ggufmix.header.xxh64` should be: of a header as it is in a file, and its values."""
    at = value_at(values, HEADER)
    digest = xxhash.xxh64(memoryview(header)[:at])
    digest.update(bytes(8))
    digest.update(memoryview(header)[at + 8 :])
    return digest.intdigest()
