"""Packed INT4 weights: compressed-tensors packs and unpacks them, gguf decodes what we make."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import int4
import ml_dtypes
import numpy as np
import pytest
from sources.build import weights, write_json

from ggufmix.codecs import tiers
from ggufmix.errors import InexactError, SourceError
from ggufmix.int4 import Q4_0, Q8_0, repack, widen
from ggufmix.sources import Presented, open_checkpoint, presented
from ggufmix.tensor import stack

STEM = "model.layers.1.mlp.experts.0.up_proj"


@contextmanager
def opened(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[Presented]:
    """A checkpoint of these arrays, presented."""
    config = {} if about is None else {"text_config": {"quantization_config": about}}
    write_json(folder / "config.json", config)
    weights(folder / "model.safetensors", arrays)
    with open_checkpoint(folder) as checkpoint:
        yield presented(checkpoint.tensors, checkpoint.config, **options)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
@pytest.mark.parametrize("group", [32, 64, 128, 256])
def test_codes_and_scales_are_carried_exactly(tmp_path: Path, group: int, dtype: Any) -> None:
    """The gguf package decodes the blocks to what compressed-tensors unpacks, value for value,
    and rows are the same, for scales that float16 holds, whatever the group.
    """
    codes, scales = int4.lattice((24, 256), group=group, dtype=ml_dtypes.bfloat16)
    arrays = int4.packed(STEM, codes, scales.astype(dtype))
    expected = int4.unpacked(STEM, arrays, group_size=group)
    with opened(tmp_path, arrays, int4.config(group_size=group)) as found:
        assert list(found.tensors) == [STEM + ".weight"]
        assert not found.notes
        tensor = found.tensors[STEM + ".weight"]
        assert (tensor.format, tensor.shape) == (Q4_0, (24, 256))
        blocks = tensor.blocks(3, 24)
        decoded = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_0)
        np.testing.assert_array_equal(decoded, expected[3:])
        np.testing.assert_array_equal(tensor.rows(0, 24), expected)
        wide = gguf.quants.dequantize(widen(blocks, Q4_0)[0], gguf.GGMLQuantizationType.Q8_0)
        np.testing.assert_array_equal(wide, expected[3:])
        assert found.packed[0].inexact() == 0


@pytest.mark.parametrize("tier", tiers())
def test_every_bfloat16_scale_from_2_to_the_minus_17(tier: str) -> None:
    """All BF16 scales of either sign from 2^-17 to 65280 are exact; of those around them the ones
    that float16 holds are, in every tier.
    """
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    size = np.abs(every.astype(np.float32))
    usual = every[(size >= 2.0**-17) & (size <= 65280)][:, np.newaxis]
    packed = np.tile(np.arange(16, dtype=np.uint8) * 17, (len(usual), 1))
    blocks, inexact = repack(packed, usual, 32, tier=tier)
    assert not inexact.any()
    d = blocks[:, :2].copy().view(np.float16)
    np.testing.assert_array_equal(d.astype(np.float32), usual.astype(np.float32))
    small = every[(size < 2.0**-17) & (size > 0)][:, np.newaxis]
    values = small.astype(np.float32)
    codes = np.full((len(small), 16), 0x1F, np.uint8)
    _, inexact = repack(codes, small, 32, tier=tier)
    np.testing.assert_array_equal(inexact, (values.astype(np.float16) != values)[:, 0])


def test_stacked_experts_hand_their_blocks_through(tmp_path: Path) -> None:
    """Experts side by side: still Q4_0, each with its own codes."""
    arrays = {}
    for i in range(3):
        codes, scales = int4.lattice((8, 64), seed=i)
        arrays |= int4.packed(f"e.{i}", codes, scales)
    with opened(tmp_path, arrays) as found:
        whole = stack([found.tensors[f"e.{i}.weight"] for i in range(3)])
        assert whole.format == Q4_0
        decoded = gguf.quants.dequantize(whole.blocks(4, 20), gguf.GGMLQuantizationType.Q4_0)
        expected = np.concatenate([int4.unpacked(f"e.{i}", arrays) for i in range(3)])
        np.testing.assert_array_equal(decoded, expected[4:20])


@pytest.mark.parametrize(("bits", "kind"), [(4, "Q8_0"), (8, None)])
def test_asymmetric_weights(tmp_path: Path, bits: int, kind: str | None) -> None:
    """Zero points, packed along the rows: values as compressed-tensors unpacks them, from any row
    on. Of four bits, code less zero fits the bytes of Q8_0; of eight it does not, and a note says
    so.
    """
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes, scales = int4.lattice((22, 96), bits=bits)
    half = 1 << (bits - 1)
    zero = np.random.default_rng(1).integers(-half, half, scales.shape, dtype=np.int8)
    arrays = int4.packed("x", codes, scales, bits=bits)
    arrays["x.weight_zero_point"] = (
        pack_to_int32(int4.torch_of(zero), bits, packed_dim=0).contiguous().numpy()
    )
    about = int4.config(num_bits=bits, symmetric=False)
    expected = int4.unpacked("x", arrays, num_bits=bits, symmetric=False)
    with opened(tmp_path, arrays, about) as found:
        tensor = found.tensors["x.weight"]
        assert (tensor.format and tensor.format.name) == kind
        assert len(found.notes) == (kind is None)
        assert all("asymmetric" in note for note in found.notes)
        np.testing.assert_array_equal(tensor.rows(0, 22), expected)
        np.testing.assert_array_equal(tensor.rows(5, 13), expected[5:13])
        if kind is not None:
            decoded = gguf.quants.dequantize(tensor.blocks(5, 13), gguf.GGMLQuantizationType[kind])
            np.testing.assert_array_equal(decoded, expected[5:13])


def test_eight_bits_are_the_bytes_of_q8_0(tmp_path: Path) -> None:
    """Symmetric codes of eight bits are the bytes of Q8_0."""
    codes, scales = int4.lattice((6, 128), bits=8, group=64)
    arrays = int4.packed("x", codes, scales, bits=8)
    with opened(tmp_path, arrays, int4.config(num_bits=8, group_size=64)) as found:
        blocks = found.tensors["x.weight"].blocks(0, 6)
        assert found.tensors["x.weight"].format == Q8_0
        assert not found.notes
        apart = blocks.reshape(6, -1, 34)[..., 2:]
        np.testing.assert_array_equal(apart.view(np.int8).reshape(6, -1), codes)
        expected = int4.unpacked("x", arrays, num_bits=8, group_size=64)
        decoded = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
        np.testing.assert_array_equal(decoded, expected)


def test_small_groups_are_dequantized(tmp_path: Path) -> None:
    """What fills no block comes as values: groups of 16, rows of 40."""
    for bits, group, cols in ((8, 16, 64), (4, 16, 64), (4, 40, 40)):
        codes, scales = int4.lattice((6, cols), bits=bits, group=group)
        arrays = int4.packed("x", codes, scales, bits=bits)
        with opened(tmp_path, arrays, int4.config(num_bits=bits, group_size=group)) as found:
            assert found.tensors["x.weight"].format is None
            assert len(found.notes) == 1
            expected = int4.unpacked("x", arrays, num_bits=bits, group_size=group)
            np.testing.assert_array_equal(found.tensors["x.weight"].rows(0, 6), expected)


def test_columns_ordered_by_activation(tmp_path: Path) -> None:
    """Every column takes the scale of its own group; an order that changes nothing leaves the codes
    as they are.
    """
    codes, scales = int4.lattice((8, 128))
    order = np.random.default_rng(2).permutation(np.arange(128) // 32).astype(np.int32)
    arrays = int4.packed("x", codes, scales) | {"x.weight_g_idx": order}
    with opened(tmp_path, arrays) as found:
        tensor = found.tensors["x.weight"]
        assert tensor.format is None
        assert "ordered by activation" in found.notes[0]
        expected = codes.astype(np.float32) * scales.astype(np.float32)[:, order]
        np.testing.assert_array_equal(tensor.rows(0, 8), expected)
    arrays["x.weight_g_idx"] = (np.arange(128) // 32).astype(np.int32)
    with opened(tmp_path, arrays) as found:
        assert found.tensors["x.weight"].format == Q4_0


def test_scales_that_float16_does_not_hold(tmp_path: Path) -> None:
    """The first such group is named by tensor, row and group; the nearest is taken where that was
    asked for, and counted once however often it is read; groups of zeros are exact with any scale.
    """
    codes, scales = int4.lattice((8, 128))
    scales[5, 2] = scales[6, 0] = 1.171875 * 2.0**-20
    scales[2, 1] = 1.171875 * 2.0**-20
    codes[2, 32:64] = 0
    arrays = int4.packed("x", codes, scales)
    with opened(tmp_path, arrays) as found, pytest.raises(InexactError) as error:
        found.tensors["x.weight"].blocks(0, 8)
    message = str(error.value)
    assert "model.safetensors: x.weight_scale: row 5, group 2: " in message
    assert (error.value.row, error.value.column) == (5, 64)
    assert "--on-inexact" in str(error.value.hint)
    with opened(tmp_path, arrays, on_inexact="nearest") as found:
        tensor = found.tensors["x.weight"]
        tensor.blocks(0, 8)
        decoded = gguf.quants.dequantize(tensor.blocks(0, 8), gguf.GGMLQuantizationType.Q4_0)
        expected = int4.unpacked("x", arrays)
        assert np.count_nonzero((decoded != expected).any(axis=1)) == 2
        assert np.abs(decoded - expected).max() <= 8 * 2.0**-25
        assert found.packed[0].inexact() == 2


BAD = {
    "no scales": ({"x.weight_scale": None}, "x.weight_packed: expected its scales x.weight_scale"),
    "no shape": ({"x.weight_shape": None}, "x.weight_packed: expected its shape"),
    "orphan scales": ({"x.weight_packed": None}, "expected x.weight_packed beside it"),
    "other rows": ({"x.weight_shape": np.array([9, 64])}, "x.weight_shape: says 9 rows of 64"),
    "other columns": ({"x.weight_shape": np.array([8, 4096])}, "says 8 rows of 4096"),
    "negative": ({"x.weight_shape": np.array([8, -64])}, "says 8 rows of -64"),
    "three numbers": ({"x.weight_shape": np.array([8, 64, 1])}, "expected two integers"),
    "scales of other rows": ({"x.weight_scale": np.ones((7, 2), np.float32)}, "expected shape (8,"),
    "groups that do not fit": ({"x.weight_scale": np.ones((8, 5), np.float32)}, "got [8, 5]"),
    "scales of one row": ({"x.weight_scale": np.ones(8, np.float32)}, "got [8]"),
    "scales as integers": ({"x.weight_scale": np.ones((8, 2), np.int32)}, "expected F32, F16"),
    "codes as bytes": ({"x.weight_packed": np.zeros((8, 32), np.uint8)}, "got U8 and BF16"),
    "five bits": ({"x.weight_packed": np.zeros((8, 10), np.int32)}, "4 or 8 bits"),
    "two weights": ({"x.weight": np.ones((8, 64), np.float32)}, "x.weight is there too"),
    "order of others": ({"x.weight_g_idx": np.zeros(64, np.int32)}, "2 groups of 32 columns"),
    "zero points": ({"x.weight_zero_point": np.zeros((8, 2), np.int32)}, "shape [1, 2]"),
}


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_parts_that_do_not_fit(tmp_path: Path, case: str, stated: bool) -> None:
    """Each is refused, naming file and tensor: on opening, but for a shape that disagrees with what
    config and other shapes say together, which is refused at the first rows.
    """
    changed, message = BAD[case]
    arrays = int4.packed("x", *int4.lattice((8, 64))) | changed
    arrays = {n: v for n, v in arrays.items() if v is not None}
    with (  # noqa: PT012
        pytest.raises(SourceError) as error,
        opened(tmp_path, arrays, int4.config() if stated else None) as found,
    ):
        assert stated
        assert "x.weight_shape" in changed
        with pytest.raises(SourceError):
            found.tensors["x.weight"].blocks(0, 1)
        found.tensors["x.weight"].rows(0, 1)
    assert message in str(error.value)
    assert str(error.value).startswith("model.safetensors: x.weight")


def test_a_shape_that_is_less_than_there_is_room_for(tmp_path: Path) -> None:
    """Columns that fill their words only in part: the shape says how many count, at once where the
    groups of the config do not fit all of them, else with the first rows.
    """
    codes, scales = int4.lattice((8, 60), group=20)
    arrays = int4.packed("x", codes, scales)
    with opened(tmp_path, arrays, int4.config(group_size=20)) as found:
        tensor = found.tensors["x.weight"]
        assert tensor.shape == (8, 60)
        expected = codes.astype(np.float32) * scales.astype(np.float32).repeat(20, axis=1)
        np.testing.assert_array_equal(tensor.rows(0, 8), expected)
    arrays = int4.packed("x", *int4.lattice((8, 64))) | {"x.weight_shape": np.array([8, 62])}
    with (
        opened(tmp_path, arrays, int4.config()) as found,
        pytest.raises(SourceError, match=r"weight_shape: says 8 rows of 62, .* 8 rows of 64"),
    ):
        found.tensors["x.weight"].rows(0, 1)


def test_asymmetric_without_zero_points(tmp_path: Path) -> None:
    """The config says that zero points belong to it: without them every value would be wrong."""
    arrays = int4.packed("x", *int4.lattice((8, 64)))
    with (
        pytest.raises(SourceError, match="no file has its zero points"),
        opened(tmp_path, arrays, int4.config(symmetric=False)),
    ):
        pass


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
@pytest.mark.parametrize("value", [0.0, -0.0, np.nan, np.inf, -np.inf, 1e6])
def test_scales_that_mean_nothing(tmp_path: Path, value: float, dtype: Any) -> None:
    """Zero before codes that are not, NaN, infinity, and what float16 cannot reach: refused at its
    row and group.
    """
    codes, scales = int4.lattice((8, 64), dtype=dtype)
    with np.errstate(over="ignore"):
        scales[6, 1] = value
    with opened(tmp_path, int4.packed("x", codes, scales), on_inexact="nearest") as found:
        with pytest.raises(SourceError, match=r"x\.weight_scale: row 6, group 1: .*scale"):
            found.tensors["x.weight"].blocks(4, 8)
        if not np.isfinite(np.float32(scales[6, 1])):
            with pytest.raises(SourceError, match="row 6, group 1: expected a finite scale"):
                found.tensors["x.weight"].rows(4, 8)
        if value == 0:
            with pytest.raises(SourceError, match="row 6, group 1: a scale of 0 in a group"):
                found.tensors["x.weight"].rows(4, 8)


def test_a_scale_of_zero_before_zeros(tmp_path: Path) -> None:
    """Means what it says: a group of nothing is zeros, ordered by activation or not."""
    codes, scales = int4.lattice((8, 64))
    codes[6, 32:], scales[6, 1] = 0, 0
    arrays = int4.packed("x", codes, scales)
    with opened(tmp_path, arrays) as found:
        np.testing.assert_array_equal(
            found.tensors["x.weight"].rows(0, 8), int4.unpacked("x", arrays)
        )
    codes[6, 32] = 1
    arrays = int4.packed("x", codes, scales)
    arrays["x.weight_g_idx"] = (np.arange(64) % 2).astype(np.int32)
    with (
        opened(tmp_path, arrays) as found,
        pytest.raises(SourceError, match="row 6, group 1: a scale of 0 in a group"),
    ):
        found.tensors["x.weight"].rows(4, 8)


@pytest.mark.parametrize(("cols", "groups", "got"), [(64, 1, 64), (96, 4, 24), (100, 4, 25)])
def test_groups_that_the_config_does_not_say(
    tmp_path: Path, cols: int, groups: int, got: int
) -> None:
    """Scales that are cut, or of a last group that is not full: shared evenly among the columns
    they would be those of others.
    """
    arrays = int4.packed("x", *int4.lattice((8, cols), group=got))
    assert arrays["x.weight_scale"].shape == (8, groups)
    with (
        pytest.raises(SourceError, match=rf"x\.weight_scale: .* groups of 32 .* of {got}"),
        opened(tmp_path, arrays, int4.config()),
    ):
        pass


def test_what_is_not_packed_stays(tmp_path: Path) -> None:
    """The ignore list says nothing: names decide. Scales of activations are left out."""
    arrays = int4.packed("x", *int4.lattice((8, 64)))
    arrays |= {"y.weight": np.ones((4, 8), np.float32), "x.input_scale": np.ones(1, np.float32)}
    with opened(tmp_path, arrays, int4.config()) as found:
        assert set(found.tensors) == {"x.weight", "y.weight"}
        assert found.tensors["y.weight"].rows(0, 4).sum() == 32
        assert "left out 1 scales of activations" in found.notes[0]
