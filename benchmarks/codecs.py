"""Time every encoder beside llama.cpp's `ggml_quantize_chunk`, and every decoder, in one run.

    python benchmarks/codecs.py [ENCODER ...] [--pairs 7] [--tier avx2]

One thread each, on the same bfloat16-valued weights; ours reads bfloat16, llama.cpp's is given the
float32 it asks for. In turn: llama.cpp, each tier of ours, llama.cpp, ... after a warm-up; medians
of the speeds and of the ratios of neighbours. "Of a copy" is the rate at which the fastest tier
reads bfloat16 and writes blocks, as a part of the rate of a plain copy in memory. Bytes are
compared as well.
"""

# SPDX-License-Identifier: MIT

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import ml_dtypes
import numpy as np
from harness import cpu
from numpy.typing import NDArray

from ggufmix import codecs

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import oracle

COLS, ROWS = 4096, 1024  # 8 MB of bfloat16: a band of rows as `convert` takes them
LEAST = 0.02  # seconds that a measurement takes at least
BF16 = np.dtype(ml_dtypes.bfloat16)
Work = Callable[[], object]


def seconds(work: Work, least: float = LEAST) -> float:
    """Seconds per call, over as many calls as take `least` seconds."""
    calls, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < least:
        work()
        calls += 1
    return spent / calls


def rows_for(work: Callable[[int], object]) -> int:
    """As many rows as take about 50 ms, all of them for fast work."""
    spent = seconds(lambda: work(8), 0.005)
    return min(ROWS, max(64, int(8 * 0.05 / spent)))


def in_turn(works: list[Work], pairs: int) -> list[list[float]]:
    """Seconds of each work, `pairs` times in turn, after a warm-up."""
    for work in works:
        work()
    rounds = [[seconds(work) for work in works] for _ in range(pairs)]
    return [list(times) for times in zip(*rounds, strict=True)]


class Bench:
    """What every line of the tables is measured with."""

    def __init__(self, tiers: list[str], pairs: int) -> None:
        self.tiers, self.pairs = tiers, pairs
        rng = np.random.default_rng(0)
        self.floats = rng.standard_normal((ROWS, COLS), np.float32).astype(BF16).astype(np.float32)
        self.x = self.floats.astype(BF16)
        self.importance = rng.chisquare(1, COLS).astype(np.float32)
        target = self.floats.copy()
        copies = [seconds(lambda: np.copyto(target, self.floats)) for _ in range(9)]
        self.copy = 2 * target.nbytes / median(copies)  # bytes per second, read and written

    def encode(self, to: codecs.Encoder, weighed: bool) -> list[str]:
        """The cells of an encoder."""
        importance = self.importance if weighed else None
        known = to.name == to.format.name  # llama.cpp has it

        def there(rows: int) -> NDArray[np.uint8]:
            return oracle.encode(self.floats[:rows], to.name, importance)

        def here(rows: int, tier: str) -> NDArray[np.uint8]:
            return codecs.encode(self.x[:rows], to, importance, tier=tier)

        rows = rows_for(there) if known else ROWS
        works: list[Work] = [partial(here, rows, tier) for tier in self.tiers]
        times = in_turn([partial(there, rows), *works] if known else works, self.pairs)
        theirs = times.pop(0) if known else None
        speeds = [rows * COLS / median(spent) for spent in times]
        cells = [f"{to}, importance" if weighed else f"{to}"]
        cells.append(f"{rows * COLS / median(theirs) / 1e6:.1f}" if theirs else "")
        for speed, spent in zip(speeds, times, strict=True):
            cells.append(f"{speed / 1e6:.0f}")
            if theirs:
                ratio = median(a / b for a, b in zip(theirs, spent, strict=True))
                cells[-1] += f" ({ratio:.1f}x)"
        traffic = speeds[-1] * (2 + to.format.bytes / to.format.values)
        cells.append(f"{traffic / self.copy:.0%}")
        if known and any(here(64, tier).tobytes() != there(64).tobytes() for tier in self.tiers):
            cells.append("OTHER BYTES")
        return cells

    def decode(self, kind: codecs.Format) -> list[str]:
        """The cells of a decoder."""
        importance = self.importance if kind.importance == "REQUIRED" else None
        blocks = codecs.encode(self.x, kind.name, importance)
        works: list[Work] = [partial(codecs.decode, blocks, kind, tier=tier) for tier in self.tiers]
        speeds = [self.x.size / median(spent) for spent in in_turn(works, self.pairs)]
        part = speeds[-1] * (4 + kind.bytes / kind.values) / self.copy
        return [f"{kind}", *(f"{speed / 1e6:.0f}" for speed in speeds), f"{part:.0%}"]


def line(cells: list[str]) -> None:
    """Print one line of a Markdown table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time every encoder and decoder.")
    parser.add_argument("encoders", nargs="*", help="by default all")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--tier", action="append", help="by default all that run here")
    options = parser.parse_args()
    tiers = options.tier or codecs.tiers()
    encoders = [codecs.encoder(name) for name in options.encoders or codecs.ENCODERS]
    bench = Bench(tiers, options.pairs)

    print(f"One thread of {cpu()}; llama.cpp of xllamacpp {version('xllamacpp')}.")
    print(f"A copy in memory reads and writes {bench.copy / 1e9:.1f} GB/s.\n")
    line(["encode, million weights/s", "llama.cpp", *tiers, "of a copy"])
    line(["---", *["--:"] * (len(tiers) + 2)])
    for to in encoders:
        if to.importance != "REQUIRED":
            line(bench.encode(to, weighed=False))
        if to.importance != "NONE":
            line(bench.encode(to, weighed=True))
    print()
    line(["decode, million weights/s", *tiers, "of a copy"])
    line(["---", *["--:"] * (len(tiers) + 1)])
    for to in encoders:
        if to.name == to.format.name:
            line(bench.decode(to.format))


if __name__ == "__main__":
    main()
