"""Model: a checkpoint as GGUF sees it: keys, tensors in their places, and what was left out."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import gguf

from ..container import Value
from ..tensor import Placed

Component = Literal["model", "mmproj", "mtp"]
"""What of a checkpoint makes a file: the language model, its vision projector, its draft head."""


class Parameters(NamedTuple):
    """Counts of weights, in the order that `gguf.size_label` takes them.

    total    all weights
    shared   weights outside stacked experts
    expert   weights of one expert, over all layers
    experts  experts per layer (the mean over the stacked tensors, rounded down), 0 in a dense model
    """

    total: int
    shared: int
    expert: int
    experts: int


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint placed in a GGUF architecture. Nothing of its bulk data has been read.

    arch         GGUF architecture, such as "qwen35moe"
    values       the "{arch}.*" keys in the order of llama.cpp's converter
    tensors      in the order of the model, first to last block; order and types of a file are
                 decided elsewhere
    notes        what was left out or decided, one sentence each without a full stop
    vocab_rows   rows of the embedding; the tokenizer must have no more tokens than that; 0 where
                 there is no embedding
    tied         there is no output.weight: the embedding serves as output matrix
    block_count  blocks written, MTP blocks included
    mtp_blocks   how many of them predict further tokens
    """

    arch: str
    values: dict[str, Value]
    tensors: list[Placed]
    notes: list[str]
    vocab_rows: int = 0
    tied: bool = False
    block_count: int = 0
    mtp_blocks: int = 0

    @property
    def parameters(self) -> Parameters:
        """Weights as llama.cpp's converter counts them for general.size_label."""
        total = shared = expert = experts = n_stacked = 0
        for placed in self.tensors:
            shape, size = placed.tensor.shape, placed.tensor.n_values
            total += size
            if "_exps." in placed.name and len(shape) >= 3:
                n = shape[-2 if ".bias" in placed.name else -3]
                expert += size // n
                experts += n
                n_stacked += 1
            else:
                shared += size
        return Parameters(total, shared, expert, experts // n_stacked if n_stacked else 0)

    @property
    def size_label(self) -> str:
        """What general.size_label says if the model card says nothing, such as "256x1.1B"."""
        return gguf.size_label(*self.parameters)
