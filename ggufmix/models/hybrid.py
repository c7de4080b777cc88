"""Hybrids: blocks of attention among blocks that are something else, told apart in a file by
`attention.head_count_kv`, a list with 0 where a block has no attention.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, Keys

from ..container import Value, i32s
from ..errors import ModelError
from .block import Block, Step
from .claims import Claims
from .config import Config
from .decoder import Part, note_rope
from .keys import common_values, named
from .model import Model
from .names import Names

ATTENTION = ("full_attention", "attention")
"""What layer_types calls a block of attention, as transformers 5 writes it and as it was before."""

CONTEXT = 2**20
"""Models without positions have no longest context; llama.cpp's converter writes this."""


def attention_layers(config: Config, others: tuple[str, ...]) -> list[bool] | None:
    """Which layers have attention, from `layer_types` (once `layers_block_type`); None where it is
    not stated.

    others  what all other layers may be called
    Raises ModelError for a list of another length, and for a word that is not known.
    """
    n_layers = config.integer("num_hidden_layers")
    kinds = config.find("layer_types", "layers_block_type")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != n_layers:
        got = len(kinds) if isinstance(kinds, list) else repr(kinds)
        raise ModelError(
            f"config.json: layer_types: expected {n_layers} entries (num_hidden_layers), got {got}"
        )
    for layer, kind in enumerate(kinds):
        if kind not in (*ATTENTION, *others):
            known = ", ".join((*ATTENTION, *others))
            raise ModelError(
                f"config.json: layer_types[{layer}]: expected one of {known}, got {kind!r}"
            )
    return [kind in ATTENTION for kind in kinds]


def heads_by_block(kv_heads: int, attention: Sequence[bool]) -> dict[str, Value]:
    """The list that tells llama.cpp which blocks have attention."""
    return {Keys.Attention.HEAD_COUNT_KV: i32s([kv_heads * has for has in attention])}


def place_hybrid(
    arch: MODEL_ARCH,
    config: Config,
    claims: Claims,
    *,
    part: Part,
    values: Mapping[str, Value],
    common: Mapping[str, Value] | None = None,
    last_norm: str = "model.norm.weight",
    embedding: str = "model.embed_tokens.weight",
    blocks: str = "model.layers.",
    steps: tuple[tuple[Step, ...], tuple[Step, ...]] = ((), ()),
    behind: Part | None = None,
) -> Model:
    """Place a checkpoint, each block by `part`.

    values     the keys of the family; one that every text model has takes that one's place
    common     the keys in front of general.file_type; those of every text model if None
    last_norm, embedding, blocks  how the checkpoint spells them
    steps      for the values of the embedding, and of the output matrix
    behind     places the block for multi-token prediction behind the last layer, if there is one
    Raises ModelError for tensors that do not follow from the config, and for those that are missing
    or that nothing claims.
    """
    n_layers, n_mtp = config.integer("num_hidden_layers"), int(behind is not None)
    root = Block(claims, Names(arch, n_layers + n_mtp), [])
    vocab_rows, tied = root.embedding(config, embedding, steps)
    root.place(last_norm, config.integer("hidden_size"))
    for layer in range(n_layers):
        part(root.at(layer, f"{blocks}{layer}."))
    if behind:
        behind(root.at(n_layers))
    name = MODEL_ARCH_NAMES[arch]
    claims.finish(name)
    note_rope(config, claims)
    front = common_values(config, name, n_layers + n_mtp) if common is None else named(common, name)
    front |= {key: v for key, v in named(values, name).items() if key in front}
    return Model(
        name,
        front | named(values, name),
        root.placed,
        claims.notes,
        vocab_rows,
        tied,
        n_layers + n_mtp,
        n_mtp,
    )
