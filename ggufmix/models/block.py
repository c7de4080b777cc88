"""Block: one part of a model being placed. A tensor is claimed by its name and shape, transformed,
and put where GGUF wants it.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..tensor import Placed, Tensor, mapped, stack, take_rows
from .claims import Claims
from .config import Config
from .names import Names

Step = Callable[[Tensor], Tensor]


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

    def embedding(self, config: Config) -> tuple[int, bool]:
        """Place the embedding and, unless tied to it, the output matrix.

        Returns the rows of the embedding, and whether it is tied. A tied checkpoint that stores an
        output matrix all the same keeps it. Raises ModelError if config.json states another size of
        vocabulary.
        """
        vocab, hidden = config.integer("vocab_size"), config.integer("hidden_size")
        name = "model.embed_tokens.weight"
        shape = self.claims.shape(name)
        if shape is not None and len(shape) == 2 and shape[0] != vocab:
            raise ModelError(
                f"{self.claims.spelled(name)}: expected {vocab} rows (vocab_size in config.json), "
                f"got {shape[0]}",
                hint="tokens were added without resizing, or config.json is of another model",
            )
        self.place(name, vocab, hidden)
        tied = config.tie_word_embeddings and "lm_head.weight" not in self
        if not tied:
            self.place("lm_head.weight", vocab, hidden)
        return vocab, tied

    def mlp(self, prefix: str, width: int, hidden: int) -> None:
        """Place a gated feed-forward network: gate and up (width, hidden), down (hidden, width)."""
        self.place(f"{prefix}gate_proj.weight", width, hidden)
        self.place(f"{prefix}up_proj.weight", width, hidden)
        self.place(f"{prefix}down_proj.weight", hidden, width)

    def experts(self, prefix: str, n: int, width: int, hidden: int) -> None:
        """Place `n` routed experts stacked: gate and up (width, hidden), down (hidden, width).

        They are stored one by one ("{prefix}{i}.gate_proj.weight"), or fused
        ("{prefix}gate_up_proj" (n, 2 * width, hidden) with the gates first, and
        "{prefix}down_proj"). Raises ModelError if some of them are missing.
        """
        for suffix in ("", ".weight"):
            if f"{prefix}gate_up_proj{suffix}" in self:
                both = self.claim(f"{prefix}gate_up_proj{suffix}", n, 2 * width, hidden)
                gate, up = _half(n, width, 0), _half(n, width, 1)
                self.put(f"{prefix}gate_proj.weight", take_rows(both, gate, (n, width, hidden)))
                self.put(f"{prefix}up_proj.weight", take_rows(both, up, (n, width, hidden)))
                self.place(
                    f"{prefix}down_proj{suffix}", n, hidden, width, to=f"{prefix}down_proj.weight"
                )
                return
        numbers = self.claims.numbers(self.prefix + prefix)
        if numbers != list(range(n)):
            absent, extra = sorted(set(range(n)) - set(numbers)), [i for i in numbers if i >= n]
            told = f"missing {absent[:8]}" if absent else f"beyond them {extra[:8]}"
            raise ModelError(
                f"{self.claims.spelled(self.prefix + prefix)[:-1]}: expected experts 0 to {n - 1}, "
                f"got {len(numbers)}, {told}",
                hint="the checkpoint is incomplete, or config.json states another number",
            )
        for part, shape in (
            ("gate", (width, hidden)),
            ("up", (width, hidden)),
            ("down", (hidden, width)),
        ):
            each = [self.claim(f"{prefix}{i}.{part}_proj.weight", *shape) for i in range(n)]
            if len({tensor.dtype for tensor in each}) > 1:
                each = [mapped(tensor, lambda x: x) for tensor in each]
            self.put(f"{prefix}{part}_proj.weight", stack(each))


@lru_cache(maxsize=8)
def _half(n: int, width: int, which: int) -> NDArray[np.int64]:
    """Rows of the first or second half of `n` matrices of 2 * width rows; all layers share them."""
    return np.arange(2 * n * width).reshape(n, 2, width)[:, which].ravel()
