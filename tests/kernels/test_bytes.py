"""Encoders write llama.cpp's bytes, decoders give the gguf package's values, in every tier.

The lists come from the compiled table: a new format is tested here from the day it has a row.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import gguf
import numpy as np
import oracle
import pytest
from kernels import data
from numpy.typing import NDArray

from ggufmix import codecs

TIERS = codecs.tiers()
ENCODERS = list(codecs.ENCODERS.values())
LLAMA = [e for e in ENCODERS if e.name == e.format.name]
OWN = [e for e in ENCODERS if e.name != e.format.name]
WEIGHED = [e for e in LLAMA if e.importance != "NONE"]
UNWEIGHED = [e for e in LLAMA if e.importance != "REQUIRED"]


def each(encoders: list, tiers: list[str] = TIERS) -> pytest.MarkDecorator:
    """All tiers of one encoder in a row, so that the expected bytes are made once."""
    pairs = [pytest.param(e, t, id=f"{e}-{t}") for e, t in product(encoders, tiers)]
    return pytest.mark.parametrize(("encoder", "tier"), pairs)


def difference(
    got: NDArray[np.uint8], expected: NDArray[np.uint8], values: NDArray[np.generic], block: int
) -> str:
    """The number of blocks that differ, and the first of them: its values and both its bytes."""
    a, b = got.reshape(-1, block), expected.reshape(-1, block)
    wrong = np.flatnonzero((a != b).any(1))
    i = wrong[0]
    x = values.reshape(len(a), -1)[i].astype(np.float32)
    return (
        f"{len(wrong)} of {len(a)} blocks differ, the first is {i}\n"
        f"values   {x.tolist()}\ngot      {a[i].tobytes().hex()}\nexpected {b[i].tobytes().hex()}"
    )


def check(encoder, tier: str, x, expected: NDArray[np.uint8], importance=None) -> None:
    got = codecs.encode(x, encoder, importance, tier=tier)
    if got.tobytes() != expected.tobytes():
        pytest.fail(f"{encoder} {tier}: {difference(got, expected, x, encoder.format.bytes)}")


@lru_cache(maxsize=1)
def expected_bulk(name: str, values: int) -> NDArray[np.uint8]:
    return oracle.encode(data.bulk(values).astype(np.float32), name)


@lru_cache(maxsize=1)
def expected_weighed(name: str, values: int) -> tuple[NDArray, NDArray, NDArray[np.uint8]]:
    x = data.bulk(values)
    importance = data.importances()["spans"]
    return x, importance, oracle.encode(x.astype(np.float32), name, importance)


@each(UNWEIGHED)
def test_bulk(encoder, tier):
    """131,072 blocks of bfloat16 values: not a byte differs from llama.cpp."""
    values = encoder.format.values
    check(encoder, tier, data.bulk(values), expected_bulk(encoder.name, values))


@each(WEIGHED)
def test_bulk_with_importance(encoder, tier):
    """131,072 blocks with importance, spans of it zero: not a byte differs from llama.cpp."""
    x, importance, expected = expected_weighed(encoder.name, encoder.format.values)
    check(encoder, tier, x, expected, importance)


@each(UNWEIGHED)
@pytest.mark.parametrize("dtype", [data.BF16, data.F16, data.F32], ids=str)
def test_special_rows(encoder, tier, dtype):
    """Constants, zeros, ties, extremes and subnormals, in each input type: llama.cpp's bytes."""
    x = data.as_dtype(data.special(), dtype)
    expected = oracle.encode(x.astype(np.float32), encoder.name)
    if encoder.name == "MXFP4":  # blocks below 2^-125 to which it gives NaN as the scale
        block = x.astype(np.float32).reshape(-1, 32)[expected.reshape(-1, 17)[:, 0] == 255]
        assert (abs(block).max(1) < 2.0**-125).all()
        sound = (expected.reshape(len(x), -1, 17)[:, :, 0] != 255).all(1)
        x, expected = x[sound], expected[sound]
    check(encoder, tier, x, expected)


@each(WEIGHED)
@pytest.mark.parametrize("name", data.importances())
def test_special_rows_with_importance(encoder, tier, name):
    """The same rows with importance of every kind, all zeros included: llama.cpp's bytes."""
    x, importance = data.as_dtype(data.special(), data.BF16), data.importances()[name]
    expected = oracle.encode(x.astype(np.float32), encoder.name, importance)
    check(encoder, tier, x, expected, importance)


@each(WEIGHED)
def test_importance_of_few_columns(encoder, tier):
    """Where one weight in fifty counts, scales below 0 are found, whose codes wrap: llama.cpp's
    bytes all the same.
    """
    rng = np.random.default_rng(9)
    x = rng.standard_normal((64, data.COLS)).astype(data.BF16)
    importance = rng.random(data.COLS, np.float32) * (rng.random(data.COLS) < 0.02)
    expected = oracle.encode(x.astype(np.float32), encoder.name, importance)
    check(encoder, tier, x, expected, importance)


@each(UNWEIGHED)
def test_float32_values(encoder, tier):
    """Values that use all bits of a float32: llama.cpp's bytes."""
    x = np.random.default_rng(5).standard_normal((256, data.COLS), np.float32)
    check(encoder, tier, x, oracle.encode(x, encoder.name))


@each(LLAMA)
@pytest.mark.parametrize("rows", [1, 7, 17])
def test_odd_numbers_of_rows(encoder, tier, rows):
    """Rows and blocks that fill no vector: a kernel that takes several at once minds the rest."""
    cols = max(encoder.format.values, 32) * 3
    x = np.random.default_rng(rows).standard_normal((rows, cols), np.float32)
    importance = None
    if encoder.importance != "NONE":
        importance = np.linspace(0, 1, cols, dtype=np.float32)
    check(encoder, tier, x, oracle.encode(x, encoder.name, importance), importance)


@each(OWN, TIERS[1:])
@pytest.mark.parametrize("rows", ["bulk", "special"])
def test_own_encoders_agree(encoder, tier, rows):
    """An encoder that llama.cpp lacks has one encoding all the same, whatever the tier."""
    x = data.bulk(encoder.format.values) if rows == "bulk" else data.special()
    check(encoder, tier, x, codecs.encode(x, encoder, tier="base"))


def in_formula(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Q4_X as it is stated: d = m / -7, m the first value of largest magnitude."""
    x = x.reshape(-1, 32)
    m = np.take_along_axis(x, abs(x).argmax(1, keepdims=True), 1)
    m[m == 0] = 0  # not -0
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        d = m / np.float32(-7)
        inverse = np.where(d != 0, np.float32(1) / d, np.float32(0))
        inverse[np.isinf(inverse)] = 0
        codes = np.minimum(15, np.trunc(x * inverse + np.float32(8.5))).astype(np.uint8)
        scale = d.astype(np.float16).view(np.uint8)
    return np.concatenate([scale, codes[:, :16] | codes[:, 16:] << 4], 1)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("rows", ["bulk", "special"])
def test_q4_x_is_its_formula(tier, rows):
    """Q4_X: codes 1..15, d = m / -7 by a true division."""
    x = data.bulk(32).astype(np.float32) if rows == "bulk" else data.special()
    got = codecs.encode(x, "Q4_X", tier=tier).reshape(-1, 18)
    assert got.tobytes() == in_formula(x).tobytes()
    codes = np.concatenate([got[:, 2:] & 15, got[:, 2:] >> 4])
    assert codes.min() == 1
    assert codes.max() == 15


def test_q4_x_keeps_a_lattice():
    """Blocks s * {-7..7}, s in float16, some |q| = 7, come back exactly; most of Q4_0's do not."""
    rng = np.random.default_rng(6)
    q = rng.integers(-7, 8, (512, 32))
    q[:, 0] = rng.choice([-7, 7], 512)
    scale = rng.uniform(1e-3, 1e-2, (512, 1)).astype(np.float16).astype(np.float32)
    x = (q * scale).astype(np.float32)
    kept = (codecs.decode(codecs.encode(x, "Q4_X"), "Q4_0") == x).all(1).mean()
    assert kept == 1
    assert (codecs.decode(codecs.encode(x, "Q4_0"), "Q4_0") == x).all(1).mean() < 0.1


def stored(name: str, row_bytes: int) -> Iterator[NDArray[np.uint8]]:
    """Blocks as an encoder writes them, and random bytes."""
    x = np.random.default_rng(7).standard_normal((64, data.COLS), np.float32)
    encoder = codecs.ENCODERS[name]
    weights = data.importances()["random"] if encoder.importance == "REQUIRED" else None
    yield codecs.encode(x, name, weights)
    yield codecs.encode(data.special(), name, weights)
    yield data.random_blocks(64, row_bytes)


@each(LLAMA)
def test_decode(encoder, tier):
    """Decoded values are those of the gguf package, to the bit; NaN for NaN."""
    kind = gguf.GGMLQuantizationType(encoder.format.id)
    for blocks in stored(encoder.name, encoder.format.row_bytes(data.COLS)):
        with np.errstate(all="ignore"):
            expected = np.float32(gguf.quants.dequantize(blocks, kind))
        got = codecs.decode(blocks, encoder.name, tier=tier)
        same = (got.view(np.uint32) == expected.view(np.uint32)) | (
            np.isnan(got) & np.isnan(expected)
        )
        assert same.all(), (encoder.name, np.argwhere(~same)[0])
