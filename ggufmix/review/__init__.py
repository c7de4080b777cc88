"""Looking at plans and files that are there: lint, advice, comparison, export.

The one place that brings their outlines together with what rules know.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf

from .. import outline, rules, sources
from ..codecs import FORMATS
from ..errors import SourceError, UsageError
from ..models.gguf_names import role_of
from ..outline import Entry, Outline
from ..pipeline import Options, plan
from ..planning import Plan, in_order
from ..rules.files import shipped
from ..sources import ListedTensor
from ..tensor import Placed
from . import advice, comparison, exports, lint


def described(made: Plan) -> dict[str, Any]:
    """A plan in plain values: what `plan --json` prints and `lint` reads. `active`, what one token
    reads, is None for a vision projector.
    """
    document = made.as_dict()
    reads = made.architecture != outline.PROJECTOR
    document["active"] = outline.active(outline.of_plan(document, made.recipe)) if reads else None
    return document


def look(src: str | os.PathLike[str]) -> Outline:
    """The outline of a GGUF file or of a plan saved by `plan --json`. Raises UsageError for
    anything else, SourceError for one that is wrong.
    """
    path = Path(src)
    if not path.is_file():
        raise UsageError(f"{src} is no file", hint="expected a .gguf file or a plan saved as .json")
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"GGUF":
        return _of_file(path)
    try:
        if start.lstrip()[:1] not in (b"{", b""):  # nor is it read, however large it is
            raise ValueError(f"it begins with {start!r}")
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise SourceError(
            f"{path.name}: neither a GGUF file nor JSON: {error}",
            hint="save a plan with: ggufmix plan SRC --json > plan.json",
        ) from error
    return outline.of_plan(document, path.name)


def of_plan(made: Plan, title: str) -> Outline:
    """The outline of a plan in memory."""
    return outline.of_plan(made.as_dict(), title)


def check(src: str | os.PathLike[str], target: lint.Target | None = None) -> list[lint.Finding]:
    """Lint a GGUF file or a saved plan for a target. Raises as `look`."""
    found = look(src)
    slow = {name: {s.type: s.why for s in known.slow} for name, known in shipped().targets.items()}
    protects = rules.rules_for(found.architecture)[1]
    gates = frozenset(role for p in protects if p.name == rules.GATES for role in p.roles)
    return lint.check(found, target, lint.Knowledge(_musts(found), _foreign, slow, gates))


def advise(
    src: str | os.PathLike[str],
    context: int,
    *,
    memory: int | None = None,
    gtt: int | None = None,
) -> dict[str, Any]:
    """Advice for running a GGUF file or what a saved plan will make. Raises as `look`, UsageError
    for a vision projector.
    """
    found = look(src)
    if found.architecture == outline.PROJECTOR:
        raise UsageError(
            f"{src}: a vision projector has no cache and generates nothing: expected the language "
            "model that it goes with"
        )
    return advice.advise(found, context, memory=memory, gtt=gtt)


def versus(src: str | os.PathLike[str], options: Options, other: str) -> dict[str, Any]:
    """The plan of a source compared with that of another recipe, all else alike."""
    first, second = plan(src, options=options), plan(src, options=replace(options, recipe=other))
    return comparison.compare(of_plan(first, first.recipe), of_plan(second, second.recipe))


def export(made: Plan, tool: str) -> exports.Exported:
    """A plan in another tool's words. Raises UsageError for a tool that is not known."""
    for known in exports.TOOLS:
        if known == tool.lower():
            return exports.export(of_plan(made, f"recipe {made.recipe}"), known, _foreign)
    raise UsageError(f"--export: expected one of {', '.join(exports.TOOLS)}, got {tool!r}")


def _foreign(kind: str) -> bool:
    return kind in shipped().types


def _of_file(path: Path) -> Outline:
    return read(path)[1]


def read(path: Path) -> tuple[sources.Listing, Outline]:
    """The headers of a GGUF file, of a split one any part, and their outline. Raises as
    `sources.read_gguf`.
    """
    listing = sources.read_gguf(path, rules.foreign_formats())
    stated = listing.values.get("general.architecture")
    arch = str(stated.data) if stated is not None else "unknown"
    tensors = []
    for name, tensor in listing.tensors.items():
        role, layer = role_of(name)
        form = FORMATS.get(tensor.stored) or rules.type_named(tensor.stored).format
        if tensor.cols % form.values:
            raise SourceError(f"{path.name}: {name}: rows of {tensor.cols} do not fill {form}")
        n_bytes = form.row_bytes(tensor.cols) * tensor.n_rows
        shape = tensor.shape[::-1] or (1,)
        tensors.append(Entry(name, shape, role, layer, tensor.stored, n_bytes, tensor.stored))
    kind = listing.values.get("general.file_type")
    known = {int(member): name for name, member in gguf.LlamaFileType.__members__.items()}
    promises = [f"the file name {path.stem}"]
    stated_type = known.get(kind.data) if kind is not None and isinstance(kind.data, int) else None
    if stated_type not in (None, "GUESSED"):
        promises.append(f"general.file_type {stated_type}")
    own = f"{arch}."
    return listing, Outline(
        path.name,
        arch,
        tuple(tensors),
        tuple(promises),
        {k.removeprefix(own): v.data for k, v in listing.values.items() if k.startswith(own)},
        None if listing.damage else listing.size,
        damage=listing.damage,
    )


def _musts(found: Outline) -> Mapping[str, str]:
    """What `must` rules say of tensors that are there already and are not what they may be too."""
    placed = in_order(
        Placed(t.name, t.role, t.layer, ListedTensor(t.name, t.shape[::-1], t.type))
        for t in found.tensors
    )
    facts = rules.facts_from_shapes(found.architecture, placed)
    choices = rules.Choices(rules.recipe("f32"), gates="recipe")
    decided = rules.decide(placed, facts, choices)
    also = {f"must: {m.name}": m.also for m in rules.rules_for(found.architecture)[0]}
    types = {t.name: t.type for t in found.tensors}
    return {
        p.name: d.encoder.name
        for p, d in zip(placed, decided, strict=True)
        if d.reason in also and types[p.name] not in also[d.reason]
    }
