"""A real importance matrix: what llama-imatrix measures, measured here while llama.cpp computes.

Its evaluation callback shows each matrix product. Summed are the squares of the inputs, as
llama-imatrix does (tools/imatrix/imatrix.cpp), in float64.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import ctypes as C  # noqa: N812
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufmix import runtime

Sums = NDArray[np.float32]
_CALLBACK_AT = 88  # bytes into llama_context_params


class _Tensor(C.Structure):
    """What ggml.h calls ggml_tensor."""


_Tensor._fields_ = [
    ("type", C.c_int),
    ("buffer", C.c_void_p),
    ("ne", C.c_int64 * 4),
    ("nb", C.c_size_t * 4),
    ("op", C.c_int),
    ("op_params", C.c_int32 * 16),
    ("flags", C.c_int32),
    ("src", C.POINTER(_Tensor) * 10),
    ("view_src", C.c_void_p),
    ("view_offs", C.c_size_t),
    ("data", C.c_void_p),
    ("name", C.c_char * 64),
]
_CALL = C.CFUNCTYPE(C.c_bool, C.POINTER(_Tensor), C.c_bool, C.c_void_p)


def measure(
    path: Path, tokens: Sequence[int], chunk: int = 512
) -> dict[str, tuple[Sums, Sequence[float]]]:
    """Entries by tensor name: sums (matrices, cols) and counts, over whole chunks of `tokens`."""
    library = runtime._LIB
    library.ggml_op_name.restype = C.c_char_p
    library.ggml_nbytes.restype = C.c_size_t
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, NDArray[np.int64]] = {}
    failures: list[BaseException] = []

    def values(tensor: Any, dtype: str) -> NDArray[Any]:
        size = library.ggml_nbytes(C.byref(tensor))
        raw = C.create_string_buffer(size)
        library.ggml_backend_tensor_get(C.byref(tensor), raw, C.c_size_t(0), C.c_size_t(size))
        flat = np.frombuffer(raw.raw, dtype)
        return np.lib.stride_tricks.as_strided(flat, tensor.ne[::-1], tensor.nb[::-1])

    def collect(tensor: Any) -> None:
        weight, given = tensor.src[0].contents, tensor.src[1].contents
        name, cols = weight.name.decode(), weight.ne[0]
        n = weight.ne[2]
        squares = values(given, "<f4").astype(np.float64) ** 2  # (1, tokens, used, cols)
        into = sums.setdefault(name, np.zeros((n, cols)))
        tally = counts.setdefault(name, np.zeros(n, np.int64))
        if library.ggml_op_name(tensor.op) == b"MUL_MAT":
            heads = squares.reshape(n, -1, cols)
            into += heads.sum(axis=1)  # of MLA each head has a matrix and inputs of its own
            tally += heads.shape[1]
            return
        chosen = values(tensor.src[2].contents, "<i4")[0, 0]  # (tokens, used)
        for used in range(chosen.shape[1]):
            np.add.at(into, chosen[:, used], squares[0, :, used % squares.shape[2]])
            np.add.at(tally, chosen[:, used], 1)

    def callback(pointer: Any, ask: bool, _data: Any) -> bool:
        tensor = pointer.contents
        kind = library.ggml_op_name(tensor.op)
        if ask:
            return kind == b"MUL_MAT_ID" or (
                kind == b"MUL_MAT" and tensor.src[0].contents.name.startswith(b"blk.")
            )
        try:
            collect(tensor)
        except Exception as error:  # must not pass through C
            failures.append(error)
        return True

    kept = _CALL(callback)

    def defaults() -> Any:
        params = plain()
        address = C.c_uint64.from_buffer(params, _CALLBACK_AT)
        assert address.value == 0, "this xllamacpp lays llama_context_params out otherwise"
        address.value = C.cast(kept, C.c_void_p).value or 0
        return params

    plain, runtime._context_defaults = runtime._context_defaults, defaults
    try:
        with runtime.Llama(path, chunk) as model:
            for start in range(0, len(tokens) - chunk + 1, chunk):
                model.logits(tokens[start : start + chunk])
    finally:
        runtime._context_defaults = plain
    if failures:
        raise failures[0]
    return {name: (sums[name].astype(np.float32), counts[name].tolist()) for name in sums}
