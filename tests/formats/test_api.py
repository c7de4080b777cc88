"""The surface of the codecs: what it accepts, what it refuses, what it says about losses."""

import contextlib
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import gguf
import ml_dtypes
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufmix import codecs
from ggufmix.errors import (
    FormatError,
    GgufmixError,
    ImportanceError,
    NotFiniteError,
    OutlierError,
    ShapeError,
    UsageError,
)

settings.register_profile("calm", deadline=None)  # a busy machine is no failure
settings.load_profile("calm")

TIERS = codecs.tiers()
ENCODERS = list(codecs.ENCODERS.values())
BLOCKED = [e for e in ENCODERS if e.format.values > 1]
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
PLAIN = {"F32": DTYPES[0], "F16": DTYPES[1], "BF16": DTYPES[2]}


def weights(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols), np.float32)


def importance_for(encoder: codecs.Encoder, cols: int) -> np.ndarray | None:
    return np.ones(cols, np.float32) if encoder.importance == "REQUIRED" else None


# ---- formats ----


@pytest.mark.parametrize("kind", codecs.FORMATS.values(), ids=str)
def test_formats_are_those_of_gguf(kind):
    """Number, block and bytes of each format are those of the gguf package."""
    named = gguf.GGMLQuantizationType[kind.name]
    assert (kind.id, kind.values, kind.bytes) == (named.value, *gguf.GGML_QUANT_SIZES[named])
    assert kind.bits == kind.bytes * 8 / kind.values
    assert kind.row_bytes(3 * kind.values) == 3 * kind.bytes


def test_every_gguf_type_is_known():
    """No type of the gguf package is missing; those it cannot decode are not advertised."""
    assert set(codecs.FORMATS) == {kind.name for kind in gguf.GGML_QUANT_SIZES}
    assert {"TQ1_0", "TQ2_0", "IQ1_S", "IQ2_XXS", "IQ3_S", "Q4_K"} <= set(codecs.formats())
    assert not {"Q8_1", "Q8_K", "I32"} & set(codecs.formats())


def test_encoders_write_compiled_formats():
    """An encoder's format is the one that `formats` shows, and it says that it encodes."""
    for encoder in ENCODERS:
        assert codecs.formats()[encoder.format.name] is encoder.format
        assert encoder.format.encodes
    assert codecs.ENCODERS["Q4_X"].format is codecs.ENCODERS["Q4_0"].format


def test_importing_needs_no_gguf():
    """The gguf package costs a fifth of a second: importing the codecs does not pay it."""
    code = """
import sys
from ggufmix import codecs
codecs.encoder("q8_0")
sys.exit("gguf" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_in_any_case():
    """`q4_x` is Q4_X; an unknown name is answered with all names and the nearest."""
    assert codecs.encoder("q4_x") is codecs.ENCODERS["Q4_X"]
    with pytest.raises(UsageError, match=r"Q8_0.*Q4_X") as caught:
        codecs.encoder("Q8_O")
    assert caught.value.hint == 'did you mean "Q8_0"?'
    with pytest.raises(UsageError, match="IQ1_S"):
        codecs.decode(np.zeros((1, 1), np.uint8), "nothing of the kind")


# ---- shapes and types ----


@pytest.mark.parametrize("encoder", ENCODERS, ids=str)
@given(
    rows=st.integers(0, 5),
    blocks=st.integers(0, 3),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["plain", "transposed", "strided", "reversed", "misaligned"]),
    tier=st.sampled_from(TIERS),
)
def test_any_layout(encoder, rows, blocks, dtype, layout, tier):
    """Shape, strides and alignment of the input change nothing but the shape of the result."""
    cols = blocks * encoder.format.values
    plain = weights(rows, cols).astype(dtype)
    x = {
        "plain": lambda: plain,
        "transposed": lambda: np.asfortranarray(plain),
        "strided": lambda: np.repeat(plain, 2, axis=1)[:, ::2],
        "reversed": lambda: plain[::-1].copy()[::-1],
        "misaligned": lambda: misaligned(plain),
    }[layout]()
    importance = importance_for(encoder, cols)
    got = codecs.encode(x, encoder, importance, tier=tier)
    assert got.shape == (rows, blocks * encoder.format.bytes)
    assert got.dtype == np.uint8
    assert got.tobytes() == codecs.encode(plain, encoder, importance, tier="base").tobytes()
    back = codecs.decode(got, encoder.format, tier=tier)
    assert back.shape == (rows, cols)
    assert back.dtype == np.float32


def misaligned(x: np.ndarray) -> np.ndarray:
    store = np.zeros(x.nbytes + 1, np.uint8)[1:]
    store[:] = x.reshape(-1).view(np.uint8)
    return store.view(x.dtype).reshape(x.shape)


@given(shape=st.lists(st.integers(0, 70), max_size=3).filter(lambda s: len(s) != 2 or s[1] % 32))
def test_wrong_shapes(shape):
    """What is not (rows, whole blocks) is refused."""
    with pytest.raises(ShapeError):
        codecs.encode(np.zeros(shape, np.float32), "Q8_0")


@given(
    shape=st.lists(st.integers(0, 70), max_size=3).filter(lambda s: len(s) != 2 or s[1] % 34),
    dtype=st.sampled_from([np.uint8, np.int8, np.float32]),
)
def test_wrong_blocks(shape, dtype):
    """What is not (rows, whole blocks) of bytes is refused."""
    with pytest.raises(ShapeError):
        codecs.decode(np.zeros(shape, dtype), "Q8_0")


@pytest.mark.parametrize("dtype", ["f8", "i4", "u2", "i1", ">f4", "?", "O", "c8"])
def test_wrong_dtypes(dtype):
    """Only float32, float16 and bfloat16 of this machine's byte order are weights."""
    with pytest.raises(FormatError, match="float32, float16 or bfloat16"):
        codecs.encode(np.zeros((1, 32), dtype), "Q8_0")


@given(
    sizes=st.tuples(*[st.integers(0, 300)] * 3),
    xtype=st.integers(-2, 40),
    encoder=st.integers(-2, len(ENCODERS) + 1),
    shape=st.tuples(*[st.integers(-(2**62), 2**62) | st.integers(-1, 64)] * 2),
    tier=st.integers(-2, 4),
)
def test_door_checks_sizes(sizes, xtype, encoder, shape, tier):
    """The compiled part takes no pointer before the sizes agree, whatever it is given."""
    x, weight, out = (np.zeros(n, np.uint8) for n in sizes)
    for call in (
        lambda: codecs._core.encode(x, xtype, encoder, weight, out, *shape, tier),
        lambda: codecs._core.decode(x, encoder, out, *shape, tier),
    ):
        with contextlib.suppress(ValueError):
            call()


def test_read_only_input():
    """Mapped checkpoints cannot be written to, and need not be."""
    x = weights(2, 64)
    expected = codecs.encode(x, "Q8_0")
    x.flags.writeable = False
    assert (codecs.encode(x, "Q8_0") == expected).all()


@pytest.mark.parametrize("name", ["TQ1_0", "TQ2_0", "IQ2_XXS", "IQ3_S"])
def test_decode_only_formats(name):
    """A format that is not compiled is decoded by the gguf package, any strides."""
    kind = codecs.FORMATS[name]
    assert not kind.encodes
    blocks = np.random.default_rng(1).integers(0, 100, (3, 4 * kind.bytes), np.uint8)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
    got = codecs.decode(np.asfortranarray(blocks), name)
    assert got.tobytes() == expected.astype(np.float32).tobytes()
    assert codecs.decode(blocks[:0], name).shape == (0, 1024)
    with pytest.raises(UsageError):
        codecs.encode(weights(1, 256), name)


def test_undecodable_formats():
    """Types that nobody decodes say so."""
    with pytest.raises(FormatError, match="Q8_K"):
        codecs.decode(np.zeros((1, 292), np.uint8), "Q8_K")


# ---- values that cannot be stored ----


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("encoder", ENCODERS, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -np.nan], ids=str)
def test_not_finite(encoder, dtype, tier, bad):
    """The first NaN or infinity is named, by row and column, in whatever chunk it lies."""
    x = weights(70, 768).astype(dtype)
    importance = importance_for(encoder, 768)
    for row, column in ((69, 767), (69, 31), (41, 300), (41, 5), (0, 0)):
        x[row, column] = bad
        with pytest.raises(NotFiniteError, match=f"row {row}, column {column}") as caught:
            codecs.encode(x, encoder, importance, tier=tier)
        assert (caught.value.row, caught.value.column) == (row, column)


SIXTEEN_BITS = [e for e in ENCODERS if e.name not in {"F32", "BF16", "MXFP4", "NVFP4"}]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("dtype", [DTYPES[0], DTYPES[2]], ids=str)
@pytest.mark.parametrize("encoder", SIXTEEN_BITS, ids=str)
def test_outlier(encoder, dtype, tier):
    """1e19 fits no scale: the first block that holds such is named, by its largest value."""
    x = weights(50, 1024).astype(dtype)
    x[49, 3], x[40, 700], x[40, 701] = 1e19, 1e18, -1e19
    with pytest.raises(OutlierError, match="row 40, column 70") as caught:
        codecs.encode(x, encoder, importance_for(encoder, 1024), tier=tier)
    assert caught.value.row == 40
    assert caught.value.column == (700 if encoder.format.values == 1 else 701)


@pytest.mark.parametrize("tier", TIERS)
def test_outlier_of_bf16(tier):
    """The largest float32 rounds to an infinite bfloat16."""
    x = np.zeros((2, 9), np.float32)
    x[1, 4] = np.finfo(np.float32).max
    with pytest.raises(OutlierError, match="row 1, column 4"):
        codecs.encode(x, "BF16", tier=tier)


@pytest.mark.parametrize("tier", TIERS)
def test_largest_that_fit(tier):
    """Just below the outliers nothing is refused, and the bytes are llama.cpp's."""
    x = np.zeros((1, 32), np.float32)
    for largest in (65519.996, -65519.996):
        for name, factor in (("F16", 1), ("Q8_0", 127), ("Q4_0", 8)):
            x[0, 5] = np.float32(largest) * np.float32(factor)
            assert (codecs.encode(x, name, tier=tier) == oracle.encode(x, name)).all()
            x[0, 5] = np.float32(np.sign(largest) * 65520) * np.float32(factor)
            with pytest.raises(OutlierError, match="row 0, column 5"):
                codecs.encode(x, name, tier=tier)


# ---- losses ----


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("encoder", BLOCKED, ids=str)
def test_flushed_blocks(encoder, tier):
    """A block of values too small for the scale is counted; a block of zeros is not."""
    if encoder.name in {"MXFP4", "NVFP4"}:
        pytest.skip("their scale is another, see the kernels")
    n = encoder.format.values
    x = np.ones((20, 8 * n), np.float32)
    x[:, ::3] = -1  # both signs, so that no format can hide behind its minimum
    x[3:5, n : 3 * n] = 0
    x[7, :n] *= 1e-20
    x[19, -n:] *= 1e-20
    got = codecs.encode_band(x, encoder, importance_for(encoder, 8 * n), tier=tier)
    assert got.flushed == 2


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("name", "limit"), [("Q8_0", 254), ("Q4_0", 16)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_wiped_blocks(name, limit, dtype, tier):
    """A block whose second value is below the limit comes back as one value, and is counted."""
    x = np.full((9, 128), 1, dtype)
    x[4, 32:64] = 0
    x[4, 40], x[4, 50] = limit + 8, -1  # lost
    x[5, 64:96] = -1
    x[5, 95] = limit / 2  # kept
    x[6, :32] = 0
    x[6, 9] = 3  # alone: nothing is lost
    got = codecs.encode_band(x, codecs.encoder(name), tier=tier)
    assert (got.flushed, got.wiped) == (0, 1)
    assert np.count_nonzero(codecs.decode(got.blocks, name)[4, 32:64]) == 1


@pytest.mark.parametrize("tier", TIERS)
def test_flushed_values(tier):
    """F16 and BF16 count values that became zero; a copy loses nothing."""
    x = np.zeros((3, 1000), np.float32)
    x[1, 10:14] = 1e-8, -1e-8, 1e-41, 1
    for name, flushed in (("F16", 3), ("BF16", 1), ("F32", 0)):
        assert codecs.encode_band(x, codecs.encoder(name), tier=tier).flushed == flushed
    x[1, 10:14] = 1e-45, -1e-45, 0, -0.0
    assert codecs.encode_band(x, codecs.encoder("BF16"), tier=tier).flushed == 2


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("source", DTYPES, ids=str)
@pytest.mark.parametrize("name", PLAIN)
def test_plain_conversions(name, source, tier):
    """F32, F16 and BF16 into each other are what ml_dtypes and numpy make of them."""
    x = (weights(130, 333, 3) * 10.0 ** np.arange(-8, 2, 10 / 333)[:333]).astype(source)
    with np.errstate(under="ignore"):
        expected = x.astype(np.float32).astype(PLAIN[name])
    assert codecs.encode(x, name, tier=tier).tobytes() == expected.tobytes()
    assert (
        codecs.decode(expected.view(np.uint8), name, tier=tier) == expected.astype(np.float32)
    ).all()


def test_all_half_floats():
    """Every float16 and bfloat16 comes back from its bits, in every tier."""
    bits = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for name in ("F16", "BF16"):
        values = bits.view(PLAIN[name])
        finite = np.where(np.isfinite(values.astype(np.float32)), values, PLAIN[name].type(0))
        expected = values.astype(np.float32)
        for tier in TIERS:
            got = codecs.decode(bits.view(np.uint8), name, tier=tier)
            same = got.view(np.uint32) == expected.view(np.uint32)
            assert (same | np.isnan(expected)).all()
            assert codecs.encode(finite, name, tier=tier).tobytes() == finite.tobytes()
            again = codecs.encode(finite.astype(np.float32), name, tier=tier)
            assert again.tobytes() == finite.tobytes()


# ---- importance ----


@pytest.mark.parametrize("encoder", ENCODERS, ids=str)
@given(
    case=st.sampled_from(
        ["short", "long", "3-D", "nan", "inf", "negative", "text", "no part", "none"]
    )
)
def test_wrong_importance(encoder, case):
    """Importance of another length, not finite or negative is refused, even where ignored."""
    n = encoder.format.values
    good = np.ones(2 * n, np.float32)
    wrong = {
        "short": good[:-1],
        "long": np.ones(2 * n + 1),
        "3-D": good.reshape(1, 1, -1),
        "nan": np.where(np.arange(2 * n) == n, np.nan, good),
        "inf": np.where(np.arange(2 * n) == n, np.inf, good),
        "negative": -good,
        "text": ["a", "b"],
        "no part": np.ones((4, 2 * n), np.float32),
        "none": np.ones((0, 2 * n), np.float32),
    }[case]
    with pytest.raises(ImportanceError):
        codecs.encode(weights(6, 2 * n), encoder, wrong)


def test_importance_beyond_what_float32_sums_hold() -> None:
    """Importance so large that a search would overflow is refused with its column; what is
    accepted gives the same bytes on every tier.
    """
    x = np.where(np.arange(1024) % 2, 65504, -65504).astype(np.float32).reshape(1, -1)
    weights = np.random.default_rng(5).random(1024, np.float32)
    weights[700] = 2e24
    with pytest.raises(ImportanceError, match=r"from 0 to 1e\+24, got 2.*e\+24 at column 700"):
        codecs.encode(x, "Q3_K", weights)
    weights = weights / weights.max() * np.float32(1e24)
    made = {tier: codecs.encode(x, "Q3_K", weights, tier=tier).tobytes() for tier in codecs.tiers()}
    assert len(set(made.values())) == 1


@pytest.mark.parametrize("encoder", [e for e in ENCODERS if e.importance == "REQUIRED"], ids=str)
def test_importance_missing(encoder):
    """Where importance is required its absence is an error."""
    with pytest.raises(ImportanceError, match="needs importance"):
        codecs.encode(weights(1, encoder.format.values), encoder)


@pytest.mark.parametrize("encoder", ENCODERS, ids=str)
def test_importance_per_matrix(encoder):
    """(matrices, cols) gives each stacked matrix its own row, as llama.cpp does for experts."""
    cols = 2 * encoder.format.values
    x = weights(12, cols)
    importance = np.random.default_rng(1).chisquare(1, (3, cols)).astype(np.float32)
    got = codecs.encode(x, encoder, importance)
    parts = [codecs.encode(x[4 * i : 4 * i + 4], encoder, importance[i]) for i in range(3)]
    assert got.tobytes() == np.concatenate(parts).tobytes()
    x[9, 1] = np.nan
    with pytest.raises(NotFiniteError, match="row 9, column 1"):
        codecs.encode(x, encoder, importance)


# ---- tiers and threads ----


def test_tier_from_environment(monkeypatch):
    """GGUFMIX_TIER forces a tier; a name that does not run here is answered with those that do."""
    x = weights(1, 32)
    expected = codecs.encode(x, "Q8_0")
    for tier in TIERS:
        monkeypatch.setenv("GGUFMIX_TIER", tier)
        assert (codecs.encode(x, "Q8_0") == expected).all()
    monkeypatch.setenv("GGUFMIX_TIER", "avx9")
    with pytest.raises(UsageError, match=f"{', '.join(TIERS)}.*avx9"):
        codecs.encode(x, "Q8_0")
    assert (codecs.encode(x, "Q8_0", tier="base") == expected).all()


def test_bands_do_not_matter():
    """However a matrix is cut into bands, and by however many threads, the bytes are the same."""
    x = weights(301, 768)
    for encoder in ENCODERS:
        importance = np.random.default_rng(2).chisquare(1, 768).astype(np.float32)
        whole = codecs.encode_band(x, encoder, importance).blocks
        cuts = [0, 1, 3, 20, 150, 300, 301]
        with ThreadPoolExecutor(4) as pool:
            parts = list(
                pool.map(
                    lambda cut, e=encoder, w=importance: (
                        codecs.encode_band(x[slice(*cut)], e, w).blocks
                    ),
                    itertools.pairwise(cuts),
                )
            )
        assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_one_family_of_errors():
    """Whatever is refused on purpose can be caught as GgufmixError."""
    with pytest.raises(GgufmixError):
        codecs.encode(weights(1, 31), "Q8_0")


@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="x86-64 Linux"
)
def test_flush_to_zero_does_not_matter():
    """A library that left the CPU flushing subnormals to zero changes no byte."""
    code = """
import torch
assert torch.set_flush_denormal(True)
import numpy as np, sys
from ggufmix import codecs
x = np.ldexp(np.linspace(-1, 1, 64, dtype=np.float64), -20).astype(np.float16).reshape(1, 64)
sys.stdout.write(codecs.encode(x, "F32").tobytes().hex() + codecs.encode(x, "Q8_0").tobytes().hex())
"""
    x = np.ldexp(np.linspace(-1, 1, 64), -20).astype(np.float16).reshape(1, 64)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = codecs.encode(x, "F32").tobytes().hex() + codecs.encode(x, "Q8_0").tobytes().hex()
    assert done.stdout == expected
