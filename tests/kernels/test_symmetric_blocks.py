"""Blocks of the formats without a minimum, written by hand: what they decode to can be read off."""

import numpy as np
import pytest

from ggufmix import codecs

TIERS = codecs.tiers()


def decoded(fields: list, name: str, tier: str) -> list[float]:
    block = b"".join(bytes(field) for field in fields)
    values = codecs.decode(np.frombuffer(block, np.uint8).reshape(1, -1), name, tier=tier)
    return values[0].tolist()


@pytest.mark.parametrize("tier", TIERS)
def test_q5_0(tier):
    """Scale 0.5, codes 0..31: the first sixteen lack the fifth bit, the others have it."""
    fields = [np.float16(0.5).tobytes(), [0, 0, 255, 255], [17 * j for j in range(16)]]
    assert decoded(fields, "Q5_0", tier) == [0.5 * (q - 16) for q in range(32)]


@pytest.mark.parametrize("tier", TIERS)
def test_q3_k(tier):
    """Scale 0.25, s of group g is 33 + g; in each 32 values the codes count 0..7, four times."""
    codes = np.arange(32) % 8
    high = (codes >> 2) * 255
    low = (codes & 3) * 0b01010101
    s = 33 + np.arange(16)
    nibbles = (s[:8] & 15) | (s[8:] & 15) << 4
    tops = s[:4] >> 4 | s[4:8] >> 4 << 2 | s[8:12] >> 4 << 4 | s[12:] >> 4 << 6
    fields = [
        high.tolist(),
        low.tolist() * 2,
        nibbles.tolist(),
        tops.tolist(),
        np.float16(0.25).tobytes(),
    ]
    expected = [0.25 * (j // 16 + 1) * (j % 8 - 4) for j in range(256)]
    assert decoded(fields, "Q3_K", tier) == expected


@pytest.mark.parametrize("tier", TIERS)
def test_q6_k(tier):
    """Scale 2 and group scales 1..16; in each half the codes count up from 0 to 63, twice."""
    codes = np.arange(64)
    low = (codes & 15) * 17  # values j and j + 64 of a half have the same code
    high = (codes[:32] >> 4) | (codes[32:] >> 4) << 2
    high |= high << 4
    fields = [
        *[low.astype(np.uint8)] * 2,
        *[high.astype(np.uint8)] * 2,
        range(1, 17),
        np.float16(2).tobytes(),
    ]
    expected = [2.0 * (j // 16 + 1) * (j % 64 - 32) for j in range(256)]
    assert decoded(fields, "Q6_K", tier) == expected
