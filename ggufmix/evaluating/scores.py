"""What a model says of each next token, beside what a base model says: per position, and in sum.

Definitions are llama-perplexity's, so that figures compare (llama.cpp, tools/perplexity:
`perplexity` and `kl_divergence`): a text is cut into windows of `ctx` tokens, the second half of
each window is scored, and the spread of a mean is that of independent samples. Natural logarithms;
float64.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime import log_softmax

Logits = NDArray[np.float32] | NDArray[np.float64]
Values = NDArray[np.float64]

_AT_ONCE = 1 << 22
"""Values that are held in float64 at once."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Neighbouring positions of one window; every array is (positions,). Without a base model the
    last three are NaN, and so is what a base cannot say.

    nll        -log probability of the token that comes next
    base_nll   the same of the base model
    kld        KL divergence from the base model, in nats
    same_top   1 where both think the same token likeliest, else 0
    p_change   probability of the next token, less the base model's
    """

    nll: Values
    base_nll: Values
    kld: Values
    same_top: Values
    p_change: Values


def compare(logits: Logits, following: Sequence[int], base: Logits | None = None) -> Positions:
    """Score some positions.

    logits     (positions, vocabulary), of any scale: they are normalised
    following  the token after each position
    base       the same of the base model
    """
    rows = max(_AT_ONCE // logits.shape[1], 1)
    found = []
    for start in range(0, len(following), rows):
        part = slice(start, min(start + rows, len(following)))
        found.append(_scored(logits[part], following[part], None if base is None else base[part]))
    return joined(found)


def _scored(logits: Logits, following: Sequence[int], base: Logits | None) -> Positions:
    each = np.arange(len(following)), np.asarray(following)
    own = log_softmax(logits)
    nll = -own[each]
    if base is None:
        nothing = np.full(len(following), np.nan)
        return Positions(nll, nothing, nothing, nothing, nothing)
    top = own.argmax(-1)
    theirs = log_softmax(base)
    same = (top == theirs.argmax(-1)).astype(np.float64)
    base_nll = -theirs[each]
    np.subtract(theirs, own, out=own)
    kld = (np.exp(theirs, out=theirs) * own).sum(-1)
    return Positions(nll, base_nll, kld, same, np.exp(-nll) - np.exp(-base_nll))


def joined(parts: Sequence[Positions]) -> Positions:
    """Parts that follow each other as one."""
    return Positions(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in Positions.__dataclass_fields__
        )
    )


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and how far it may be off: the standard error of independent samples."""

    value: float
    spread: float


def mean(values: Values) -> Mean:
    """Mean of values (n,), n at least 1."""
    n = len(values)
    spread = np.sqrt(values.var() / (n - 1)) if n > 1 else 0.0
    return Mean(float(values.mean()), float(spread))


@dataclass(frozen=True, slots=True)
class Scores:
    """Some windows of one length, scored. `windows`: one Positions for each, ctx - 1 positions; of
    the last token nobody knows what follows.
    """

    ctx: int
    windows: tuple[Positions, ...]

    @property
    def _half(self) -> Positions:
        first = self.ctx // 2
        halves = [
            Positions(*(getattr(w, n)[first:] for n in Positions.__dataclass_fields__))
            for w in self.windows
        ]
        return joined(halves)

    def summary(self) -> dict[str, Any]:
        """Figures over the second half of each window, as plain values: `ppl`, and with a base
        `base_ppl`, `kld`, `kld_999` (99.9th percentile), `kld_max`, `same_top`, `p_change_rms`.
        """
        half = self._half
        nll = mean(half.nll)
        ppl = float(np.exp(nll.value))
        made: dict[str, Any] = {
            "ctx": self.ctx,
            "windows": len(self.windows),
            "tokens": len(half.nll),
            "ppl": ppl,
            "ppl_spread": ppl * nll.spread,
        }
        if np.isnan(half.kld).any():
            return made
        kld, same = mean(half.kld), mean(half.same_top)
        return made | {
            "base_ppl": float(np.exp(half.base_nll.mean())),
            "kld": kld.value,
            "kld_spread": kld.spread,
            "kld_999": float(np.quantile(half.kld, 0.999)),
            "kld_max": float(half.kld.max()),
            "same_top": same.value,
            "same_top_spread": same.spread,
            "p_change_rms": float(np.sqrt(np.square(half.p_change).mean())),
        }

    def by_position(self, parts: int = 32) -> list[tuple[int, float]]:
        """(position, mean KL divergence around it) over all windows, in at most `parts` runs of
        positions, each longer than the one before by the same factor; runs of which the base says
        nothing are left out.
        """
        kld = np.stack([w.kld for w in self.windows]).mean(0)
        edges = np.unique(np.geomspace(1, len(kld) + 1, parts + 1).astype(np.int64)) - 1
        runs = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        return [
            ((start + stop) // 2, float(kld[start:stop].mean()))
            for start, stop in runs
            if not np.isnan(kld[start:stop]).any()
        ]
