"""Lattices of INT4 in values that were dequantized: all are found, nothing else is."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ggufmix.codecs import decode, tiers
from ggufmix.errors import FormatError
from ggufmix.int4 import recover

BF16, F16, F32 = ml_dtypes.bfloat16, np.float16, np.float32
N = 20_000


def codes_of(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Codes of N groups: the whole range, without -8, few and small, or one of them."""
    if kind == "all":
        return rng.integers(-8, 8, (N, 32))
    if kind == "symmetric":
        return rng.integers(-7, 8, (N, 32))
    if kind == "narrow":
        return np.clip(np.rint(rng.normal(0, 1.5, (N, 32))), -8, 7)
    alone = np.zeros((N, 32))
    alone[np.arange(N), rng.integers(0, 32, N)] = rng.integers(-8, 8, N)
    return alone


def scales_of(dtype: Any, low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    """N scales between two numbers, evenly by order of magnitude, either sign."""
    size = np.exp(rng.uniform(np.log(low), np.log(high), (N, 1)))
    return (size * rng.choice([1, 1, 1, -1], (N, 1))).astype(F32).astype(dtype)


def recovered(x: np.ndarray, tier: str | None = None) -> tuple[int, np.ndarray]:
    """The groups that were found, and the blocks; those that were not keep their bytes of 0xEE."""
    blocks = np.full((len(x), 18), 0xEE, np.uint8)
    return recover(x, blocks, tier=tier), blocks


@pytest.mark.parametrize("kind", ["all", "symmetric", "narrow", "alone"])
@pytest.mark.parametrize("dtype", [BF16, F16, F32])
@pytest.mark.parametrize("scale", [BF16, F16])
def test_every_lattice_comes_back(scale: Any, dtype: Any, kind: str) -> None:
    """Of values `code * scale` rounded to a dtype, for scales from 2^-17 to 256, every group is
    found, decodes to what rounds to its values, and every tier finds the same.
    """
    rng = np.random.default_rng(7)
    codes, scales = codes_of(kind, rng), scales_of(scale, 2.0**-17, 256, rng)
    x = (codes.astype(F32) * scales.astype(F32)).astype(dtype)
    found, blocks = recovered(x)
    assert found == N
    np.testing.assert_array_equal(decode(blocks, "Q4_0").astype(dtype), x)
    for tier in tiers():
        np.testing.assert_array_equal(recovered(x, tier)[1], blocks)
    assert recover(x) == N


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_the_scale_itself_where_it_is_the_likeliest(dtype: Any) -> None:
    """Of codes over the whole range with BF16 scales nearly every group gets the very scale it came
    from, so that what is stored is `code * scale` before it was rounded.
    """
    rng = np.random.default_rng(8)
    codes, scales = codes_of("symmetric", rng), np.abs(scales_of(BF16, 1e-4, 0.1, rng))
    codes[:, 5] = 7
    exact = codes.astype(F32) * scales.astype(F32)
    _, blocks = recovered(exact.astype(dtype))
    same = (decode(blocks, "Q4_0") == exact).all(axis=1)
    assert same.mean() > 0.99


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
@pytest.mark.parametrize("spread", ["normal", "uniform", "heavy"])
def test_ordinary_weights_lie_on_none(dtype: Any, spread: str) -> None:
    """No false positive: bell-shaped, flat and heavy-tailed weights, no block touched."""
    rng = np.random.default_rng(9)
    x = {
        "normal": lambda: rng.normal(0, 0.02, (5 * N, 32)),
        "uniform": lambda: rng.uniform(-0.05, 0.05, (5 * N, 32)),
        "heavy": lambda: 0.01 * rng.standard_t(3, (5 * N, 32)),
    }[spread]()
    found, blocks = recovered(x.astype(dtype))
    assert found == 0
    assert (blocks == 0xEE).all()


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
def test_one_value_off_is_enough(dtype: Any) -> None:
    """A lattice with one value moved to its neighbour in the dtype is none, unless another scale
    gives just these values: whatever is accepted reproduces all of them, whatever is not is left.
    """
    rng = np.random.default_rng(10)
    codes, scales = codes_of("symmetric", rng), scales_of(BF16, 1e-4, 0.1, rng)
    codes[:, 0] = 7
    codes[:, 1] = 7
    x = (codes.astype(F32) * scales.astype(F32)).astype(dtype)
    bits = x.view(np.uint32 if dtype is F32 else np.uint16)
    bits[:, 1] ^= 1  # where the first is another value, no scale can give both
    found, blocks = recovered(x)
    assert found == 0
    assert (blocks == 0xEE).all()


def test_any_lattice_of_any_values_is_exact() -> None:
    """Values of very few bits lie on lattices by chance, small and large ones, subnormal ones too:
    what is accepted reproduces them.
    """
    rng = np.random.default_rng(11)
    for dtype in (BF16, F16, F32):
        raw = rng.integers(-8, 9, (N, 32)) * np.exp2(rng.integers(-30, 18, (N, 1)))
        with np.errstate(over="ignore"):
            x = raw.astype(dtype)
        x[~np.isfinite(x.astype(F32)).all(axis=1)] = 0
        found, blocks = recovered(x)
        taken = (blocks != 0xEE).any(axis=1)
        assert found == taken.sum() > N // 100
        np.testing.assert_array_equal(decode(blocks[taken], "Q4_0").astype(dtype), x[taken])


def test_other_dtypes_and_nothing() -> None:
    """A dtype that weights do not have is refused; no rows are no groups."""
    with pytest.raises(FormatError, match="float64"):
        recover(np.zeros((1, 32)))
    assert recover(np.zeros((0, 32), np.float32)) == 0
