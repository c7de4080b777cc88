"""Run GGUF files in llama.cpp itself, through the shared library inside the package xllamacpp.

Parameter structs are passed as opaque, over-sized buffers that the library's own `*_default_params`
fill; only the leading fields, which have long been stable, are set here. Needs the extra [eval].
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import ctypes as C  # noqa: N812
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

try:
    import xllamacpp
except ModuleNotFoundError as missing:
    raise UsageError(
        "llama.cpp is not installed here", hint="pip install 'ggufmix[eval]'"
    ) from missing

_LIB = C.CDLL(glob.glob(os.path.join(os.path.dirname(xllamacpp.__file__), "xllamacpp*.so"))[0])


_FLAGS_AT, _FLAGS = 72, bytes([0, 0, 1, 0, 0, 0])
"""Where llama_model_params has its flags, in bytes, and their defaults: vocab_only, check_tensors,
use_extra_bufts, no_host, no_alloc, load_mtp.
"""


class _Opaque(C.Structure):
    _fields_ = [("words", C.c_uint32 * 512)]


class _Batch(C.Structure):
    _fields_ = [
        ("n_tokens", C.c_int32),
        ("token", C.POINTER(C.c_int32)),
        ("embd", C.c_void_p),
        ("pos", C.POINTER(C.c_int32)),
        ("n_seq_id", C.POINTER(C.c_int32)),
        ("seq_id", C.POINTER(C.POINTER(C.c_int32))),
        ("logits", C.POINTER(C.c_int8)),
    ]


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_LIB, name)
    function.restype, function.argtypes = result, arguments
    return function


_model_defaults = _function("llama_model_default_params", _Opaque)
_context_defaults = _function("llama_context_default_params", _Opaque)
_load = _function("llama_model_load_from_file", C.c_void_p, C.c_char_p, _Opaque)
_new_context = _function("llama_init_from_model", C.c_void_p, C.c_void_p, _Opaque)
_free_model = _function("llama_model_free", None, C.c_void_p)
_free_context = _function("llama_free", None, C.c_void_p)
_vocab_of = _function("llama_model_get_vocab", C.c_void_p, C.c_void_p)
_n_vocab_of = _function("llama_vocab_n_tokens", C.c_int32, C.c_void_p)
_tokenize = _function(
    "llama_tokenize",
    C.c_int32,
    C.c_void_p,
    C.c_char_p,
    C.c_int32,
    C.POINTER(C.c_int32),
    C.c_int32,
    C.c_bool,
    C.c_bool,
)
_detokenize = _function(
    "llama_detokenize",
    C.c_int32,
    C.c_void_p,
    C.POINTER(C.c_int32),
    C.c_int32,
    C.c_char_p,
    C.c_int32,
    C.c_bool,
    C.c_bool,
)
_new_batch = _function("llama_batch_init", _Batch, C.c_int32, C.c_int32, C.c_int32)
_free_batch = _function("llama_batch_free", None, _Batch)
_decode = _function("llama_decode", C.c_int32, C.c_void_p, _Batch)
_logits_of = _function("llama_get_logits", C.POINTER(C.c_float), C.c_void_p)
_memory_of = _function("llama_get_memory", C.c_void_p, C.c_void_p)
_clear = _function("llama_memory_clear", None, C.c_void_p, C.c_bool)
_LOG = C.CFUNCTYPE(None, C.c_int, C.c_char_p, C.c_void_p)
_said: list[str] = []
_listen = _LOG(lambda _level, text, _data: _said.append(text.decode(errors="replace")))
_function("llama_log_set", None, _LOG, C.c_void_p)(_listen, None)
_function("llama_backend_init", None)()
_bos_of = _function("llama_vocab_bos", C.c_int32, C.c_void_p)
_adds_bos = _function("llama_vocab_get_add_bos", C.c_bool, C.c_void_p)
_set_threads = _function("llama_set_n_threads", None, C.c_void_p, C.c_int32, C.c_int32)

_PIECE_VALUES = 1 << 25
"""Logits that are kept at once: 128 MiB."""


class Llama:
    """A model that llama.cpp has loaded on the CPU.

    n_ctx    longest sequence, in tokens
    threads  that compute; llama.cpp's own choice by default
    mtp      load the blocks for multi-token prediction too, which logits do not use
    Raises RuntimeError with llama.cpp's own last words if it refuses the file.
    """

    def __init__(
        self,
        path: str | Path,
        n_ctx: int = 512,
        *,
        threads: int | None = None,
        mtp: bool = False,
    ) -> None:
        _said.clear()
        self._context = None
        params = _model_defaults()
        if mtp:
            flags = (C.c_ubyte * len(_FLAGS)).from_buffer(params, _FLAGS_AT)
            assert bytes(flags) == _FLAGS, "this xllamacpp lays llama_model_params out otherwise"
            flags[5] = 1
        self._model = _load(os.fsencode(path), params)
        if not self._model:
            raise RuntimeError("llama.cpp refused the file: " + _last_words())
        self._vocab = _vocab_of(self._model)
        self.n_vocab = int(_n_vocab_of(self._vocab))
        self._piece = min(n_ctx, 512, max(_PIECE_VALUES // self.n_vocab, 1))
        params = _context_defaults()
        # n_ctx, n_batch, n_ubatch, n_seq_max
        params.words[0:4] = (n_ctx, self._piece, self._piece, 1)
        self._context = _new_context(self._model, params)
        if not self._context:
            self.close()
            raise RuntimeError("llama.cpp made no context: " + _last_words())
        if threads is not None:
            _set_threads(self._context, threads, threads)

    @property
    def bos(self) -> int | None:
        """The token that text begins with, if this vocabulary asks for one."""
        return int(_bos_of(self._vocab)) if _adds_bos(self._vocab) else None

    def tokenize(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Token ids of `text`; `special` recognises control tokens in it; `bos` puts those in front
        (and behind) that the vocabulary asks for.
        """
        raw = text.encode()
        out = (C.c_int32 * (len(raw) + 16))()
        n = _tokenize(self._vocab, raw, len(raw), out, len(out), bos, special)
        if n < 0:
            raise RuntimeError(f"llama_tokenize returned {n}")
        return list(out[:n])

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, control tokens spelled out."""
        ids = (C.c_int32 * len(tokens))(*tokens)
        out = C.create_string_buffer(64 * len(tokens) + 64)
        n = _detokenize(self._vocab, ids, len(tokens), out, len(out), False, True)
        if n < 0:
            raise RuntimeError(f"llama_detokenize returned {n}")
        return out.raw[:n].decode(errors="replace")

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits of every position, float32 (len(tokens), n_vocab), from an empty cache."""
        return np.concatenate([piece.copy() for piece in self.stream(tokens)])

    def stream(self, tokens: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """The same piece by piece, (some positions, n_vocab): as many as 128 MiB hold. A piece is
        llama.cpp's own memory, valid until the next one.
        """
        _clear(_memory_of(self._context), True)
        batch = _new_batch(self._piece, 0, 1)
        try:
            for start in range(0, len(tokens), self._piece):
                piece = tokens[start : start + self._piece]
                batch.n_tokens = len(piece)
                for i, token in enumerate(piece):
                    batch.token[i], batch.pos[i], batch.logits[i] = token, start + i, 1
                    batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                if (code := _decode(self._context, batch)) != 0:
                    raise RuntimeError(f"llama_decode returned {code}: {_last_words()}")
                made = _logits_of(self._context)
                yield np.ctypeslib.as_array(made, (len(piece), self.n_vocab))
        finally:
            _free_batch(batch)

    def close(self) -> None:
        """Give the memory back."""
        if self._context:
            _free_context(self._context)
        if self._model:
            _free_model(self._model)
        self._context = self._model = None

    def __enter__(self) -> Llama:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _last_words() -> str:
    return "".join(_said[-6:]).strip()


def log_softmax(logits: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Log probabilities over the last axis, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def kl(base: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Mean KL(base || other) in nats per position, of two arrays of logits (positions,
    vocabulary).
    """
    p, q = log_softmax(base), log_softmax(other)
    return float((np.exp(p) * (p - q)).sum(-1).mean())
