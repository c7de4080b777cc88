"""Packed checkpoints as plain ones: FP8 of every kind, and whatever else the package reads."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import packed_models
import pytest
from fp8.models import DENSE, arrays_of, config_of, folder, loaded, stored

from ggufmix.errors import SourceError, UsageError
from ggufmix.fp8.converting import convert
from ggufmix.fp8.dequantizing import dequantize
from ggufmix.fp8.saving import How
from ggufmix.sources.layout import INDEX

BF16 = np.dtype(ml_dtypes.bfloat16)
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize("name", packed_models.PACKINGS)
def test_other_packings(tmp_path: Path, name: str) -> None:
    """INT4, INT8, MXFP4, NVFP4, GPTQ, AWQ: the tensors of the model before it was packed, by name,
    shape and value; in BF16 each rounded once.
    """
    config, packed, plain = packed_models.PACKINGS[name].checkpoint()
    src = packed_models.write(tmp_path / "src", config, packed)
    dequantize(src, tmp_path / "f32", "f32")
    found = loaded(tmp_path / "f32" / "model.safetensors")
    assert found.keys() == plain.keys()
    for tensor, values in plain.items():
        assert found[tensor].shape == values.shape, tensor
        np.testing.assert_allclose(
            found[tensor].astype(np.float32), values, rtol=1e-6, atol=0, err_msg=tensor
        )
    dequantize(src, tmp_path / "bf16")
    rounded = loaded(tmp_path / "bf16" / "model.safetensors")
    for tensor, values in found.items():
        wide = values.astype(BF16) if values.dtype == np.float32 else values
        if tensor in packed and packed[tensor].dtype.itemsize > 1:  # it was not packed
            wide = packed[tensor]
        np.testing.assert_array_equal(rounded[tensor].astype(np.float32), wide.astype(np.float32))
    about = [config_of(tmp_path / "bf16"), config_of(tmp_path / "bf16").get("text_config", {})]
    assert not any("quantization_config" in part for part in about)


KINDS: dict[str, tuple[tuple[int, ...], str, Any]] = {
    "DeepSeek": ((2, 3), "_scale_inv", np.float32),
    "Qwen": ((2, 3), "_scale_inv", BF16),
    "half": ((2, 3), "_scale_inv", np.float16),
    "one for each row": ((200, 1), "_scale", np.float32),
    "one in all": ((1,), "_scale", np.float32),
}


@pytest.mark.parametrize("kind", KINDS)
def test_fp8_of_others(tmp_path: Path, kind: str) -> None:
    """Scales of any dtype and shape; shapes off 128; scales of activations are left out."""
    shape, ending, dtype = KINDS[kind]
    rng = np.random.default_rng(3)
    codes = rng.standard_normal((200, 320)).astype(E4M3)
    scales = rng.uniform(0.5, 2, shape).astype(np.float32).astype(dtype)
    arrays = {
        NAME: codes,
        NAME + ending: scales,
        "model.layers.0.self_attn.q_proj.input_scale": np.ones(1, np.float32),
        "model.norm.weight": np.ones(320, BF16),
    }
    src = folder(tmp_path / "src", {"quantization_config": {"quant_method": "fp8"}}, arrays)
    dequantize(src, tmp_path / "out")
    found = loaded(tmp_path / "out" / "model.safetensors")
    assert found.keys() == {NAME, "model.norm.weight"}
    wide = scales.astype(np.float32)
    if shape == (2, 3):
        wide = wide.repeat(128, 0)[:200].repeat(128, 1)[:, :320]
    expected = (codes.astype(np.float32) * wide).astype(BF16)
    np.testing.assert_array_equal(found[NAME].view(np.uint16), expected.view(np.uint16))
    assert found["model.norm.weight"].tobytes() == arrays["model.norm.weight"].tobytes()
    assert config_of(tmp_path / "out") == {}


def test_files_and_threads(tmp_path: Path) -> None:
    """Files as in the source or anew, with an index; the same bytes with any number of threads."""
    src = folder(tmp_path / "src", DENSE.raw_config(), arrays_of(DENSE), 3)
    convert(src, tmp_path / "fp8")
    dequantize(tmp_path / "fp8", tmp_path / "a", how=How(threads=1))
    dequantize(tmp_path / "fp8", tmp_path / "b", max_shard_size=300_000, how=How(threads=3))
    assert stored(tmp_path / "a") == stored(tmp_path / "b")
    assert len(list((tmp_path / "a").glob("*.safetensors"))) == 3
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 3
    assert (tmp_path / "b" / INDEX).exists()
    assert (tmp_path / "a" / "chat_template.jinja").exists()


def test_values_beyond_bf16(tmp_path: Path) -> None:
    """A product that BF16 rounds to infinity is an error with its place, not an infinity."""
    codes = np.full((128, 128), 448, np.float32).astype(E4M3)
    largest = np.float32(3.4e38 / 448)
    arrays = {NAME: codes, f"{NAME}_scale_inv": np.full((1, 1), largest)}
    src = folder(tmp_path / "src", {}, arrays)
    with pytest.raises(SourceError, match=f"{NAME}.* row 0, column 0: is too large in BF16"):
        dequantize(src, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    dequantize(src, tmp_path / "out", "f32")


def test_codes_without_scales(tmp_path: Path) -> None:
    """One matrix that has scales beside one that has none: half of it would be noise."""
    codes = np.ones((128, 128), np.float32).astype(E4M3)
    one = np.ones((1, 1), np.float32)
    other = NAME.replace("q_proj", "o_proj")
    src = folder(tmp_path / "src", {}, {NAME: codes, f"{NAME}_scale_inv": one, other: codes})
    with pytest.raises(SourceError, match="there are no scales for it"):
        dequantize(src, tmp_path / "out")
    none = folder(tmp_path / "none", {}, {other: codes})
    with pytest.raises(SourceError, match="there are no scales for it"):
        dequantize(none, tmp_path / "out")


def test_into_itself(tmp_path: Path) -> None:
    """As `fp8`: never into the source."""
    src = folder(tmp_path / "src", DENSE.raw_config(), arrays_of(DENSE))
    convert(src, tmp_path / "fp8")
    with pytest.raises(UsageError, match="is the source itself"):
        dequantize(tmp_path / "fp8", tmp_path / "fp8", how=How(overwrite=True))
