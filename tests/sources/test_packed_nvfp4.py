"""NVFP4 against compressed-tensors and gguf: codes and scales into blocks as they are, the scale of
the whole beside them.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import packings
import pytest
import torch
from int4 import torch_of
from sources.build import weights, write_json

from ggufmix.errors import SourceError
from ggufmix.int4 import NVFP4
from ggufmix.sources import open_checkpoint, presented
from ggufmix.tensor import Tensor, decoded, reshape, stack, take_columns, take_rows, transpose

KIND = gguf.GGMLQuantizationType.NVFP4
WHOLE = np.float32(2900.0)


@contextmanager
def opened(folder: Path, arrays: packings.Arrays) -> Iterator[Any]:
    """What a checkpoint of these arrays presents."""
    write_json(folder / "config.json", {})
    weights(folder / "model.safetensors", arrays)
    with open_checkpoint(folder) as checkpoint:
        yield presented(checkpoint.tensors, checkpoint.config)


def compressed(stem: str, *shape: int, seed: int = 0) -> tuple[packings.Arrays, np.ndarray]:
    """A weight as compressed-tensors packs it, and its values without the global scale."""
    codes, scales, values = packings.nvfp4(*shape, seed=seed)
    made = {
        f"{stem}.weight_packed": packings.pairs(codes),
        f"{stem}.weight_scale": scales,
        f"{stem}.weight_global_scale": np.array([WHOLE]),
    }
    return made, values


def modelopt(stem: str, *shape: int, seed: int = 0) -> tuple[packings.Arrays, np.ndarray]:
    """The same as ModelOpt names it; activations' scale beside it."""
    made, values = compressed(stem, *shape, seed=seed)
    codes, scales, _ = made.values()
    names = {
        f"{stem}.weight": codes,
        f"{stem}.weight_scale": scales,
        f"{stem}.weight_scale_2": np.array(1 / WHOLE, np.float32),
        f"{stem}.input_scale": np.array(0.5, np.float32),
    }
    return names, values


def decode(tensor: Tensor, start: int, stop: int) -> np.ndarray:
    """Blocks as gguf decodes them, and multiplied."""
    values = gguf.quants.dequantize(tensor.blocks(start, stop), KIND)
    assert tensor.outer_scale is not None
    each = tensor.outer_scale.all().reshape(-1)
    return values * each[np.arange(start, stop) // tensor.matrix_rows, np.newaxis]


@pytest.mark.parametrize("layout", [compressed, modelopt])
def test_blocks_hold_the_values(tmp_path: Path, layout: Any) -> None:
    """Whatever rows are read, gguf decodes them to E2M1 * E4M3, exactly; with the scale of the
    whole they are the values.
    """
    arrays, values = layout("x", 30, 192)
    with opened(tmp_path, arrays) as found:
        [tensor] = found.tensors.values()
        assert (tensor.name, tensor.shape, tensor.format) == ("x.weight", (30, 192), NVFP4)
        factor = np.float32(1) / WHOLE
        for start, stop in ((0, 30), (7, 8), (4, 4)):
            bare = gguf.quants.dequantize(tensor.blocks(start, stop), KIND)
            np.testing.assert_array_equal(bare, values[start:stop])
            np.testing.assert_array_equal(tensor.rows(start, stop), values[start:stop] * factor)


def test_as_compressed_tensors_reads_it(tmp_path: Path) -> None:
    """What compressed-tensors decompresses to, but for its order of two roundings."""
    from compressed_tensors.compressors.nvfp4 import NVFP4PackedCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    arrays, _ = compressed("x", 32, 128)
    args = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    state = {n.removeprefix("x."): v for n, v in arrays.items()}
    scales = torch.from_numpy(state.pop("weight_scale").astype(np.float32))
    theirs = {n: torch_of(v) for n, v in state.items()} | {"weight_scale": scales}
    want = NVFP4PackedCompressor.decompress(theirs, scheme)["weight"].float().numpy()
    with opened(tmp_path, arrays) as found:
        rows = found.tensors["x.weight"].rows(0, 32)
    np.testing.assert_allclose(rows, want, rtol=8e-3)  # theirs is rounded to BF16
    np.testing.assert_array_equal(np.sign(rows), np.sign(want))


def test_where_the_scale_goes_with_the_blocks(tmp_path: Path) -> None:
    """Experts side by side have one each; rows that move within a matrix, and blocks of columns,
    keep theirs; where rows change their matrix, or columns their block, only values are left.
    """
    arrays: packings.Arrays = {}
    for i in range(3):
        arrays |= compressed(f"e.{i}", 8, 128, seed=i)[0]
        arrays[f"e.{i}.weight_global_scale"] = np.array([1000 + i], np.float32)
    with opened(tmp_path, arrays) as found:
        whole = stack([found.tensors[f"e.{i}.weight"] for i in range(3)])
        index = np.arange(24).reshape(3, 8)[:, ::-1].ravel()
        columns = np.arange(128).reshape(2, 64)[::-1].ravel()
        half = np.arange(24).reshape(3, 2, 4)[:, 1].ravel()
        for made in (
            whole,
            take_rows(whole, index, whole.shape),
            take_rows(whole, half, (3, 4, 128)),
            take_columns(whole, columns),
            reshape(whole, (3, 8, 128)),
            take_rows(found.tensors["e.1.weight"], np.arange(8)[::-1]),
        ):
            assert made.format == NVFP4
            n = made.n_rows
            np.testing.assert_array_equal(decode(made, 0, n), made.rows(0, n))
            np.testing.assert_array_equal(decode(made, n // 3, n), made.rows(n // 3, n))
        for made in (
            take_rows(whole, np.roll(np.arange(24), 3), whole.shape),
            take_rows(whole, np.arange(24), (24, 128)),
            take_columns(whole, np.roll(np.arange(128), 5)),
            reshape(whole, (24, 128)),
            transpose(whole),
            decoded(whole),
        ):
            assert made.format is None
            assert made.outer_scale is None


def test_rows_that_are_no_whole_blocks(tmp_path: Path) -> None:
    """GGUF's blocks are four groups long: rows of 80 come as values, and a note says why."""
    arrays, values = compressed("x", 6, 80)
    with opened(tmp_path, arrays) as found:
        tensor = found.tensors["x.weight"]
        assert tensor.format is None
        assert "no whole blocks of 64" in found.notes[0]
        np.testing.assert_array_equal(tensor.rows(1, 6), values[1:] * (np.float32(1) / WHOLE))


def test_without_a_scale_of_the_whole(tmp_path: Path) -> None:
    """None is one."""
    arrays, values = compressed("x", 6, 64)
    del arrays["x.weight_global_scale"]
    with opened(tmp_path, arrays) as found:
        np.testing.assert_array_equal(found.tensors["x.weight"].rows(0, 6), values)


E4M3 = ml_dtypes.float8_e4m3fn
ONES = np.ones((6, 8), E4M3)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no scales": ({"x.weight_scale": None}, "x.weight_packed: expected its scales"),
    "other scales": ({"x.weight_scale": np.ones((6, 4), E4M3)}, "x.weight_scale: expected shape"),
    "other codes": ({"x.weight_packed": np.zeros((6, 20), np.uint8)}, "in groups of 8 bytes"),
    "negative": ({"x.weight_scale": -ONES}, "row 0, group 0: expected a scale, got a negative"),
    "NaN": ({"x.weight_scale": (ONES.astype(np.float32) * np.nan).astype(E4M3)}, "got NaN"),
    "zero": ({"x.weight_global_scale": np.zeros(1, np.float32)}, "above zero, got 0.0"),
    "infinite": ({"x.weight_global_scale": np.full(1, np.inf, np.float32)}, "got inf"),
    "two": ({"x.weight_global_scale": np.ones(2, np.float32)}, "expected one number, got [2]"),
    "bytes": ({"x.weight_global_scale": np.ones(1, np.uint8)}, "expected one of F32"),
    "no codes": ({"x.weight_packed": None}, "expected x.weight_packed beside it"),
    "only the scale of the whole": (
        {"x.weight_packed": None, "x.weight_scale": None},
        "x.weight_global_scale: expected x.weight_packed beside it",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong(tmp_path: Path, case: str) -> None:
    """Each is refused, naming file and tensor, before a file is finished."""
    changed, message = BAD[case]
    arrays = compressed("x", 6, 128)[0] | changed
    arrays = {n: v for n, v in arrays.items() if v is not None}
    with pytest.raises(SourceError) as error, opened(tmp_path, arrays) as found:
        found.tensors["x.weight"].rows(0, 6)
    assert message in str(error.value)
    assert str(error.value).startswith("model.safetensors: x.weight")
