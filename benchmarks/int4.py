"""INT4: what four ways into Q4_0 keep of weights that were trained on a lattice, and how fast.

    python benchmarks/int4.py

Prints Markdown: the share of groups that are exact and the error left on the four ways, measured on
synthetic tensors of 512 x 4096 in groups of 32 with BF16 scales; and the speeds of one core.
"""

# SPDX-License-Identifier: MIT

import sys
import time
from collections.abc import Callable

import ml_dtypes
import numpy as np

from ggufmix.codecs import decode, encode, tiers
from ggufmix.int4 import recover, repack, widen

ROWS, COLS, GROUP = 512, 4096, 32
BF16, F16, F32 = ml_dtypes.bfloat16, np.float16, np.float32
KINDS = {"absmax/7, codes -7..7": (7.0, -7, 7), "absmax/7.5, codes -8..7": (7.5, -8, 7)}
LEAST_SECONDS = 0.5


def lattice(divisor: float, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes (ROWS, COLS) and BF16 scales of bell-shaped weights, as QAT rounds them."""
    x = np.random.default_rng(0).normal(0, 0.02, (ROWS, COLS // GROUP, GROUP)).astype(F32)
    scales = (np.abs(x).max(-1) / divisor).astype(BF16)
    codes = np.clip(np.rint(x / scales.astype(F32)[..., np.newaxis]), low, high)
    return codes.astype(np.int8).reshape(ROWS, COLS), scales


def packed(codes: np.ndarray) -> np.ndarray:
    """Two codes a byte, as compressed-tensors packs them."""
    q = (codes + 8).astype(np.uint8)
    return q[:, ::2] | q[:, 1::2] << 4


def judged(blocks: np.ndarray, exact: np.ndarray) -> str:
    """Share of groups equal to code * scale in every value, relative RMSE, and the largest error
    as a share of the largest value of its group.
    """
    found = decode(blocks, "Q4_0").astype(np.float64).reshape(-1, GROUP)
    true = exact.astype(np.float64).reshape(-1, GROUP)
    wrong = found - true
    share = (wrong == 0).all(axis=1).mean()
    error = np.sqrt((wrong**2).mean() / (true**2).mean())
    top = (np.abs(wrong).max(1) / np.abs(true).max(1)).max()
    cosine = (found * true).sum() / np.sqrt((found**2).sum() * (true**2).sum())
    return f"{100 * share:.1f} % | {error:.1e} | {100 * top:.1f} % | {cosine:.6f}"


def exactness() -> None:
    """The table of the four ways."""
    heads = "way", "source", "exact groups", "relative RMSE", "largest error", "cosine"
    for kind, (divisor, low, high) in KINDS.items():
        codes, scales = lattice(divisor, low, high)
        exact = codes.astype(F32) * scales.astype(F32).repeat(GROUP, axis=1)
        print(f"\n{kind}:\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        print(f"| direct | packed | {judged(repack(packed(codes), scales, COLS)[0], exact)} |")
        for dtype in (BF16, F16, F32):
            x, name = exact.astype(dtype), np.dtype(dtype).name
            for way, encoder in (("max/-7", "Q4_X"), ("stock max/-8", "Q4_0")):
                blocks = encode(x, encoder)
                if encoder == "Q4_X":
                    put_back = blocks.copy()
                    recover(x, put_back)
                    print(f"| recovered | {name} | {judged(put_back, exact)} |")
                print(f"| {way} | {name} | {judged(blocks, exact)} |")


def seconds(work: Callable[[], object]) -> float:
    """The best of several runs."""
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < LEAST_SECONDS:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def speeds() -> None:
    """Repacking against a copy of the same bytes; recovery on lattices and on ordinary weights."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (1 << 15, COLS // 2), dtype=np.uint8)  # 64 MiB: past the caches
    scales = rng.uniform(1e-3, 1e-2, (len(codes), COLS // GROUP)).astype(BF16)
    n, size = codes.size * 2, codes.nbytes + scales.nbytes
    copy = seconds(lambda: (codes.copy(), scales.copy()))
    made = repack(codes, scales, COLS)[0]
    again, wide = seconds(lambda: repack(codes, scales, COLS)), seconds(lambda: widen(made))
    print(f"\ncopy of packed bytes: {size / copy / 1e9:.1f} GB/s")
    print(f"repacked to Q4_0: {size / again / 1e9:.1f} GB/s, {n / again / 1e9:.1f} G weights/s")
    print(f"Q4_0 to Q8_0: {made.nbytes / wide / 1e9:.1f} GB/s of Q4_0")
    print(f"\n| M weights/s, {tiers()[-1]} | on a lattice | ordinary |\n|---|---|---|")
    codes, scales = lattice(*KINDS["absmax/7.5, codes -8..7"])
    exact = codes.astype(F32) * scales.astype(F32).repeat(GROUP, axis=1)
    for dtype in (BF16, F16, F32):
        rates = []
        for x in (exact, rng.normal(0, 0.02, exact.shape)):
            values = x.astype(dtype)
            blocks = encode(values, "Q4_X")
            took = seconds(lambda v=values, b=blocks: recover(v, b))
            rates.append(f"{exact.size / took / 1e6:.0f}")
        print(f"| {np.dtype(dtype).name} | {' | '.join(rates)} |")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    exactness()
    speeds()
