"""Running a model over token ids; what was measured, under the names and in the order of GGUF."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..tracing import Index, Origin
from .measuring import Inputs, Measuring, kind_of
from .naming import Parameter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[str, int, int], None]
"""What was run last, how many sequences are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix of a GGUF tensor: whose inputs are its, and which of them are its columns."""

    inputs: Inputs
    expert: int
    index: Index

    @property
    def tokens(self) -> int:
        """Tokens that went through it."""
        return int(self.inputs.counts[self.expert])


class Entry:
    """What was measured for one GGUF tensor, as `imatrix.write` takes it."""

    has_maxima = True

    def __init__(self, name: str, matrices: Sequence[Matrix]) -> None:
        self.name = name
        self.matrices = matrices
        self.cols = len(matrices[0].index)
        self.n_values = self.cols * len(matrices)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens, int64, (matrices,)."""
        return np.array([matrix.tokens for matrix in self.matrices], np.int64)

    def sums(self, start: int, stop: int) -> NDArray[np.float32]:
        """Sums of squared inputs, float32, of the values start..stop over all matrices."""
        return self._values(start, stop, lambda m: m.inputs.sums(m.expert)[m.index])

    def maxima(self, start: int, stop: int) -> NDArray[np.float32]:
        """Largest magnitudes of inputs, likewise."""
        return self._values(start, stop, lambda m: m.inputs.maxima(m.expert)[m.index])

    def _values(
        self, start: int, stop: int, of: Callable[[Matrix], NDArray[Any]]
    ) -> NDArray[np.float32]:
        first, last = start // self.cols, -(-stop // self.cols)
        every = np.concatenate([of(m) for m in self.matrices[first:last]]).astype(np.float32)
        return every[start - first * self.cols : stop - first * self.cols]


@dataclass(frozen=True, slots=True)
class Collected:
    """What a model was seen to do.

    entries  for each GGUF tensor that was measured, by name
    tokens   that were run
    ahead    GGUF matrices that the loaded model does not have: blocks of multi-token prediction
    without  those that it has, but computes by another way
    """

    entries: list[Entry]
    tokens: int
    ahead: tuple[str, ...]
    without: tuple[str, ...]


def collect(
    model: PreTrainedModel,
    named: Mapping[str, Parameter],
    origins: Mapping[str, tuple[Origin, ...]],
    sequences: Iterable[Sequence[int]],
    n: int,
    *,
    whole: bool = False,
    progress: Progress | None = None,
) -> Collected:
    """Run a model and measure what flows into its weights.

    named      where each tensor of the checkpoint is in the model
    origins    where each GGUF tensor comes from
    sequences  token ids; `n` says how many there are
    whole      compute the output of every token, not of the last alone
    Raises ModelError where the model computes what is not finite, and as `measuring.kind_of`.
    """
    wanted = {named[o.weight].name for of in origins.values() for o in of if o.weight in named}
    measuring = Measuring(model, sorted(wanted))
    tokens = 0
    for done, ids in enumerate(sequences, 1):
        _run(model, measuring, ids, whole=whole)
        tokens += len(ids)
        if progress is not None:
            progress(f"{len(ids)} tokens", done, n)
    for name, inputs in measuring.inputs.items():
        if not inputs.finite():
            raise ModelError(
                f"{name}: what flows into it is not finite",
                hint="if it is float16 that overflows, --dtype bf16 or f32; else weights are wrong",
            )
    entries, ahead, without = [], [], []
    for name, of in sorted(origins.items()):
        found = [m for m in (_matrix(o, named, measuring) for o in of) if m is not None]
        if len(found) == len(of) and any(m.tokens for m in found):
            entries.append(Entry(name, found))
        elif of[0].weight not in named:
            ahead.append(name)
        elif kind_of(model, named[of[0].weight].name):
            without.append(name)
    return Collected(entries, tokens, tuple(ahead), tuple(without))


def _run(model: PreTrainedModel, measuring: Measuring, ids: Sequence[int], *, whole: bool) -> None:
    import torch

    few = not whole and "logits_to_keep" in inspect.signature(model.forward).parameters
    device = model.device if model.device.type != "meta" else "cpu"  # of what is on the disk
    given = torch.tensor([list(ids)], device=device)
    with torch.inference_mode(), measuring.attached():
        model(input_ids=given, use_cache=False, **({"logits_to_keep": 1} if few else {}))


def _matrix(origin: Origin, named: Mapping[str, Parameter], measuring: Measuring) -> Matrix | None:
    """None where the columns are not what was measured: of blocks that did not run, or of matrices
    that llama.cpp multiplies from the other side.
    """
    place = named.get(origin.weight)
    inputs = measuring.inputs.get(place.name) if place is not None else None
    if place is None or inputs is None or inputs.axis != origin.axis:
        return None
    if inputs.cols <= origin.index.max():
        return None
    expert = 0
    if len(inputs.counts) > 1:
        expert = origin.matrix if place.matrix is None else place.matrix
    return Matrix(inputs, expert, origin.index)
