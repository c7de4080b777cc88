"""Gated delta nets: the linear attention of Qwen3-Next and Qwen3.5, and how its heads are laid out.

`A_log` becomes -exp(A_log), and
- Qwen3.5 groups the value heads by key head; ggml repeats key heads in tiles. With r value heads
  per key head, value head (k, j) moves from k * r + j to j * n_k + k wherever value heads are
  counted.
- Qwen3-Next stores q, k, v, z per key head in one matrix: they become all q, all k, all v, and all
  z apart. Its heads keep their order.
Source: llama.cpp, conversion/qwen.py (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from gguf import Keys
from numpy.typing import NDArray

from ..container import Value, u32
from ..errors import ModelError
from ..tensor import mapped, reshape, take_columns, take_rows
from .block import Block, Step
from .config import Config, check_channels

Rows = NDArray[np.int64]


def minus_exp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What recurrent layers keep the logarithm of: their decay."""
    # Through float64, rounded once: float32 exp differs between CPUs, and from torch's by a last
    # bit in 1 of 100 values.
    exp: NDArray[np.float32] = np.exp(x.astype(np.float64)).astype(np.float32)
    return -exp


@dataclass(frozen=True, slots=True)
class Moves:
    """Steps that take value heads from grouped to tiled order, wherever they are counted."""

    head_rows: tuple[Step, ...] = ()
    head_columns: tuple[Step, ...] = ()
    inner_rows: tuple[Step, ...] = ()
    inner_columns: tuple[Step, ...] = ()
    channel_rows: tuple[Step, ...] = ()


@dataclass(frozen=True)
class DeltaNet:
    """Sizes of linear attention; the orders that follow are made once and shared by all layers.

    keys, values  numbers of key and of value heads; `head` is the size of either
    kernel        taps of the convolution
    fused         q, k, v and z are one matrix, as in Qwen3-Next
    """

    hidden: int
    keys: int
    values: int
    head: int
    kernel: int
    fused: bool

    @classmethod
    def read(cls, config: Config, *, fused: bool) -> DeltaNet:
        """From the config. Raises ModelError for sizes that llama.cpp cannot tell apart."""
        keys, values = (config.integer(f"linear_num_{kind}_heads") for kind in ("key", "value"))
        head, value = (config.integer(f"linear_{kind}_head_dim") for kind in ("key", "value"))
        if values % keys:
            raise ModelError(
                f"config.json: linear_num_value_heads: expected a multiple of the {keys} "
                f"linear_num_key_heads, got {values}"
            )
        if head != value:
            raise ModelError(
                f"config.json: linear_value_head_dim: expected {head} (linear_key_head_dim), "
                f"got {value}",
                hint="llama.cpp has one size for both",
            )
        check_channels("linear_num_value_heads", values, head)
        kernel = config.integer("linear_conv_kernel_dim")
        return cls(config.integer("hidden_size"), keys, values, head, kernel, fused)

    @property
    def inner(self) -> int:
        """Value channels."""
        return self.values * self.head

    @property
    def channels(self) -> int:
        """Query, key and value channels, which the convolution runs over."""
        return 2 * self.keys * self.head + self.inner

    @cached_property
    def moves(self) -> Moves:
        """Where value heads move: nowhere if each key head has one, or in Qwen3-Next."""
        if self.fused or self.values == self.keys:
            return Moves()
        heads = np.arange(self.values).reshape(self.keys, -1).T.ravel()
        inner = (heads[:, None] * self.head + np.arange(self.head)).ravel()
        before = self.channels - self.inner
        channels = np.concatenate([np.arange(before), before + inner])
        return Moves(
            head_rows=(partial(take_rows, index=heads),),
            head_columns=(partial(take_columns, index=heads),),
            inner_rows=(partial(take_rows, index=inner),),
            inner_columns=(partial(take_columns, index=inner),),
            channel_rows=(partial(take_rows, index=channels),),
        )

    @cached_property
    def ungrouped(self) -> tuple[Rows, Rows]:
        """Rows of Qwen3-Next's matrix that are all q, all k, all v; and those that are all z."""
        groups = np.arange(self.channels + self.inner).reshape(self.keys, -1)
        ends = np.cumsum([self.head, self.head, self.inner // self.keys])
        q, k, v, z = (part.ravel() for part in np.split(groups, ends, axis=1))
        return np.concatenate([q, k, v]), z

    def place(self, block: Block) -> None:
        """Place what stands between the two norms of a block."""
        hidden, inner, channels, values = self.hidden, self.inner, self.channels, self.values
        moves = self.moves
        if self.fused:
            mixed = block.claim("linear_attn.in_proj_qkvz.weight", channels + inner, hidden)
            for name, rows in zip(("in_proj_qkv", "in_proj_z"), self.ungrouped, strict=True):
                block.put(f"linear_attn.{name}.weight", take_rows(mixed, rows))
            block.place("linear_attn.in_proj_ba.weight", 2 * values, hidden)
        else:
            block.place(
                "linear_attn.in_proj_qkv.weight", channels, hidden, steps=moves.channel_rows
            )
            block.place("linear_attn.in_proj_z.weight", inner, hidden, steps=moves.inner_rows)
            block.place("linear_attn.in_proj_a.weight", values, hidden, steps=moves.head_rows)
            block.place("linear_attn.in_proj_b.weight", values, hidden, steps=moves.head_rows)
        flat = partial(reshape, shape=(channels, self.kernel))
        block.place(
            "linear_attn.conv1d.weight", channels, 1, self.kernel, steps=(flat, *moves.channel_rows)
        )
        block.place(
            "linear_attn.A_log",
            values,
            steps=(*moves.head_columns, partial(mapped, function=minus_exp)),
        )
        block.place(
            "linear_attn.dt_bias", values, steps=moves.head_columns, to="linear_attn.dt_proj.bias"
        )
        block.place("linear_attn.norm.weight", self.head)
        block.place("linear_attn.out_proj.weight", hidden, inner, steps=moves.inner_columns)

    def metadata(self) -> dict[str, Value]:
        """The "{arch}.ssm.*" keys."""
        return {
            Keys.SSM.CONV_KERNEL: u32(self.kernel),
            Keys.SSM.STATE_SIZE: u32(self.head),
            Keys.SSM.GROUP_COUNT: u32(self.keys),
            Keys.SSM.TIME_STEP_RANK: u32(self.values),
            Keys.SSM.INNER_SIZE: u32(self.inner),
        }
