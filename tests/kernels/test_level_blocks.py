"""Blocks of the formats with uneven levels, by hand: what they decode to can be read off."""

import numpy as np
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
