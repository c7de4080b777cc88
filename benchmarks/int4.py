"""INT4: what four ways into Q4_0, and two into Q8_0, keep of weights that were trained on a
lattice, and how fast they are.

    python benchmarks/int4.py

Prints Markdown: the share of groups that are exact and the error left on each way, measured on
synthetic tensors of 512 x 4096 in groups of 32 with BF16 scales; and the speeds of one core.
"""

# SPDX-License-Identifier: MIT

import sys
import time
from collections.abc import Callable

import ml_dtypes
import numpy as np

from ggufmix.codecs import decode, encode, tiers
from ggufmix.int4 import Q4_0, recover, repack, widen

ROWS, COLS, GROUP = 512, 4096, 32
BF16, F16, F32 = ml_dtypes.bfloat16, np.float16, np.float32
KINDS = {"absmax/7, codes -7..7": (7.0, -7, 7), "absmax/7.5, codes -8..7": (7.5, -8, 7)}
DTYPES = {"BF16": BF16, "F16": F16, "F32": F32}
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


def judged(blocks: np.ndarray, exact: np.ndarray, kind: str = "Q4_0") -> str:
    """Share of groups equal to code * scale in every value, relative RMSE, the largest error of a
    group as a share of its largest value (on average, and in the worst group), and the cosine.
    """
    found = decode(blocks, kind).astype(np.float64).reshape(-1, GROUP)
    true = exact.astype(np.float64).reshape(-1, GROUP)
    wrong = found - true
    share = (wrong == 0).all(axis=1).mean()
    error = np.sqrt((wrong**2).mean() / (true**2).mean())
    top = np.abs(wrong).max(1) / np.abs(true).max(1)
    cosine = (found * true).sum() / np.sqrt((found**2).sum() * (true**2).sum())
    tops = f"{100 * top.mean():.2f} % | {100 * top.max():.1f} %"
    return f"{100 * share:.1f} % | {error:.1e} | {tops} | {cosine:.6f}"


def exactness() -> None:
    """The table of the ways."""
    heads = "way", "source", "exact groups", "relative RMSE", "largest error", "worst", "cosine"
    for kind, (divisor, low, high) in KINDS.items():
        codes, scales = lattice(divisor, low, high)
        exact = codes.astype(F32) * scales.astype(F32).repeat(GROUP, axis=1)
        moved = repack(packed(codes), scales, COLS)[0]
        print(f"\n{kind}:\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        print(f"| direct | packed | {judged(moved, exact)} |")
        for dtype in (BF16, F16, F32):
            x, name = exact.astype(dtype), np.dtype(dtype).name
            for way, encoder in (("max/-7", "Q4_X"), ("stock max/-8", "Q4_0")):
                blocks = encode(x, encoder)
                if encoder == "Q4_X":
                    put_back = blocks.copy()
                    recover(x, put_back)
                    print(f"| recovered | {name} | {judged(put_back, exact)} |")
                print(f"| {way} | {name} | {judged(blocks, exact)} |")
        print(f"| Q8_0, direct | packed | {judged(widen(moved, Q4_0)[0], exact, 'Q8_0')} |")
        stock = encode(exact.astype(BF16), "Q8_0")
        print(f"| Q8_0, stock | bfloat16 | {judged(stock, exact, 'Q8_0')} |")


def again() -> None:
    """What a second quantization costs weights that AWQ or asymmetric GPTQ has in groups of 128."""
    x = np.random.default_rng(0).normal(0, 0.02, (ROWS, COLS // 128, 128)).astype(F32)
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    scales = ((high - low) / 15).astype(F16).astype(F32)
    zeros = np.clip(np.rint(-low / scales), 0, 15)
    least = (-zeros * scales).astype(F16).astype(F32)  # m of a block of Q4_1
    held = 100 * (least == -zeros * scales).mean()
    codes = np.clip(np.rint(x / scales) + zeros, 0, 15)
    values, nearly = (codes - zeros) * scales, codes * scales + least
    nearly = nearly.reshape(ROWS, COLS).astype(np.float64)
    values, x = (v.reshape(ROWS, COLS).astype(np.float64) for v in (values, x))
    power = (x**2).mean()
    print("\n| 4 bits with zero points, groups of 128 | adds | in all |\n|---|---|---|")
    print(
        f"| as it is, and moved into Q8_0 | 0 | {np.sqrt(((values - x) ** 2).mean() / power):.4f} |"
    )
    kinds = ("Q6_K", "Q5_K", "Q4_K", "Q4_1", "Q4_0")
    made = {
        f"quantized again to {kind}": decode(encode(values.astype(F32), kind), kind)
        for kind in kinds
    }
    for way, found in {"codes in Q4_1, zero times scale rounded": nearly, **made}.items():
        adds, whole = (np.sqrt(((found - of) ** 2).mean() / power) for of in (values, x))
        print(f"| {way} | {adds:.4f} | {whole:.4f} |")
    print(f"\nzero times scale is a float16 in {held:.1f} % of the groups")


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
    again, wide = seconds(lambda: repack(codes, scales, COLS)), seconds(lambda: widen(made, Q4_0))
    print(f"\ncopy of packed bytes: {size / copy / 1e9:.1f} GB/s")
    print(f"repacked to Q4_0: {size / again / 1e9:.1f} GB/s, {n / again / 1e9:.1f} G weights/s")
    print(f"Q4_0 to Q8_0: {made.nbytes / wide / 1e9:.1f} GB/s of Q4_0")
    at_hand = [t for t in tiers() if t != "base"] or tiers()
    for tier in at_hand:
        print(f"\n| recovery, M weights/s, {tier} | {' | '.join(DTYPES)} |\n|{'---|' * 4}")
        for name, x in groups(rng).items():
            rates = []
            for dtype in DTYPES.values():
                values = x.astype(dtype)
                blocks = np.empty((len(values), 18), np.uint8)
                took = seconds(lambda v=values, b=blocks, t=tier: recover(v, b, tier=t))
                rates.append(f"{x.size / took / 1e6:.0f}")
            print(f"| {name} | {' | '.join(rates)} |")


def groups(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Groups of 32 that recovery meets: on lattices of many and of few levels, and on none."""
    x = rng.normal(0, 0.02, (1 << 15, GROUP))
    made = {}
    for name, divisor, low, scale in (
        ("codes -7..7, BF16 scales", 7.0, -7, BF16),
        ("codes -8..7, BF16 scales", 7.5, -8, BF16),
        ("codes -7..7, F16 scales", 7.0, -7, F16),
        ("codes -2..2, BF16 scales", 2.4, -8, BF16),
    ):
        scales = (np.abs(x).max(-1) / divisor).astype(F32).astype(scale).astype(F32)[:, np.newaxis]
        made[name] = np.clip(np.rint(x / scales), low, 7) * scales
    return {**made, "ordinary weights": x}


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    exactness()
    again()
    speeds()
