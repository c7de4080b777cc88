"""Tensor listings and llama.cpp's snapshots of planned types, in lines for a class of tensors.

    python tests/golden/shapes/compact.py shapes DIR       DIR holds *.gguf.tsv listings
    python tests/golden/shapes/compact.py snapshots DIR    DIR is llama.cpp's tests/snapshots
    python tests/golden/shapes/compact.py results FILE     FILE is type_results.tsv

A line is `name <tab> value ... <tab> blocks`: the name without its block number, and the blocks
that have it as ranges, or `-` for a tensor outside the blocks. The tests never run this.
"""

# SPDX-License-Identifier: MIT

import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
PLANS = HERE.parent / "plans" / "llama.cpp"
FTYPES = [
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q2_K_S",
    "Q3_K_S",
    "Q3_K_M",
    "Q3_K_L",
    "Q4_K_S",
    "Q4_K_M",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4_MOE",
    "F32",
    "F16",
    "BF16",
]
MIXED = "Qwen3.6-35B-A3B"
MIT = "llama.cpp, Copyright (c) 2023-2026 The ggml authors, MIT license"


def ranges(numbers: Iterable[int]) -> str:
    """0-3,7 for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def folded(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows (name, value, ...) with their blocks put together."""
    classes: dict[tuple[str, ...], list[int]] = {}
    for name, *values in rows:
        match = re.match(r"blk\.(\d+)\.(.*)", name)
        key = (match[2] if match else name, *values)
        classes.setdefault(key, []).extend([int(match[1])] if match else [])
    return ["\t".join((*key, ranges(blocks) or "-")) for key, blocks in classes.items()]


def shapes(source: Path) -> None:
    """Listings: name, shape (row length first), dtype, blocks; sorted by name."""
    for file in sorted(source.glob("*.gguf.tsv")):
        lines = file.read_text().splitlines()
        notes = [
            line.replace("(file order kept)", "(classes of tensors, sorted)")
            for line in lines
            if line.startswith("#")
        ]
        rows = [tuple(line.split("\t")[:3]) for line in lines if line[0] != "#"][1:]
        body = sorted(folded(rows))
        name = file.name.removesuffix(".gguf.tsv") + ".tsv"
        (HERE / name).write_text("\n".join([*notes, *body]) + "\n")


def snapshots(source: Path) -> None:
    """Snapshots: file type, name, type, blocks, for tensors whose type is not the default, which
    stands in a line of its own with name `*`.
    """
    for file in sorted(source.glob("*.schema")):
        text = file.read_text()
        model, facts = text.splitlines()[:2]
        out = [model, facts, f"# tests/snapshots/{file.name} of {MIT}"]
        for section in re.split(r"^\[", text, flags=re.MULTILINE)[1:]:
            head, *lines = section.splitlines()
            ftype, default = head.split("] ")
            if ftype in FTYPES:
                rows = [tuple(line.rsplit(" ", 1)) for line in lines if line]
                out += [f"{ftype}\t*\t{default}\t-", *(f"{ftype}\t{r}" for r in folded(rows))]
        (PLANS / f"{file.stem}.tsv").write_text("\n".join(out) + "\n")


def results(source: Path) -> None:
    """What ik_llama.cpp wrote: `model, type asked for, what most classes got, class=type ...` and,
    by type and row length, the bytes of a row as the maps count them. Of one model that was made
    with that tool's own mixtures: `mix, model, type asked for, class=type*tensors ...`.
    """
    lines = [line.split("\t") for line in source.read_text().splitlines() if line[0] != "#"][1:]
    notes = [line for line in source.read_text().splitlines() if line.startswith("#")]
    asked: dict[tuple[str, str], dict[str, str]] = {}
    sizes: dict[tuple[str, int], int] = {}
    for model, kind, name, shape, result, _, n_bytes, _ in lines:
        if model in ("GLM-4.5-Air", "Kimi-K2-Thinking"):
            cols, *rest = map(int, shape.split("x"))
            asked.setdefault((model, kind.upper()), {})[name] = result.upper()
            sizes[result.upper(), cols] = int(n_bytes) // math.prod(rest)
    out = list(notes)
    for (model, kind), got in asked.items():
        most = max(got.values(), key=list(got.values()).count)
        odd = [f"{name}={result}" for name, result in got.items() if result != most]
        out.append("\t".join((model, kind, most, str(len(got)), " ".join(odd))))
    out += [f"row\t{kind}\t{cols}\t{size}" for (kind, cols), size in sorted(sizes.items())]
    mixed: dict[str, list[str]] = {}
    for model, kind, name, _, result, n, *_ in lines:
        if model == MIXED:
            mixed.setdefault(kind.upper(), []).append(f"{name}={result.upper()}*{n}")
    out += [f"mix\t{MIXED}\t{kind}\t{' '.join(got)}" for kind, got in mixed.items()]
    (PLANS.parent / "ik.tsv").write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    kinds = {"shapes": shapes, "snapshots": snapshots, "results": results}
    kinds[sys.argv[1]](Path(sys.argv[2]))
