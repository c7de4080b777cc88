"""Codes, scales and what is said about them: torch's own conversion, formulas in float64, every
tier, and what a loader written by others makes of them.
"""

# SPDX-License-Identifier: MIT

import ml_dtypes
import numpy as np
import pytest
from fp8 import plain
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import data
from numpy.typing import NDArray

from ggufmix import codecs
from ggufmix.errors import (
    FormatError,
    ImportanceError,
    NotFiniteError,
    ShapeError,
    UsageError,
)
from ggufmix.fp8.coding import Quantized, Search, Sums, compare, dequantize, quantize

TIERS = codecs.tiers()
MODES = ("max", "rms", "percentile", "mse")
SCALES = ("bf16", "f32", "pow2")
DTYPES = (plain.BF16, np.dtype(np.float16), np.dtype(np.float32))
SHAPES = ((1, 1), (1, 128), (3, 17), (127, 129), (128, 128), (130, 300), (256, 15))


def torch_codes(x: NDArray[np.generic], scales: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What torch's cast makes of the weights divided by their stored scales."""
    import torch

    ratio = torch.from_numpy(x.astype(np.float32)) / torch.from_numpy(plain.spread(scales, x.shape))
    return ratio.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def by_magnitude(step: int) -> NDArray[np.generic]:
    """All finite bfloat16 in order of magnitude from pattern `step` on, both signs: blocks of 64
    binades, so that ratios to a scale fall everywhere from far too small to the largest.
    """
    pattern = np.arange(step, step + 32768, dtype=np.int64) % 0x7F80
    both = np.stack([pattern, pattern | 0x8000], 1).astype(np.uint16)
    return both.reshape(-1, 128).view(plain.BF16)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("step", [0, 100, 4099])
@pytest.mark.parametrize(
    "search", [Search("max"), Search("rms", factor=1.37)], ids=lambda s: s.mode
)
def test_codes_of_every_bf16_are_torchs(search, step, tier):
    """A value rounded another way than the engines' own cast would be another weight."""
    x = by_magnitude(step)
    got = quantize(x, search, scale="f32", tier=tier)
    assert np.array_equal(got.codes, torch_codes(x, got.scales))
    assert len(np.unique(got.codes)) == 254


@pytest.mark.parametrize("tier", TIERS)
def test_ties_and_their_neighbours_round_as_torch_rounds(tier):
    """Between any two codes: the middle, and the floats next to it; signs and zeros as they are."""
    codes = np.arange(127, dtype=np.uint8).view(plain.E4M3).astype(np.float32)
    middle = (codes[1:] + codes[:-1]) / 2
    at = np.concatenate([codes, middle, np.nextafter(middle, 0), np.nextafter(middle, 999)])
    at = np.concatenate([at, [2.0**-10, 1e-30, 0]]).astype(np.float32)
    x = np.concatenate([at, -at])[np.newaxis]
    for width in (len(x[0]), 128, 100):
        part = np.resize(x, (-(-x.size // width), width))
        part[0, 0] = part[:, -1] = 448  # so that the scale of max is 1
        got = quantize(part, Search("max"), scale="pow2", tier=tier)
        assert np.array_equal(got.codes, torch_codes(part, got.scales))
    assert set(got.scales.reshape(-1)) == {1.0}


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("mode", MODES)
def test_scales_are_the_formulas(mode, kind, weighed):
    """The scales that documentation promises, at every kind of edge and for every dtype."""
    rng = np.random.default_rng(len(mode))
    for shape in SHAPES:
        for dtype in DTYPES:
            x = rng.standard_t(3, shape).astype(dtype)
            weights = rng.exponential(1, shape[1]).astype(np.float32) if weighed else None
            for search in (Search(mode), Search(mode, 2.5, 97.3, 7)):
                got = quantize(x, search, scale=kind, weights=weights)
                codes, scales = plain.quantize(x, search, kind, weights)
                assert np.array_equal(got.scales, scales)
                assert np.array_equal(got.codes, codes)


@pytest.mark.parametrize("mode", MODES)
def test_blocks_of_few_values(mode):
    """Lattices and masks: a magnitude that a search leaves out is a large part of its block."""
    rng = np.random.default_rng(7)
    for few in ([0.3, 1], [0, 0.171, 1.3], [-1, 1, 0.87, -0.55], [0.01, -0.0137, 1e-3], [5]):
        x = rng.choice(np.float32(few), (140, 260)).astype(plain.BF16)
        got = quantize(x, Search(mode))
        codes, scales = plain.quantize(x, Search(mode))
        assert np.array_equal(got.scales, scales)
        assert np.array_equal(got.codes, codes)


@pytest.mark.parametrize("mode", MODES)
def test_a_cpu_that_flushes_subnormals_gives_the_same(mode):
    """Other libraries in the process, such as torch, may have told it to."""
    import torch

    x = np.random.default_rng(8).normal(0, 1e-38, (128, 200)).astype(np.float32)
    want = quantize(x, Search(mode))
    torch.set_flush_denormal(True)
    try:
        for tier in TIERS:
            got = quantize(x, Search(mode), tier=tier)
            assert np.array_equal(got.codes, want.codes)
            assert np.array_equal(got.scales, want.scales)
            back = dequantize(got.codes, got.scales, tier=tier)
            assert back.tobytes() == dequantize(want.codes, want.scales).tobytes()
    finally:
        torch.set_flush_denormal(False)
    values = plain.values_of(want.codes, plain.spread(want.scales, x.shape))
    assert back.tobytes() == values.tobytes()


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 150), st.integers(1, 290)),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(SCALES),
    search=st.builds(
        Search,
        st.sampled_from(MODES),
        st.floats(0.01, 1000),
        st.floats(0.01, 100),
        st.integers(1, 20),
    ),
    spread=st.integers(0, 60),
    zeros=st.floats(0, 1),
    weighed=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_weights_and_options(seed, shape, dtype, kind, search, spread, zeros, weighed):
    """Whatever comes, every tier gives the formulas' scales and torch's codes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-spread, spread + 1, shape)
    x *= rng.random(shape) >= zeros
    weights = None
    if weighed:
        weights = (rng.random(shape[1]) * (rng.random(shape[1]) < 0.9)).astype(np.float32)
    largest = np.finfo(np.float16).max if dtype == np.float16 else 1e38
    x = data.as_dtype(x.clip(-largest, largest), dtype)
    codes, scales = plain.quantize(x, search, kind, weights)
    for tier in TIERS:
        got = quantize(x, search, scale=kind, weights=weights, tier=tier)
        assert np.array_equal(got.scales, scales)
        assert np.array_equal(got.codes, codes)


def test_percentiles_are_those_of_torch():
    """Another interpolation would saturate other weights than the user counted on."""
    import torch

    x = np.random.default_rng(0).standard_normal((100, 90)).astype(plain.BF16)
    for percentile in (0.01, 10, 50, 99.9, 99.995, 100):
        want = torch.quantile(torch.from_numpy(abs(x.astype(np.float64))), percentile / 100)
        got = quantize(x, Search("percentile", percentile=percentile), scale="f32")
        assert got.scales[0, 0] == np.float32(float(want) / 448)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tiers_agree_in_bulk(mode, dtype):
    """The same checkpoint, sums and counts, whatever machine made it."""
    x = data.as_dtype(data.bulk(32)[:, :1000], dtype)
    if dtype != plain.BF16 or mode == "percentile":
        x = x[:1000]
    weights = data.importances(1000)["spans"]
    for columns in (None, weights):
        first = quantize(x, Search(mode), weights=columns, tier=TIERS[0])
        for tier in TIERS[1:]:
            assert_same(quantize(x, Search(mode), weights=columns, tier=tier), first)


def assert_same(a: Quantized, b: Quantized) -> None:
    assert np.array_equal(a.codes, b.codes)
    assert np.array_equal(a.scales, b.scales)
    assert (a.saturated, a.flushed, a.sums) == (b.saturated, b.flushed, b.sums)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tier", TIERS)
def test_tiers_agree_at_edges(mode, tier):
    """Widths around the width of a register, slabs of one row."""
    rng = np.random.default_rng(1)
    for width in (*range(1, 40), 127, 129, 143, 144, 145):
        x = rng.standard_t(2, (2, width)).astype(plain.BF16)
        weights = rng.random(width, np.float32)
        for rows in (x[:1], x):
            got = quantize(rows, Search(mode), weights=weights, tier=tier)
            assert_same(got, quantize(rows, Search(mode), weights=weights, tier="base"))


@pytest.mark.parametrize("mode", MODES)
def test_any_finite_bits_give_finite_weights(mode):
    """No NaN code, no zero, subnormal or infinite scale, no weight that loaders find infinite."""
    rng = np.random.default_rng(2)
    bits = rng.integers(0, 2**32, (256, 384), np.uint32)
    bits[bits & 0x7F800000 == 0x7F800000] &= 0x80FFFFFF
    wide = bits.view(np.float32)
    rows = [wide, wide.clip(-1e-37, 1e-37), np.sign(wide) * np.float32(3.4e38), data.special()]
    for x in rows:
        for dtype in (np.float32, plain.BF16):
            y = data.as_dtype(x.clip(-3.38e38, 3.38e38) if dtype != np.float32 else x, dtype)
            for kind in SCALES:
                got = quantize(y, Search(mode), scale=kind)
                assert not ((got.codes & 0x7F) == 0x7F).any()
                assert (got.scales >= 2.0**-126).all()
                assert np.isfinite(dequantize(got.codes, got.scales)).all()
                assert np.isfinite(448 * got.scales).all()


def test_small_and_empty_blocks():
    """A block of zeros has scale 1, loaders divide by it; below the smallest scale weights become
    zero, and are counted.
    """
    x = np.zeros((128, 384), np.float32)
    x[5, 7] = -0.0
    x[:, 128:256] = 1e-42
    x[:, 256:] = 1e-37
    for mode in MODES:
        got = quantize(x, Search(mode))
        assert got.scales[0, 0] == 1
        assert got.codes[5, 7] == 0x80  # the zero keeps its sign, as in torch
        assert got.scales[0, 1] == got.scales[0, 2] == 2.0**-126
        assert (got.flushed, got.saturated) == (128 * 128, 0)
        assert abs(dequantize(got.codes, got.scales)[:, 256:] / 1e-37 - 1).max() < 1 / 16


def test_sparse_blocks_fall_back():
    """A percentile, or columns that count, may hold nothing but zeros: the rest is not lost."""
    x = np.zeros((128, 128), np.float32)
    x[3, 4] = 100
    weights = np.ones(128, np.float32)
    weights[4] = 0
    assert quantize(x, Search("percentile"), scale="f32").scales[0, 0] == np.float32(100 / 448)
    for mode in ("rms", "mse"):
        for columns in (weights, np.zeros(128, np.float32)):
            got = quantize(x, Search(mode), weights=columns)
            assert_same(got, quantize(x, Search(mode)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_first_value_that_is_not_finite_is_named(dtype, value):
    """Row and column in reading order, although blocks are read first."""
    x = np.ones((300, 400), dtype)
    x[140, 2] = x[139, 399] = x[299, 0] = value
    with pytest.raises(NotFiniteError, match=str(value)) as caught:
        quantize(x, Search())
    assert (caught.value.row, caught.value.column) == (139, 399)


def test_views_slabs_and_threads_do_not_matter():
    """Whoever cuts a matrix into slabs, or reads it through a transposed view, gets its bytes."""
    from concurrent.futures import ThreadPoolExecutor

    x = np.random.default_rng(3).standard_t(4, (700, 333)).astype(plain.BF16)
    x.setflags(write=False)
    weights = np.random.default_rng(4).random(333, np.float32)
    for mode in MODES:

        def slab(row: int, mode: str = mode) -> Quantized:
            return quantize(x[row : row + 128], Search(mode), weights=weights)

        whole = quantize(np.asfortranarray(x), Search(mode), weights=weights)
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(slab, range(0, 700, 128)))
        assert np.array_equal(np.concatenate([p.codes for p in parts]), whole.codes)
        assert np.array_equal(np.concatenate([p.scales for p in parts]), whole.scales)
        sums = sum((p.sums for p in parts), Sums())
        assert sums.count == whole.sums.count == x.size
        assert sums.ee == pytest.approx(whole.sums.ee, rel=1e-13)
        assert sums.most == whole.sums.most
        assert sum(p.saturated for p in parts) == whole.saturated
        assert sum(p.flushed for p in parts) == whole.flushed


def test_sums_and_counts_are_of_what_is_stored():
    """Reports of error rest on them: they are of the stored codes and scales, no estimate."""
    x = np.random.default_rng(5).standard_t(2, (260, 300)).astype(plain.BF16)
    x[0, 0] = 1e5  # leaves much of its block to be flushed
    f = x.astype(np.float32)
    for search in (Search(), Search("rms", factor=2), Search("percentile")):
        got = quantize(x, search)
        d = plain.values_of(got.codes, plain.spread(got.scales, x.shape))
        w, e = f.astype(np.float64), (d - f).astype(np.float64)
        d = d.astype(np.float64)
        want = [x.size, (w * w).sum(), (d * d).sum(), (w * d).sum(), (e * e).sum(), abs(e).sum()]
        found = [getattr(got.sums, name) for name in ("count", "ww", "dd", "wd", "ee", "e")]
        assert found == pytest.approx(want, rel=1e-12)
        assert got.sums.most == abs(e).max()
        ratio = f / plain.spread(got.scales, x.shape)
        assert got.saturated == (abs(ratio) > 464).sum()
        assert got.flushed == ((got.codes & 127 == 0) & (f != 0)).sum()
    assert got.saturated > 0
    assert got.flushed > 0


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_comparing_says_what_quantizing_said(dtype, tier):
    """What is verified on disk has to be what was reported while it was written, exactly."""
    rng = np.random.default_rng(9)
    for shape in SHAPES:
        x = rng.standard_t(2, shape).astype(dtype)
        x[0, 0] = 3e4
        for search in (Search(), Search("percentile", percentile=60)):
            got = quantize(x, search)
            assert_same(compare(x, got.codes, got.scales, tier=tier), got)


@pytest.mark.parametrize("tier", TIERS)
def test_comparing_with_codes_of_others(tier):
    """A flipped sign, a wrong scale, a NaN: none of it passes for a small error."""
    x = np.random.default_rng(10).normal(0, 1, (128, 256)).astype(plain.BF16)
    got = quantize(x, Search())
    wrong = got.codes.copy()
    wrong[3, 200] ^= 0x80
    wrong[3, 201] = 0
    wrong.setflags(write=False)
    found = compare(x, wrong, got.scales * 2, tier=tier)
    f = x.astype(np.float32)
    d = plain.values_of(wrong, plain.spread(got.scales * 2, x.shape))
    e = (d - f).astype(np.float64)
    sums = [found.sums.ee, found.sums.e, found.sums.wd, found.sums.most]
    both = (d.astype(np.float64) * f).sum()
    assert sums == pytest.approx([(e * e).sum(), abs(e).sum(), both, abs(e).max()], rel=1e-12)
    assert found.flushed == got.flushed + 1
    nan = got.codes.copy()
    nan[5, 5] = 0x7F
    found = compare(x, nan, got.scales, tier=tier)
    assert np.isnan([found.sums.ee, found.sums.dd, found.sums.e, found.sums.most]).all()
    assert np.isnan((found.sums + got.sums).most)
    assert np.isnan((got.sums + found.sums).most)
    with pytest.raises(ShapeError, match="codes of shape"):
        compare(x, nan[:, :-1], got.scales)
    with pytest.raises(ShapeError, match="float64"):
        compare(x, nan, got.scales.astype(np.float64))
    x[100, 7] = np.inf
    with pytest.raises(NotFiniteError):
        compare(x, nan, got.scales)


@pytest.mark.parametrize("kind", SCALES)
def test_compressed_tensors_reads_the_same_weights(kind):
    """A dequantizer written by others, on shapes off 128 too."""
    import torch
    from compressed_tensors.entrypoints.convert.converters.fp8block_dequantizer import (
        FP8BlockDequantizer,
    )

    x = np.random.default_rng(6).normal(0, 0.02, (300, 200)).astype(plain.BF16)
    got = quantize(x, Search(), scale=kind)
    codes = torch.from_numpy(got.codes).view(torch.float8_e4m3fn)
    tensors = {"a.weight": codes, "a.weight_scale_inv": torch.from_numpy(got.scales)}
    if kind != "f32":
        tensors["a.weight_scale_inv"] = tensors["a.weight_scale_inv"].to(torch.bfloat16)
    theirs = FP8BlockDequantizer(dtype=torch.float32).process(tensors)["a.weight"].numpy()
    assert np.array_equal(theirs, dequantize(got.codes, got.scales))


@pytest.mark.parametrize("tier", TIERS)
def test_every_code_dequantizes(tier):
    """256 codes as ml_dtypes reads them, NaN included, times the scale of their own block."""
    codes = np.resize(np.arange(256, dtype=np.uint8), (130, 257))
    scales = np.float32([[1, 0.3, 7], [2, 5, 1e-3]])
    want = codes.view(plain.E4M3).astype(np.float32) * plain.spread(scales, codes.shape)
    got = dequantize(codes, scales, tier=tier)
    assert np.array_equal(got, want, equal_nan=True)
    assert np.array_equal(np.signbit(got), np.signbit(want))


def test_bad_input_says_what_was_expected():
    """Before any work: a wrong type, shape or option is named."""
    x = np.ones((2, 3), np.float32)
    with pytest.raises(FormatError, match="float64"):
        quantize(x.astype(np.float64), Search())
    with pytest.raises(ShapeError, match=r"\(6,\)"):
        quantize(x.reshape(-1), Search())
    for weights, said in (
        (np.ones(2, np.float32), r"\(3,\)"),
        (np.ones(3), "float64"),
        (np.float32([1, -1, 0]), "-1.0 at column 1"),
        (np.float32([1, 1, np.nan]), "nan at column 2"),
        (np.float32([np.inf, 1, 1]), "inf at column 0"),
    ):
        with pytest.raises(ImportanceError, match=said):
            quantize(x, Search(), weights=weights)
    for wrong in (
        {"mode": "best"},
        {"factor": 0},
        {"factor": float("nan")},
        {"percentile": 0},
        {"percentile": 100.1},
        {"grid": 0},
        {"grid": 10**10},
    ):
        with pytest.raises(UsageError, match="expected"):
            Search(**wrong)
    with pytest.raises(UsageError, match="e8m0"):
        quantize(x, Search(), scale="e8m0")
    with pytest.raises(ShapeError, match=r"\(2, 1\)"):
        dequantize(np.zeros((129, 1), np.uint8), np.ones((1, 1), np.float32))
    with pytest.raises(ShapeError, match="int8"):
        dequantize(np.zeros((1, 1), np.int8), np.ones((1, 1), np.float32))
    empty = quantize(np.empty((0, 5), ml_dtypes.bfloat16), Search())
    assert (empty.codes.shape, empty.scales.shape, empty.sums.count) == ((0, 5), (0, 1), 0)
