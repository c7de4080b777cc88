"""Time `convert --reuse` of a file that has every tensor already, beside encoding all of them, on a
half-billion-weight Qwen3.5-MoE checkpoint.

    python benchmarks/reuse.py [--folder DIR] [--runs 5] [--recipes q8_0,q4_k_m]

Whole processes in turn; medians, and the median of the ratios of neighbours. The two files have to
be the same.
"""

# SPDX-License-Identifier: MIT

import filecmp
import os
import statistics
import sys
from pathlib import Path

from harness import arguments, cpu, folder_of, make, timed

RECIPES = "q8_0,q6_k,q4_k_m,iq4_xs"


def main() -> None:
    """Make what is missing, run, print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--recipes", default=RECIPES)
    given = parser.parse_args()
    with folder_of(given) as folder:
        make(folder / "model")
        print(f"Medians of {given.runs} runs; {cpu()}, {os.cpu_count()} cores\n")
        print("| recipe | encoded, s | copied, s | encoded / copied |\n|---|---|---|---|")
        for recipe in given.recipes.split(","):
            print(row(folder, recipe, given.runs), flush=True)


def row(folder: Path, recipe: str, runs: int) -> str:
    """A row of the table, after one round to warm up."""
    old, new, log = folder / "old.gguf", folder / "new.gguf", folder / "log"
    command = [sys.executable, "-m", "ggufmix", "convert", str(folder / "model"), "-r", recipe]
    seconds = []
    for _ in range(runs + 1):
        old.unlink(missing_ok=True)
        new.unlink(missing_ok=True)
        encoded, _ = timed([*command, "-o", str(old)], log)
        copied, _ = timed([*command, "-o", str(new), "--reuse", str(old)], log)
        seconds.append((encoded, copied))
    if not filecmp.cmp(old, new, shallow=False):
        raise RuntimeError(f"{recipe}: the files differ")
    old.unlink()
    new.unlink()
    first, second = zip(*seconds[1:], strict=True)
    ratio = statistics.median(a / b for a, b in seconds[1:])
    return (
        f"| {recipe} | {statistics.median(first):.2f} | {statistics.median(second):.2f} | "
        f"{ratio:.2f} |"
    )


if __name__ == "__main__":
    main()
