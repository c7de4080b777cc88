"""What the modes are for: each does something else, and what documentation says it does."""

# SPDX-License-Identifier: MIT

from pathlib import Path

import numpy as np
import pytest
from fp8 import plain
from numpy.typing import NDArray
from safetensors import safe_open

from ggufmix.fp8.coding import Quantized, Search, dequantize, quantize

MODES = ("max", "rms", "percentile", "mse")
SCALES = ("bf16", "f32", "pow2")


def drawn(name: str) -> NDArray[np.generic]:
    """Weights as bfloat16, (512, 384)."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.02, (512, 384))
    if name == "tails":
        x = 0.02 * rng.standard_t(4, x.shape)
    if name == "channels":
        x[:, rng.choice(384, 4, replace=False)] *= 20
    return x.astype(plain.BF16)


@pytest.fixture(scope="module")
def trained(example: Path) -> dict[str, NDArray[np.generic]]:
    """What a converter would quantize of the example: matrices of at least 128 x 128."""
    import torch

    found = {}
    with safe_open(example / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            if tensor.ndim == 2 and min(tensor.shape) >= 128 and "embed" not in name:
                found[name] = tensor.view(torch.uint16).numpy().view(plain.BF16)
    assert len(found) > 20
    return found


def error(got: Quantized) -> float:
    """Relative root mean square."""
    return float(np.sqrt(got.sums.ee / got.sums.ww))


def weighed_error(x: NDArray[np.generic], got: Quantized, weights: NDArray[np.float32]) -> float:
    e = dequantize(got.codes, got.scales).astype(np.float64) - x.astype(np.float64)
    return float(((e * e) * weights).sum())


@pytest.mark.parametrize("name", ["bell", "tails", "channels"])
def test_modes_differ(name):
    """The toolkit that users know writes the same bytes for rms as for max. Of powers of two only
    those that saturate can differ.
    """
    x = drawn(name)
    weights = np.random.default_rng(1).lognormal(0, 2, 384).astype(np.float32)
    for kind in ("bf16", "f32"):
        codes = {quantize(x, Search(mode), scale=kind).codes.tobytes() for mode in MODES}
        weighed = {
            quantize(x, Search(mode), scale=kind, weights=weights).codes.tobytes() for mode in MODES
        }
        assert len(codes) == 4
        assert len(weighed) == 4
        assert len(codes & weighed) == 2  # max and percentile do not look at activations
    same = quantize(x, Search("mse"), scale="pow2"), quantize(x, Search("max"), scale="pow2")
    assert np.array_equal(same[0].codes, same[1].codes)


def test_rms_has_no_floor():
    """Large values saturate instead of setting the scale: that is what rms is for."""
    x = drawn("channels")
    for factor in (3.0, 8.0):
        got = quantize(x, Search("rms", factor=factor), scale="f32")
        most = quantize(x, Search("max"), scale="f32")
        assert (got.scales < 0.5 * most.scales).any()
        assert got.saturated > 0
        assert (got.codes & 0x7F == 0x7E).sum() > got.saturated / 2
    wide = quantize(x, Search("rms", factor=100), scale="f32")
    assert (wide.scales > most.scales).any()  # nor a ceiling


def test_mse_is_the_default_and_the_best(trained):
    """The default loses least, on trained weights and others, tensor by tensor; the factor of rms
    costs next to nothing where 3 costs a tensor 7.5 %.
    """
    assert Search().mode == "mse"
    kinds = {**trained, **{name: drawn(name) for name in ("bell", "tails", "channels")}}
    for name, x in kinds.items():
        best = error(quantize(x, Search()))
        for mode in MODES[:3]:
            assert best < error(quantize(x, Search(mode))), name
        assert error(quantize(x, Search(grid=128))) > best * 0.99  # 50 scales are enough
        assert best < 0.0264
    found = {
        factor: max(error(quantize(x, Search("rms", factor=factor))) for x in trained.values())
        for factor in (3.0, 5.0, 8.0)
    }
    assert found[3.0] > 0.07
    assert found[5.0] > 0.028
    assert found[8.0] < 0.027


def test_mse_does_not_saturate():
    """Its scales begin at that of max, rounded: only pure rounding is left."""
    for name in ("bell", "tails", "channels"):
        got, most = quantize(drawn(name), Search()), quantize(drawn(name), Search("max"))
        assert (got.scales >= most.scales).all()
        assert (got.scales <= 2 * most.scales).all()
        assert got.saturated == most.saturated == 0


def test_activations_move_the_error_to_where_it_matters_less():
    """Weighed by what the columns meet, the weighed error falls: the point of statistics."""
    for name in ("bell", "tails", "channels"):
        x = drawn(name)
        weights = np.random.default_rng(1).lognormal(0, 2, 384).astype(np.float32)
        plain_one, weighed = quantize(x, Search()), quantize(x, Search(), weights=weights)
        ratio = weighed_error(x, weighed, weights) / weighed_error(x, plain_one, weights)
        assert ratio < 0.985
        assert error(weighed) > error(plain_one)


@pytest.mark.parametrize("mode", ["rms", "mse"])
def test_even_activations_change_nothing(mode):
    """All columns alike is the same as no statistics."""
    x = drawn("tails")
    got = quantize(x, Search(mode), weights=np.full(384, 4, np.float32))
    assert np.array_equal(got.codes, quantize(x, Search(mode)).codes)


@pytest.mark.parametrize("mode", MODES)
def test_edges_are_blocks_of_their_own(mode):
    """Blocks at the edge have fewer values; zeros that pad them would shrink their scale."""
    x = drawn("bell")[:130, :140]
    whole = quantize(x, Search(mode), scale="f32").scales
    for place, part in plain.tiles(x.shape):
        alone = quantize(np.ascontiguousarray(x[part]), Search(mode), scale="f32").scales
        assert whole[place] == alone[0, 0]
    constant = np.full((129, 131), 0.3, plain.BF16)  # the same statistics for any part of it
    assert len(np.unique(quantize(constant, Search(mode), scale="f32").scales)) == 1


@pytest.mark.parametrize("mode", MODES)
def test_weights_are_divided_by_the_scale_that_is_stored(mode):
    """Scales rounded after the codes are made cost error in every weight."""
    x = drawn("bell")
    got, exact = quantize(x, Search(mode)), quantize(x, Search(mode), scale="f32")
    assert np.array_equal(got.scales, got.scales.astype(plain.BF16).astype(np.float32))
    assert not np.array_equal(exact.scales, exact.scales.astype(plain.BF16).astype(np.float32))
    own = plain.codes_of(x.astype(np.float32), plain.spread(got.scales, x.shape))
    late = plain.codes_of(x.astype(np.float32), plain.spread(exact.scales, x.shape))
    assert np.array_equal(got.codes, own)
    assert not np.array_equal(got.codes, late)


@pytest.mark.parametrize("mode", MODES)
def test_power_of_two_scales(mode):
    """Only the exponent, rounded up: what would not saturate with the scale as found does not."""
    x = drawn("tails")
    raw, got = quantize(x, Search(mode), scale="f32"), quantize(x, Search(mode), scale="pow2")
    assert (np.frexp(got.scales)[0] == 0.5).all()
    if mode != "mse":
        assert (got.scales >= raw.scales).all()
        assert (got.scales < 2 * raw.scales).all()
        assert got.saturated <= raw.saturated
    exact = np.full((128, 128), 448 * 2.0**-7, np.float32)
    assert quantize(exact, Search("max"), scale="pow2").scales[0, 0] == 2.0**-7


@pytest.mark.parametrize("mode", MODES)
def test_power_of_two_scales_survive_e8m0(mode):
    """Engines with an E8M0 path (vLLM's requant_weight_ue8m0_inplace, SGLang's) dequantize, take
    each block's largest magnitude / 448 up to a power of two, and quantize again: not one weight
    may change, where other scales lose a third more.
    """
    for name in ("bell", "tails", "channels"):
        x = drawn(name)
        got = quantize(x, Search(mode), scale="pow2")
        read = dequantize(got.codes, got.scales)
        again = quantize(read, Search("max"), scale="pow2")
        assert np.array_equal(dequantize(again.codes, again.scales), read)
    read = dequantize(*(getattr(quantize(x, Search(mode)), n) for n in ("codes", "scales")))
    again = quantize(read, Search("max"), scale="pow2")
    assert not np.array_equal(dequantize(again.codes, again.scales), read)


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("mode", MODES)
def test_source_type_does_not_matter(mode, kind):
    """The same values stored as float32 or float16 are the same weights."""
    x = (np.rint(drawn("tails").astype(np.float32) * 2**12) / 2**12).astype(plain.BF16)
    assert np.array_equal(x.astype(np.float16).astype(np.float32), x.astype(np.float32))
    first = quantize(x, Search(mode), scale=kind)
    for dtype in (np.float16, np.float32):
        got = quantize(x.astype(dtype), Search(mode), scale=kind)
        assert np.array_equal(got.codes, first.codes)
        assert np.array_equal(got.scales, first.scales)
