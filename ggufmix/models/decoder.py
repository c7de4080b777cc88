"""Plain decoders: an embedding, blocks of attention and a feed-forward network with a norm in front
of each, a last norm, an output matrix. Llama, Qwen2 and Qwen3 differ only in what this file takes
as arguments.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSOR
from numpy.typing import NDArray

from ..container import Value
from ..errors import ModelError
from ..tensor import Tensor, take_columns, take_rows
from .block import Block, Step
from .claims import Claims
from .config import Config, check_channels
from .keys import common_values, named
from .model import Model
from .names import Names

Part = Callable[[Block], None]


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention with rotary positions over whole heads.

    heads, kv_heads  of queries, and of keys and values
    head             width of one head
    hidden           width of the model
    biases           which of q, k, v and o have one
    norms            whether each head of q and k is normed
    pairs            whether rows of q and k are to lie as llama.cpp's "norm" rope wants them: the
                     two values that turn together side by side, not half a head apart
    turned           how many values of each head turn with the position, None for all
    output, norm     how the checkpoint spells "o_proj", and "norm" in "q_norm"
    prefix           of its tensors in a block of the checkpoint
    """

    heads: int
    kv_heads: int
    head: int
    hidden: int
    biases: str = ""
    norms: bool = False
    pairs: bool = False
    turned: int | None = None
    output: str = "o_proj"
    norm: str = "norm"
    prefix: str = "self_attn."

    @classmethod
    def read(
        cls, config: Config, *, biases: str = "", norms: bool = False, pairs: bool = False
    ) -> Attention:
        """The sizes in a config. Raises ModelError for sizes that do not fit each other."""
        hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
        stated = config.find("num_key_value_heads")
        kv_heads = heads if stated is None else config.integer("num_key_value_heads")
        if heads % kv_heads:
            raise ModelError(
                f"config.json: num_attention_heads: expected a multiple of the {kv_heads} "
                f"num_key_value_heads, got {heads}"
            )
        if config.find("head_dim") is None and hidden % heads:
            raise ModelError(
                f"config.json: hidden_size: expected a multiple of the {heads} "
                f"num_attention_heads, got {hidden}"
            )
        head = config.integer("head_dim") if config.find("head_dim") else hidden // heads
        if head % 2:
            raise ModelError(f"config.json: head_dim: expected an even number, got {head}")
        check_channels("num_attention_heads", heads, head)
        return cls(heads, kv_heads, head, hidden, biases, norms, pairs)

    def place(self, block: Block) -> None:
        """Place q, k, v (heads * head, hidden) and o (hidden, heads * head), biases and norms."""
        for part, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
            rows, steps = heads * self.head, self._steps(part, heads)
            self._place(block, f"{part}_proj.weight", rows, self.hidden, steps=steps)
            if part in self.biases:
                self._place(block, f"{part}_proj.bias", rows, steps=steps)
        self._place(block, f"{self.output}.weight", self.hidden, self.heads * self.head)
        if "o" in self.biases:
            self._place(block, f"{self.output}.bias", self.hidden)
        if self.norms:
            self._place(block, f"q_{self.norm}.weight", self.head)
            self._place(block, f"k_{self.norm}.weight", self.head)

    def _place(self, block: Block, name: str, *shape: int, steps: tuple[Step, ...] = ()) -> None:
        block.place(self.prefix + name, *shape, steps=steps, to=f"self_attn.{name}")

    def _steps(self, part: str, heads: int) -> tuple[Step, ...]:
        if not self.pairs or part == "v":
            return ()
        index = in_pairs(heads, self.head, self.turned or self.head)
        return (partial(_taken, index=index, unit=self.head),)


@lru_cache(maxsize=4)
def in_pairs(heads: int, head: int, turned: int) -> NDArray[np.int64]:
    """Rows of heads whose first `turned` values turn by halves, reordered so that neighbours do.

    Source: llama.cpp, conversion/llama.py, LlamaModel.permute (2026-08-04).
    """
    rows = np.arange(heads * head).reshape(heads, head)
    turning = rows[:, :turned].reshape(heads, 2, turned // 2).swapaxes(1, 2)
    return np.concatenate([turning.reshape(heads, turned), rows[:, turned:]], axis=1).ravel()


def _taken(tensor: Tensor, index: NDArray[np.int64], unit: int) -> Tensor:
    if len(tensor.shape) == 1:
        return take_columns(tensor, index)
    return take_rows(tensor, index, unit=unit)


def place_decoder(
    arch: MODEL_ARCH,
    config: Config,
    claims: Claims,
    *,
    attention: Part,
    feed_forward: Part,
    values: Mapping[str, Value],
    made: Mapping[MODEL_TENSOR, Tensor] | None = None,
    mtp_blocks: int = 0,
    windows: bool = False,
) -> Model:
    """Place a checkpoint whose blocks are `attention` and `feed_forward`, each behind its norm.

    values      the keys of the family, behind those that every text model has
    made        tensors that no checkpoint stores
    mtp_blocks  how many blocks of the same kind lie behind the last layer
    windows     whether llama.cpp knows this architecture's sliding windows
    Raises ModelError for tensors that do not follow from the config, and for those that are missing
    or that nothing claims.
    """
    config.only("hidden_act", "silu")
    hidden, n_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    block_count = n_layers + mtp_blocks
    root = Block(claims, Names(arch, block_count), [])
    vocab_rows, tied = root.embedding(config)
    root.place("model.norm.weight", hidden)
    for role, tensor in (made or {}).items():
        root.make(role, tensor)
    for layer in range(block_count):
        block = root.at(layer)
        block.place("input_layernorm.weight", hidden)
        attention(block)
        block.place("post_attention_layernorm.weight", hidden)
        feed_forward(block)
    name = MODEL_ARCH_NAMES[arch]
    claims.finish(name)
    if not windows:
        note_window(config, claims)
    note_rope(config, claims)
    return Model(
        name,
        common_values(config, name, block_count) | named(values, name),
        root.placed,
        claims.notes,
        vocab_rows,
        tied,
        block_count,
        mtp_blocks,
    )


def note_window(config: Config, claims: Claims) -> None:
    """Say where llama.cpp attends to more than the model does: it knows no sliding window in these
    architectures, and its converter writes none.
    """
    window, context = config.find("sliding_window"), config.find("max_position_embeddings")
    used = config.find("use_sliding_window")
    if isinstance(window, int) and window > 0 and used is not False and window < (context or 0):
        claims.notes.append(
            f"sliding_window {window}: llama.cpp has none in this architecture, texts longer than "
            "that get other results"
        )


def note_rope(config: Config, claims: Claims) -> None:
    """Say where llama.cpp turns heads otherwise than the model does. It has no dynamic rope. With
    YaRN it blends other frequencies in these architectures: it takes no notice of the two keys for
    that, and it always rounds.

    Source: llama.cpp, src/llama-hparams.h and ggml_rope_yarn_corr_dims (2026-08-04): only Grok and
    Mistral 3 read the keys.
    """
    rope = config.rope
    if rope.get("rope_type") == "dynamic":
        claims.notes.append(
            "rope_scaling dynamic: llama.cpp has none, texts longer than "
            f"{config.integer('max_position_embeddings')} (max_position_embeddings) get other "
            "results"
        )
    if rope.get("rope_type") != "yarn":
        return
    for key, taken in (("beta_fast", 32), ("beta_slow", 1)):
        if (stated := rope.get(key)) and stated != taken:
            claims.notes.append(
                f"rope_scaling {key} {stated}: llama.cpp takes {taken} whatever the file says; run "
                f"it with --yarn-{key.replace('_', '-')} {stated}"
            )
    if rope.get("truncate") is False:
        claims.notes.append(
            "rope_scaling truncate: llama.cpp rounds the range that YaRN blends, this model does "
            "not: results differ slightly, in every GGUF of it"
        )


def only_ropes(config: Config, *kinds: str, part: bool = False) -> None:
    """Refuse a rope that llama.cpp does not compute in this architecture. Raises ModelError.

    part  whether the rope may turn a part of each head
    """
    rope = config.rope
    if (kind := rope.get("rope_type")) not in (None, "default", *kinds):
        known = ", ".join(("default", *kinds))
        raise ModelError(
            f"config.json: rope_type: expected one of {known}, got {kind!r}",
            hint="llama.cpp would load the file and compute something else",
        )
    partial_factor = rope.get("partial_rotary_factor")
    if not part and partial_factor not in (None, 1, 1.0):
        raise ModelError(
            f"config.json: partial_rotary_factor: expected 1.0, got {partial_factor!r}",
            hint="llama.cpp would load the file and compute something else",
        )
