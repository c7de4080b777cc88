"""Block: one part of a model being placed. A tensor is claimed by its name and shape, transformed,
and put where GGUF wants it.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from gguf import MODEL_TENSOR, TENSOR_NAMES
from numpy.typing import NDArray

from ..errors import ModelError
from ..tensor import Placed, Tensor, mapped, stack, take_rows
from .claims import Claims
from .config import Config, check_channels
from .names import Names

Step = Callable[[Tensor], Tensor]
MOST_ROWS = 1 << 25
"""Of all experts of a layer; the largest models have a tenth."""
GATE_UP_DOWN = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Block:
    """One decoder block, or what stands outside of them.

    prefix  of the names in the checkpoint, such as "model.layers.3." or "mtp.layers.0."
    layer   GGUF block number, None outside the blocks
    placed  where `put` adds to
    """

    claims: Claims
    names: Names
    placed: list[Placed]
    prefix: str = ""
    layer: int | None = None

    def at(self, layer: int, prefix: str | None = None) -> Block:
        """Block `layer`, kept in the checkpoint under `prefix` ("model.layers.{layer}.")."""
        return Block(
            self.claims, self.names, self.placed, prefix or f"model.layers.{layer}.", layer
        )

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.claims

    def claim(self, name: str, *shape: int) -> Tensor:
        """Take a tensor of the checkpoint. Raises ModelError if it has another shape."""
        return self.claims.claim(self.prefix + name, shape)

    def put(self, name: str, tensor: Tensor) -> None:
        """Place a tensor where GGUF has what transformers calls `name` in a plain decoder block."""
        path = name if self.layer is None else f"model.layers.{self.layer}.{name}"
        made, role = self.names.find(path)
        self.placed.append(Placed(made, role, self.layer, tensor))

    def place(
        self, name: str, *shape: int, steps: tuple[Step, ...] = (), to: str | None = None
    ) -> None:
        """Claim `name`, apply `steps` in order, put the result at `to` (its own place)."""
        tensor = self.claim(name, *shape)
        for step in steps:
            tensor = step(tensor)
        self.put(to or name, tensor)

    def make(self, role: MODEL_TENSOR, tensor: Tensor) -> None:
        """Place a tensor outside the blocks by its role, whatever the checkpoint calls it."""
        self.placed.append(Placed(TENSOR_NAMES[role] + ".weight", role.name, None, tensor))

    def embedding(
        self,
        config: Config,
        name: str = "model.embed_tokens.weight",
        steps: tuple[tuple[Step, ...], tuple[Step, ...]] = ((), ()),
    ) -> tuple[int, bool]:
        """Place the embedding and, unless tied to it, the output matrix.

        steps  for the values of either
        Returns the rows of the embedding, and whether it is tied. A tied checkpoint that stores an
        output matrix all the same keeps it. Raises ModelError if config.json states another size of
        vocabulary.
        """
        vocab, hidden = config.integer("vocab_size"), config.integer("hidden_size")
        shape = self.claims.shape(name)
        if shape is not None and len(shape) == 2 and shape[0] != vocab:
            raise ModelError(
                f"{self.claims.spelled(name)}: expected {vocab} rows (vocab_size in config.json), "
                f"got {shape[0]}",
                hint="tokens were added without resizing, or config.json is of another model",
            )
        tied = config.tie_word_embeddings and "lm_head.weight" not in self
        ends = [(MODEL_TENSOR.TOKEN_EMBD, name), (MODEL_TENSOR.OUTPUT, "lm_head.weight")]
        for (role, stored), each in zip(ends[: 2 - tied], steps, strict=False):
            tensor = self.claim(stored, vocab, hidden)
            for step in each:
                tensor = step(tensor)
            self.make(role, tensor)
        return vocab, tied

    def mlp(
        self, prefix: str, width: int, hidden: int, *, to: str | None = None, biases: bool = False
    ) -> None:
        """Place a gated feed-forward network: gate and up (width, hidden), down (hidden, width)."""
        at = to or prefix
        for part, rows, cols in _shapes(width, hidden):
            self.place(f"{prefix}{part}.weight", rows, cols, to=f"{at}{part}.weight")
            if biases:
                self.place(f"{prefix}{part}.bias", rows, to=f"{at}{part}.bias")

    def mixture(self, config: Config, *, shared: bool) -> None:
        """Place routed experts with their router as Qwen has them; and a shared expert with its
        gate.
        """
        hidden, n = (
            config.integer("hidden_size"),
            config.integer("num_experts", "num_local_experts"),
        )
        self.place("mlp.gate.weight", n, hidden)
        self.experts("mlp.experts.", n, config.integer("moe_intermediate_size"), hidden)
        if shared:
            self.place("mlp.shared_expert_gate.weight", 1, hidden)
            width = config.integer("shared_expert_intermediate_size")
            self.mlp("mlp.shared_expert.", width, hidden)

    def experts(
        self,
        prefix: str,
        n: int,
        width: int,
        hidden: int,
        *,
        stored: str | None = None,
        parts: tuple[str, str, str] = GATE_UP_DOWN,
        gated: bool = True,
    ) -> None:
        """Place `n` routed experts stacked: gate and up (width, hidden), down (hidden, width).

        They are stored one by one ("{prefix}{i}.gate_proj.weight"), or fused
        ("{prefix}gate_up_proj" (n, 2 * width, hidden) with the gates first, and
        "{prefix}down_proj"). Raises ModelError if some of them are missing.

        stored  the prefix where they are stored one by one, if it is another
        parts   what gate, up and down are called there
        gated   whether they have a gate
        """
        for suffix in ("", ".weight"):
            if f"{prefix}gate_up_proj{suffix}" in self:
                both = self.claim(f"{prefix}gate_up_proj{suffix}", n, 2 * width, hidden)
                gate, up = half_rows(n, width, 0), half_rows(n, width, 1)
                self.put(f"{prefix}gate_proj.weight", take_rows(both, gate, (n, width, hidden)))
                self.put(f"{prefix}up_proj.weight", take_rows(both, up, (n, width, hidden)))
                self.place(
                    f"{prefix}down_proj{suffix}", n, hidden, width, to=f"{prefix}down_proj.weight"
                )
                return
        single = stored or prefix
        numbers = self.claims.numbers(self.prefix + single)
        if numbers != list(range(n)):
            absent, extra = sorted(set(range(n)) - set(numbers)), [i for i in numbers if i >= n]
            told = f"missing {absent[:8]}" if absent else f"beyond them {extra[:8]}"
            raise ModelError(
                f"{self.claims.spelled(self.prefix + single)[:-1]}: expected experts 0 to {n - 1}, "
                f"got {len(numbers)}, {told}",
                hint="the checkpoint is incomplete, or config.json states another number",
            )
        matrices = list(zip(parts, _shapes(width, hidden), strict=True))
        for called, (part, *shape) in matrices[not gated :]:
            each = [self.claim(f"{single}{i}.{called}.weight", *shape) for i in range(n)]
            if len({tensor.dtype for tensor in each}) > 1:
                each = [mapped(tensor, lambda x: x) for tensor in each]
            self.put(f"{prefix}{part}.weight", stack(each))


def _shapes(width: int, hidden: int) -> list[tuple[str, int, int]]:
    """Name, rows and columns of the three matrices of a gated feed-forward network."""
    gate, up, down = GATE_UP_DOWN
    return [(gate, width, hidden), (up, width, hidden), (down, hidden, width)]


@lru_cache(maxsize=8)
def half_rows(n: int, width: int, which: int) -> NDArray[np.int64]:
    """Rows of the first or second half of `n` matrices of 2 * width rows; all layers share them.

    Raises ModelError for more of them than any model has.
    """
    check_channels("num_experts", n, 2 * width, MOST_ROWS)
    return np.arange(2 * n * width).reshape(n, 2, width)[:, which].ravel()
