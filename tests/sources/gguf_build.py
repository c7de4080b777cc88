"""Write GGUF files: sound ones with the gguf package, others byte by byte."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import gguf
import numpy as np

from ggufmix.container import TensorInfo, Value, header, text

Stored = tuple[str, np.ndarray]
"""A type, and its rows: values of a float or integer type, else blocks as uint8 (..., row_bytes)"""


def blocks_of(kind: str, rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """Sound blocks of any type, uint8 (rows, row_bytes): noise with scales of 1."""
    size, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    raw = np.random.default_rng(seed).integers(0, 256, (rows, cols // size, n_bytes), np.uint8)
    for at in (0, 2, n_bytes - 2, n_bytes - 4):  # wherever its scales lie
        if 0 <= at <= n_bytes - 2:
            raw[:, :, at + 1] = 0x3C
    if kind == "IQ1_M":
        raw[:, :, 48:56] &= 0x3F
    if kind == "MXFP4":
        raw[:, :, 0] = 120
    return raw.reshape(rows, -1)


def gguf_file(
    path: Path,
    tensors: Mapping[str, Stored],
    *,
    arch: str = "llama",
    alignment: int | None = None,
    split: int = 0,
) -> Path:
    """Write a sound file with the gguf package; `split`: tensors in each part."""
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(2)
    writer.add_float32("llama.odd", 0.1)
    writer.add_array("llama.list", [3, 1, 2])
    writer.add_string("unknown.key", "kept")
    for name, (kind, rows) in tensors.items():
        writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def raw_file(
    infos: Iterable[tuple[str, tuple[int, ...], str, int]],
    n_data: int,
    values: Mapping[str, Value] | None = None,
    alignment: int = 32,
) -> bytes:
    """The bytes of a file with any claims: (name, shape in GGUF order, type, offset)."""
    made = header(
        {"general.architecture": text("llama"), **(values or {})},
        [TensorInfo(n, s, gguf.GGMLQuantizationType[k], at) for n, s, k, at in infos],
        alignment,
    )
    return made + bytes(n_data)
