"""From a checkpoint with packed weights (FP8, INT4, MXFP4) to one that has them in BF16 or F32."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import sources
from ..errors import ModelError
from ..sources import Packed, Presented, StoredTensor
from ..sources.safetensors import BITS
from ..tensor import Tensor, transpose
from . import config, places, shards
from .jobs import Copying, Rounding
from .saving import How, Planned, copied, opened, refuse_bare, save

Dtype = Literal["bf16", "f32"]
_BLOCKS = "_blocks"


@dataclass(frozen=True, slots=True)
class _Plain:
    """A weight under the name, and in the shape, that it has where it is not packed."""

    name: str
    tensor: Tensor


def dequantize(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    dtype: Dtype = "bf16",
    *,
    max_shard_size: int | None = None,
    how: How | None = None,
) -> Planned:
    """Write a checkpoint with its packed weights in BF16, rounded to nearest, or exactly, in F32.

    src   folder with config.json and safetensors, or the address of one
    out   folder, which is made
    Experts stay as they are stored: one by one, or stacked. Scales of activations are left out.
    Raises the errors of ggufmix.errors; ModelError where nothing is packed.
    """
    how = how or How()
    folder = Path(out)
    with opened(src, folder, how) as source:
        shown = sources.presented(source.tensors, source.config)
        refuse_bare(shown.tensors.values())
        if not shown.packed:
            raise ModelError(
                f"{source.where}: expected packed weights (FP8, INT4, INT8, MXFP4), there are none"
            )
        stored = dtype.upper()
        planned = Planned(
            shards.plan(list(_pieces(shown, stored)), max_shard_size),
            config.plain(source.config),
            places.side_files(source),
            len(shown.packed),
            sum(len(t.shape) >= 2 for t in shown.tensors.values()) - len(shown.packed),
            tuple(_remarks(shown.packed)),
        )
        if how.announce is not None:
            how.announce(planned)

        def jobs(shard: shards.Shard) -> Sequence[Any]:
            return [
                Rounding(piece.key.name, piece.key.tensor, (extent,), stored)
                if isinstance(piece.key, _Plain)
                else Copying(piece.key, (extent,))
                for piece in shard.pieces
                if piece.size
                for extent in [shard.extent(piece.entries[0])]
            ]

        save(source, folder, planned, jobs, how, f"dequantize {dtype}")
    return planned


def _pieces(shown: Presented, stored: str) -> Iterator[shards.Piece]:
    for name, tensor in shown.tensors.items():
        if isinstance(tensor, Packed):
            plain = _Plain(name, tensor)
            if name.endswith(_BLOCKS):  # gpt-oss: stored as the transpose of what modules hold
                plain = _Plain(name.removesuffix(_BLOCKS), transpose(tensor))
            entry = shards.Entry(plain.name, stored, plain.tensor.shape, BITS[stored])
            yield shards.Piece(tensor.weight.file, (entry,), plain)
        else:
            assert isinstance(tensor, StoredTensor)
            yield copied(tensor)


def _remarks(packed: Sequence[Packed]) -> Iterator[str]:
    kinds = Counter(p.packing for p in packed)
    if "FP8" not in kinds:
        named = " and ".join(kinds)
        yield f"{named} can go into GGUF as it is: `ggufmix convert` reads this checkpoint directly"
