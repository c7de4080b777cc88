"""Latent attention (MLA): keys and values of all heads come from one latent vector.

llama.cpp keeps that vector in its cache and moves the matrix of keys to the side of the queries, so
the one stored matrix for both becomes two, that of keys transposed head by head. Source: llama.cpp,
conversion/deepseek.py, src/models/deepseek2.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..tensor import take_rows, transpose
from .block import Block
from .config import Config, check_channels


@dataclass(frozen=True, slots=True)
class Latent:
    """Attention whose keys and values come from one latent vector.

    heads   of queries, and of keys and values
    hidden  width of the model
    q_rank  width of the latent vector of queries, 0 if they come from the hidden state
    rank    width of the latent vector of keys and values
    nope    width of a head's key without position
    rope    width of the key with position, which all heads share
    value   width of a head's value
    """

    heads: int
    hidden: int
    q_rank: int
    rank: int
    nope: int
    rope: int
    value: int

    @classmethod
    def read(cls, config: Config) -> Latent:
        """The sizes in a config. Raises ModelError for sizes that no model has."""
        none = config.null("q_lora_rank") or config.find("q_lora_rank") is None
        q_rank = 0 if none else config.integer("q_lora_rank")
        heads, hidden = config.integer("num_attention_heads"), config.integer("hidden_size")
        nope, value = config.integer("qk_nope_head_dim"), config.integer("v_head_dim")
        check_channels("num_attention_heads", heads, nope + value)
        rank, rope = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
        return cls(heads, hidden, q_rank, rank, nope, rope, value)

    def place(self, block: Block) -> None:
        """Place the matrices of one block and the norms of latent vectors."""
        queries = self.heads * (self.nope + self.rope)
        if self.q_rank:
            block.place("self_attn.q_a_proj.weight", self.q_rank, self.hidden)
            block.place("self_attn.q_a_layernorm.weight", self.q_rank)
            block.place("self_attn.q_b_proj.weight", queries, self.q_rank)
        else:
            block.place("self_attn.q_proj.weight", queries, self.hidden)
        block.place("self_attn.kv_a_proj_with_mqa.weight", self.rank + self.rope, self.hidden)
        block.place("self_attn.kv_a_layernorm.weight", self.rank)
        both = self.heads * (self.nope + self.value)
        kv_b = block.claim("self_attn.kv_b_proj.weight", both, self.rank)
        keys, values = split(self.heads, self.nope, self.value)
        k_b = take_rows(kv_b, keys, (self.heads, self.nope, self.rank), unit=self.nope)
        v_b = take_rows(kv_b, values, (self.heads, self.value, self.rank), unit=self.value)
        block.put("self_attn.k_b_proj.weight", transpose(k_b))
        block.put("self_attn.v_b_proj.weight", v_b)
        block.place("self_attn.o_proj.weight", self.hidden, self.heads * self.value)


@lru_cache(maxsize=4)
def split(heads: int, nope: int, value: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of keys and rows of values where each head has both, keys first."""
    rows = np.arange(heads * (nope + value)).reshape(heads, nope + value)
    return rows[:, :nope].ravel(), rows[:, nope:].ravel()
