"""Time `fp8` in every mode on a half-billion-weight Qwen3.5-MoE checkpoint, beside a plain copy and
block-max rounding in torch, as published scripts do it: a tensor at a time, a shard held until it
is saved.

    python benchmarks/fp8.py [--folder DIR] [--runs 5]

Whole processes, verification included, in turn: copy, torch, max, rms, ..., copy, torch, ... after
one warm-up each; medians, and the median of the ratios of neighbours. Torch takes part where it is
installed.
"""

# SPDX-License-Identifier: MIT

import os
import shutil
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path

from harness import arguments, cpu, folder_of, make, timed

MODES = {
    "max": ["--mode", "max"],
    "rms": ["--mode", "rms"],
    "percentile": ["--mode", "percentile"],
    "mse (50 scales, the default)": [],
    "mse, powers of two": ["--scale", "pow2"],
}
TORCH = """
import re, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
KEPT = re.compile("embed|lm_head|norm|conv1d|in_proj_[ab]|out_proj|shared_expert|mlp.gate.")

def rounded(w):
    rows, cols = w.shape
    blocks = w.float().reshape(rows // 128, 128, cols // 128, 128).permute(0, 2, 1, 3).contiguous()
    scale = blocks.abs().amax((2, 3)).clamp(min=1e-12) / 448
    codes = (blocks / scale[:, :, None, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes.permute(0, 2, 1, 3).reshape(rows, cols).contiguous(), scale.bfloat16()

out = Path(sys.argv[2])
out.mkdir()
for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    held = {}
    for name, w in load_file(path).items():
        if w.ndim < 2 or KEPT.search(name):
            held[name] = w
            continue
        matrices = [("", w)]
        if w.ndim == 3:
            matrices = [(f".{e}.{half}", m) for e, both in enumerate(w)
                        for half, m in enumerate(both.chunk(2 if "gate_up" in name else 1))]
        for part, m in matrices:
            held[name + part], held[name + part + "_scale_inv"] = rounded(m)
    save_file(held, out / path.name, {"format": "pt"})
"""


def main() -> None:
    """Make what is missing, run, print a table."""
    given = arguments(__doc__).parse_args()
    with folder_of(given, "out") as folder:
        run(make(folder / "model"), folder / "out", folder / "log", given.runs)


def run(model: Path, out: Path, log: Path, runs: int) -> None:
    """Time every contestant and print medians."""
    shards = [str(p) for p in sorted(model.glob("*.safetensors"))]
    copy = 'mkdir "$0" && cat "$@" > "$0/copy" && sync "$0/copy"'
    contestants = {"cp of the shards, then sync": ["sh", "-c", copy, str(out), *shards]}
    if find_spec("torch") is not None:
        contestants["block max in torch"] = [sys.executable, "-c", TORCH, str(model), str(out)]
    for name, options in MODES.items():
        command = [sys.executable, "-m", "ggufmix", "fp8", str(model), "-o", str(out), *options]
        contestants[name] = command
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(runs + 1):
        for name, command in contestants.items():
            shutil.rmtree(out, ignore_errors=True)
            measured = timed(command, log)
            if number:
                figures[name].append(measured)
    report(figures, shards, runs)


def report(figures: dict[str, list[tuple[float, float]]], shards: list[str], runs: int) -> None:
    """Print medians and ratios as a Markdown table."""
    n_bytes = sum(Path(s).stat().st_size for s in shards)
    print(f"{n_bytes / 1e9:.2f} GB of BF16 to block FP8; median of {runs} runs;")
    print(f"{cpu()}, {os.cpu_count()} cores\n")
    print("| | seconds | MB/s | peak MB | times max |\n|---|---|---|---|---|")
    ours = [seconds for seconds, _ in figures["max"]]
    for name, measured in figures.items():
        seconds = statistics.median(s for s, _ in measured)
        ratio = statistics.median(s / o for (s, _), o in zip(measured, ours, strict=True))
        peak = max(m for _, m in measured)
        speed = n_bytes / 1e6 / seconds
        print(f"| {name} | {seconds:.2f} | {speed:.0f} | {peak:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
