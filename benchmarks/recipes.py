"""Time six recipes of one reading beside six runs, on a half-billion-weight Qwen3.5-MoE checkpoint.

    python benchmarks/recipes.py [--folder DIR] [--runs 5] [--recipes q8_0,q4_k_m]

Whole processes in turn: all recipes in one run, then one after the other; medians, and the median
of the ratios of neighbours. What is read of the source is counted by the kernel (`/proc/PID/io`:
bytes asked for, from the page cache or not; Linux only).
"""

# SPDX-License-Identifier: MIT

import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from harness import arguments, cpu, folder_of, make, timed

SIX = "q8_0,q6_k,q5_k_m,q4_k_m,q4_0,iq4_xs"
COUNTED = """
import sys
from pathlib import Path
from ggufmix.cli import main
try:
    main()
finally:
    words = Path("/proc/self/io").read_text().split()
    print(words[words.index("rchar:") + 1], file=sys.stderr)
"""


def main() -> None:
    """Make what is missing, run, print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--recipes", default=SIX)
    given = parser.parse_args()
    with folder_of(given, "out") as folder:
        make(folder / "model")
        measure(folder, given.recipes.split(","), given.runs)


def measure(folder: Path, recipes: list[str], runs: int) -> None:
    """One run for all beside one for each, in turn."""
    model, out, log = folder / "model", folder / "out", folder / "log"
    size = sum(p.stat().st_size for p in model.glob("*.safetensors"))
    command = ["convert", str(model), "-o", str(out / "{recipe}.gguf")]
    ours = [sys.executable, "-m", "ggufmix", *command]
    chosen = [word for recipe in recipes for word in ("--recipe", recipe)]
    together: list[float] = []
    alone: list[list[float]] = []
    for number in range(runs + 1):
        shutil.rmtree(out, ignore_errors=True)
        seconds, _ = timed([*ours, *chosen], log)
        written = sum(p.stat().st_size for p in out.iterdir())
        shutil.rmtree(out)
        each = [timed([*ours, "-r", recipe, "--overwrite"], log)[0] for recipe in recipes]
        if number:  # the first round warms caches
            together.append(seconds)
            alone.append(each)
    print(f"{size / 1e9:.2f} GB of BF16 to {', '.join(recipes)}: {written / 1e9:.2f} GB;")
    print(f"median of {runs} rounds; {cpu()}, {os.cpu_count()} cores\n")
    print("| | seconds |\n|---|---|")
    for recipe, seconds in zip(recipes, zip(*alone, strict=True), strict=True):
        print(f"| {recipe} alone | {statistics.median(seconds):.2f} |")
    print(f"| one after the other | {statistics.median(map(sum, alone)):.2f} |")
    print(f"| in one run | {statistics.median(together):.2f} |")
    ratio = statistics.median(t / sum(a) for t, a in zip(together, alone, strict=True))
    print(f"\nin one run: {ratio:.2f} of the time")
    if Path("/proc/self/io").exists():
        shutil.rmtree(out, ignore_errors=True)
        planned = asked_for(["plan", str(model), "--summary"])
        read = asked_for([*command, *chosen])
        print(
            f"read: {(read - planned) / size:.3f} of the source's bytes, beside what a plan reads"
        )


def asked_for(arguments: list[str]) -> int:
    """Bytes that a command of ours asks the kernel for, its libraries and all."""
    said = subprocess.run(
        [sys.executable, "-c", COUNTED, *arguments], check=True, capture_output=True, text=True
    )
    return int(said.stderr.split()[-1])


if __name__ == "__main__":
    main()
