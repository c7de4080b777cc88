"""Blocks through transforms: moved as a whole they stay what they are, else there are none."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sources.gguf_build import blocks_of, gguf_file

from ggufmix.codecs import decode
from ggufmix.sources import GgufFile, open_gguf
from ggufmix.tensor import Tensor, mapped, reshape, stack, take_columns, take_rows


@pytest.fixture
def file(tmp_path: Path) -> Iterator[GgufFile]:
    """Two tensors of one type and shape, and one of another type."""
    tensors = {
        "a": ("Q4_0", blocks_of("Q4_0", 12, 128, seed=1)),
        "b": ("Q4_0", blocks_of("Q4_0", 12, 128, seed=2)),
        "c": ("Q8_0", blocks_of("Q8_0", 12, 128)),
        "d": ("Q4_0", blocks_of("Q4_0", 12, 128, seed=3).reshape(3, 4, -1)),
    }
    with open_gguf(gguf_file(tmp_path / "x.gguf", tensors)) as found:
        yield found


def agree(tensor: Tensor) -> None:
    """Blocks, decoded, are the values: in one piece and in bands."""
    assert tensor.format is not None
    for start, stop in ((0, tensor.n_rows), (1, 3), (tensor.n_rows - 1, tensor.n_rows)):
        blocks = tensor.blocks(start, stop)
        assert blocks.shape == (stop - start, tensor.format.row_bytes(tensor.cols))
        assert np.array_equal(decode(blocks, tensor.format), tensor.rows(start, stop))


def test_stacked(file: GgufFile) -> None:
    """Experts side by side keep their blocks where all have one type."""
    a, b, c = (file.tensors[n] for n in "abc")
    both = stack([a, b])
    agree(both)
    assert np.array_equal(both.blocks(10, 14), np.concatenate([a.blocks(10, 12), b.blocks(0, 2)]))
    assert stack([a, c]).format is None


@pytest.mark.parametrize("seed", [None, 7])
def test_rows_moved(file: GgufFile, seed: int | None) -> None:
    """Rows in another order, in runs or one by one, take their blocks with them."""
    index = np.arange(12).reshape(2, 3, 2).swapaxes(0, 1).reshape(-1)
    if seed is not None:
        index = np.random.default_rng(seed).permutation(12)
    a = file.tensors["a"]
    moved = take_rows(a, index, (3, 4, 128))
    agree(moved)
    assert np.array_equal(moved.blocks(0, 12), a.blocks(0, 12)[index])


def test_columns_moved(file: GgufFile) -> None:
    """Columns that move by whole blocks take them along; a cut through a block ends them."""
    a = file.tensors["a"]
    index = np.arange(128).reshape(4, 32)[[2, 0, 3]].reshape(-1)
    agree(take_columns(a, index))
    assert take_columns(a, np.roll(index, 1)).format is None
    assert take_columns(a, index[:40]).format is None
    assert take_columns(a, index[::-1].copy()).format is None


def test_reshaped(file: GgufFile) -> None:
    """Another shape over the same rows keeps blocks; another row length does not."""
    d = file.tensors["d"]
    agree(reshape(d, (12, 128)))
    assert reshape(d, (24, 64)).format is None
    agree(take_rows(stack([reshape(d, (12, 128)), file.tensors["a"]]), np.arange(23, -1, -1)))


def test_computed_values_have_no_blocks(file: GgufFile) -> None:
    """A function of values ends them."""
    assert mapped(file.tensors["a"], np.negative).format is None
