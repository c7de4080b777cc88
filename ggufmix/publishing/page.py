"""The report: one HTML page that needs nothing else."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files as resources
from typing import Any

from markupsafe import Markup

from ..report import count
from . import picturing, plotting, telling
from .facts import File
from .rendering import environment
from .words import gib


def made(files: Sequence[File]) -> str:
    """The page of some files of one model."""
    keys = picturing.legend(file.outline for file in files)
    heads = telling.columns(files)
    said = [f for f in files if f.sources]
    style = (resources("ggufmix.publishing") / "templates" / "page.css").read_text(encoding="utf-8")
    return (
        environment()
        .get_template("index.html")
        .render(
            title=telling.title(files),
            lead=_lead(files),
            version=version("ggufmix"),
            style=Markup(style),  # noqa: S704  # ours
            columns=[head for head, _ in heads],
            figures_of=telling.figures_of(heads),
            score_heads=telling.SCORE_HEADS,
            files=[_file(f"file-{i}", f, keys, heads) for i, f in enumerate(files, 1)],
            origin=telling.origin(files),
            sources=[
                {
                    "name": s.name,
                    "size": "" if s.size is None else f"{s.size:,}",
                    "fingerprint": s.fingerprint,
                    "revision": s.revision,
                }
                for s in (said[0].sources if said else ())
            ],
            sources_of=said[0].title if said else "",
            revisions=any(s.revision for f in said for s in f.sources),
            vectors=picturing.VECTORS,
            side=picturing.SIDE,
            height=picturing.HEIGHT,
            measured=any(f.scores or f.verified for f in files),
        )
    )


def _lead(files: Sequence[File]) -> str:
    what = f"{len(files)} GGUF files" if len(files) > 1 else "A GGUF file"
    sizes = [gib(f.size) for f in sorted(files, key=lambda f: f.size)]
    of = f"{sizes[0]} to {sizes[-1]}" if len(files) > 1 else sizes[0]
    return f"{what} for llama.cpp, {of}: what is in it, how it was made, what was measured."


def _file(
    anchor: str,
    file: File,
    keys: Mapping[str, picturing.Key],
    heads: Sequence[tuple[str, int]],
) -> dict[str, Any]:
    found, verified = file.outline, file.verified
    total = found.data_bytes or 1
    return {
        "id": anchor,
        "title": file.title,
        "recipe": file.recipe or file.file_type or "not said",
        "size": gib(file.size),
        "bits": telling.bits(file),
        "figures": telling.figures(file, heads),
        "summary": telling.summary(file),
        "types": [
            {
                "key": keys[kind],
                "tensors": n["tensors"],
                "weights": count(n["weights"]),
                "bytes": gib(n["bytes"]),
                "bits": f"{keys[kind].bits:.2f}",
                "share": f"{100 * n['bytes'] / total:.1f} %",
                "percent": f"{100 * n['bytes'] / total:.2f}",
            }
            for kind, n in file.types.items()
        ],
        "picture": picturing.of_types(found, keys),
        "roles": [
            {"role": role, "tensors": n, "weights": count(w), "bytes": gib(b), "types": types}
            for role, n, w, b, types in picturing.roles(found)
        ],
        "scores": telling.scores(file),
        "conditions": telling.conditions(file),
        "plot": plotting.of_scores(file.scores),
        "errors": picturing.of_errors(found, verified.by_name) if verified is not None else None,
        "verified": None
        if verified is None
        else {
            "verdict": verified.verdict,
            "verdict_line": telling.verdict(verified),
            "types": telling.errors(verified),
            "sentences": telling.remarks(verified),
        },
        "command": file.making.command,
        "toml": file.making.toml,
        "needs": file.making.needs,
        "importance": telling.importance(file),
        "run": telling.commands(file),
        "memory": [
            {"context": f"{m.context:,}", "f16": gib(m.f16), "q8_0": gib(m.q8_0)}
            for m in file.running.memory
        ],
        "notes": file.running.notes,
        "why_not": file.running.why_not,
        "parts": [
            {"name": p.name, "size": f"{p.size:,}", "sha256": p.sha256, "header": p.header}
            for p in file.parts
        ],
    }
