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
def test_q6_k(tier):
    """Scale 2 and group scales 1..16; in each half the codes count up from 0 to 63, twice."""
    codes = np.arange(64)
    low = (codes & 15) * 17  # values j and j + 64 of a half have the same code
    high = (codes[:32] >> 4) | (codes[32:] >> 4) << 2
    high |= high << 4
    fields = [*[low.astype(np.uint8)] * 2, *[high.astype(np.uint8)] * 2, range(1, 17), np.float16(2).tobytes()]
    expected = [2.0 * (j // 16 + 1) * (j % 64 - 32) for j in range(256)]
    assert decoded(fields, "Q6_K", tier) == expected
