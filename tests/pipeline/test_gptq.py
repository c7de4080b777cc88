"""GPTQ and AWQ checkpoints, from folder to file: the trained example with its matrices packed."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import packings
import pytest
from safetensors.numpy import load_file
from sources import build

import ggufmix
from ggufmix.pipeline import Options

GROUP = 32
Values = dict[str, np.ndarray]
Pack = Callable[[str], tuple[Path, Values]]
ABOUT: dict[str, dict[str, Any]] = {
    "gptq": packings.gptq_config(group_size=GROUP),
    "gptq asymmetric": packings.gptq_config(group_size=GROUP, sym=False),
    "gptq by activation": packings.gptq_config(group_size=GROUP, desc_act=True),
    "awq": packings.AWQ_CONFIG | {"group_size": GROUP},
}


def rounded(x: np.ndarray, symmetric: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, zeros and scales of a matrix, as a plain quantizer finds them."""
    apart = x.astype(np.float32).reshape(len(x), -1, GROUP)
    low, high = apart.min(-1), apart.max(-1)
    if symmetric:
        high = np.maximum(high, -low)
        low = -high
    scales = np.maximum((high - low) / 15, 1e-5).astype(np.float16)
    wide = scales.astype(np.float32)
    middle = np.full(scales.shape, 8.0, np.float32)
    zeros = np.clip(np.rint(-low / wide), 1, 15) if not symmetric else middle
    codes = np.clip(np.rint(apart / wide[..., np.newaxis] + zeros[..., np.newaxis]), 0, 15)
    return codes.reshape(x.shape).astype(np.uint8), zeros.astype(np.uint8), scales


@pytest.fixture
def pack(model: Path) -> Pack:
    """Pack the example; its values by name."""

    def pack(kind: str) -> tuple[Path, Values]:
        arrays: packings.Arrays = {}
        values: Values = {}
        order = None
        for name, stored in load_file(model / "model.safetensors").items():
            x = stored.view(ml_dtypes.bfloat16) if stored.dtype.itemsize == 2 else stored
            if not name.endswith("_proj.weight") or name.startswith("mtp.") or x.shape[0] % 32:
                arrays[name] = x
                continue
            stem = name.removesuffix(".weight")
            made = rounded(x, kind in ("gptq", "gptq by activation"))
            if kind == "awq":
                arrays |= packings.awq(stem, *made)
            else:
                if "activation" in kind:
                    rng = np.random.default_rng(len(values))
                    order = rng.permutation(np.arange(x.shape[1]) // GROUP)
                arrays |= packings.gptq(stem, *made, order=order)
            values[name] = packings.dequantized(*made, order)
        build.weights(model / "model.safetensors", arrays)
        config = json.loads((model / "config.json").read_text())
        build.write_json(model / "config.json", config | {"quantization_config": ABOUT[kind]})
        return model, values

    return pack


def experts(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    return {
        t.name: (t.tensor_type.name, gguf.quants.dequantize(t.data, t.tensor_type))
        for t in gguf.GGUFReader(path).tensors
        if "_exps" in t.name
    }


def stacked(values: Values, name: str) -> np.ndarray:
    """What a tensor of experts should be."""
    _, layer, what, _ = name.split(".")
    part = f"layers.{layer}.mlp.experts.{{}}.{what.split('_')[1]}_proj.weight"
    found = []
    while key := next((n for n in values if n.endswith(part.format(len(found)))), None):
        found.append(values[key])
    return np.stack(found)


@pytest.mark.parametrize(
    ("kind", "recipe", "type_name"),
    [
        ("gptq", "q8_0", "Q8_0"),
        ("gptq", "q4_x", "Q4_0"),
        ("gptq asymmetric", "q8_0", "Q8_0"),
        ("gptq asymmetric", "q4_x-lossless", "Q8_0"),
        ("gptq by activation", "f32", "F32"),
        ("awq", "q8_0", "Q8_0"),
        ("awq", "f32", "F32"),
    ],
)
def test_exact_where_blocks_hold_it(
    pack: Pack, tmp_path: Path, kind: str, recipe: str, type_name: str
) -> None:
    """Every value that gguf decodes is (code - zero) * scale; the plan says it is carried."""
    model, values = pack(kind)
    result = ggufmix.convert(model, tmp_path / "x.gguf", recipe)
    found = experts(tmp_path / "x.gguf")
    assert len(found) == 12
    for name, (made, data) in found.items():
        assert made == type_name
        np.testing.assert_array_equal(data, stacked(values, name), name)
    again = [n for n in result.plan.notes if "quantized a second time" in n]
    assert not again


@pytest.mark.parametrize("kind", ABOUT)
def test_any_other_recipe_takes_the_values(pack: Pack, tmp_path: Path, kind: str) -> None:
    """Q4_1 of packed weights is Q4_1 of their values; that it adds to the error is said."""
    model, values = pack(kind)
    result = ggufmix.convert(model, tmp_path / "x.gguf", options=Options("pure:q4_1"))
    for name, (made, data) in experts(tmp_path / "x.gguf").items():
        assert made == "Q4_1"
        want = ggufmix.encode(stacked(values, name).reshape(-1, data.shape[-1]), "Q4_1")
        decoded = gguf.quants.dequantize(want, gguf.GGMLQuantizationType.Q4_1)
        np.testing.assert_array_equal(data.reshape(decoded.shape), decoded, name)
    said = " ".join(result.plan.notes)
    assert ("ordered by activation" if "activation" in kind else "quantized a second time") in said


def test_memory_is_that_of_some_bands(tmp_path: Path) -> None:
    """A matrix of 32 million weights is read by columns, some megabytes at once."""
    from ggufmix.sources import open_checkpoint, presented

    folder = tmp_path / "wide"
    folder.mkdir()
    groups, rows, cols = 32, 8192, 4096
    arrays = {
        "x.qweight": np.zeros((cols // 8, rows), np.int32),
        "x.qzeros": np.full((groups, rows // 8), 0x77777777, np.int32),
        "x.scales": np.ones((groups, rows), np.float16),
    }
    build.weights(folder / "model.safetensors", arrays)
    build.write_json(folder / "config.json", {"quantization_config": ABOUT["gptq"]})
    with open_checkpoint(folder) as checkpoint:
        [tensor] = presented(checkpoint.tensors, checkpoint.config).tensors.values()
        for read, bound in ((tensor.blocks, 16 << 20), (tensor.rows, 40 << 20)):
            tracemalloc.start()
            for start in range(0, rows, tensor.unit):
                read(start, min(start + tensor.unit, rows))
            assert tracemalloc.get_traced_memory()[1] < bound
            tracemalloc.stop()
