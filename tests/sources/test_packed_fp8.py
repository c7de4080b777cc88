"""Weights in 8-bit floats against compressed-tensors and torch, which dequantize them."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from int4 import torch_of
from sources.build import NAMES, weights, write_json

from ggufmix.errors import SourceError
from ggufmix.sources import open_checkpoint, presented

E4M3, E5M2, E8M0 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu
NAMES |= {np.dtype(E8M0): "F8_E8M0", np.dtype(E5M2): "F8_E5M2"}
BLOCKS = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


def codes(*shape: int, dtype: Any = E4M3) -> np.ndarray:
    """Every byte that is a finite number, in no order."""
    rng = np.random.default_rng(3)
    every = np.arange(256, dtype=np.uint8).view(dtype)
    return rng.choice(every[np.isfinite(every.astype(np.float32))], shape)


def scales(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    x = np.random.default_rng(4).uniform(1e-4, 1e-2, shape)
    if dtype is E8M0:
        x = np.exp2(np.floor(np.log2(x)))
    return x.astype(np.float32).astype(dtype)


def rows(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    start: int = 0,
    stop: int | None = None,
    config: Mapping[str, Any] = BLOCKS,
) -> np.ndarray:
    """Rows of the weight "x.weight" of a checkpoint."""
    write_json(folder / "config.json", config)
    weights(folder / "model.safetensors", arrays)
    with open_checkpoint(folder) as checkpoint:
        found = presented(checkpoint.tensors, checkpoint.config)
        assert list(found.tensors) == ["x.weight"]
        assert "FP8" in found.notes[0]
        tensor = found.tensors["x.weight"]
        assert tensor.format is None
        return tensor.rows(start, tensor.n_rows if stop is None else stop)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, E8M0])
@pytest.mark.parametrize("shape", [(256, 384), (300, 200), (100, 64)])
def test_blocks(tmp_path: Path, shape: tuple[int, int], dtype: Any) -> None:
    """Blocks of 128 x 128, cut off at the edges, any dtype of scales: the products in float32, as
    torch computes them; any rows by themselves, across borders of blocks.
    """
    x, s = codes(*shape), scales(-(-shape[0] // 128), -(-shape[1] // 128), dtype=dtype)
    wide = s.astype(np.float32).repeat(128, axis=0).repeat(128, axis=1)
    eight = torch.from_numpy(x.view(np.uint8)).view(torch.float8_e4m3fn)
    expected = eight.float() * torch.from_numpy(wide[: shape[0], : shape[1]].copy())
    arrays = {"x.weight": x, "x.weight_scale_inv": s}
    np.testing.assert_array_equal(rows(tmp_path, arrays), expected.numpy())
    np.testing.assert_array_equal(rows(tmp_path, arrays, 60, 95), expected.numpy()[60:95])
    if shape[0] > 200:
        np.testing.assert_array_equal(rows(tmp_path, arrays, 90, 200), expected.numpy()[90:200])


@pytest.mark.parametrize(("strategy", "of"), [("channel", (96, 1)), ("tensor", (1,))])
def test_compressed_tensors(tmp_path: Path, strategy: str, of: tuple[int, ...]) -> None:
    """One scale for each row, or one in all: what compressed-tensors dequantizes to."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    x, s = codes(96, 64), scales(*of)
    args = QuantizationArgs(num_bits=8, type="float", strategy=strategy)
    eight = torch.from_numpy(x.view(np.uint8)).view(torch.float8_e4m3fn)
    expected = dequantize(eight, torch_of(s), args=args).float().numpy()
    arrays = {"x.weight": x, "x.weight_scale": s}
    np.testing.assert_array_equal(rows(tmp_path, arrays, config={}), expected)
    np.testing.assert_array_equal(rows(tmp_path, arrays, 5, 9, config={}), expected[5:9])


def test_blocks_of_another_size_and_stacks(tmp_path: Path) -> None:
    """The config's block counts, also under text_config; stacks have blocks of each matrix."""
    x, s = codes(3, 80, 96, dtype=E5M2), scales(3, 3, 2)
    about = {"quantization_config": {"weight_block_size": [32, 64]}}
    wide = s.repeat(32, axis=1).repeat(64, axis=2)[:, :80, :96]
    expected = (x.astype(np.float32) * wide).reshape(-1, 96)
    arrays = {"x.weight": x, "x.weight_scale_inv": s}
    for config in (about, {"text_config": about}):
        np.testing.assert_array_equal(rows(tmp_path, arrays, config=config), expected)
        found = rows(tmp_path, arrays, 70, 170, config=config)
        np.testing.assert_array_equal(found, expected[70:170])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no weight": ({"x.weight": None}, "expected x.weight beside it in an 8-bit float, no file"),
    "wide weight": ({"x.weight": np.ones((256, 128), np.float32)}, "which is F32"),
    "shape": ({"x.weight_scale_inv": scales(3, 1)}, "each block of 128 x 128"),
    "integers": ({"x.weight_scale_inv": np.ones((2, 1), np.int32)}, "expected F32, F16"),
    "zero": ({"x.weight_scale_inv": np.zeros((2, 1), np.float32)}, "row 0, block 0: a scale of 0"),
    "nan": ({"x.weight_scale_inv": np.array([[1], [np.nan]], np.float32)}, "row 1, group 0"),
    "infinite": ({"x.weight_scale_inv": np.array([[np.inf], [1]], np.float32)}, "got inf"),
    "E8M0 of NaN": ({"x.weight_scale_inv": np.full((2, 1), 255, np.uint8).view(E8M0)}, "got nan"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong(tmp_path: Path, case: str) -> None:
    """Each is refused, naming file and tensor."""
    changed, message = BAD[case]
    arrays = {"x.weight": codes(256, 128), "x.weight_scale_inv": scales(2, 1)} | changed
    with pytest.raises(SourceError) as error:
        rows(tmp_path, {n: v for n, v in arrays.items() if v is not None})
    assert message in str(error.value)
    assert str(error.value).startswith("model.safetensors: x.weight_scale_inv: ")
