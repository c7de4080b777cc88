"""What page and card both say, in words: titles, figures, rows of tables."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from ..report import count
from ..verifying import percent
from .facts import File
from .measurements import Scored, Verified
from .words import around, clean, gib

SCORE_HEADS = (
    "context",
    "windows",
    "perplexity",
    "KL divergence",
    "99.9 % KLD",
    "same top token",
    "RMS Δp",
)
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Origin:
    """A line on where files come from; `hub` is a repository to link to, or None."""

    what: str
    text: str
    hub: str | None = None


def title(files: Sequence[File]) -> str:
    """What the model is called; else what the file is."""
    named = next((f.model.name for f in files if f.model.name), "")
    words = [f.title.removesuffix(".gguf").split("-") for f in files]
    alike = takewhile(lambda those: len(set(those)) == 1, zip(*words, strict=False))
    return named or "-".join(those[0] for those in alike) or files[0].title


def bits(file: File) -> str:
    """Bits per weight."""
    return f"{file.outline.bits_per_weight:.2f}"


def summary(file: File) -> str:
    """A sentence on a file: size, bits, weights, architecture, layers, parts."""
    found = file.outline
    words = [
        f"{gib(file.size)}, {bits(file)} bits per weight",
        f"{count(found.weights)} weights in {len(found.tensors)} tensors",
        f"architecture {clean(found.architecture, 60)}",
    ]
    words += [file.running.layout] if file.running.layout else []
    words += [f"{len(file.parts)} parts"] if len(file.parts) > 1 else []
    words += [f"general.file_type {file.file_type}"] if file.file_type else []
    return "; ".join(words)


def columns(files: Sequence[File]) -> list[tuple[str, int]]:
    """Figures that a table of files has: heading and the context they are of, the shortest that
    most files were measured at.
    """
    contexts = [row.ctx for f in files for row in f.scores if row.ctx is not None]
    if not contexts:
        return []
    ctx = min(set(contexts), key=lambda c: (-contexts.count(c), c))
    rows = [row for f in files for row in f.scores if row.ctx == ctx]
    return [
        (head, ctx)
        for head, (name, *_) in _FIGURES.items()
        if any(getattr(row, name) is not None for row in rows)
    ]


def figures_of(heads: Sequence[tuple[str, int]]) -> str:
    """What the figures of `columns` are of; "" where there are none."""
    return f"Perplexity and what follows it at {heads[0][1]} tokens of context" if heads else ""


def figures(file: File, heads: Sequence[tuple[str, int]]) -> list[str]:
    """A file's cells of `columns`."""
    made = []
    for head, ctx in heads:
        row = next((r for r in file.scores if r.ctx == ctx), None)
        made.append((_figure(row, head) if row is not None else "") or NOT_MEASURED)
    return made


def _figure(row: Scored, head: str) -> str:
    name, digits, unit, end = _FIGURES[head]
    return around(row, name, digits, unit, end)


_FIGURES = {
    "perplexity": ("ppl", 4, 1, ""),
    "KL divergence": ("kld", 6, 1, ""),
    "same top token": ("same_top", 2, 100, " %"),
}
"""By heading, of what a table of files has: field of Scored, digits, unit, end."""


def scores(file: File) -> list[list[str]]:
    """Rows under SCORE_HEADS."""
    return [
        [
            str(row.ctx) if row.ctx is not None else "not said",
            str(row.windows) if row.windows is not None else "",
            _figure(row, "perplexity"),
            _figure(row, "KL divergence"),
            around(row, "kld_999", 6),
            _figure(row, "same top token"),
            around(row, "p_change_rms", 3, 100, " %"),
        ]
        for row in file.scores
    ]


def conditions(file: File) -> str:
    """What it was measured over and held against, as far as the measurements say."""
    words = []
    texts = dict.fromkeys(clean(row.text, 80) for row in file.scores if row.text)
    bases = dict.fromkeys(clean(row.base, 80) for row in file.scores if row.base)
    words += [f"over {', '.join(texts)}"] if texts else []
    words += [f"KL divergence from {', '.join(bases)}"] if bases else []
    known = dict.fromkeys(
        f"{row.base_ppl:.4f}" + (f" at {row.ctx}" if row.ctx is not None else "")
        for row in file.scores
        if row.base_ppl is not None and math.isfinite(row.base_ppl)
    )
    words += [f"perplexity of the base {', '.join(known)}"] if known else []
    return "; ".join(words)


def verdict(found: Verified) -> str:
    """How much was compared; the verdict itself follows it."""
    n = len(found.tensors)
    if not n:
        return "Held against the checksums that it carries:"
    of = f" of {found.tensors_in_file}" if found.tensors_in_file > n else ""
    return f"{n}{of} tensors held against what they were made from:"


def errors(found: Verified) -> list[dict[str, Any]]:
    """A row for each type."""
    return [
        {
            "kind": clean(kind, 16),
            "tensors": e.tensors,
            "rrmse": "not finite" if e.rrmse is None else percent(e.rrmse),
            "worst": "not finite" if e.worst_rrmse is None else percent(e.worst_rrmse),
            "largest": "" if e.max_abs_error is None else f"{e.max_abs_error:.3g}",
        }
        for kind, e in found.types.items()
    ]


def remarks(found: Verified, most: int = 20) -> list[str]:
    """Sentences on what is wrong, and on what was compared."""
    off = [t for t in found.tensors if t.verdict != "GOOD"]
    told = [f"{t.verdict}: {clean(t.name, 80)}: {clean(t.why)}" for t in off]
    told += [f"FAIL: {clean(s)}" for s in found.problems]
    told += [f"WARN: {clean(s)}" for s in found.warnings]
    if len(told) > most:
        told = [*told[:most], f"and {len(told) - most} more"]
    told += [f"compared: {clean(s)}" for s in found.compared[:most]]
    return told + [f"not proven: {clean(s, 600)}" for s in found.unproven[:most]]


def importance(file: File) -> str:
    """A sentence on the importance matrix."""
    found = file.importance
    if found is None:
        return "None was used, as far as the file says."
    words = [f"{found.file}"]
    words += [f"computed over {found.dataset}"] if found.dataset else []
    words += [f"{found.chunks} chunks"] if found.chunks is not None else []
    words += [f"{found.entries} entries"] if found.entries is not None else []
    if found.covered is not None:
        words.append(f"{found.covered} of {found.uses} tensors that can use importance had it")
    else:
        words.append(f"{found.uses} tensors here are of types that can use importance")
    return "; ".join(words) + "."


def origin(files: Sequence[File]) -> list[Origin]:
    """Where it comes from: of the first file that says it."""
    model = next((f.model for f in files if f.kind == "model"), files[0].model)
    lines = []
    if model.made_from:
        lines.append(Origin("Quantized from", model.made_from, model.made_from))
    if model.organization:
        lines.append(Origin("Organization", model.organization))
    lines += [Origin("Which was made from", name, hub) for name, hub in model.parents]
    known = ", ".join(model.licenses) or "the files do not say"
    named = f" ({model.license_name})" if model.license_name else ""
    lines.append(Origin("License", known + named))
    if model.license_link:
        lines.append(Origin("License text", model.license_link))
    versions = dict.fromkeys(f.version for f in files if f.version)
    if versions:
        lines.append(Origin("Quantized with", f"ggufmix {', '.join(versions)}"))
    if model.quantized_by:
        lines.append(Origin("Quantized by", model.quantized_by))
    return lines


def commands(file: File, projector: str = "") -> str:
    """Lines that run a file; "" where nobody can say how."""
    if not file.running.arguments:
        return ""
    more = f" --mmproj {projector}" if projector else ""
    return "\n".join(
        f"{program} {file.running.arguments}{more}" for program in ("llama-cli", "llama-server")
    )


def projector(files: Sequence[File]) -> str:
    """Name of the vision projector among some files, quoted for a shell; "" if there is none."""
    return next((shlex.quote(f.title) for f in files if f.kind == "mmproj"), "")
