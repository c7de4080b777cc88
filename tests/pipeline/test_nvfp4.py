"""NVFP4 checkpoints, from folder to file: the trained example as ModelOpt would name it."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import packings
import pytest
from safetensors.numpy import load_file
from sources import build

import ggufmix
from ggufmix.errors import SourceError
from ggufmix.runtime import Llama, kl
from ggufmix.sources import open_checkpoint

HALF = (packings.HALVES[1:] + packings.HALVES[:-1]) / 2


def packed(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Codes (rows, cols), scales of E4M3 for each 16, and the scale of the whole."""
    apart = x.astype(np.float32).reshape(len(x), -1, 16)
    whole = np.float32(np.abs(x.astype(np.float32)).max() / (6 * 448))
    scales = (np.abs(apart).max(-1) / (6 * whole)).astype(ml_dtypes.float8_e4m3fn)
    each = scales.astype(np.float32)[..., np.newaxis] * whole
    inside = np.divide(apart, each, out=np.zeros_like(apart), where=each > 0)
    codes = (
        np.searchsorted(HALF, np.abs(inside)).astype(np.uint8) | (inside < 0).astype(np.uint8) << 3
    )
    return codes.reshape(x.shape), scales, whole


@pytest.fixture
def nvfp4(model: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The example with its attention and experts packed, and the values of what is packed."""
    arrays, values = {}, {}
    for name, stored in load_file(model / "model.safetensors").items():
        x = stored.view(ml_dtypes.bfloat16) if stored.dtype.itemsize == 2 else stored
        arrays[name] = x
        if not name.endswith("_proj.weight") or name.startswith("mtp."):
            continue
        codes, scales, whole = packed(x)
        arrays |= {
            name: packings.pairs(codes),
            f"{name}_scale": scales,
            f"{name}_scale_2": np.array(whole),
            name.replace(".weight", ".input_scale"): np.array(np.float32(1)),
        }
        wide = scales.astype(np.float32).repeat(16, axis=1)
        values[name] = packings.E2M1[codes] * wide * whole
    build.weights(model / "model.safetensors", arrays)
    return model, values


def test_blocks_and_scales_are_carried(
    nvfp4: tuple[Path, dict[str, np.ndarray]], heldout: str, tmp_path: Path
) -> None:
    """As stored: NVFP4 with a scale beside each, one for each expert; llama.cpp computes from it
    what it computes from the values, but for its rounding of activations. In another recipe the
    values are quantized, and no scale is left.
    """
    model, values = nvfp4
    files = {}
    for recipe in ("q4_x-lossless", "f32", "q8_0"):
        files[recipe] = tmp_path / f"{recipe}.gguf"
        plan = ggufmix.plan(model, recipe)
        ggufmix.convert(model, files[recipe], recipe)
        assert files[recipe].stat().st_size == plan.total_bytes
    found = {t.name: t for t in gguf.GGUFReader(files["q4_x-lossless"]).tensors}
    wide = {t.name: t for t in gguf.GGUFReader(files["f32"]).tensors}
    kinds = [t.tensor_type.name for t in found.values()]
    scales = [n for n in found if n.endswith(".scale")]
    assert kinds.count("NVFP4") == len(scales) > 20
    assert list(found) == sorted(found, key=lambda n: (n[:4] == "blk.", *layer(n), n.encode()))
    for name in scales:
        tensor = found[name.replace(".scale", ".weight")]
        each = found[name].data.reshape(-1)
        assert len(each) == (tensor.shape[2] if len(tensor.shape) == 3 else 1)
        bare = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        made = bare * each.reshape(-1, 1, 1) if bare.ndim == 3 else bare * each
        np.testing.assert_array_equal(made, wide[tensor.name].data, name)
    for name in ("f32", "q8_0"):
        names = [t.name for t in gguf.GGUFReader(files[name]).tensors]
        assert not [n for n in names if n.endswith(".scale")]
    one = next(n for n in values if n.endswith("layers.1.mlp.experts.2.down_proj.weight"))
    np.testing.assert_array_equal(wide["blk.1.ffn_down_exps.weight"].data[2], values[one])
    logits = {}
    for recipe in ("f32", "q4_x-lossless"):
        with Llama(files[recipe], 256) as llama:
            logits[recipe] = llama.logits(llama.tokenize(heldout[:2000])[:256])
    assert kl(logits["f32"], logits["q4_x-lossless"]) < 1e-2


def layer(name: str) -> tuple[int, ...]:
    return (int(name.split(".")[1]),) if name.startswith("blk.") else ()


def test_a_scale_that_is_no_number(
    nvfp4: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """Nothing is left behind where the scale of a whole weight is wrong."""
    model, values = nvfp4
    file = model / "model.safetensors"
    text = file.read_bytes()
    name = next(iter(values)) + "_scale_2"
    with open_checkpoint(model) as checkpoint:
        at = checkpoint.tensors[name]._offset
    file.write_bytes(text[:at] + np.float32(np.nan).tobytes() + text[at + 4 :])
    with pytest.raises(SourceError, match="expected a finite number above zero"):
        ggufmix.convert(model, tmp_path / "x.gguf", "q4_x-lossless")
    assert not list(tmp_path.glob("x.gguf*"))
