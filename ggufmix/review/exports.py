"""A plan in another tool's words, so that it writes the same types.

Every tensor that the other tool would touch is named, so its own mixtures decide nothing. What it
cannot do is said. Sources: llama.cpp src/llama-quant.cpp, tensor_allows_quantization (August 2026);
ik_llama.cpp src/llama-quantize.cpp.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import gguf

from ..dialects import ik_name
from ..outline import Entry, Outline

Tool = Literal["llama-quantize", "custom-q", "thireus"]
TOOLS: tuple[Tool, ...] = ("llama-quantize", "custom-q", "thireus")

_FLOATS = ("F32", "F16", "BF16")
_NEVER = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "attn_rel_b.weight",
)
"""Parts of names that llama-quantize copies in the type they come in."""
_IK_NEVER = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d", "ssm_x", "ssm_dt.weight")


@dataclass(frozen=True, slots=True)
class Exported:
    """`text` for stdout, and what the other tool will not do, one sentence each."""

    text: str
    notes: tuple[str, ...]


def export(outline: Outline, tool: Tool, foreign: Callable[[str], bool]) -> Exported:
    """The plan as a command of llama-quantize, a `--custom-q` command of ik_llama.cpp, or a recipe
    file of Thireus' suite.

    foreign  whether a type, by its name, is ik_llama.cpp's alone
    """
    if tool == "thireus":
        return _thireus(outline)
    return _command(outline, tool, foreign)


def _command(outline: Outline, tool: Tool, foreign: Callable[[str], bool]) -> Exported:
    ours = tool == "custom-q"
    never = _IK_NEVER if ours else _NEVER
    notes: list[str] = []
    kept = [t for t in outline.tensors if _copied(t, never)]
    free = [t for t in outline.tensors if not _copied(t, never)]
    moved = sorted({t.type for t in kept} - {"F32"})
    if moved:
        notes.append(
            f"{_the_tool(tool)} copies {len([t for t in kept if t.type != 'F32'])} tensors as they "
            f"come ({', '.join(moved)} here): start from a GGUF that has them so"
        )
    unknown = sorted({t.type for t in free if foreign(t.type)}) if not ours else []
    for kind in unknown:
        n = sum(t.type == kind for t in free)
        notes.append(
            f"llama-quantize does not know {ik_name(kind)} ({n} tensors): only ik_llama.cpp writes "
            "it, so this command stops"
        )
    symmetric = [t for t in free if t.encoder == "Q4_X"]
    plain = [t for t in free if t.type == "Q4_0" and t.encoder != "Q4_X"]
    if symmetric and not ours:
        notes.append(
            f"llama-quantize has no Q4_X: {len(symmetric)} tensors come out as plain Q4_0, which "
            "does not keep an INT4 lattice"
        )
    if symmetric and ours and plain:
        notes.append(
            f"--symmetric-q40 holds for all of Q4_0: {len(plain)} tensors that this plan writes "
            "with llama.cpp's search become symmetric too"
        )
    base = _base(free)
    rules = [] if base in _FLOATS else [_rule(p, k, tool) for p, k in _patterns(free)]
    if ours:
        options = ["--symmetric-q40"] if symmetric else []
        options += [f"--custom-q {_quoted(','.join(rules))}"] if rules else []
    else:
        options = [f"--tensor-type {_quoted(rule)}" for rule in rules]
    lines = ["llama-quantize", *options, f"IN.gguf OUT.gguf {base}"]
    notes.append(
        "IN.gguf is the model in BF16 (or F32) as llama.cpp's converter writes it; rows that do "
        "not fit a type are decided here already"
    )
    return Exported(" \\\n  ".join(lines) + "\n", tuple(notes))


def _thireus(outline: Outline) -> Exported:
    rows = [f"# {outline.title}, {outline.architecture}: {len(outline.tensors)} tensors", ""]
    rows += [_rule(pattern, kind, "thireus") for pattern, kind in _patterns(outline.tensors)]
    notes = []
    if any(t.encoder == "Q4_X" for t in outline.tensors):
        notes.append("a recipe file has no word for Q4_X: it says q4_0")
    notes.append(
        "its downloader can serve a type only where the suite has that type of that tensor; for "
        "quantize_model.sh ik_llama.cpp must know it"
    )
    return Exported("\n".join(rows) + "\n", tuple(notes))


def _the_tool(tool: Tool) -> str:
    return "ik_llama.cpp" if tool == "custom-q" else tool


def _copied(t: Entry, never: Iterable[str]) -> bool:
    """Whether llama-quantize leaves a tensor as it comes."""
    return t.dims < 2 or not t.name.endswith("weight") or any(part in t.name for part in never)


def _base(free: Sequence[Entry]) -> str:
    """The file type to ask for: any that quantizes does, as every tensor is named. The most common
    type that has a file type of its name; a float type only if there is nothing else.
    """
    counts: dict[str, int] = {}
    for t in free:
        counts[t.type] = counts.get(t.type, 0) + t.weights
    ranked = sorted(counts, key=lambda kind: (kind in _FLOATS, -counts[kind]))
    if len(ranked) == 1 and ranked[0] in _FLOATS:
        return ranked[0]
    known = gguf.LlamaFileType.__members__
    for kind in ranked:
        if kind in _FLOATS:
            continue
        if f"MOSTLY_{kind}" in known or f"MOSTLY_{kind}_S" in known:
            return kind if f"MOSTLY_{kind}" in known else f"{kind}_S"
    return "Q8_0"


def _rule(pattern: str, kind: str, tool: Tool) -> str:
    name = kind.lower() if tool == "llama-quantize" else ik_name(kind)
    return f"{pattern}={name}"


def _quoted(text: str) -> str:
    return f"'{text}'"


def _patterns(tensors: Iterable[Entry]) -> list[tuple[str, str]]:
    """Anchored expressions that hit each tensor once, no commas, capitals or `=` in them. Tensors
    of one kind and type share one, with their blocks spelled out where the kind has other types.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    found: list[tuple[str, str]] = []
    for t in tensors:
        match = re.fullmatch(r"blk\.(\d+)\.(.+)", t.name)
        if match is None:
            found.append((f"^{_escaped(t.name)}$", t.type))
        else:
            groups.setdefault((match[2], t.type), []).append(int(match[1]))
    kinds = Counter(rest for rest, _ in groups)
    for (rest, kind), layers in groups.items():
        numbers = "|".join(map(str, sorted(layers)))
        block = numbers if len(layers) == 1 else "[0-9]+" if kinds[rest] == 1 else f"({numbers})"
        found.append((f"^blk\\.{block}\\.{_escaped(rest)}$", kind))
    return found


def _escaped(name: str) -> str:
    return re.sub(r"([^\w])", r"\\\1", name)
