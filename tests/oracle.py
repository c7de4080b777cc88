"""llama.cpp's own encoder, from the shared library inside the PyPI package `xllamacpp`.

That library is stock llama.cpp for x86-64: what its `ggml_quantize_chunk` writes is what exact
means.
"""

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import xllamacpp
from gguf import GGMLQuantizationType
from numpy.typing import NDArray


@cache
def library() -> ctypes.CDLL:
    """Llama.cpp, with what `encode` needs declared."""
    [path] = Path(xllamacpp.__file__).parent.glob("xllamacpp*.so")
    found = ctypes.CDLL(str(path))
    found.ggml_row_size.restype = ctypes.c_size_t
    found.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    found.ggml_quantize_chunk.restype = ctypes.c_size_t
    found.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,  # type
        ctypes.c_void_p,  # float32 source
        ctypes.c_void_p,  # destination
        *[ctypes.c_int64] * 3,  # first value, rows, values per row
        ctypes.c_void_p,  # importance, or NULL
    ]
    return found


def encode(
    x: NDArray[np.float32], name: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """What llama.cpp writes for float32 rows (rows, cols): uint8 (rows, row_bytes)."""
    x = np.ascontiguousarray(x, np.float32)
    rows, cols = x.shape
    kind = int(GGMLQuantizationType[name])
    out = np.zeros((rows, library().ggml_row_size(kind, cols)), np.uint8)
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
        assert importance.shape == (cols,)
    pointer = None if importance is None else importance.ctypes.data
    written = library().ggml_quantize_chunk(
        kind, x.ctypes.data, out.ctypes.data, 0, rows, cols, pointer
    )
    assert written == out.nbytes, (name, written, out.nbytes)
    return out
