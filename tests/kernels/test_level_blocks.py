"""Blocks of the formats with uneven levels, by hand: what they decode to can be read off."""

import numpy as np
import oracle
import pytest

from ggufmix import codecs

TIERS = codecs.tiers()
IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
UP_DOWN = bytes(j | (15 - j) << 4 for j in range(16))
"""Codes 0..15, then 15..0."""


def decoded(fields: list, name: str, tier: str) -> list[float]:
    block = b"".join(bytes(field) for field in fields)
    values = codecs.decode(np.frombuffer(block, np.uint8).reshape(1, -1), name, tier=tier)
    return values[0].tolist()


@pytest.mark.parametrize("tier", TIERS)
def test_iq4_nl(tier):
    """Scale -2: every level up, then every level down."""
    expected = [-2.0 * level for level in IQ4 + IQ4[::-1]]
    assert decoded([np.float16(-2).tobytes(), UP_DOWN], "IQ4_NL", tier) == expected


@pytest.mark.parametrize("tier", TIERS)
def test_iq4_xs(tier):
    """Scale 0.5 and group scales -32, -23, -14, -5, 4, 13, 22, 31: all bits of both in use."""
    scales = range(-32, 32, 9)
    stored = [scale + 32 for scale in scales]
    low = bytes(a & 15 | (b & 15) << 4 for a, b in zip(stored[::2], stored[1::2], strict=True))
    high = sum((s >> 4) << 2 * g for g, s in enumerate(stored)).to_bytes(2, "little")
    expected = [0.5 * scale * level for scale in scales for level in IQ4 + IQ4[::-1]]
    assert decoded([np.float16(0.5).tobytes(), high, low, UP_DOWN * 8], "IQ4_XS", tier) == expected


FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]


@pytest.mark.parametrize("tier", TIERS)
def test_mxfp4(tier):
    """The exponent's byte is 130, 2^3: every E2M1 value times 8, up and down."""
    assert decoded([[130], UP_DOWN], "MXFP4", tier) == [8.0 * v for v in FP4 + FP4[::-1]]


@pytest.mark.parametrize("tier", TIERS)
def test_nvfp4(tier):
    """Scales 2^-9 (a subnormal), 1, 1.875 and 448: the E2M1 values times each."""
    codes = bytes(j | (j + 8) << 4 for j in range(8))
    expected = [scale * v for scale in (2**-9, 1, 1.875, 448) for v in FP4]
    assert decoded([[0x01, 0x38, 0x3F, 0x7E], codes * 4], "NVFP4", tier) == expected


@pytest.mark.parametrize("tier", TIERS)
def test_mxfp4_has_no_nan(tier):
    """Where llama.cpp writes NaN, from 2^-126 to 2^-125, the smallest scale holds the values."""
    x = np.float32([*FP4[:6], 0, *FP4[9:14]] + [3] * 20) * np.float32(2.0**-127)
    block = codecs.encode(x.reshape(1, 32), "MXFP4", tier=tier)
    assert block[0, 0] == 0
    assert codecs.decode(block, "MXFP4", tier=tier)[0].tolist() == x.tolist()


@pytest.mark.parametrize("tier", TIERS)
def test_mxfp4_takes_the_logarithm_as_float(tier):
    """A float just below a power of two may have its logarithm: how near differs by exponent."""
    powers = np.float32(2.0) ** np.arange(-124, 128, dtype=np.float32)
    below = np.arange(1, 49, dtype=np.float32) * np.float32(2.0**-24)
    x = np.zeros((len(powers), len(below), 32), np.float32)
    x[:, :, 0] = powers[:, None] * (1 - below)
    x = x.reshape(len(powers), -1)
    assert codecs.encode(x, "MXFP4", tier=tier).tobytes() == oracle.encode(x, "MXFP4").tobytes()


@pytest.mark.parametrize("tier", TIERS)
def test_nvfp4_far_above_its_range(tier):
    """Values of 2^11 to 2^100: llama.cpp's bytes, also where floats are coarser than the steps."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((90, 1024)).astype(np.float32)
    x *= np.exp2(np.arange(11, 101, dtype=np.float32))[:, None]
    assert codecs.encode(x, "NVFP4", tier=tier).tobytes() == oracle.encode(x, "NVFP4").tobytes()
