"""Packed checkpoints that are wrong anywhere: an error that names the file, soon, in little
memory.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import int4
import ml_dtypes
import numpy as np
import packings
import pytest
from sources import build

from ggufmix.errors import GgufmixError, SourceError
from ggufmix.sources import Packed, open_checkpoint, presented

SECONDS, BYTES = 2, 16 << 20
Header = dict[str, Any]


def whole() -> packings.Arrays:
    """A weight of every packing."""
    arrays: packings.Arrays = {}
    arrays |= int4.packed("int4", *int4.lattice((8, 64)))
    arrays |= int4.packed("order", *int4.lattice((8, 64)))
    arrays["order.weight_g_idx"] = (np.arange(64) % 2).astype(np.int32)
    arrays |= int4.packed("zeros", *int4.lattice((8, 64)))
    arrays["zeros.weight_zero_point"] = np.full((1, 2), 0x77777777, np.int32)
    arrays |= packings.gptq("gptq", *packings.grouped(32, 64, group=32, symmetric=True))
    arrays |= packings.awq("awq", *packings.grouped(32, 64, group=32, symmetric=True))
    codes, scales, _ = packings.mxfp4(4, 64)
    arrays |= {"mx.weight_packed": packings.pairs(codes), "mx.weight_scale": scales}
    codes, scales, _ = packings.mxfp4(2, 4, 64)
    blocks = packings.pairs(codes).reshape(2, 4, 2, 16)
    arrays |= {"oss_blocks": blocks, "oss_scales": scales}
    codes, scales, _ = packings.nvfp4(4, 64)
    arrays |= {"nv.weight_packed": packings.pairs(codes), "nv.weight_scale": scales}
    arrays["nv.weight_global_scale"] = np.array([100.0], np.float32)
    arrays |= {"mo.weight": packings.pairs(codes), "mo.weight_scale": scales}
    arrays["mo.weight_scale_2"] = np.array(0.01, np.float32)
    arrays["fp8.weight"] = np.ones((4, 64), ml_dtypes.float8_e4m3fn)
    arrays["fp8.weight_scale_inv"] = np.ones((1, 1), np.float32)
    return arrays


ABOUT: dict[str, Any] = {
    **int4.config(), "quant_method": "gptq", "bits": 4, "sym": True, "desc_act": False,
    "checkpoint_format": "gptq", "weight_block_size": [128, 128], "dynamic": {"x": {"sym": True}},
    "extra_config": {"y": {"desc_act": False}}, "version": "gemm", "packing_format": "auto_round",
}  # fmt: skip
ODD: list[Any] = [
    None, True, False, -1, 0, 1, 3, 7, 10**20, 2**63, 1.5, float("nan"), "", "gemv", "x", [], {},
    [0, 0], [-1, 128], [128], [None, 1], [1e9, 2], {"a": {}}, {"group_0": None},
    {"a": {"weights": {}}}, {"a": {"weights": {"num_bits": "4"}}},
    {"a": {"weights": {"num_bits": 8, "group_size": -1}}},
    {"a": {"weights": {"symmetric": False, "group_size": 0}}}, [[]],
]  # fmt: skip


def tried(folder: Path) -> tuple[int, str]:
    """Everything read that can be: how many weights were, and what the first error said."""
    read, said = 0, ""
    try:
        with open_checkpoint(folder) as checkpoint:
            found = presented(checkpoint.tensors, checkpoint.config, "nearest")
            for tensor in found.tensors.values():
                try:
                    _ = tensor.dtype
                    n = min(tensor.n_rows, 64)
                    assert tensor.rows(0, n).shape == (n, tensor.cols)
                    if tensor.format is not None:
                        blocks = tensor.blocks(0, n)
                        assert blocks.shape == (n, tensor.format.row_bytes(tensor.cols))
                    read += isinstance(tensor, Packed)
                except GgufmixError as error:
                    said = said or str(error)
    except GgufmixError as error:
        said = str(error)
    return read, said


def bounded(folder: Path) -> tuple[int, str]:
    """The same, within time and memory."""
    tracemalloc.start()
    begun = time.process_time()
    found = tried(folder)
    assert time.process_time() - begun < SECONDS
    assert tracemalloc.get_traced_memory()[1] < BYTES
    tracemalloc.stop()
    return found


def written(folder: Path, header: Header, data: bytes, about: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"quantization_config": about}))
    (folder / "model.safetensors").write_bytes(build.framed(json.dumps(header).encode(), data))
    return folder


def raw() -> tuple[Header, bytes]:
    arrays = whole()
    return build.header(arrays), b"".join(v.tobytes() for v in arrays.values())


def test_the_whole_is_sound(tmp_path: Path) -> None:
    """What the mutants are made from is read without an error."""
    header, data = raw()
    assert bounded(written(tmp_path, header, data, ABOUT)) == (10, "")


def _renamed(header: Header, rng: np.random.Generator) -> Header:
    a, b = rng.choice(list(header), 2, replace=False)
    return {{a: b, b: a}.get(n, n): e for n, e in header.items()}


def _lost(header: Header, rng: np.random.Generator) -> Header:
    gone = rng.choice(list(header))
    return {("other" if n == gone else n): e for n, e in header.items()}


def _reshaped(header: Header, rng: np.random.Generator) -> Header:
    name = rng.choice(list(header))
    shape = list(header[name]["shape"])
    n = int(np.prod(shape))
    shapes = [[n], [1, n], [n, 1], [1, 1, n], shape[::-1], [*shape, 1], [n // 2, 2], [2, n // 2]]
    fit = [s for s in shapes if np.prod(s) == n]
    chosen = fit[int(rng.integers(len(fit)))]
    return header | {name: header[name] | {"shape": [int(d) for d in chosen]}}


def _retyped(header: Header, rng: np.random.Generator) -> Header:
    name = rng.choice(list(header))
    old = header[name]
    width = {"F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "F8_E4M3": 1, "I64": 8}[old["dtype"]]
    same = {8: ["F64", "U64"], 4: ["F32", "I32", "U32"], 2: ["F16", "BF16", "I16"], 1: ["U8", "I8",
            "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"]}[width]  # fmt: skip
    return header | {name: old | {"dtype": str(rng.choice(same))}}


@pytest.mark.parametrize("change", [_renamed, _lost, _reshaped, _retyped])
def test_parts_changed(
    tmp_path: Path, change: Callable[[Header, np.random.Generator], Header]
) -> None:
    """Names swapped or gone, other shapes and types of as many bytes: read or refused, and what is
    refused names its file.
    """
    header, data = raw()
    refused = 0
    for seed in range(120):
        mutant = change(header, np.random.default_rng(seed))
        _, said = bounded(written(tmp_path, mutant, data, ABOUT))
        assert not said or said.startswith(("model.safetensors: ", "config.json: ")), said
        refused += bool(said)
    assert refused > 30


@pytest.mark.parametrize("under", ["", "text_config"])
def test_configs_changed(tmp_path: Path, under: str) -> None:
    """Whatever quantization_config says: read or refused."""
    header, data = raw()
    folder = written(tmp_path, header, data, ABOUT)
    abouts: list[Any] = [ABOUT | {key: odd} for key in ABOUT for odd in ODD] + ODD
    said = set()
    for about in abouts:
        config = {"quantization_config": about}
        (folder / "config.json").write_text(json.dumps({under: config} if under else config))
        said.add(tried(folder)[1])
    assert len(said) > 4


def test_data_changed(tmp_path: Path) -> None:
    """Noise in place of some bytes of the data: values or an error."""
    header, data = raw()
    for seed in range(150):
        rng = np.random.default_rng(seed)
        mutant = np.frombuffer(data, np.uint8).copy()
        at = rng.integers(0, len(mutant), 1 + seed // 3)
        mutant[at] = rng.choice([0, 0xFF, 0x7F, 0x80, int(rng.integers(256))], len(at))
        bounded(written(tmp_path, header, mutant.tobytes(), ABOUT))


ABSURD: dict[str, tuple[str, str, list[int]]] = {
    "order": ("gptq.g_idx", "I32", [1 << 38]),
    "compressed order": ("order.weight_g_idx", "I32", [1 << 38]),
    "shape": ("int4.weight_shape", "I32", [1 << 38]),
    "scales": ("int4.weight_scale", "BF16", [1 << 38, 2]),
    "zeros": ("gptq.qzeros", "I32", [1 << 38, 4]),
    "zero points": ("zeros.weight_zero_point", "I32", [1 << 38, 2]),
    "scales of MXFP4": ("oss_scales", "U8", [1 << 38, 4, 2]),
    "scale of all": ("nv.weight_global_scale", "F32", [1 << 38]),
    "scales of FP8": ("fp8.weight_scale_inv", "F32", [1 << 30, 1 << 8]),
    "codes": ("int4.weight_packed", "I32", [1 << 37, 8]),
}


@pytest.mark.parametrize("case", ABSURD)
def test_parts_of_terabytes(tmp_path: Path, case: str) -> None:
    """A part that is a terabyte, in a sparse file that has it, is refused by its shape, unread."""
    name, dtype, shape = ABSURD[case]
    header, _ = raw()
    del header[name]
    packed, at = {}, 0
    for other, entry in header.items():
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        packed[other] = entry | {"data_offsets": [at, at + size]}
        at += size
    size = int(np.prod(shape)) * {"I32": 4, "F32": 4, "BF16": 2, "U8": 1}[dtype]
    packed[name] = build.entry(dtype, shape, at, at + size)
    folder = written(tmp_path, packed, bytes(at), ABOUT)
    file = folder / "model.safetensors"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size + size)
    tracemalloc.start()
    begun = time.process_time()
    with (
        open_checkpoint(folder) as checkpoint,
        pytest.raises(SourceError, match=r"^model\.safetensors: "),
    ):
        presented(checkpoint.tensors, checkpoint.config)
    assert time.process_time() - begun < 1
    assert tracemalloc.get_traced_memory()[1] < BYTES
    tracemalloc.stop()


@pytest.mark.parametrize("indexed", [True, False])
def test_a_partner_in_a_missing_shard(tmp_path: Path, indexed: bool) -> None:
    """Codes in one shard, their scales in another that is not there: the file that is missing is
    named; where nothing tells of it, the scales are.
    """
    arrays = int4.packed("x", *int4.lattice((8, 64)))
    first, second = (f"model-{i:05}-of-00002.safetensors" for i in (1, 2))
    codes = {n: v for n, v in arrays.items() if not n.endswith("_scale")}
    build.write_json(tmp_path / "config.json", {"quantization_config": int4.config()})
    build.weights(tmp_path / first, codes)
    if indexed:
        listed = dict.fromkeys(codes, first) | {"x.weight_scale": second}
        build.write_json(tmp_path / "model.safetensors.index.json", {"weight_map": listed})
    assert second in bounded(tmp_path)[1]
    (tmp_path / first).rename(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").unlink(missing_ok=True)
    assert "expected its scales x.weight_scale beside it, no file has it" in bounded(tmp_path)[1]
