"""Importance matrices made by a formula, and files of them written by others than ggufmix."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import ctypes
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
import oracle
from numpy.typing import NDArray

Sums = NDArray[np.float32]  # (matrices, cols)
Entries = Mapping[str, tuple[Sums, Sequence[float]]]


def entry(name: str, cols: int, counts: Sequence[float]) -> tuple[Sums, Sequence[float]]:
    """Sums of squares with a few loud columns; `counts` tokens for each matrix, zeros for none."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    sums = rng.chisquare(1, (len(counts), cols)) * np.exp(rng.normal(size=cols))
    return (sums * np.array(counts)[:, None]).astype(np.float32), counts


def write_gguf(
    path: Path,
    entries: Entries,
    *,
    datasets: Sequence[str] = ("data/calibration.txt",),
    chunks: int = 10,
    chunk_size: int = 512,
    leave_out: str = "",
) -> Path:
    """llama-imatrix's layout, written by the gguf package."""
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()  # an imatrix has no architecture
    writer.add_string("general.type", "imatrix")
    if datasets:
        writer.add_array("imatrix.datasets", list(datasets))
    if leave_out != "chunk_count":
        writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", chunk_size)
    for name in sorted(entries):
        sums, counts = entries[name]
        writer.add_tensor(f"{name}.in_sum2", sums)
        if leave_out != "counts":
            writer.add_tensor(f"{name}.counts", np.array(counts, np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def legacy(
    entries: Mapping[str, tuple[Sums, int]], chunks: int | None = 10, dataset: str = "data/cal.txt"
) -> bytes:
    """The old layout: means times calls, flat; without a trailer where `chunks` is None."""
    raw = struct.pack("<i", len(entries))
    for name, (values, calls) in entries.items():
        raw += struct.pack("<i", len(name)) + name.encode()
        raw += struct.pack("<ii", calls, values.size) + values.astype("<f4").tobytes()
    if chunks is None:
        return raw
    return raw + struct.pack("<ii", chunks, len(dataset)) + dataset.encode()


def expected(sums: Sums, counts: Sequence[float]) -> Sums:
    """What llama-quantize makes of an entry, written a second time: one scalar after another."""
    made = np.empty_like(sums)
    for matrix, count in enumerate(counts):
        for column in range(sums.shape[1]):
            whole = np.float32(int(count))
            made[matrix, column] = sums[matrix, column] / whole if count else np.float32(1)
    return made


class _Params(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("none", ctypes.c_bool))


def write_by_llama(
    path: Path, entries: Entries, datasets: Sequence[str], chunks: int, chunk_size: int
) -> Path:
    """The same file by llama.cpp's own GGUF writer, in the calls that llama-imatrix makes."""
    ggml = oracle.library()
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64
    for name, result, arguments in (
        ("ggml_init", pointer, [_Params]),
        ("ggml_free", None, [pointer]),
        ("ggml_new_tensor_2d", pointer, [pointer, ctypes.c_int, size, size]),
        ("ggml_set_name", pointer, [pointer, text]),
        ("ggml_get_data", pointer, [pointer]),
        ("gguf_init_empty", pointer, []),
        ("gguf_free", None, [pointer]),
        ("gguf_set_val_str", None, [pointer, text, text]),
        ("gguf_set_val_u32", None, [pointer, text, ctypes.c_uint32]),
        ("gguf_set_arr_str", None, [pointer, text, ctypes.POINTER(text), ctypes.c_size_t]),
        ("gguf_add_tensor", None, [pointer, pointer]),
        ("gguf_write_to_file", ctypes.c_bool, [pointer, text, ctypes.c_bool]),
    ):
        getattr(ggml, name).restype = result
        getattr(ggml, name).argtypes = arguments
    room = sum(4 * sums.size + 4 * len(counts) + 2048 for sums, counts in entries.values())
    context, made = ggml.ggml_init(_Params(room, None, False)), ggml.gguf_init_empty()
    ggml.gguf_set_val_str(made, b"general.type", b"imatrix")
    names = (text * len(datasets))(*[d.encode() for d in datasets])
    ggml.gguf_set_arr_str(made, b"imatrix.datasets", names, len(datasets))
    ggml.gguf_set_val_u32(made, b"imatrix.chunk_count", chunks)
    ggml.gguf_set_val_u32(made, b"imatrix.chunk_size", chunk_size)
    for name in sorted(entries):
        sums, counts = entries[name]
        for ending, values in (("in_sum2", sums), ("counts", np.array(counts, np.float32))):
            cols = values.shape[1] if values.ndim == 2 else 1
            tensor = ggml.ggml_new_tensor_2d(context, 0, cols, len(counts))
            ggml.ggml_set_name(tensor, f"{name}.{ending}".encode())
            ctypes.memmove(ggml.ggml_get_data(tensor), values.ctypes.data, values.nbytes)
            ggml.gguf_add_tensor(made, tensor)
    assert ggml.gguf_write_to_file(made, str(path).encode(), False)
    ggml.gguf_free(made)
    ggml.ggml_free(context)
    return path
