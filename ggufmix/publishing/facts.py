"""What there is to say of files that are to be published: from their headers, and from what was
measured. Plain values; all text is cleaned here (`words`), whoever wrote it.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import checksums, outline, review, sumfile
from ..codecs import FORMATS
from ..container import Header, Value
from ..errors import ModelError, SourceError
from ..outline import Outline
from ..sources.gguf_file import first_part
from . import remaking
from .measurements import Scored, Verified
from .remaking import Making
from .words import clean, page, repository, word

CONTEXTS = (4096, 32768, 131072)
"""Tokens for which memory is said, as far as the model was trained for so many."""
MOST_ITEMS = 32
"""Of a list in the header that are repeated."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file on disk. sha256 as SHA256SUMS has it, header as `ggufmix.header.xxh64`; both
    hexadecimal, "" where nobody says.
    """

    name: str
    size: int
    sha256: str
    header: str


@dataclass(frozen=True, slots=True)
class Importance:
    """Of quantize.imatrix.*: what it was made with. `uses`: matrices of types that use importance;
    `covered` of them, where the run that wrote the file has said so.
    """

    file: str
    dataset: str
    entries: int | None
    chunks: int | None
    uses: int
    covered: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A file that this one was made from. `fingerprint`: of its header."""

    name: str
    size: int | None
    fingerprint: str
    revision: str


@dataclass(frozen=True, slots=True)
class Model:
    """Of general.*: what the file says of the model.

    made_from  the repository of the checkpoint that was quantized, "owner/name"
    parents    what that checkpoint was made from, name and repository
    """

    name: str
    organization: str
    licenses: tuple[str, ...]
    license_name: str
    license_link: str
    made_from: str | None
    parents: tuple[tuple[str, str | None], ...]
    tags: tuple[str, ...]
    languages: tuple[str, ...]
    quantized_by: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that running takes with so many tokens of context: weights, state and the cache."""

    context: int
    f16: int
    q8_0: int


@dataclass(frozen=True, slots=True)
class Running:
    """How to run a file: a command without the program's name, memory, notes; or why not."""

    arguments: str = ""
    memory: tuple[Memory, ...] = ()
    notes: tuple[str, ...] = ()
    layout: str = ""
    why_not: str = ""


@dataclass(frozen=True)
class File:
    """One GGUF file, of a split set all parts. `data`: as `checksums.of_data`."""

    title: str
    kind: str
    parts: tuple[Part, ...]
    outline: Outline
    model: Model
    version: str
    recipe: str
    file_type: str
    making: Making
    importance: Importance | None
    sources: tuple[Source, ...]
    running: Running
    data: str | None
    scores: tuple[Scored, ...] = ()
    verified: Verified | None = None

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def types(self) -> dict[str, dict[str, int]]:
        """Type -> tensors, weights and bytes, most bytes first."""
        return outline.types(self.outline.tensors)

    @property
    def names(self) -> frozenset[str]:
        """Of its parts."""
        return frozenset(part.name for part in self.parts)


def of_file(
    path: Path, *, made_from: str | None = None, coverage: Mapping[str, Any] | None = None
) -> File:
    """What the headers of a GGUF file say, of a split one any part.

    made_from  repository of the checkpoint, where the user names it
    coverage   of `Plan.imatrix`, where the run is known that wrote it
    Raises as `sources.read_gguf`, and SourceError for a damaged file.
    """
    first = path.with_name(first_part(path.name))
    listing, found = review.read(first)
    if found.damage:
        raise SourceError(f"{'; '.join(found.damage)}", hint="copy or make it again")
    values, paths = listing.values, [path.with_name(name) for name in listing.parts]
    model = _model(values, made_from)
    recipe, imatrix = word(_data(values, "ggufmix.recipe")), _importance(values, found, coverage)
    stem = first.name
    if len(paths) > 1:
        stem = f"{first.name.rsplit('-', 3)[0]}.gguf"
    kind = word(_data(values, "general.type")) or "model"
    return File(
        clean(first.name),
        kind,
        tuple(_part(p, *listing.parts[p.name]) for p in paths),
        found,
        model,
        word(_data(values, "ggufmix.version")) or "",
        recipe or "",
        next((p.rsplit(" ", 1)[1] for p in found.promises if p.startswith("general.")), ""),
        remaking.of_file(
            found,
            out=stem,
            recipe=recipe,
            options=_raw_texts(values, "ggufmix.options"),
            imatrix=imatrix.file if imatrix is not None else None,
            source=f"hf://{model.made_from}" if model.made_from else "SRC",
            parts=len(paths),
            file_type=_number(values, "general.file_type"),
        ),
        imatrix,
        tuple(_sources(values)),
        _running(found)
        if kind == "model"
        else Running(why_not=f"Nothing to run by itself: general.type is {kind}."),
        checksums.of_data(values),
    )


def with_measurements(file: File, scores: list[Scored], verified: Verified | None) -> File:
    """The same with what was measured."""
    return replace(file, scores=tuple(scores), verified=verified)


def _part(path: Path, header: Header, size: int) -> Part:
    stated = _number(header.values, checksums.HEADER)
    return Part(
        clean(path.name), size, sumfile.stated(path) or "", f"{stated:016x}" if stated else ""
    )


def _model(values: Mapping[str, Value], made_from: str | None) -> Model:
    def said(key: str) -> str:
        return word(_data(values, f"general.{key}")) or ""

    parents = []
    for i in range(min(_number(values, "general.base_model.count") or 0, MOST_ITEMS)):
        url = said(f"base_model.{i}.repo_url") or said(f"base_model.{i}.url")
        name = said(f"base_model.{i}.name")
        if name or url:
            parents.append((name or url, repository(url)))
    stated = [repository(said(key)) for key in ("source.repo_url", "source.url", "repo_url", "url")]
    licenses = [part.strip() for part in said("license").split(",")]
    return Model(
        said("name"),
        said("organization"),
        tuple(part for part in licenses if part),
        said("license.name"),
        page(said("license.link")) or "",
        made_from or next((name for name in stated if name), None),
        tuple(parents),
        tuple(_texts(values, "general.tags")),
        tuple(_texts(values, "general.languages")),
        said("quantized_by"),
    )


def _importance(
    values: Mapping[str, Value], found: Outline, coverage: Mapping[str, Any] | None
) -> Importance | None:
    own = "quantize.imatrix."
    if not any(key.startswith(own) for key in values):
        return None
    uses = sum(
        kind.importance != "NONE"
        for t in found.tensors
        if t.dims > 1 and (kind := FORMATS.get(t.type)) is not None
    )
    return Importance(
        word(_data(values, f"{own}file")) or "not named",
        word(_data(values, f"{own}dataset")) or "",
        _number(values, f"{own}entries_count"),
        _number(values, f"{own}chunks_count"),
        uses if coverage is None else coverage["with"] + len(coverage["without"]),
        coverage["with"] if coverage is not None else None,
    )


def _sources(values: Mapping[str, Value]) -> Iterator[Source]:
    own = "ggufmix.source."
    names = _raw_texts(values, f"{own}files")
    sizes = _items(values, f"{own}sizes")
    prints = _raw_texts(values, f"{own}fingerprints")
    revisions = _raw_texts(values, f"{own}revisions")
    for i, name in enumerate(names):
        size = sizes[i] if i < len(sizes) and isinstance(sizes[i], int) else None
        yield Source(
            clean(name),
            size,
            clean(prints[i], 64) if i < len(prints) else "",
            clean(revisions[i], 64) if i < len(revisions) else "",
        )


def _running(found: Outline) -> Running:
    layers = {t.layer for t in found.tensors if t.layer is not None}
    if layers and layers <= found.mtp_layers:
        name = shlex.quote(clean(found.title))
        return Running(
            why_not="A draft head, to be run beside its model: llama-server -m MODEL.gguf "
            f"-md {name} --spec-type draft-mtp"
        )
    trained = found.keys.get("context_length")
    most = trained if isinstance(trained, int) and trained > 0 else CONTEXTS[1]
    contexts = [c for c in CONTEXTS if c < most] + ([most] if most <= CONTEXTS[-1] else [])
    contexts = contexts or [CONTEXTS[0]]
    try:
        every = [review.advice.advise(found, context) for context in contexts]
    except ModelError as error:
        return Running(why_not=f"Nothing can be said of its memory: {clean(error)}")
    middle = every[min(1, len(every) - 1)]
    layout = middle["layout"]
    n = len(layout["attention_layers"])
    words = [f"{n} attention layer{'s' * (n != 1)}"]
    if layout["recurrent_layers"]:
        words.append(f"{len(layout['recurrent_layers'])} recurrent")
    return Running(
        middle["run"].partition(" ")[2],
        tuple(Memory(e["context"], e["total"]["f16"], e["total"]["q8_0"]) for e in every),
        tuple(clean(note, 1000) for note in middle["notes"]),
        ", ".join(words),
    )


def _data(values: Mapping[str, Value], key: str) -> Any:
    found = values.get(key)
    return found.data if found is not None and found.item is None else None


def _number(values: Mapping[str, Value], key: str) -> int | None:
    found = _data(values, key)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _items(values: Mapping[str, Value], key: str) -> list[Any]:
    found = values.get(key)
    return list(found.data) if found is not None and found.item is not None else []


def _raw_texts(values: Mapping[str, Value], key: str) -> list[str]:
    return [
        item.decode(errors="replace") if isinstance(item, bytes) else str(item)
        for item in _items(values, key)
    ]


def _texts(values: Mapping[str, Value], key: str) -> list[str]:
    return [clean(item, 60) for item in _raw_texts(values, key)[:MOST_ITEMS]]
