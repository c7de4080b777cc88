# SPDX-License-Identifier: MIT
"""Blocks of the formats with scales and minima, written by hand: their values can be read off."""

import numpy as np
import pytest

from ggufmix.codecs import decode, tiers

ONE, HALF = b"\x00\x3c", b"\x00\x38"  # binary16


def values(kind, block, tier):
    return decode(np.frombuffer(block, np.uint8)[None], kind, tier=tier)[0]


def six_bits():
    """Group 0: scale 1, min 2. Group 5: scale 33, min 18, their upper bits elsewhere. Others: 0."""
    scales = bytearray(12)
    scales[0], scales[4] = 1, 2
    scales[1], scales[5], scales[9] = 0b10_000000, 0b01_000000, 0b0010_0001
    return bytes(scales)


def expected_of_six_bits(codes):
    expected = np.zeros(256, np.float32)
    expected[:32] = codes - 0.5 * 2
    expected[160:192] = 33.0 * codes - 0.5 * 18
    return expected


@pytest.mark.parametrize("tier", tiers())
def test_q4_k(tier):
    """Group 0 lies in the low halves of the first 32 bytes, group 5 in the high of the third."""
    codes = np.arange(32, dtype=np.uint8) % 16
    qs = np.zeros((4, 32), np.uint8)
    qs[0], qs[2] = codes, codes << 4
    block = ONE + HALF + six_bits() + qs.tobytes()
    np.testing.assert_array_equal(expected_of_six_bits(codes), values("Q4_K", block, tier))


@pytest.mark.parametrize("tier", tiers())
def test_q5_k(tier):
    """As Q4_K, with the fifth bits of group k in bit k of 32 bytes before them."""
    codes = np.arange(32, dtype=np.uint8)
    qs = np.zeros((4, 32), np.uint8)
    qs[0], qs[2] = codes % 16, codes << 4
    fifth = (codes >> 4) | (codes >> 4) << 5
    block = ONE + HALF + six_bits() + fifth.tobytes() + qs.tobytes()
    np.testing.assert_array_equal(expected_of_six_bits(codes), values("Q5_K", block, tier))


@pytest.mark.parametrize("tier", tiers())
def test_q2_k(tier):
    """Group 0: scale 1, min 2, codes in bits 0-1. Group 13: scale 15, min 3, codes in bits 4-5."""
    codes = np.arange(16, dtype=np.uint8) % 4
    scales, qs = bytearray(16), np.zeros((2, 32), np.uint8)
    scales[0], scales[13] = 0x21, 0x3F
    qs[0, :16] = codes
    qs[1, 16:] = codes << 4
    expected = np.zeros(256, np.float32)
    expected[:16] = codes - 0.5 * 2
    expected[208:224] = 15.0 * codes - 0.5 * 3
    block = bytes(scales) + qs.tobytes() + ONE + HALF
    np.testing.assert_array_equal(expected, values("Q2_K", block, tier))


@pytest.mark.parametrize("tier", tiers())
def test_q4_1(tier):
    """Scale 1, minimum 1/2; values 0 to 15 in the low halves, 16 to 31 in the high ones."""
    codes = np.arange(16, dtype=np.uint8)
    expected = np.float32([*codes, *codes[::-1]]) + 0.5
    block = ONE + HALF + bytes(codes | codes[::-1] << 4)
    np.testing.assert_array_equal(expected, values("Q4_1", block, tier))


@pytest.mark.parametrize("tier", tiers())
def test_q5_1(tier):
    """As Q4_1, with bit i of the word before the halves the fifth bit of value i."""
    codes = np.arange(16, dtype=np.uint8)
    expected = np.float32([*codes, *codes[::-1]]) + 0.5
    expected[[0, 31]] += 16
    block = ONE + HALF + (0x80000001).to_bytes(4, "little") + bytes(codes | codes[::-1] << 4)
    np.testing.assert_array_equal(expected, values("Q5_1", block, tier))
