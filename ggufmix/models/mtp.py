"""Blocks for multi-token prediction (MTP, NextN): how many there are, and whether they are kept."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from .block import Block
from .claims import Claims


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
