"""Lint: what in a plan or a finished file is likely not what its maker meant, or runs badly.

Each lint has a short name that stays, a severity and a sentence; findings that are alike are one.
What is claimed of a type's worth is what has been measured, and by whom.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..outline import Entry, Outline, bits_of, histogram

Target = Literal["llama.cpp", "ik", "vulkan"]
TARGETS: tuple[Target, ...] = ("llama.cpp", "ik", "vulkan")
Severity = Literal["error", "warning", "note"]

_HEAD_BITS = 6.5625
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    lint      its name
    sentence  what is so, without a full stop
    hint      what to do, without a full stop, or ""
    tensors   names it is about, all of them
    """

    lint: str
    severity: Severity
    sentence: str
    hint: str = ""
    tensors: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "tensors": list(self.tensors)}


@dataclass(frozen=True)
class Knowledge:
    """What lints are told by those who know.

    musts    tensor name -> the type it must be, where it must be one
    foreign  whether a type is ik_llama.cpp's alone
    slow     target -> type -> why matrices in it are slow there
    gates    roles of the recurrent layers' gates
    """

    musts: Mapping[str, str]
    foreign: Callable[[str], bool]
    slow: Mapping[str, Mapping[str, str]]
    gates: frozenset[str]


Lint = Callable[[Outline, Target | None, Knowledge], Iterable[Finding]]


def check(outline: Outline, target: Target | None, known: Knowledge) -> list[Finding]:
    """All findings, errors first; within a severity in the order of LINTS."""
    found = [f for lint in LINTS.values() for f in lint(outline, target, known)]
    return sorted(found, key=lambda f: ("error", "warning", "note").index(f.severity))


def failed(found: Iterable[Finding], *, strict: bool) -> bool:
    """Whether findings are reason to fail: an error, or with `strict` any."""
    return any(strict or f.severity == "error" for f in found)


def _damage(outline: Outline, _target: Target | None, _known: Knowledge) -> Iterator[Finding]:
    for sentence in outline.damage:
        yield Finding(
            "damaged-file",
            "error",
            sentence,
            "download it again, or make it anew: llama.cpp loads none whose data are cut short",
        )


def _unmatched(outline: Outline, _target: Target | None, _known: Knowledge) -> Iterator[Finding]:
    for use in outline.uses:
        if not use.matches:
            yield Finding(
                "unmatched-rule",
                "warning",
                f"{use.origin}: {use.text} matches no tensor of this model",
                "fine in a file that several models share; otherwise the name is misspelled",
            )


def _shadowed(outline: Outline, _target: Target | None, _known: Knowledge) -> Iterator[Finding]:
    for use in outline.uses:
        if use.matches and not use.decides:
            yield Finding(
                "shadowed-rule",
                "warning",
                f"{use.origin}: {use.text} matches {use.matches} tensors and decides none: "
                + (
                    f"{use.before} comes before it"
                    if use.before
                    else "they are fixed by must rules"
                ),
                "the first rule that matches wins: put the narrow one in front",
            )


def _loose(outline: Outline, _target: Target | None, _known: Knowledge) -> Iterator[Finding]:
    for use in outline.uses:
        if use.cut:
            yield Finding(
                "loose-pattern",
                "warning",
                f"{use.origin}: {use.text} also hits {_few(use.cut)} in the middle of a word",
                r"end it with \. or \.weight: patterns are searched anywhere in the name",
                use.cut,
            )


def _experts(outline: Outline, _target: Target | None, _known: Knowledge) -> Iterator[Finding]:
    apart = [
        (gate, up)
        for gate, up in _pairs(outline, "FFN_GATE_EXP", "FFN_UP_EXP")
        if gate.type != up.type
    ]
    if apart:
        kinds = sorted({f"{gate.type} and {up.type}" for gate, up in apart})
        yield Finding(
            "split-experts",
            "warning",
            f"gate and up experts differ in {_layers(g for g, _ in apart)} ({', '.join(kinds)}): "
            "fused MoE kernels need one type for both",
            "give ffn_gate_exps and ffn_up_exps the same type",
            tuple(t.name for pair in apart for t in pair),
        )


def _qkv(outline: Outline, target: Target | None, _known: Knowledge) -> Iterator[Finding]:
    of_layer: dict[int, dict[str, Entry]] = {}
    for t in outline.tensors:
        if t.layer is not None and t.role in ("ATTN_Q", "ATTN_K", "ATTN_V") and t.dims > 1:
            of_layer.setdefault(t.layer, {})[t.role] = t
    apart: list[Entry] = []
    values: list[Entry] = []
    for parts in of_layer.values():
        if "ATTN_Q" in parts and "ATTN_K" in parts:
            if parts["ATTN_Q"].type != parts["ATTN_K"].type:
                apart += parts.values()
            elif "ATTN_V" in parts and parts["ATTN_V"].type != parts["ATTN_K"].type:
                values.append(parts["ATTN_V"])
    if apart:
        yield Finding(
            "split-qkv",
            "warning" if target == "ik" else "note",
            f"attn_q and attn_k differ in {_layers(apart)}: ik_llama.cpp's -mqkv merges neither",
            "one type for attn_q, attn_k and attn_v lets it merge all three",
            tuple(t.name for t in apart),
        )
    if values and target == "ik":
        yield Finding(
            "split-qkv",
            "note",
            f"attn_v differs from attn_q and attn_k in {_layers(values)}: -mqkv merges those two",
            "one type for the three lets it merge all",
            tuple(t.name for t in values),
        )


def _musts(outline: Outline, _target: Target | None, known: Knowledge) -> Iterator[Finding]:
    wrong = [t for t in outline.tensors if known.musts.get(t.name, t.type) != t.type]
    for kind in dict.fromkeys(t.type for t in wrong):
        these = [t for t in wrong if t.type == kind]
        halves = kind in ("F16", "BF16") and all(t.dims > 1 for t in these)
        yield Finding(
            "must-type",
            "warning" if halves else "error",
            f"{_names(these)} must be {known.musts[these[0].name]}, got {kind}",
            "llama.cpp aborts or computes wrong with another type"
            if not halves
            else "llama.cpp's converter writes it as F32",
            tuple(t.name for t in these),
        )


def _loads(outline: Outline, target: Target | None, known: Knowledge) -> Iterator[Finding]:
    if target is None or target == "ik":
        return
    for kind, (n, _) in histogram(outline.tensors).items():
        if known.foreign(kind):
            names = tuple(t.name for t in outline.tensors if t.type == kind)
            yield Finding(
                "target-loads",
                "error",
                f"{n} tensors are {kind}, which only ik_llama.cpp loads: {_few(names)}",
                "run it there, or choose one of llama.cpp's types",
                names,
            )


def _runs(outline: Outline, target: Target | None, known: Knowledge) -> Iterator[Finding]:
    slow = known.slow.get(target, {}) if target is not None else {}
    for kind, why in slow.items():
        these = [
            t
            for t in outline.tensors
            if t.type == kind
            and t.dims > 1
            and (t.role != "TOKEN_EMBD" or outline.tied)
            and t.role != "PER_LAYER_TOKEN_EMBD"
        ]
        if these:
            gates = [t for t in these if t.role in known.gates]
            more = sum(4 * t.weights - t.bytes for t in gates)
            only = (
                "all of them gates" if len(gates) == len(these) else f"{len(gates)} of them gates"
            )
            yield Finding(
                "target-slow",
                "warning",
                f"{len(these)} matrices are {kind} ({only}): {why}",
                f"--gates f32 makes the gates F32 for {more / 1e6:.1f} MB more"
                if gates
                else "choose another type for them",
                tuple(t.name for t in these),
            )


def _gates(outline: Outline, _target: Target | None, known: Knowledge) -> Iterator[Finding]:
    low = [t for t in outline.tensors if t.role in known.gates and t.bits < 16]
    for kind in dict.fromkeys(t.type for t in low):
        these = [t for t in low if t.type == kind]
        bits = these[0].bits
        more = sum(2 * t.weights - t.bytes for t in these)
        worth = (
            "below 4 bits harm is shown: with 3-bit gates 0 of 9 answers were clean, F32 gates "
            "repaired it (turbo-tan/llama.cpp-tq3 PR 75)"
            if bits < 4
            else "cheap insurance, not proven: their error is carried to every later token (Qwen's "
            "own FP8 keeps its gates BF16), and nobody has published a long-context measurement; "
            "at 512 tokens whole Qwen hybrids at Q8_0 lose 0.0006 to 0.005 KLD"
        )
        yield Finding(
            "low-gates",
            "error" if bits < 4 else "warning",
            f"{len(these)} SSM gates are {kind} ({bits:.3g} bits): {worth}",
            f"BF16 costs {more / 1e6:.1f} MB more: --gates bf16",
            tuple(t.name for t in these),
        )


def _head(outline: Outline, _target: Target | None, _known: Knowledge) -> Iterator[Finding]:
    role = "TOKEN_EMBD" if outline.tied else "OUTPUT"
    for t in outline.tensors:
        if t.role == role and t.bits < _HEAD_BITS:
            yield Finding(
                "low-head",
                "warning",
                f"{t.name} is the output matrix and {t.type} ({t.bits:.3g} bits): the most or "
                "second most sensitive single tensor of every model in Thireus' measurements",
                "Q6_K is what llama-quantize keeps at least, Q8_0 is usual",
                (t.name,),
            )


def _name(outline: Outline, _target: Target | None, _known: Knowledge) -> Iterator[Finding]:
    counts = histogram(outline.tensors)
    for promise in outline.promises:
        kind = promised(promise)
        bits = bits_of(kind) if kind is not None else None
        if kind is None or bits is None:
            continue
        matrices = [t for t in outline.tensors if t.dims > 1]
        weights = sum(t.weights for t in matrices) or 1
        kept = sum(t.weights for t in matrices if t.bits >= bits) / weights
        actual = outline.bits_per_weight
        if kept < 0.5 or actual < 0.98 * bits:
            n = counts.get(kind, (0, 0))[0]
            yield Finding(
                "name-promises",
                "warning",
                f"{promise} says {kind} ({bits:.4g} bits): {n} of {len(outline.tensors)} tensors "
                f"are, {100 * kept:.0f} % of the weights have as many bits, the whole has "
                f"{actual:.2f} bits per weight",
                "name it after what it holds: `ggufmix inspect` shows the types",
            )


LINTS: dict[str, Lint] = {
    "damaged-file": _damage,
    "unmatched-rule": _unmatched,
    "shadowed-rule": _shadowed,
    "loose-pattern": _loose,
    "must-type": _musts,
    "split-experts": _experts,
    "split-qkv": _qkv,
    "target-loads": _loads,
    "target-slow": _runs,
    "low-gates": _gates,
    "low-head": _head,
    "name-promises": _name,
}
"""Every lint by its name, which does not change."""

_NAMED = re.compile(
    r"(?<![A-Z0-9])(I?Q\d_(?:[01]|K|NL|XXS|XS|S|M)|BF16|F16|F32|MXFP4|NVFP4|TQ[12]_0)(?![A-Z0-9])"
)
_BASE = {
    "IQ2_M": "IQ2_S",
    "IQ3_M": "IQ3_S",
    "IQ3_XS": "IQ3_S",
    "IQ2_S": "IQ2_XS",
    "IQ4_S": "IQ4_XS",
}


def promised(text: str) -> str | None:
    """The storage type that a name leads one to expect: Q4_K for "UD-Q4_K_XL"; of several the first
    that is quantized. None where it names none.
    """
    found = [str(m) for m in _NAMED.findall(text.upper())]
    quantized = [m for m in found if m not in ("BF16", "F16", "F32")] or found
    return _BASE.get(quantized[0], quantized[0]) if quantized else None


def _pairs(outline: Outline, a: str, b: str) -> Iterator[tuple[Entry, Entry]]:
    matrices = [t for t in outline.tensors if t.dims > 1 and t.name.endswith("weight")]
    right = {t.layer: t for t in matrices if t.role == b}
    for t in matrices:
        if t.role == a and t.layer in right:
            yield t, right[t.layer]


def _few(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _names(tensors: Sequence[Entry]) -> str:
    return _few([t.name for t in tensors])


def _layers(tensors: Iterable[Entry]) -> str:
    """Say "block 3" or "12 blocks (0, 1, 2 and 9 more)"."""
    numbers = sorted({t.layer for t in tensors if t.layer is not None})
    return (
        f"block {numbers[0]}"
        if len(numbers) == 1
        else f"{len(numbers)} blocks ({_few([str(n) for n in numbers])})"
    )
