"""INT8 of compressed-tensors (`int-quantized`, W8A8 and W8A16) against its own functions."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from int4 import lattice, torch_of
from sources.build import weights, write_json

from ggufmix.codecs import decode, encode
from ggufmix.errors import InexactError, SourceError
from ggufmix.int4 import Q8_0
from ggufmix.sources import Presented, open_checkpoint, presented

STEM = "model.layers.0.mlp.up_proj"
Q8 = gguf.GGMLQuantizationType.Q8_0
BF16 = ml_dtypes.bfloat16
Opened = Callable[..., Presented]


def config(**about: Any) -> dict[str, Any]:
    """config.json of such a checkpoint."""
    stated = {"num_bits": 8, "strategy": "channel", "symmetric": True, "type": "int", **about}
    groups = {"group_0": {"targets": ["Linear"], "weights": stated}}
    said = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    return {"quantization_config": said | {"config_groups": groups}}


def theirs(arrays: Mapping[str, np.ndarray], **about: Any) -> np.ndarray:
    """What compressed-tensors makes of the weight, computed in float32."""
    import torch
    from compressed_tensors.compressors import IntQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    state = {n.removeprefix(STEM + "."): torch_of(v) for n, v in arrays.items()}
    state["weight_scale"] = state["weight_scale"].to(torch.float32)
    args = QuantizationArgs(
        **config(**about)["quantization_config"]["config_groups"]["group_0"]["weights"]
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    return IntQuantizationCompressor.decompress(state, scheme)["weight"].float().numpy()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Presents a checkpoint of one weight: its tensors, what to do at inexact scales, and what
    config.json says of it.
    """
    with ExitStack() as stack:

        def present(arrays: Mapping[str, np.ndarray], on_inexact: Any = "error", **about: Any):
            write_json(tmp_path / "config.json", config(**about))
            weights(tmp_path / "model.safetensors", arrays)
            checkpoint = stack.enter_context(open_checkpoint(tmp_path))
            return presented(checkpoint.tensors, checkpoint.config, on_inexact)

        yield present


def made(columns: int, dtype: Any = BF16, rows: int = 24, cols: int = 256) -> dict[str, np.ndarray]:
    """Codes over their whole range, with `columns` scales for each row."""
    codes, scales = lattice((rows, cols), group=cols // columns, bits=8)
    return {f"{STEM}.weight": codes, f"{STEM}.weight_scale": scales.astype(dtype)}


LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "a row": (1, {"strategy": "channel"}),
    "groups of 128": (2, {"strategy": "group", "group_size": 128}),
    "groups of 32": (8, {"strategy": "group", "group_size": 32}),
}


@pytest.mark.parametrize("dtype", [BF16, np.float16, np.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_codes_and_scales_are_carried_exactly(opened: Opened, layout: str, dtype: Any) -> None:
    """The gguf package decodes the blocks to what compressed-tensors computes, value for value, for
    scales that float16 holds; rows are the same.
    """
    columns, about = LAYOUTS[layout]
    arrays = made(columns, dtype)
    expected = theirs(arrays, **about)
    found = opened(arrays, **about)
    assert list(found.tensors) == [f"{STEM}.weight"]
    assert not found.notes
    [tensor] = found.packed
    assert (tensor.packing, tensor.format, tensor.groups) == ("INT8", Q8_0, 24 * columns)
    for start, stop in ((0, 24), (5, 18)):
        blocks = tensor.blocks(start, stop)
        np.testing.assert_array_equal(gguf.quants.dequantize(blocks, Q8), expected[start:stop])
        np.testing.assert_array_equal(tensor.rows(start, stop), expected[start:stop])
    assert tensor.inexact() == 0


@pytest.mark.parametrize("shape", [(1,), (), (1, 1), (24,)])
def test_other_shapes_of_scales(opened: Opened, shape: tuple[int, ...]) -> None:
    """One scale for all of a weight, or one a row without a second dimension."""
    arrays = made(1)
    scale = arrays[f"{STEM}.weight_scale"]
    one = scale[:1] if shape != (24,) else scale
    arrays[f"{STEM}.weight_scale"] = one.reshape(shape)
    codes = arrays[f"{STEM}.weight"].astype(np.float32)
    expected = codes * one.astype(np.float32).reshape(-1, 1)
    [tensor] = opened(arrays).packed
    np.testing.assert_array_equal(tensor.rows(3, 20), expected[3:20])
    np.testing.assert_array_equal(decode(tensor.blocks(3, 20), Q8_0), expected[3:20])


def test_zero_points_are_dequantized(opened: Opened) -> None:
    """Code less zero fits no byte: the values are compressed-tensors' own, and a note says why."""
    arrays = made(1)
    rng = np.random.default_rng(1)
    zeros = rng.integers(-128, 128, (24, 1), dtype=np.int8)
    arrays[f"{STEM}.weight_zero_point"] = zeros
    expected = theirs(arrays, symmetric=False)
    found = opened(arrays, symmetric=False)
    [tensor] = found.packed
    assert tensor.format is None
    np.testing.assert_array_equal(tensor.rows(0, 24), expected)
    assert "asymmetric (zero points)" in found.notes[0]
    assert list(found.tensors) == [f"{STEM}.weight"]


def test_zero_points_of_a_symmetric_weight(opened: Opened) -> None:
    """Older files have them, all zero, and blocks are exact; one that is not is refused."""
    arrays = made(1) | {f"{STEM}.weight_zero_point": np.zeros((24, 1), np.int8)}
    [tensor] = opened(arrays).packed
    np.testing.assert_array_equal(decode(tensor.blocks(0, 24), Q8_0), theirs(made(1)))
    arrays[f"{STEM}.weight_zero_point"][7] = -3
    [tensor] = opened(arrays).packed
    with pytest.raises(SourceError, match=r"weight_zero_point: row 7, group 0: a zero point of -3"):
        tensor.blocks(0, 24)


def test_groups_that_are_no_blocks(opened: Opened) -> None:
    """Groups of 16 are dequantized, and so are rows that are no whole blocks."""
    arrays = made(16)
    about = {"strategy": "group", "group_size": 16}
    [tensor] = opened(arrays, **about).packed
    assert (tensor.format, tensor.note) == (None, "groups of 16, no whole blocks of 32")
    np.testing.assert_array_equal(tensor.rows(0, 24), theirs(arrays, **about))


def test_scales_that_float16_does_not_hold(opened: Opened) -> None:
    """F32 scales as they are found: an error with the place; the nearest float16 is far closer
    than quantizing again, and counted.
    """
    arrays = made(1)
    arrays[f"{STEM}.weight_scale"] = arrays[f"{STEM}.weight_scale"].astype(np.float32) * 1.00001
    with pytest.raises(InexactError, match=r"weight_scale: row 0, group 0: the scale .* Q8_0"):
        opened(arrays).packed[0].blocks(0, 24)
    [tensor] = opened(arrays, "nearest").packed
    exact = tensor.rows(0, 24)
    near = decode(tensor.blocks(0, 24), Q8_0)
    again = decode(encode(exact, "Q8_0"), Q8_0)
    assert tensor.inexact() == 24
    assert np.abs(near - exact).max() < 0.1 * np.abs(again - exact).max()


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "rows of others": (
        {"weight_scale": np.ones((23, 1), BF16)},
        {},
        "weight_scale: expected shape",
    ),
    "no groups": ({"weight_scale": np.ones((24, 3), BF16)}, {}, "weight_scale: expected shape"),
    "integers": ({"weight_scale": np.ones((24, 1), np.int32)}, {}, "got I32"),
    "other groups": (
        {"weight_scale": np.ones((24, 2), BF16)},
        {"strategy": "group", "group_size": 64},
        "expected groups of 64 as config.json says",
    ),
    "one dimension": ({"weight": np.ones(24, np.int8)}, {}, "expected a matrix of codes"),
    "no zeros": ({}, {"symmetric": False}, "no file has its zero points"),
    "zeros": ({"weight_zero_point": np.zeros((24, 1), np.int32)}, {}, "expected I8 of shape"),
    "NaN": ({"weight_scale": np.full((24, 1), np.nan, BF16)}, {}, "row 0, group 0: expected a fin"),
    "zero": ({"weight_scale": np.zeros((24, 1), BF16)}, {}, "row 0, group 0: a scale of 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong(opened: Opened, case: str) -> None:
    """Each is refused, naming file and tensor, by values and by blocks alike."""
    changed, about, message = BAD[case]
    arrays = made(1) | {f"{STEM}.{part}": v for part, v in changed.items()}
    for read in ("rows", "blocks"):
        with pytest.raises(SourceError) as error:
            getattr(opened(arrays, **about).packed[0], read)(0, 24)
        assert message in str(error.value)
        assert f"model.safetensors: {STEM}." in str(error.value)
