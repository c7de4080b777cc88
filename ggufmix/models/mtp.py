"""Blocks for multi-token prediction (MTP, NextN): how many there are, whether they are kept, and
what a file of them alone holds.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gguf import Keys

from ..container import Value
from ..tensor import Placed
from .block import Block
from .claims import Claims

SHARED = ("TOKEN_EMBD", "OUTPUT_NORM", "OUTPUT")
"""Roles outside the blocks that the draft head needs as the model does: llama.cpp's converter
writes them into both files (conversion/*.py, where `mtp_only` is asked for, 2026-08-04).
"""

NOT_BY_BLOCK = ("rope.dimension_sections", "classifier.output_labels")
"""Arrays of an architecture that have no entry for each block, however long they are."""


def mtp_blocks(
    claims: Claims, stored: int, stated: int | None, prefixes: tuple[str, ...], *, keep: bool
) -> int:
    """How many MTP blocks to write. The tensors decide: a config may promise blocks that a
    checkpoint lacks, or the reverse.

    stored    how many the checkpoint has
    stated    how many config.json says there are, None or 0 if it says nothing
    prefixes  of their tensors, which are left out if they are not to be kept
    """
    plural = "s" * (stored != 1)
    if not keep:
        claims.leave_out(prefixes, f"of {stored} MTP block{plural}, as asked")
        return 0
    if stated and stated != stored:
        claims.notes.append(
            f"config.json states {stated} MTP blocks, the checkpoint has {stored}: {stored} written"
        )
    elif stored:
        claims.notes.append(f"kept {stored} MTP block{plural} behind the last layer")
    return stored


def behind_the_last(claims: Claims, n_layers: int) -> tuple[str, ...]:
    """Prefixes of the MTP blocks that are stored as further layers, first to last.

    A further layer without the matrix that joins hidden state and embedding is none: it is left to
    be missed by its name.
    """
    prefixes = [f"model.layers.{i}." for i in claims.numbers("model.layers.") if i >= n_layers]
    return tuple(prefix for prefix in prefixes if f"{prefix}eh_proj.weight" in claims)


def place_head(block: Block, vocab_rows: int, hidden: int) -> None:
    """Place what joins the last hidden state and the next token's embedding in front of a block,
    and the block's own embedding and output matrix, which a checkpoint may leave to the model's.
    """
    block.place("eh_proj.weight", hidden, 2 * hidden)
    for norm in ("enorm", "hnorm", "shared_head.norm"):
        block.place(f"{norm}.weight", hidden)
    for matrix in ("embed_tokens", "shared_head.head"):
        if f"{matrix}.weight" in block:
            block.place(f"{matrix}.weight", vocab_rows, hidden)


def mtp_layers(arch: str, values: Mapping[str, Value], tensors: Iterable[Placed]) -> frozenset[int]:
    """Numbers of the MTP blocks: by the keys of `arch`, else from the first on that has tensors
    which only they have.
    """
    tensors = list(tensors)

    def number(key: str) -> int:
        value = values.get(f"{arch}.{key}")
        return value.data if value is not None and isinstance(value.data, int) else 0

    blocks, n_mtp = number("block_count"), number("nextn_predict_layers")
    named = [p.layer for p in tensors if p.role.startswith("NEXTN_") and p.layer is not None]
    first = blocks - n_mtp if n_mtp else min(named, default=None)
    return frozenset(
        p.layer for p in tensors if p.layer is not None and first is not None and p.layer >= first
    )


def draft_head(tensors: Sequence[Placed], layers: frozenset[int]) -> list[Placed]:
    """The tensors of the MTP blocks `layers`, and those that they share with the model. The blocks
    keep their numbers, and the keys of the file are those of the whole model: so llama.cpp knows
    it.
    """
    return [p for p in tensors if p.layer in layers or (p.layer is None and p.role in SHARED)]


def without_mtp(arch: str, values: Mapping[str, Value], n_mtp: int) -> dict[str, Value]:
    """The keys of a file whose last `n_mtp` blocks are left out: so many less are counted, and
    arrays with an entry for each block lose theirs.
    """
    count, nextn = (
        key.format(arch=arch) for key in (Keys.LLM.BLOCK_COUNT, Keys.LLM.NEXTN_PREDICT_LAYERS)
    )
    others = tuple(f"{arch}.{key}" for key in NOT_BY_BLOCK)
    blocks = values[count].data if count in values else 0
    made = {}
    for key, value in values.items():
        by_block = value.item is not None and key.startswith(f"{arch}.") and key not in others
        if key == count:
            made[key] = replace(value, data=blocks - n_mtp)
        elif by_block and len(value.data) == blocks:
            made[key] = replace(value, data=value.data[: blocks - n_mtp])
        elif key != nextn:
            made[key] = value
    return made
