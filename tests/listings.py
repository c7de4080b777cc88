"""Tensors of real models, from the listings in tests/golden/shapes: names and shapes, no data."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import gguf

from ggufmix.planning import in_order
from ggufmix.rules import Facts, facts_from_shapes
from ggufmix.tensor import BF16, F32, Array, Placed, Tensor

GOLDEN = Path(__file__).parent / "golden"
SHAPES = GOLDEN / "shapes"

ARCHITECTURES = {
    "DeepSeek-V3.1-Terminus": "deepseek2",
    "GLM-4.5": "glm4moe",
    "GLM-4.5-Air": "glm4moe",
    "GLM-4.6": "glm4moe",
    "GLM-4.7": "glm4moe",
    "GLM-4.7-Flash": "deepseek2",
    "GLM-5.2": "glm-dsa",
    "Kimi-K2-Thinking": "deepseek2",
    "Meta-Llama-3.1-70B": "llama",
    "Nemotron-Nano-3-30B-A3B": "nemotron_h_moe",
    "Qwen3-0.6B": "qwen3",
    "Qwen3-14B": "qwen3",
    "Qwen3-4B-Instruct-2507": "qwen3",
    "Qwen3-Next-80B-A3B": "qwen3next",
    "Qwen3-Next-80B-A3B.legacy-ssm_in": "qwen3next",
    "Qwen3.5-0.8B": "qwen35",
    "Qwen3.5-122B-A10B": "qwen35moe",
    "Qwen3.5-27B": "qwen35",
    "Qwen3.5-2B": "qwen35",
    "Qwen3.5-35B-A3B": "qwen35moe",
    "Qwen3.5-397B-A17B": "qwen35moe",
    "Qwen3.5-4B": "qwen35",
    "Qwen3.5-9B": "qwen35",
    "Qwen3.6-27B": "qwen35",
    "Qwen3.6-35B-A3B": "qwen35moe",
    "Qwen3.8-27B": "qwen35",
    "Step-3.5-Flash": "step35",
    "bert": "bert",
    "falcon-h1": "falcon-h1",
    "gemma-3-4b-it": "gemma3",
    "gemma-4-31B-it": "gemma4",
    "gemma3n": "gemma3n",
    "gpt-oss-120b.mxfp4": "gpt-oss",
    "gpt-oss-20b.mxfp4": "gpt-oss",
    "granitehybrid": "granitehybrid",
    "jamba": "jamba",
    "kimi-linear": "kimi-linear",
    "lfm2moe": "lfm2moe",
    "mmproj-glm4v": "clip",
}


class Listed(Tensor):
    """A tensor of a listing: it has a shape and nothing to read."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self.name, self.shape, self.listed = name, shape, dtype
        self.dtype = F32 if dtype == "F32" else BF16

    def rows(self, start: int, stop: int) -> Array:
        raise AssertionError(f"{self.name}: rows {start} to {stop} were read for a plan")


def blocks(text: str) -> list[int]:
    """0, 1, 2, 7 for "0-2,7"; nothing for "-"."""
    found: list[int] = []
    for part in text.split(",") if text != "-" else []:
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def rows(path: Path) -> Iterator[tuple[str, ...]]:
    """Lines of a compact file, unfolded: the block number is in the name again."""
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            *head, numbers = line.split("\t")
            at = 1 if path.parent.name == "llama.cpp" else 0
            for block in (*blocks(numbers),) or (None,):
                name = head[at] if block is None else f"blk.{block}.{head[at]}"
                yield (*head[:at], name, *head[at + 1 :])


def roles_of(name: str) -> list[str]:
    """Every role whose GGUF name this is."""
    stem = re.sub(r"\.(weight(\.1)?|bias|scale)$", "", name)
    template = re.sub(r"^(v\.)?blk\.\d+\.", r"\1blk.{bid}.", stem)
    return [role.name for role, known in gguf.TENSOR_NAMES.items() if known == template]


@cache
def listing(model: str, mtp: bool = True) -> tuple[Placed, ...]:
    """The tensors of a model in file order; without `mtp`, blocks of NextN are left out."""
    placed = []
    for name, shape, dtype in rows(SHAPES / f"{model}.tsv"):
        block = re.match(r"(?:v\.)?blk\.(\d+)\.", name)
        dims = tuple(int(n) for n in reversed(shape.split("x")))
        tensor = Listed(name, dims, dtype)
        placed.append(Placed(name, roles_of(name)[0], int(block[1]) if block else None, tensor))
    extra = {p.layer for p in placed if p.role.startswith("NEXTN_")}
    return tuple(in_order(p for p in placed if mtp or p.layer not in extra))


def facts_of(model: str, mtp: bool = True) -> Facts:
    """What the shapes say of a model."""
    return facts_from_shapes(ARCHITECTURES[model], listing(model, mtp))
