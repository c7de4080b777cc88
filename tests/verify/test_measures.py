"""How far values are from each other: sums in float64, the same on every tier."""

# SPDX-License-Identifier: MIT

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufmix import codecs
from ggufmix.errors import FormatError, ShapeError
from ggufmix.measures import Measures, measure

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def pairs(rows: int, cols: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values of bfloat16 in float32, and what is near them."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, cols)) * 0.02).astype(ml_dtypes.bfloat16).astype(np.float32)
    return x, x + (rng.standard_normal((rows, cols)) * 1e-4).astype(np.float32)


def stated(x: np.ndarray, y: np.ndarray) -> Measures:
    """The sums in the order that ext/measure.c states, in plain Python floats."""
    a, b = (v.astype(np.float64).ravel() for v in (x, y))
    whole = [0.0] * 4
    for at in range(0, a.size, 4096):
        p, q = a[at : at + 4096], b[at : at + 4096]
        for k, product in enumerate(((p - q) * (p - q), p * p, q * q, p * q)):
            s = [0.0] * 8
            for i, v in enumerate(product.tolist()):
                s[i % 8] += v
            whole[k] += ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
    most = np.abs(a - b)
    at = int(most.argmax())
    return Measures(a.size, *whole, float(most[at]), at // x.shape[1], at % x.shape[1])


@pytest.mark.parametrize("tier", codecs.tiers())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (1, 4096), (5, 2311), (2, 4099)])
def test_sums_are_those_that_are_stated(tier: str, dtype: type, shape: tuple[int, int]) -> None:
    """Else a report would say other digits on another computer."""
    x, y = pairs(*shape)
    assert measure(x.astype(dtype), y, tier=tier) == stated(x.astype(dtype), y)


def test_float32_sums_would_be_wrong_at_this_size() -> None:
    """A cosine summed in float32 has been seen to exceed 1 on real tensors."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1 << 10, 1 << 12)).astype(np.float32)
    y = x * np.float32(1.001)
    found = measure(x, y)
    assert found.rrmse == pytest.approx(0.001, rel=1e-4)
    assert 1 - 1e-12 < found.cosine <= 1


@pytest.mark.parametrize("tier", codecs.tiers())
def test_sums_of_bands_add_up(tier: str) -> None:
    """Bands of whole chunks give the very sums of the tensor, and the place of the worst."""
    x, y = pairs(6, 4096)
    y[4, 99] += 3
    whole = measure(x, y, tier=tier)
    low, high = measure(x[:3], y[:3], tier=tier), measure(x[3:], y[3:], row=3, tier=tier)
    total = low + high
    assert (total.row, total.column) == (whole.row, whole.column) == (4, 99)
    assert total.most == whole.most
    assert total.ee == pytest.approx(whole.ee, rel=1e-14)
    assert total.count == whole.count


@pytest.mark.parametrize("tier", codecs.tiers())
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_value_that_is_no_number_is_counted_and_named(tier: str, odd: float, side: int) -> None:
    """One NaN must not make a tensor look right, nor hide what the rest is like."""
    both = pairs(3, 4100)
    clean = measure(*both, tier=tier)
    both[side][1, 4000] = odd
    both[side][2, 17] = odd
    found = measure(*both, tier=tier)
    assert found.broken == 2
    assert (found.row, found.column, found.most) == (1, 4000, math.inf)
    assert math.isnan(found.rrmse)
    assert math.isnan(found.cosine)
    assert found.ee == pytest.approx(clean.ee, rel=1e-3)
    assert (Measures(5) + found).broken == 2


def test_zeros_are_defined() -> None:
    """A bias of zeros that stays one is right; one that becomes something is infinitely wrong."""
    zero, one = np.zeros((1, 8), np.float32), np.ones((1, 8), np.float32)
    same, grown, lost = measure(zero, zero), measure(zero, one), measure(one, zero)
    assert (same.rrmse, same.cosine) == (0, 1)
    assert (grown.rrmse, grown.cosine) == (math.inf, 0)
    assert (lost.rrmse, lost.cosine) == (1, 0)
    assert (Measures().rrmse, Measures().cosine) == (0, 1)
    assert measure(zero[:, :0], zero[:, :0]) == Measures()


@pytest.mark.parametrize("tier", codecs.tiers())
def test_the_largest_floats_do_not_overflow(tier: str) -> None:
    """Squares of float32 fit float64 with room for any number of them."""
    top = np.full((2, 4096), np.finfo(np.float32).max, np.float32)
    found = measure(top, -top, tier=tier)
    assert found.broken == 0
    assert found.rrmse == 2
    assert found.cosine == -1
    tiny = np.full((1, 4096), np.finfo(np.float32).smallest_subnormal, np.float32)
    assert measure(tiny, np.zeros_like(tiny), tier=tier).rrmse == 1


@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 1 << 30))
def test_any_shape_and_any_strides(rows: int, cols: int, seed: int) -> None:
    """Bands come transposed and sliced, too."""
    x, y = pairs(cols, rows, seed)
    found = measure(x.T, y.T)
    assert found == measure(np.ascontiguousarray(x.T), np.ascontiguousarray(y.T))
    assert found.ee == pytest.approx(float(((x.astype(float) - y) ** 2).sum()), rel=1e-12)


def test_what_cannot_be_compared_is_refused() -> None:
    """A message instead of a wrong number."""
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ShapeError, match="rows, cols"):
        measure(x, x.T)
    with pytest.raises(FormatError, match="float64"):
        measure(x.astype(np.float64), x)
