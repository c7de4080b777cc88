"""What a base model said, from a file of llama-perplexity (`--save-all-logits`, also known as
`--kl-divergence-base`).

Layout, little-endian: "_logits_"; i32 ctx, vocabulary, windows; i32 tokens (windows, ctx); then for
each scored position of each window, ctx - 1 - ctx // 2 of them: f32 scale, f32 least, and u16 codes
(vocabulary, padded to an even number); log probability = scale * code + least. Source: llama.cpp,
tools/perplexity/perplexity.cpp, `log_softmax` and `process_logits`.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError

MAGIC = b"_logits_"
_HEAD = struct.Struct("<3i")
_ALIKE = "make it again with llama-perplexity --save-all-logits"


@dataclass(frozen=True, slots=True)
class Saved:
    """Log probabilities of a base model, read window by window.

    tokens  int32 (windows, ctx)
    """

    path: Path
    ctx: int
    n_vocab: int
    tokens: NDArray[np.int32]

    @property
    def first(self) -> int:
        """The first position of a window that was scored."""
        return self.ctx // 2

    def window(self, number: int) -> NDArray[np.float32]:
        """Log probabilities, float32 (ctx - 1 - first, vocabulary), unnormalised by what the codes
        lose.
        """
        rows, words = self.ctx - 1 - self.first, _words(self.n_vocab)
        at = len(MAGIC) + _HEAD.size + self.tokens.nbytes + 2 * number * rows * words
        raw = np.fromfile(self.path, "<u2", rows * words, offset=at).reshape(rows, words)
        scale, least = np.ascontiguousarray(raw[:, :4]).view("<f4").T[..., np.newaxis]
        made: NDArray[np.float32] = raw[:, 4 : 4 + self.n_vocab] * scale + least
        return made


def _words(n_vocab: int) -> int:
    return 2 * ((n_vocab + 1) // 2) + 4


def is_saved(path: Path) -> bool:
    """Whether a file is one of these."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error


def read(path: Path) -> Saved:
    """Open such a file. Raises SourceError where its size is not what its head says."""
    there = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(len(MAGIC) + _HEAD.size)
        if len(head) < len(MAGIC) + _HEAD.size:
            raise SourceError(f"{path}: ends inside its head", hint=_ALIKE)
        ctx, n_vocab, windows = _HEAD.unpack_from(head, len(MAGIC))
        if min(ctx, n_vocab, windows) < 1:
            raise SourceError(
                f"{path}: expected a context, a vocabulary and windows, got {ctx}, {n_vocab} and "
                f"{windows}",
                hint=_ALIKE,
            )
        rows = windows * (ctx - 1 - ctx // 2)
        wanted = len(head) + 4 * windows * ctx + 2 * rows * _words(n_vocab)
        if there != wanted:
            raise SourceError(f"{path}: expected {wanted} bytes, got {there}", hint=_ALIKE)
        tokens = np.fromfile(file, "<i4", windows * ctx).reshape(windows, ctx)
    return Saved(path, ctx, n_vocab, tokens)
