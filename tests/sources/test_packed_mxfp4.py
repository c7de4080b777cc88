"""MXFP4 against transformers and gguf: codes and scales into blocks as they are."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from sources.build import weights, write_json

from ggufmix.codecs import tiers
from ggufmix.errors import OutlierError, SourceError
from ggufmix.int4 import MXFP4, repack_mxfp4, widen
from ggufmix.sources import open_checkpoint, presented

KIND = gguf.GGMLQuantizationType.MXFP4
Q8 = gguf.GGMLQuantizationType.Q8_0


def made(*outer: int, groups: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of codes (..., groups, 16) and scales (..., groups) around one."""
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 256, (*outer, groups, 16), dtype=np.uint8)
    return codes, rng.integers(100, 140, (*outer, groups), dtype=np.uint8)


def values(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What each code and scale mean, by the table of E2M1, float32, (rows, cols)."""
    half = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    table = np.array(half + [-x for x in half], np.float32)
    apart = np.stack([table[codes & 15], table[codes >> 4]], axis=-1).reshape(*scales.shape, 32)
    exact = apart * np.exp2(scales.astype(np.float32) - 127)[..., np.newaxis]
    return exact.reshape(-1, scales.shape[-1] * 32)


def test_the_table_is_that_of_transformers() -> None:
    """Transformers unpacks gpt-oss to the same values (transposed, in BF16, which holds them)."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    codes, scales = made(2, 6)
    found = convert_moe_packed_tensors(torch.from_numpy(codes), torch.from_numpy(scales))
    expected = values(codes, scales).reshape(2, 6, -1).transpose(0, 2, 1)
    np.testing.assert_array_equal(found.float().numpy(), expected)


@pytest.mark.parametrize("layout", ["gpt-oss", "compressed-tensors"])
def test_blocks_hold_the_values(tmp_path: Path, layout: str) -> None:
    """The gguf package decodes the blocks to the values of codes and scales; rows are the same."""
    if layout == "gpt-oss":
        codes, scales = made(3, 10)
        arrays, name = {"m.down_proj_blocks": codes, "m.down_proj_scales": scales}, "m.down_proj_"
    else:
        codes, scales = made(30)
        arrays = {"m.weight_packed": codes.reshape(30, -1), "m.weight_scale": scales}
        name = "m.weight"
    write_json(tmp_path / "config.json", {})
    weights(tmp_path / "model.safetensors", arrays)
    expected = values(codes, scales)
    with open_checkpoint(tmp_path) as checkpoint:
        found = presented(checkpoint.tensors, checkpoint.config)
        [tensor] = found.tensors.values()
        assert tensor.name.startswith(name)
        assert (tensor.format, tensor.shape) == (MXFP4, (*scales.shape[:-1], 128))
        assert not found.notes
        for start, stop in ((0, 30), (7, 23)):
            decoded = gguf.quants.dequantize(tensor.blocks(start, stop), KIND)
            np.testing.assert_array_equal(decoded, expected[start:stop])
            np.testing.assert_array_equal(tensor.rows(start, stop), expected[start:stop])


def test_every_tier_and_every_code() -> None:
    """All pairs of codes under all scales but NaN, subnormal ones too: the same blocks in every
    tier, the codes in gguf's order.
    """
    codes = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 256), (255, 1))
    scales = np.arange(255, dtype=np.uint8)[:, np.newaxis].repeat(16, axis=1)
    blocks = repack_mxfp4(codes, scales)
    for tier in tiers():
        np.testing.assert_array_equal(repack_mxfp4(codes, scales, tier=tier), blocks)
    apart = blocks.reshape(255, 16, 17)
    np.testing.assert_array_equal(apart[:, :, 0], scales)
    both = np.concatenate([apart[:, :, 1:] & 15, apart[:, :, 1:] >> 4], axis=-1)
    pairs = np.stack([codes & 15, codes >> 4], axis=-1).reshape(255, 16, 32)
    np.testing.assert_array_equal(both, pairs)


def scaled(scale: int, rows: int = 16) -> np.ndarray:
    """Blocks of MXFP4 with one scale: all pairs of codes, and random ones; (rows, 4 * 17)."""
    rng = np.random.default_rng(scale)
    codes = rng.integers(0, 256, (rows, 4, 16), dtype=np.uint8)
    codes[:, 0] = np.arange(rows * 16, dtype=np.uint8).reshape(rows, 16)
    codes[:, 1] &= 0x99  # nothing but 0, 1 and their negatives
    scales = np.full((rows, 4), scale, np.uint8)
    return repack_mxfp4(codes.reshape(rows, 64), scales)


@pytest.mark.parametrize("tier", tiers())
def test_what_q8_0_holds_of_every_scale(tier: str) -> None:
    """Codes and scales go into Q8_0: the gguf package decodes both to the same values wherever a
    float16 can be the scale, or one that codes of a byte reach from. Values below are off by no
    more than 2^-25, counted, and found as the nearest multiples of the least float16 are.
    """
    for scale in range(104, 147):
        blocks = scaled(scale)
        wide, rounded, flushed = widen(blocks, MXFP4, tier=tier)
        exact = gguf.quants.dequantize(blocks, KIND)
        np.testing.assert_array_equal(gguf.quants.dequantize(wide, Q8), exact)
        assert (rounded, flushed) == (0, 0)
    for scale in range(104):
        blocks = scaled(scale)
        wide, rounded, flushed = widen(blocks, MXFP4, tier=tier)
        exact = gguf.quants.dequantize(blocks, KIND).astype(np.float64)
        nearest = np.rint(exact * 2.0**24) / 2**24
        np.testing.assert_array_equal(gguf.quants.dequantize(wide, Q8), nearest)
        apart, whole = nearest.reshape(-1, 32), exact.reshape(-1, 32)
        lost = (apart != whole).any(axis=1)
        assert rounded == lost.sum()
        assert flushed == (lost & ~apart.any(axis=1)).sum()
        assert rounded > 0


@pytest.mark.parametrize("tier", tiers())
def test_what_q8_0_does_not_hold(tier: str) -> None:
    """A scale of 2^20: refused, with its place; before codes that are zero it means nothing."""
    blocks = scaled(120).reshape(16, 4, 17)
    blocks[5, 2, 0] = 147
    with pytest.raises(OutlierError, match=r"a scale of 2\^20 is more") as caught:
        widen(blocks.reshape(16, -1), MXFP4, tier=tier)
    assert (caught.value.row, caught.value.column) == (5, 64)
    blocks[5, 2, 1:] = 0x80  # zero, and minus zero
    wide, rounded, _ = widen(blocks.reshape(16, -1), MXFP4, tier=tier)
    assert rounded == 0
    assert not wide.reshape(16, 4, -1)[5, 2].any()


BAD = {
    "no scales": ({"x_scales": None}, "x_blocks: expected its scales x_scales beside it"),
    "no codes": ({"x_blocks": None}, "x_scales: expected x_blocks beside it, no file has it"),
    "scales of others": ({"x_scales": np.zeros((2, 3, 5), np.uint8)}, "x_scales: expected shape"),
    "other groups": ({"x_blocks": np.zeros((2, 3, 4, 8), np.uint8)}, "whole groups of 16 bytes"),
    "floats": ({"x_scales": np.zeros((2, 3, 4), np.float32)}, "got U8 and F32"),
    "NaN": ({"x_scales": np.full((2, 3, 4), 255, np.uint8)}, "x_scales: row 0, group 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong(tmp_path: Path, case: str) -> None:
    """Each is refused, naming file and tensor."""
    codes, scales = made(2, 3)
    changed, message = BAD[case]
    arrays = {"x_blocks": codes, "x_scales": scales} | changed
    write_json(tmp_path / "config.json", {})
    weights(tmp_path / "model.safetensors", {n: v for n, v in arrays.items() if v is not None})
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(SourceError) as error:
        presented(checkpoint.tensors, checkpoint.config).tensors["x_blocks"].rows(0, 6)
    assert message in str(error.value)
    assert str(error.value).startswith("model.safetensors: x_")
