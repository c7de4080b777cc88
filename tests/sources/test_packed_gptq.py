"""GPTQ and AWQ: values by their formula and as compressed-tensors reads AWQ, blocks as gguf decodes
them. (llama.cpp's converter is compared with in tests/models/test_packed.py.)
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import int4
import ml_dtypes
import numpy as np
import packings
import pytest
from sources.build import weights, write_json

from ggufmix.errors import InexactError, SourceError
from ggufmix.sources import open_checkpoint, presented
from ggufmix.tensor import Tensor, stack

Q = gguf.GGMLQuantizationType
STEM = "model.layers.0.mlp.up_proj"


def opened(folder: Path, arrays: packings.Arrays, about: Any = None, **options: Any) -> Tensor:
    """The one weight of a checkpoint; its file stays open."""
    write_json(folder / "config.json", {"quantization_config": about} if about else {})
    weights(folder / "model.safetensors", arrays)
    checkpoint = open_checkpoint(folder)
    [tensor] = presented(checkpoint.tensors, checkpoint.config, **options).tensors.values()
    return tensor


def check(tensor: Tensor, expected: np.ndarray, kind: str | None) -> None:
    """Values, in all rows and in some; and blocks of `kind` that decode to them."""
    assert (str(tensor.format) if tensor.format else None) == kind
    assert tensor.shape == expected.shape
    n = len(expected)
    for start, stop in ((0, n), (5, n - 3), (n - 1, n), (9, 9)):
        np.testing.assert_array_equal(tensor.rows(start, stop), expected[start:stop])
        if kind is not None and start < stop:
            decoded = gguf.quants.dequantize(tensor.blocks(start, stop), Q[kind])
            np.testing.assert_array_equal(decoded, expected[start:stop])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("group", [32, 128, 256])
@pytest.mark.parametrize(("bits", "kind"), [(2, "Q4_0"), (3, "Q4_0"), (4, "Q4_0"), (8, "Q8_0")])
def test_symmetric_gptq_is_exact(
    tmp_path: Path, bits: int, kind: str, group: int, version: int
) -> None:
    """Codes and F16 scales go unchanged into Q4_0, those of eight bits into Q8_0."""
    made = packings.grouped(96, 256, bits=bits, group=group, symmetric=True)
    arrays = packings.gptq(STEM, *made, bits=bits, version=version)
    form = "gptq" if version == 1 else "gptq_v2"
    about = packings.gptq_config(bits=bits, group_size=group, checkpoint_format=form)
    check(opened(tmp_path, arrays, about), packings.dequantized(*made), kind)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("bits", "kind"), [(2, "Q8_0"), (3, "Q8_0"), (4, "Q8_0"), (8, None)])
def test_asymmetric_gptq(tmp_path: Path, bits: int, kind: str | None, version: int) -> None:
    """Code less zero fits a byte up to four bits, so Q8_0 holds it exactly; of eight bits it comes
    as values.
    """
    made = packings.grouped(64, 256, bits=bits)
    arrays = packings.gptq(STEM, *made, bits=bits, version=version)
    form = "gptq" if version == 1 else "gptq_v2"
    about = packings.gptq_config(bits=bits, sym=False, format=form)
    check(opened(tmp_path, arrays, about), packings.dequantized(*made), kind)


def test_awq_as_compressed_tensors_reads_it(tmp_path: Path) -> None:
    """The values that compressed-tensors makes of its own reading of AWQ; Q8_0 holds them."""
    from compressed_tensors.entrypoints.convert.converters import AutoAWQConverter

    made = packings.grouped(64, 256)
    arrays = packings.awq("x", *made)
    theirs = AutoAWQConverter().process({n: int4.torch_of(v) for n, v in arrays.items()})
    asymmetric = {"group_size": 128, "symmetric": False}
    expected = int4.unpacked("x", {n: v.numpy() for n, v in theirs.items()}, **asymmetric)
    np.testing.assert_array_equal(expected, packings.dequantized(*made))
    check(opened(tmp_path, arrays, packings.AWQ_CONFIG), expected, "Q8_0")


def test_awq_without_zero_points(tmp_path: Path) -> None:
    """Symmetric AWQ is Q4_0."""
    made = packings.grouped(64, 256, symmetric=True)
    arrays = packings.awq("x", *made)
    about = packings.AWQ_CONFIG | {"zero_point": False}
    check(opened(tmp_path, arrays, about), packings.dequantized(*made), "Q4_0")
    del arrays["x.qzeros"]
    check(opened(tmp_path, arrays, about), packings.dequantized(*made), "Q4_0")


AUTOROUND = {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True}


@pytest.mark.parametrize("packing", ["auto_gptq", "gptq", "gptqmodel", "awq", "auto_awq"])
def test_autoround(tmp_path: Path, packing: str) -> None:
    """Its ways to pack are those of GPTQ, v1 and v2, and of AWQ; it may leave the order out."""
    made = packings.grouped(64, 256, symmetric=True)
    if "awq" in packing:
        arrays = packings.awq("x", *made)
    else:
        arrays = packings.gptq("x", *made, version=2 if packing == "gptqmodel" else 1)
        del arrays["x.g_idx"]
    about = AUTOROUND | {"packing_format": f"auto_round:{packing}"}
    check(opened(tmp_path, arrays, about), packings.dequantized(*made), "Q4_0")
    # where single modules are said to differ, the zero points decide, and Q8_0 holds all of them
    about["extra_config"] = {"model.layers.9": {"bits": 8, "sym": False}}
    check(opened(tmp_path, arrays, about), packings.dequantized(*made), "Q8_0")


@pytest.mark.parametrize("symmetric", [True, False])
def test_columns_ordered_by_activation(tmp_path: Path, symmetric: bool) -> None:
    """Each column takes scale and zero point of its own group; an order that changes nothing leaves
    the codes as they are.
    """
    made = packings.grouped(64, 256, symmetric=symmetric, group=32)
    order = np.random.default_rng(1).permutation(np.arange(256) // 32)
    arrays = packings.gptq(STEM, *made, order=order)
    about = packings.gptq_config(desc_act=True, sym=symmetric, group_size=32)
    check(opened(tmp_path, arrays, about), packings.dequantized(*made, order), None)
    arrays = packings.gptq(STEM, *made)
    kind = "Q4_0" if symmetric else "Q8_0"
    check(opened(tmp_path, arrays, about), packings.dequantized(*made), kind)


def test_experts_side_by_side(tmp_path: Path) -> None:
    """Experts one by one stack as blocks; bands are whole units."""
    made = [packings.grouped(64, 128, symmetric=True, seed=i) for i in range(3)]
    arrays: packings.Arrays = {}
    for i, each in enumerate(made):
        arrays |= packings.gptq(f"e.{i}", *each)
    write_json(tmp_path / "config.json", {"quantization_config": packings.gptq_config()})
    weights(tmp_path / "model.safetensors", arrays)
    with open_checkpoint(tmp_path) as checkpoint:
        found = presented(checkpoint.tensors, checkpoint.config)
        whole = stack([found.tensors[f"e.{i}.weight"] for i in range(3)])
        decoded = gguf.quants.dequantize(whole.blocks(40, 150), Q.Q4_0)
        expected = np.concatenate([packings.dequantized(*each) for each in made])
        np.testing.assert_array_equal(decoded, expected[40:150])


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A unit of a wide matrix is some megabytes: it is read by columns, never whole."""
    made = packings.grouped(4096, 8192, symmetric=True)
    tensor = opened(tmp_path, packings.gptq("x", *made), packings.gptq_config())
    assert tensor.unit * tensor.cols <= 1 << 21
    assert tensor.unit % 32 == 0


def test_scales_that_float16_does_not_hold(tmp_path: Path) -> None:
    """Scales of float32 or bfloat16 may not fit: the place is named as it lies in the file."""
    codes, zeros, _ = packings.grouped(64, 256)
    scales = np.full((64, 2), 0.01, ml_dtypes.bfloat16)
    scales[7, 1] = 1.171875 * 2.0**-20
    arrays = packings.gptq("x", codes, zeros, scales)
    about = packings.gptq_config(sym=False)
    with pytest.raises(InexactError, match=r"x\.scales: row 1, column 7: the scale .* so Q8_0"):
        opened(tmp_path, arrays, about).blocks(0, 64)
    tensor = opened(tmp_path, arrays, about, on_inexact="nearest")
    decoded = gguf.quants.dequantize(tensor.blocks(0, 64), Q.Q8_0)
    wrong = (decoded != packings.dequantized(codes, zeros, scales)).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(wrong), [7])
    scales[7, 1] = 1e6
    with pytest.raises(SourceError, match=r"row 1, column 7: .*more than the float16"):
        opened(tmp_path, packings.gptq("x", codes, zeros, scales), about).blocks(0, 64)
    nothing = codes.copy()
    nothing[7, 128:] = zeros[7, 1]
    tensor = opened(tmp_path, packings.gptq("x", nothing, zeros, scales), about)
    decoded = gguf.quants.dequantize(tensor.blocks(0, 64), Q.Q8_0)
    np.testing.assert_array_equal(decoded, packings.dequantized(nothing, zeros, scales))
    for value in (np.nan, np.inf, 0.0):
        scales[7, 1] = value
        with pytest.raises(SourceError, match=r"x\.scales: row 1, column 7: .*scale"):
            opened(tmp_path, packings.gptq("x", codes, zeros, scales), about).blocks(0, 64)


def good() -> packings.Arrays:
    return packings.gptq("x", *packings.grouped(64, 256, symmetric=True))


OTHER = np.zeros((5, 5), np.int32)
SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "no scales": ({"x.scales": None}, "x.qweight: expected its scales x.scales beside it"),
    "no zeros": ({"x.qzeros": None}, "x.qweight: expected x.qzeros beside it"),
    "no codes": ({"x.qweight": None}, "expected x.qweight beside it, no file has it"),
    "floats": ({"x.qweight": np.zeros((32, 64), np.float32)}, "x.qweight: expected I32, got F32"),
    "other rows": ({"x.qweight": np.zeros((32, 63), np.int32)}, "expected 64 columns (GPTQ) or 8"),
    "other groups": ({"x.scales": np.ones((3, 64), np.float16)}, "(3, words), a row for each"),
    "vector": ({"x.scales": np.ones(64, np.float16)}, "x.scales: expected two dimensions"),
    "empty": ({"x.qweight": np.zeros((0, 64), np.int32)}, "x.qweight: expected two dimensions"),
    "integers": ({"x.scales": np.ones((2, 64), np.int32)}, "expected F32, F16 or BF16"),
    "five bits": ({"x.qzeros": np.zeros((2, 10), np.int32)}, "2, 3, 4 or 8 bits for 64 rows"),
    "order": ({"x.g_idx": np.arange(256, dtype=np.int32)}, "2 groups of 128 columns each"),
    "negative": ({"x.g_idx": np.arange(256, dtype=np.int32) - 3}, "2 groups of 128 columns"),
    "short order": ({"x.g_idx": np.zeros(8, np.int32)}, "x.g_idx: expected 256 integers"),
    "disagreeing": ({"x.g_idx": np.arange(256, dtype=np.int32) % 2}, "ordered by activation"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_parts_that_do_not_fit(tmp_path: Path, case: str) -> None:
    """Each is refused, naming file and tensor."""
    changed, message = SHAPES[case]
    arrays = {n: v for n, v in (good() | changed).items() if v is not None}
    with pytest.raises(SourceError) as error:
        opened(tmp_path, arrays, packings.gptq_config()).rows(0, 64)
    assert message in str(error.value)
    assert str(error.value).startswith("model.safetensors: x.")


@pytest.mark.parametrize("what", ["rows", "blocks"])
def test_zero_points_that_the_config_denies(tmp_path: Path, what: str) -> None:
    """A config that says symmetric, or v1, of other weights: every value would be wrong."""
    codes, zeros, scales = packings.grouped(64, 256, symmetric=True)
    zeros[9, 1] = 7
    for arrays, place in (
        (packings.gptq("x", codes, zeros, scales), "row 1, column 9: a zero point of 7"),
        (
            packings.gptq("x", codes, zeros * 0 + 8, scales, version=2),
            "row 0, column 0: a zero point of 9, config.json says symmetric, which is 8",
        ),
    ):
        tensor = opened(tmp_path, arrays, packings.gptq_config())
        with pytest.raises(SourceError, match=place):
            getattr(tensor, what)(0, 64)
    zeros[3, 0] = 0
    arrays = packings.gptq("x", codes, zeros, scales, version=2)  # 0 - 1 is the highest code in v1
    arrays["x.qzeros"][:] = -1
    tensor = opened(tmp_path, arrays, packings.gptq_config(sym=False))
    with pytest.raises(SourceError, match="stored as 15, which programs read differently"):
        getattr(tensor, what)(0, 64)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (packings.AWQ_CONFIG | {"version": "gemv"}, "expected AWQ of version gemm, got 'gemv'"),
        (packings.gptq_config(checkpoint_format="marlin"), "gptq or gptq_v2, got 'marlin'"),
    ],
)
def test_layouts_that_are_neither(tmp_path: Path, about: Any, message: str) -> None:
    """Marlin and the other versions of AWQ have the same names and other contents."""
    with pytest.raises(SourceError) as error:
        opened(tmp_path, good(), about)
    assert message in str(error.value)
    assert error.value.hint
