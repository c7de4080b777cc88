"""What llama.cpp's draft heads (MTP) say: a context of that type, with the last hidden state beside
each token. Its own C API does not name the place of the type: it lies in front of four that are -1.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import ctypes as C  # noqa: N812
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ggufmix import runtime as r

_UNSET = (0xFFFFFFFF,) * 4


def drafted(path: Path, tokens: Sequence[int], hidden: np.ndarray) -> np.ndarray:
    """Logits of the draft head in a file, float32 (tokens, vocabulary).

    hidden  float32 (tokens, width): what the model's last layer gave for the token before each
    """
    params = r._model_defaults()
    flags = (C.c_ubyte * len(r._FLAGS)).from_buffer(params, r._FLAGS_AT)
    assert bytes(flags) == r._FLAGS
    flags[5] = 1  # load_mtp
    model = r._load(os.fsencode(path), params)
    assert model, r._last_words()
    n, n_vocab = len(tokens), r._n_vocab_of(r._vocab_of(model))
    params = r._context_defaults()
    words = list(params.words[:24])
    at = next(i for i in range(20) if tuple(words[i : i + 4]) == _UNSET) - 1
    assert words[at] == 0
    params.words[at] = 1  # LLAMA_CONTEXT_TYPE_MTP
    params.words[0:4] = (n, n, n, 1)
    context = r._new_context(model, params)
    assert context, r._last_words()
    batch, rows = r._new_batch(n, 0, 1), np.ascontiguousarray(hidden, np.float32)
    try:
        batch.n_tokens, batch.embd = n, rows.ctypes.data
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        assert r._decode(context, batch) == 0, r._last_words()
        return np.ctypeslib.as_array(r._logits_of(context), (n, n_vocab)).copy()
    finally:
        batch.embd = None
        r._free_batch(batch)
        r._free_context(context)
        r._free_model(model)
