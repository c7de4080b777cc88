"""Blocks whose scale is NaN or infinite: what llama.cpp refuses when it loads with checks.

Source: ggml-quants.c, `ggml_validate_row_data`, which looks at the binary16 scales and minima of
each block, at E8M0 exponents of MXFP4, and at nothing of NVFP4.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..codecs import Format

_HALF = 0x7C  # exponent bits of a binary16, in its upper byte; all set in NaN and infinity

_FIRST = (((1, _HALF),),)
_FIRST_TWO = (((1, _HALF),), ((3, _HALF),))

_MARKS: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    **dict.fromkeys(("Q1_0", "Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS"), _FIRST),
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), _FIRST),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q8_1", "Q4_K", "Q5_K"), _FIRST_TWO),
    "Q2_K": (((81, _HALF),), ((83, _HALF),)),
    "Q3_K": (((109, _HALF),),),
    "Q6_K": (((209, _HALF),),),
    "TQ1_0": (((53, _HALF),),),
    "TQ2_0": (((65, _HALF),),),
    "MXFP4": (((0, 0xFF),),),
    "IQ1_M": (((55, 0x70), (53, 0xC0)),),  # its scale is spread over the upper nibbles of four u16
}
"""Type -> numbers in a block that must be finite, each as (byte of the block, bits of it) that are
all set where it is not.
"""


def first_bad(blocks: NDArray[np.uint8], kind: Format) -> tuple[int, int] | None:
    """Row and block of the first scale that is NaN or infinite, or None.

    blocks  uint8, (rows, row_bytes of `kind`)
    """
    marks = _MARKS.get(kind.name)
    if marks is None or not blocks.size:
        return None
    apart = blocks.reshape(len(blocks), -1, kind.bytes)
    worst: tuple[int, int] | None = None
    for number in marks:
        bad = np.logical_and.reduce([apart[:, :, at] & bits == bits for at, bits in number])
        if bad.any():
            row, block = np.unravel_index(int(bad.argmax()), bad.shape)
            place = int(row), int(block)
            worst = place if worst is None else min(worst, place)
    return worst
