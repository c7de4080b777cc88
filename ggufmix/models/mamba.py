"""Mamba-2 layers, alone and in hybrids: `A_log` becomes -exp(A_log); decay, skip and norm get the
two dimensions that llama.cpp wants. Rows of the input matrix keep their order: gate, values, B, C,
time steps.

Source: llama.cpp, conversion/mamba.py, src/models/mamba-base.cpp (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from gguf import Keys

from ..container import Value, u32
from ..errors import ModelError
from ..tensor import mapped, reshape
from .block import Block, Step
from .config import Config, check_channels
from .delta_net import minus_exp


@dataclass(frozen=True, slots=True)
class Mamba2:
    """Sizes of a state-space layer.

    hidden        width of the model
    inner         channels of values and of the gate, `heads` heads of them
    state         size of the state of one channel
    groups        of heads that share B and C
    kernel        taps of the convolution
    prefix        of its tensors in a block of the checkpoint
    norm          whether the output is normed, each group by itself
    """

    hidden: int
    inner: int
    state: int
    groups: int
    heads: int
    kernel: int
    prefix: str = "mamba."
    norm: bool = True

    def __post_init__(self) -> None:
        """Raises ModelError for sizes that do not fit each other, or that no model has."""
        check_channels("groups of a state-space layer", self.groups, self.state)
        check_channels("heads of a state-space layer", self.heads, self.inner // self.heads)
        for what, n in (("heads", self.heads), ("groups", self.groups)):
            if self.inner % n:
                raise ModelError(
                    f"config.json: a state-space layer of {self.inner} channels cannot have {n} "
                    f"{what}: expected a divisor"
                )

    @property
    def channels(self) -> int:
        """Channels that the convolution runs over: values, B and C."""
        return self.inner + 2 * self.groups * self.state

    @property
    def rows(self) -> tuple[int, int, int, int, int]:
        """Rows of the input matrix: gate, values, B, C, time steps."""
        shared = self.groups * self.state
        return self.inner, self.inner, shared, shared, self.heads

    def place(self, block: Block, into: tuple[Step, ...] = (), out: tuple[Step, ...] = ()) -> None:
        """Place the tensors of a layer. `into` and `out` are steps for its two matrices."""
        at, to = self.prefix, "mamba."
        one_column = partial(reshape, shape=(self.heads, 1))
        flat = partial(reshape, shape=(self.channels, self.kernel))
        decay = partial(mapped, function=minus_exp)
        weight, conv = "in_proj.weight", "conv1d.weight"
        block.place(at + weight, sum(self.rows), self.hidden, steps=into, to=to + weight)
        block.place(at + conv, self.channels, 1, self.kernel, steps=(flat,), to=to + conv)
        block.place(at + "conv1d.bias", self.channels, to=to + "conv1d.bias")
        block.place(at + "dt_bias", self.heads, to=to + "dt_proj.bias")
        block.place(at + "A_log", self.heads, steps=(decay, one_column), to=to + "A_log")
        block.place(at + "D", self.heads, steps=(one_column,), to=to + "D")
        if self.norm:
            by_group = partial(reshape, shape=(self.groups, self.inner // self.groups))
            block.place(at + "norm.weight", self.inner, steps=(by_group,), to=to + "norm.weight")
        weight = "out_proj.weight"
        block.place(at + weight, self.hidden, self.inner, steps=out, to=to + weight)

    def metadata(self) -> dict[str, Value]:
        """The "{arch}.ssm.*" keys."""
        return {
            Keys.SSM.CONV_KERNEL: u32(self.kernel),
            Keys.SSM.INNER_SIZE: u32(self.inner),
            Keys.SSM.STATE_SIZE: u32(self.state),
            Keys.SSM.TIME_STEP_RANK: u32(self.heads),
            Keys.SSM.GROUP_COUNT: u32(self.groups),
        }

    def metadata_as_granite(self) -> dict[str, Value]:
        """The same, in the order that the converter has for Granite and what is built on it."""
        kernel, inner, state, rank, groups = self.metadata().items()
        return dict((kernel, state, groups, inner, rank))


def unlimited_time_steps(config: Config) -> None:
    """Refuse limits on time steps, which llama.cpp does not have. Raises ModelError."""
    limits = config.find("time_step_limit")
    if limits not in (None, [0.0, math.inf], [0.0, {"__float__": "Infinity"}]):
        raise ModelError(
            f"config.json: time_step_limit: expected [0.0, Infinity], got {limits!r}",
            hint="llama.cpp would load the file and compute something else",
        )
