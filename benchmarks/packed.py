"""Packed checkpoints: how fast one core makes values and blocks of them, and how fast one of
Kimi-K2's size is opened.

    python benchmarks/packed.py

Prints Markdown; times are those of the processor. Weights are random bits of 4096 x 4096 in a file
that is in memory; the large checkpoint is made of sparse files of 550 GB, in a temporary folder, of
which only headers exist.
"""

# SPDX-License-Identifier: MIT

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ggufmix.sources import open_checkpoint, presented
from ggufmix.tensor import Tensor

N = 4096
BAND = 1 << 19
LEAST_SECONDS = 0.5
LAYERS, EXPERTS, HIDDEN, WIDTH = 60, 384, 7168, 2048
WIDTHS = {"I32": 4, "F16": 2, "BF16": 2, "U8": 1, "F8_E4M3": 1, "F32": 4}

Parts = dict[str, tuple[str, tuple[int, ...]]]
"""Name -> dtype and shape."""

GPTQ = {"quant_method": "gptq", "sym": False, "desc_act": False}
INT4 = {"config_groups": {"all": {"weights": {"num_bits": 4, "group_size": 32}}}}


def columns(words: int, groups: int = N // 128) -> Parts:
    """A weight of GPTQ."""
    qzeros = (groups, words)
    return {
        "x.qweight": ("I32", (words, N)),
        "x.qzeros": ("I32", qzeros),
        "x.scales": ("F16", (groups, N)),
    }


def int4(stem: str, rows: int, cols: int) -> Parts:
    """A weight of compressed-tensors."""
    return {
        f"{stem}.weight_packed": ("I32", (rows, cols // 8)),
        f"{stem}.weight_scale": ("BF16", (rows, cols // 32)),
        f"{stem}.weight_shape": ("I32", (2,)),
    }


PACKINGS: dict[str, tuple[Parts, Mapping[str, Any]]] = {
    "INT4, compressed-tensors": (int4("x", N, N), INT4),
    "GPTQ, 4 bits": (columns(N // 8), GPTQ),
    "GPTQ, 3 bits": (columns(N * 3 // 32), GPTQ),
    "AWQ": (
        columns(N // 8) | {"x.qweight": ("I32", (N, N // 8))},
        {"quant_method": "awq"},
    ),
    "MXFP4": ({"x.weight_packed": ("U8", (N, N // 2)), "x.weight_scale": ("U8", (N, N // 32))}, {}),
    "NVFP4": (
        {"x.weight_packed": ("U8", (N, N // 2)), "x.weight_scale": ("F8_E4M3", (N, N // 16))},
        {},
    ),
    "FP8 in blocks": (
        {"x.weight": ("F8_E4M3", (N, N)), "x.weight_scale_inv": ("F32", (N // 128, N // 128))},
        {},
    ),
}


def header(parts: Parts) -> tuple[bytes, dict[str, int]]:
    """The front of a safetensors file, and where in the file each part begins."""
    entries, at, starts = {}, 0, {}
    for name, (dtype, shape) in parts.items():
        size = int(np.prod(shape)) * WIDTHS[dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        starts[name], at = at, at + size
    text = json.dumps(entries).encode()
    front = len(text).to_bytes(8, "little") + text
    return front, {name: len(front) + start for name, start in starts.items()} | {
        "": len(front) + at
    }


def write(folder: Path, parts: Parts, about: Mapping[str, Any]) -> None:
    """Random codes; scales of 1, and zero points that every convention takes."""
    rng = np.random.default_rng(0)
    front, _ = header(parts)
    data = []
    for name, (dtype, shape) in parts.items():
        n = int(np.prod(shape))
        if "scale" in name:
            one = {"F16": 0x3C00, "BF16": 0x3F80, "U8": 127, "F8_E4M3": 0x38, "F32": 0x3F800000}
            data.append(np.full(n, one[dtype], f"<u{WIDTHS[dtype]}").tobytes())
        elif name.endswith("shape"):
            data.append(np.array([N, N], "<i4").tobytes())
        elif name.endswith("qzeros"):
            data.append(bytes(n * WIDTHS[dtype]))
        else:
            data.append((rng.integers(0, 256, n * WIDTHS[dtype], np.uint8) & 0x77).tobytes())
    (folder / "config.json").write_text(json.dumps({"quantization_config": about}))
    (folder / "model.safetensors").write_bytes(front + b"".join(data))


def bands(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """As they are written."""
    step = max(tensor.unit, BAND // tensor.cols // tensor.unit * tensor.unit)
    for start in range(0, tensor.n_rows, step):
        yield start, min(start + step, tensor.n_rows)


def rate(tensor: Tensor, read: Callable[[int, int], object]) -> str:
    """Million weights a second, the best of several runs."""
    best, begun = float("inf"), time.process_time()
    while time.process_time() - begun < LEAST_SECONDS:
        start = time.process_time()
        for first, last in bands(tensor):
            read(first, last)
        best = min(best, time.process_time() - start)
    return f"{tensor.n_values / best / 1e6:.0f}"


def speeds(folder: Path) -> None:
    """The table of packings."""
    print("| M weights/s | values | blocks | of |\n|---|---|---|---|")
    for name, (parts, about) in PACKINGS.items():
        write(folder, parts, about)
        with open_checkpoint(folder) as checkpoint:
            [tensor] = presented(checkpoint.tensors, checkpoint.config).tensors.values()
            blocks = rate(tensor, tensor.blocks) if tensor.format is not None else "-"
            values = rate(tensor, tensor.rows)
            print(f"| {name} | {values} | {blocks} | {tensor.format or '-'} |")


def opening(folder: Path) -> None:
    """A checkpoint of Kimi-K2's size."""
    listed = {}
    for layer in range(LAYERS):
        parts: Parts = {}
        for expert in range(EXPERTS):
            at = f"model.layers.{layer}.mlp.experts.{expert}"
            parts |= int4(f"{at}.gate_proj", WIDTH, HIDDEN)
            parts |= int4(f"{at}.up_proj", WIDTH, HIDDEN)
            parts |= int4(f"{at}.down_proj", HIDDEN, WIDTH)
        file = f"model-{layer + 1:05}-of-{LAYERS:05}.safetensors"
        front, starts = header(parts)
        with (folder / file).open("wb") as out:
            out.write(front)
            out.truncate(starts[""])
        listed |= dict.fromkeys(parts, file)
    (folder / "config.json").write_text(json.dumps({"quantization_config": INT4}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    begun = time.process_time()
    with open_checkpoint(folder) as checkpoint:
        read = time.process_time()
        found = presented(checkpoint.tensors, checkpoint.config)
        done = time.process_time()
        print(f"\n{len(checkpoint.tensors)} tensors, {len(found.packed)} of them packed weights:")
        print(f"headers {read - begun:.1f} s, put together {done - read:.1f} s")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as large:
        speeds(Path(one))
        opening(Path(large))
