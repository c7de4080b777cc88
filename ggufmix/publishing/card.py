"""The model card: a README.md with the front matter that the Hugging Face hub reads.

Front matter: `license`, of one without an identifier `other` with license_name and license_link;
`base_model` with `base_model_relation: quantized`; library_name, pipeline_tag, language, tags. See
the hub's documentation, "Model cards", and hub-docs, modelcard.md. `quantized_by` is a habit of
people who publish; the hub keeps it.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from . import telling
from .facts import File, Model
from .rendering import environment
from .words import gib

PIPELINES = frozenset(
    {"text-generation", "image-text-to-text", "any-to-any", "audio-text-to-text"}
    | {"video-text-to-text", "feature-extraction", "sentence-similarity", "text-ranking"}
    | {"text-classification", "token-classification", "text-to-speech", "translation"}
    | {"summarization", "question-answering", "fill-mask", "automatic-speech-recognition"}
    | {"image-to-text", "text-to-image"}
)
"""Of the hub's tasks those that GGUF files are published under; gguf keeps `pipeline_tag` among the
tags. Source: huggingface.js, packages/tasks/src/pipelines.ts.
"""
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")
_TAG = re.compile(r"\w[\w.:+/-]*( [\w.:+/-]+)*")
_ACTIVE = re.compile(r"[\\`*_{}\[\]<>|#~$!^=-]")
_LINK = re.compile(r"(?i)(https?|ftp|mailto|xmpp):|www\.|@")


class _Front(yaml.SafeDumper):
    """Quotes whatever begins like a number: readers of YAML differ in what is one, such as 1e3."""


_Front.add_implicit_resolver("tag:yaml.org,2002:float", re.compile("."), [*"+-.0123456789"])


def escaped(data: object) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no links, in a table too."""
    text = str(data).replace("&", "&amp;")

    def told(match: re.Match[str]) -> str:
        start, end = match.start(), match.end()
        inside = text[start - 1 : start].isalnum() and text[end : end + 1].isalnum()
        return match[0] if match[0] in "_-" and inside else f"\\{match[0]}"

    text = _ACTIVE.sub(told, text)
    text = text.replace("\\<", "&lt;").replace("\\>", "&gt;")
    return _LINK.sub(lambda m: m[0][:-1] + {".": "\\.", ":": "\\:", "@": "\\@"}[m[0][-1]], text)


def code(data: object) -> Markup:
    """Text as a code span, in a table too."""
    text = str(data)
    ticks = "`" * (1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    room = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return Markup(f"{ticks}{room}{text}{room}{ticks}".replace("|", "\\|"))  # noqa: S704


def block(data: str, kind: str = "") -> Markup:
    """Text as a fenced block."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", data)), default=0))
    return Markup(f"{ticks}{kind}\n{data.rstrip()}\n{ticks}")  # noqa: S704


def link(name: str) -> Markup:
    """A repository of the hub; `words.repository` has seen to its name."""
    return Markup(f"[{escaped(name)}](https://huggingface.co/{name})")  # noqa: S704


def _markdown() -> jinja2.Environment:
    """Whatever templates are given is escaped for Markdown."""
    found = environment(lambda value: value if isinstance(value, Markup) else escaped(value))
    found.filters.update(code=code, block=block, link=link)
    return found


def front_matter(files: Sequence[File]) -> dict[str, Any]:
    """What the hub reads, as plain values; a key that nothing is known of is left out."""
    model = next((f.model for f in files if f.kind == "model"), files[0].model)
    made: dict[str, Any] = dict(_license(model))
    if model.made_from:
        made |= {"base_model": [model.made_from], "base_model_relation": "quantized"}
    made["library_name"] = "gguf"
    pipeline = next((tag for tag in model.tags if tag in PIPELINES), None)
    if pipeline is not None:
        made["pipeline_tag"] = pipeline
    languages = [word for word in model.languages if _LANGUAGE.fullmatch(word)]
    if languages:
        made["language"] = languages
    tags = [tag for tag in model.tags if _TAG.fullmatch(tag) and tag != pipeline]
    tags += [word for word in ("gguf", "llama.cpp") if word not in tags]
    if any(f.importance is not None for f in files) and "imatrix" not in tags:
        tags.append("imatrix")
    made["tags"] = tags
    if model.quantized_by:
        made["quantized_by"] = model.quantized_by
    return made


def _license(model: Model) -> dict[str, Any]:
    known = [word.lower() for word in model.licenses]
    if not known:
        return {}
    link_ = {"license_link": model.license_link} if model.license_link else {}
    if all(_LICENSE.fullmatch(word) for word in known) and "other" not in known:
        return {"license": known[0] if len(known) == 1 else known}
    name = re.sub(r"[^a-z0-9.]+", "-", (model.license_name or " ".join(known)).lower()).strip("-.")
    return {"license": "other", "license_name": name or "other", **link_}


def made(files: Sequence[File]) -> str:
    """The card of some files of one model."""
    heads = telling.columns(files)
    front = yaml.dump(
        front_matter(files), Dumper=_Front, sort_keys=False, allow_unicode=True, width=10_000
    )
    models = [f for f in files if f.running.arguments]
    return (
        _markdown()
        .get_template("README.md")
        .render(
            front=Markup(front),  # noqa: S704
            title=telling.title(files),
            version=version("ggufmix"),
            columns=[head for head, _ in heads],
            figures_of=telling.figures_of(heads),
            files=[
                {
                    "title": f.title,
                    "parts": len(f.parts),
                    "recipe": f.recipe or f.file_type or "not said",
                    "size": gib(f.size),
                    "bits": telling.bits(f),
                    "figures": telling.figures(f, heads),
                    "types": _types(f),
                    "scores": telling.scores(f),
                    "verified": f.verified,
                    "verdict_line": telling.verdict(f.verified) if f.verified else "",
                    "errors": telling.errors(f.verified) if f.verified else [],
                    "command": f.making.command,
                    "toml": f.making.toml,
                    "needs": f.making.needs,
                    "importance": telling.importance(f),
                    "memory": {m.context: gib(m.q8_0) for m in f.running.memory},
                }
                for f in files
            ],
            run=telling.commands(models[0], telling.projector(files)) if models else "",
            why_not=files[0].running.why_not,
            contexts=sorted({m.context for f in models for m in f.running.memory}),
            score_heads=telling.SCORE_HEADS,
            conditions=_conditions(files),
            sums=_sums(files),
            origin=telling.origin(files),
        )
    )


def _conditions(files: Sequence[File]) -> list[tuple[str, str]]:
    """What was measured how, and the file that goes for, or "" where it goes for all of them."""
    found = {f.title: telling.conditions(f) for f in files if f.scores}
    alike = set(found.values())
    if len(alike) == 1:
        return [("", how) for how in alike if how]
    return [(name, how) for name, how in found.items() if how]


def _types(file: File) -> str:
    total = file.outline.data_bytes or 1
    return ", ".join(f"{kind} {100 * n['bytes'] / total:.1f} %" for kind, n in file.types.items())


def _sums(files: Sequence[File]) -> str:
    """Lines as SHA256SUMS has them, of files whose digests are known."""
    return "\n".join(f"{p.sha256}  {p.name}" for f in files for p in f.parts if p.sha256)
