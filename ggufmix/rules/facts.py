"""What a decision has to know of a model besides its tensors."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..container import Value
from ..tensor import Placed
from .files import shipped

_SEVENTY_B = {"deci": 80, "jais2": 68, "llama": 80, "olmo": 80, "qwen2": 80}
"""Architectures and block counts that llama.cpp calls 70B (src/models, load_arch_hparams)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A model in numbers.

    architecture  general.architecture
    blocks        blocks in all, those of multi-token prediction (MTP) included
    mtp_blocks    how many of them predict further tokens
    experts       routed experts of a layer; 0 in a dense model
    heads         attention heads of block 0; 0 where that block has no attention or nobody said
    kv_heads      key-value heads of block 0, likewise
    imatrix       importance is given
    """

    architecture: str
    blocks: int = 0
    mtp_blocks: int = 0
    experts: int = 0
    heads: int = 0
    kv_heads: int = 0
    imatrix: bool = False

    @property
    def gqa(self) -> int:
        """Heads that share one key-value head, as llama.cpp counts: of block 0, 0 without any."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def size(self) -> str | None:
        """The size class that llama.cpp's mixtures ask for: "70B", or None for all others."""
        if self.blocks != _SEVENTY_B.get(self.architecture):
            return None
        return None if self.architecture == "llama" and self.heads == self.kv_heads else "70B"


def facts(architecture: str, values: Mapping[str, Value], *, imatrix: bool = False) -> Facts:
    """From the key-values of a GGUF header, those of the architecture."""

    def number(key: str) -> int:
        value = values.get(f"{architecture}.{key}")
        return _first(value.data) if value is not None else 0

    heads = number("attention.head_count")
    kv = f"{architecture}.attention.head_count_kv"
    return Facts(
        architecture,
        blocks=number("block_count") or number("vision.block_count"),
        mtp_blocks=number("nextn_predict_layers"),
        experts=number("expert_count"),
        heads=heads,
        kv_heads=number("attention.head_count_kv") if kv in values else heads,
        imatrix=imatrix,
    )


def facts_from_shapes(
    architecture: str, placed: Iterable[Placed], *, imatrix: bool = False
) -> Facts:
    """From tensors alone: blocks and experts by counting, grouping of heads from the shapes.

    Only the ratio of heads to key-value heads follows from shapes, so `kv_heads` is 1 where it
    does. It is that of block 0; in architectures that store one number for all blocks, of the first
    block with attention.
    """
    placed = list(placed)
    layers = {p.layer for p in placed if p.layer is not None}
    ahead = [p.layer for p in placed if p.role.startswith("NEXTN_") and p.layer is not None]
    stacks = [p for p in placed if p.role.endswith("_EXP") and len(p.tensor.shape) == 3]
    first = {
        role: next((p for p in placed if p.role == role and len(p.tensor.shape) > 1), None)
        for role in ("ATTN_OUT", "ATTN_V", "ATTN_K", "ATTN_K_B")
    }
    out, value, latent = first["ATTN_OUT"], first["ATTN_V"] or first["ATTN_K"], first["ATTN_K_B"]
    heads = 0
    if latent is not None and len(latent.tensor.shape) == 3:
        heads = latent.tensor.shape[0]
    elif (
        out is not None
        and value is not None
        and out.layer == value.layer
        and (out.layer == 0 or architecture not in shipped().heads_by_block)
    ):
        heads = out.tensor.cols // value.tensor.n_rows
    return Facts(
        architecture,
        blocks=max(layers, default=-1) + 1,
        mtp_blocks=sum(layer >= min(ahead) for layer in layers) if ahead else 0,
        experts=max((p.tensor.shape[0] for p in stacks), default=0),
        heads=heads,
        kv_heads=1 if heads else 0,
        imatrix=imatrix,
    )


def _first(data: Any) -> int:
    """A number, or the first of an array by block; 0 for anything else."""
    if isinstance(data, Sequence) and data:
        data = data[0]
    return int(data) if isinstance(data, int | float) and math.isfinite(data) else 0
