"""What the user asks for, gathered from all the ways to ask: options, other tools' rules, a file to
be like; and what became of each rule.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import dialects, rules, sources
from .errors import UsageError
from .outline import Use
from .rules import COPY, Override
from .rules.recipes import PURE
from .rules.roles import HEAD, is_tied
from .tensor import Placed


@dataclass(frozen=True)
class Wishes:
    """Overrides in order of precedence.

    own       typed for this model: each must decide something
    imported  (override, origin): rules that may be shared between models, or typed as for
              llama-quantize, which says nothing of one that decides nothing
    complete  origins that mean to name every tensor, as Thireus' recipes do
    like      tensor name -> type, of the file that this one shall be like
    """

    own: tuple[tuple[Override, str], ...]
    imported: tuple[tuple[Override, str], ...] = ()
    complete: frozenset[str] = frozenset()
    like: tuple[str, Mapping[str, str]] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settled:
    """Overrides that decide something, in order; what became of all; what there is to say."""

    overrides: tuple[Override, ...]
    uses: tuple[Use, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def gather(
    *,
    set_roles: Iterable[str] = (),
    tensor_types: Iterable[str] = (),
    custom_q: Sequence[str] = (),
    tensor_type_files: Iterable[Path] = (),
    thireus: Sequence[Path] = (),
    like: Path | None = None,
    mirror: rules.Mirror | None = None,
) -> Wishes:
    """Read every way to ask for types. Earlier arguments come before later ones.

    mirror  of "llama.cpp" `tensor_types` are read as llama-quantize reads them
    Raises UsageError.
    """
    tensor_types = list(tensor_types)
    typed = [(rules.override_by_role(o), "--set") for o in set_roles]
    readings = []
    notes = []
    if mirror != "llama.cpp":
        notes = [note for o in tensor_types for note in _capitals(o)]
        typed += [(rules.override_by_pattern(o), _TYPED) for o in tensor_types]
    elif tensor_types:
        readings = [(_TYPED, dialects.tensor_types(tensor_types))]
    readings += [("--custom-q", dialects.custom_q(",".join(custom_q)))] if custom_q else []
    readings += [(p.name, dialects.tensor_type_file(p)) for p in tensor_type_files]
    readings += [(p.name, dialects.thireus(p)) for p in thireus]
    imported = [(_override(line), origin) for origin, r in readings for line in r.lines]
    own = [] if mirror == "llama.cpp" else typed
    imported = [*typed, *imported] if mirror == "llama.cpp" else imported
    alike = None
    if like is not None:
        listing = sources.read_gguf(like, rules.foreign_formats())
        alike = (like.name, {name: t.stored for name, t in listing.tensors.items()})
    notes += [n for _, r in readings for n in r.notes]
    complete = frozenset(p.name for p in thireus)
    return Wishes(tuple(own), tuple(imported), complete, alike, tuple(notes))


_TYPED = "--tensor-type"


def _capitals(text: str) -> list[str]:
    pattern = text.rpartition("=")[0]
    if pattern == pattern.lower():
        return []
    there = pattern.lower()
    return [f"--tensor-type {text}: capitals are kept; llama-quantize would search for {there}"]


def settle(
    wishes: Wishes,
    placed: Sequence[Placed],
    facts: rules.Facts,
    recipe: rules.Recipe | None = None,
    mirrored: rules.Recipe | None = None,
) -> Settled:
    """Find out which rules decide something for a model. Those that do not are left out where they
    were imported, with a warning; `rules.decide` refuses them where they were typed.

    recipe    a recipe file of the user's own: its entries are looked at too
    mirrored  what is written as llama-quantize does
    """
    plain = rules.decide(placed, facts, rules.Choices(rules.recipe("f32"), gates="recipe"))
    held = {
        p.name: d.encoder.name
        for p, d in zip(placed, plain, strict=True)
        if d.reason.startswith("must:")
    }
    asked = [*wishes.own, *wishes.imported]
    warnings: list[str] = []
    if mirrored is not None:
        asked, warnings = _as_llama_quantize(asked, placed, mirrored)
    asked = [(o.resolved(tied=is_tied(placed)), origin) for o, origin in asked]
    n_own = len(wishes.own)
    hits = [[p for p in placed if o.holds(p)] for o, _ in asked]
    taken: dict[str, str] = {}
    uses: list[Use] = []
    kept: list[Override] = []
    for i, ((override, origin), matched) in enumerate(zip(asked, hits, strict=True)):
        free = [p for p in matched if p.name not in held]
        won = [p for p in free if p.name not in taken]
        before = next((taken[p.name] for p in free if p.name in taken), "")
        use = Use(override.text, origin, len(matched), len(won), before, _cut(override, free))
        taken |= {p.name: override.text for p in won}
        if won or i < n_own:
            kept.append(override)
        elif matched and not free and all(_is(override, held[p.name]) for p in matched):
            continue  # says what is so anyway, as other tools' recipes do of norms
        else:
            warnings.append(_why_idle(use, matched, held))
        uses.append(use)
    notes = list(wishes.notes)
    bare = [p.name for p in placed if p.name not in held and p.name not in taken]
    if wishes.complete and bare:
        notes.append(
            f"{', '.join(sorted(wishes.complete))} names {len(placed) - len(bare)} of "
            f"{len(placed)} tensors, {bare[0]} not: the recipe decides on the rest"
        )
    if wishes.like is not None:
        more, said = _like(wishes.like, placed, held, taken)
        kept += more
        notes += said
    return Settled(
        tuple(kept),
        (*uses, *(_recipe_uses(recipe, placed, held) if recipe else ())),
        tuple(notes),
        tuple(warnings),
    )


def _is(override: Override, kind: str) -> bool:
    return override.encoder is not None and override.encoder.name == kind


_Asked = list[tuple[Override, str]]


def _as_llama_quantize(
    asked: _Asked, placed: Sequence[Placed], recipe: rules.Recipe
) -> tuple[_Asked, list[str]]:
    """The rules that llama-quantize would look at, in its order, and sentences on the others.

    A type for the head reaches embeddings that serve as head only through the mixture, so after
    every rule of `--tensor-type`. Source: llama-quant.cpp, llama_tensor_get_type (August 2026).
    """
    all_alike = f"llama-quantize asks no rule where all is {recipe.default}"
    floats = recipe.default in ("F32", "F16", "BF16")
    tied = is_tied(placed)
    kept: _Asked = []
    last: _Asked = []
    warnings = []
    for override, origin in asked:
        idle = None
        late = tied and HEAD in override.roles
        if recipe.name == COPY:
            idle = "a copy changes no type"
        elif floats and (late or override.pattern is not None):
            idle = all_alike
        elif late and recipe.name.startswith(PURE):
            idle = "without a mixture the embeddings are no head"
        if idle is None:
            (last if late else kept).append((override, origin))
        else:
            warnings.append(f"{origin}: {override.text} decides nothing: {idle}")
    return [*kept, *last], warnings


def _override(line: dialects.Line) -> Override:
    try:
        return Override(line.text, rules.type_named(line.type), pattern=line.pattern)
    except UsageError as error:
        raise UsageError(f"{line.where}: {error}", hint=error.hint) from error


def _why_idle(use: Use, matched: Sequence[Placed], held: Mapping[str, str]) -> str:
    start = f"{use.origin}: {use.text} decides nothing: "
    if not matched:
        return start + "it matches no tensor of this model"
    if use.before:
        return start + f"{use.before} comes before it"
    return start + f"it matches only tensors that must be {held[matched[0].name]}"


def _cut(override: Override, free: Sequence[Placed]) -> tuple[str, ...]:
    """Names in which the pattern ends within a word, if it ends at one in others."""
    if override.pattern is None:
        return ()
    cut: dict[str, str] = {}
    whole = False
    for p in free:
        match = override.pattern.search(p.name)
        if match is None or not match[0]:
            continue
        around = p.name[match.end() - 1 : match.end() + 1]
        if re.fullmatch(r"\w\w", around, re.ASCII):
            cut.setdefault(p.role, p.name)
        else:
            whole = True
    return tuple(cut.values()) if whole else ()


def _like(
    like: tuple[str, Mapping[str, str]],
    placed: Sequence[Placed],
    held: Mapping[str, str],
    taken: Mapping[str, str],
) -> tuple[list[Override], list[str]]:
    where, types = like
    by_type: dict[str, list[str]] = {}
    missing, kept = [], []
    for p in placed:
        if p.name in held:
            if types.get(p.name, held[p.name]) != held[p.name]:
                kept.append(p.name)
        elif p.name not in types:
            missing.append(p.name)
        elif p.name not in taken:
            by_type.setdefault(types[p.name], []).append(p.name)
    overrides = [
        Override(
            f"like {where}",
            rules.type_named(kind),
            pattern=re.compile(f"^(?:{'|'.join(map(re.escape, names))})$"),
        )
        for kind, names in by_type.items()
    ]
    notes = []
    if missing:
        notes.append(
            f"{where} has no {missing[0]}"
            + (f" and {len(missing) - 1} more" if missing[1:] else "")
            + ": the recipe decides"
        )
    if kept:
        notes.append(
            f"{where} has {kept[0]} as {types[kept[0]]}, which must be {held[kept[0]]}"
            + (f"; {len(kept) - 1} more like it" if kept[1:] else "")
        )
    if not by_type:
        raise UsageError(f"--like {where}: it shares no tensor with this model")
    return overrides, notes


def _recipe_uses(
    recipe: rules.Recipe, placed: Sequence[Placed], held: Mapping[str, str]
) -> list[Use]:
    """What the entries of a recipe speak for, by role and layer; those that count or have
    conditions are left to the recipe's author.
    """
    uses = []
    taken: dict[str, str] = {}
    known = {p.role for p in placed}
    inherited = len(rules.recipe(recipe.base).tensor) if recipe.base else 0
    for i, entry in enumerate(recipe.tensor[: len(recipe.tensor) - inherited]):
        simple = entry.where is None and entry.condition == type(entry.condition)()
        if not simple or not entry.roles or any(not r.isupper() for r in entry.roles):
            continue
        layers = rules.layer_set(entry.layers)
        matched = [
            p
            for p in placed
            if p.role in known.intersection(entry.roles)
            and (not layers or p.layer in layers)
            and entry.dims in (None, len(p.tensor.shape))
        ]
        free = [p for p in matched if p.name not in held]
        won = [p for p in free if p.name not in taken]
        before = next((taken[p.name] for p in free if p.name in taken), "")
        text = f"tensor[{i}] {', '.join(entry.roles)}={entry.type}"
        for p in won:
            taken[p.name] = text
        uses.append(Use(text, f"recipe {recipe.name}", len(matched), len(won), before))
    return uses
