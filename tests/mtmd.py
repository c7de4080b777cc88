"""Image embeddings by llama.cpp itself: libmtmd, in the shared library inside the package
xllamacpp, through ctypes.

It wants a language model beside the projector: its vocabulary, and the width of its embeddings.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import ctypes as C  # noqa: N812
import os
from pathlib import Path

import numpy as np

from ggufmix import runtime

_IMAGE = 1  # MTMD_INPUT_CHUNK_TYPE_IMAGE


class _Params(C.Structure):
    """mtmd_context_params (2026-08-04), as far as something is set here; the rest is its own."""

    _fields_ = [
        ("use_gpu", C.c_bool),
        ("device", C.c_void_p),
        ("print_timings", C.c_bool),
        ("n_threads", C.c_int),
        ("image_marker", C.c_char_p),
        ("media_marker", C.c_char_p),
        ("flash_attn_type", C.c_int),
        ("warmup", C.c_bool),
        ("image_min_tokens", C.c_int),
        ("image_max_tokens", C.c_int),
        ("rest", C.c_uint64 * 16),
    ]


class _Text(C.Structure):
    _fields_ = [
        ("text", C.c_char_p),
        ("text_len", C.c_size_t),
        ("add_special", C.c_bool),
        ("parse_special", C.c_bool),
    ]


def _function(name: str, result: object, *arguments: object) -> object:
    function = getattr(runtime._LIB, name)
    function.restype, function.argtypes = result, arguments
    return function


_P = C.c_void_p
_defaults = _function("mtmd_context_params_default", _Params)
_init = _function("mtmd_init_from_file", _P, C.c_char_p, _P, _Params)
_free = _function("mtmd_free", None, _P)
_marker = _function("mtmd_default_marker", C.c_char_p)
_bitmap = _function("mtmd_bitmap_init", _P, C.c_uint32, C.c_uint32, C.c_char_p)
_free_bitmap = _function("mtmd_bitmap_free", None, _P)
_chunks = _function("mtmd_input_chunks_init", _P)
_free_chunks = _function("mtmd_input_chunks_free", None, _P)
_n_chunks = _function("mtmd_input_chunks_size", C.c_size_t, _P)
_chunk = _function("mtmd_input_chunks_get", _P, _P, C.c_size_t)
_kind = _function("mtmd_input_chunk_get_type", C.c_int, _P)
_n_tokens = _function("mtmd_input_chunk_get_n_tokens", C.c_size_t, _P)
_tokenize = _function(
    "mtmd_tokenize", C.c_int32, _P, _P, C.POINTER(_Text), C.POINTER(_P), C.c_size_t
)
_encode = _function("mtmd_encode_chunk", C.c_int32, _P, _P)
_function("mtmd_log_set", None, runtime._LOG, _P)(runtime._listen, None)
_function("mtmd_helper_log_set", None, runtime._LOG, _P)(runtime._listen, None)
_embeddings = _function("mtmd_get_output_embd", C.POINTER(C.c_float), _P)


def embeddings(
    projector: Path, text_model: runtime.Llama, image: np.ndarray, width: int
) -> np.ndarray:
    """Embeddings of an image, float32 (tokens, width).

    projector  a file of --mmproj
    image      uint8 (height, width, 3); of sides that the projector need not change
    width      of the language model's embeddings
    Raises RuntimeError with llama.cpp's own last words if it refuses the projector.
    """
    params = _defaults()
    params.use_gpu, params.warmup, params.print_timings = False, False, False
    params.flash_attn_type = 0
    context = _init(os.fsencode(projector), text_model._model, params)
    if not context:
        raise RuntimeError("llama.cpp refused the projector: " + runtime._last_words())
    height, across, _ = image.shape
    bitmap, chunks = _bitmap(across, height, image.tobytes()), _chunks()
    try:
        marker = _marker()
        text = _Text(marker, len(marker), False, True)
        code = _tokenize(context, chunks, C.byref(text), C.byref(_P(bitmap)), 1)
        assert code == 0, runtime._last_words()
        each = [_chunk(chunks, i) for i in range(_n_chunks(chunks))]
        [found] = [chunk for chunk in each if _kind(chunk) == _IMAGE]
        assert _encode(context, found) == 0, runtime._last_words()
        return np.ctypeslib.as_array(_embeddings(context), (_n_tokens(found), width)).copy()
    finally:
        _free_chunks(chunks)
        _free_bitmap(bitmap)
        _free(context)
