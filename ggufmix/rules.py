"""Rules and recipes: what a tensor must be, what protects it, and what a recipe would like it to
be.

`decide` weighs them for one tensor after another: `must` beats the user's override, that beats
`protect`, and that beats the recipe; a type that does not fit the row is replaced by the fallback
table. Every decision carries its reason. The data lies in TOML files of the package
`ggufmix.rulebook`.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

import gguf
import msgspec

from .codecs import Encoder, encoder
from .errors import RuleError, UsageError
from .tensor import Placed

Gates = Literal["bf16", "f32", "recipe"]
Mirror = Literal["llama.cpp"]
GATES = "gates"
HEAD_ROLES = ("OUTPUT", "TOKEN_EMBD")


class _Entry(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    name: str
    type: str
    why: str
    source: str
    roles: tuple[str, ...] = ()


class Must(_Entry, frozen=True):
    """What llama.cpp cannot load or run otherwise. Matches by role, by number of dimensions, or by
    the end of the name.
    """

    dims: int | None = None
    endings: tuple[str, ...] = ()

    def holds(self, placed: Placed) -> bool:
        """Whether the entry speaks for this tensor."""
        return (
            placed.role in self.roles
            or len(placed.tensor.shape) == self.dims
            or placed.name.endswith(self.endings or ("\0",))
        )


class Protect(_Entry, frozen=True):
    """What is fragile and cheap. `type` is a lower bound: a recipe with more bits keeps them."""


class RuleFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One TOML file of rules. Fields: see rules/architectures/generic.toml."""

    schema: Literal[1]
    architectures: tuple[str, ...]
    must: tuple[Must, ...] = ()
    protect: tuple[Protect, ...] = ()


class RecipeEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An exception of a recipe: these roles, in these layers, are stored as `type`."""

    roles: tuple[str, ...]
    type: str
    why: str
    layers: tuple[str, ...] = ()

    def holds(self, placed: Placed) -> bool:
        """Whether the entry speaks for this tensor."""
        return placed.role in self.roles and (
            not self.layers or placed.layer in layer_set(self.layers)
        )


class Recipe(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One recipe file. Fields: see rules/recipes/q8_0.toml."""

    schema: Literal[1]
    name: str
    file_type: str
    default: str
    why: str
    head: str | None = None
    tensor: tuple[RecipeEntry, ...] = ()


class Fallback(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A policy for rows that do not fit: `instead` from asked type to the next one to try, else
    `last`.
    """

    why: str
    source: str
    last: str
    instead: dict[str, str]


class FallbackFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """rules/fallbacks.toml."""

    schema: Literal[1]
    policy: dict[str, Fallback]


@dataclass(frozen=True, slots=True)
class Override:
    """A user's own choice of a type for tensors: by role, or by a regular expression searched in
    the name.

    text is how the user spelled it. Exactly one of role and pattern is set.
    """

    text: str
    encoder: Encoder
    role: str | None = None
    pattern: re.Pattern[str] | None = None

    def holds(self, placed: Placed) -> bool:
        """Whether the override speaks for this tensor."""
        return placed.role == self.role or (
            self.pattern is not None and self.pattern.search(placed.name) is not None
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What one tensor is stored as, and why. `asked` is what was wanted where the shape did not
    allow it.
    """

    encoder: Encoder
    reason: str
    asked: Encoder | None = None


@dataclass(frozen=True, slots=True)
class Choices:
    """All that decides besides the rules.

    gates      "bf16", "f32", or "recipe" for no protection of the gates
    mirror     "llama.cpp" switches every protection off and takes that tool's fallbacks
    overrides  in order of precedence
    forced     tensor name -> (encoder, reason): found out from the data, beats all but must
    """

    recipe: Recipe
    gates: Gates = "bf16"
    mirror: Mirror | None = None
    overrides: tuple[Override, ...] = ()
    forced: Mapping[str, tuple[Encoder, str]] = field(default_factory=dict)


def rules_for(architecture: str) -> tuple[list[Must], list[Protect]]:
    """The entries for a general.architecture: its own files first, then the generic ones."""
    books = [b for b in _rule_files() if architecture in b.architectures] + [
        b for b in _rule_files() if "*" in b.architectures
    ]
    return [m for b in books for m in b.must], [p for b in books for p in b.protect]


def recipes() -> dict[str, Recipe]:
    """The built-in recipes by name."""
    found = [_read(where, raw, Recipe) for where, raw in _toml_files("recipes")]
    return {recipe.name.lower(): recipe for recipe in found}


def recipe(name: str) -> Recipe:
    """A built-in recipe by its name, in any case, or one from a `.toml` file.

    Raises UsageError for an unknown name, RuleError for a file that is wrong.
    """
    if name.lower().endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"no such recipe file: {name}")
        return checked(_read(path.name, path.read_bytes(), Recipe), path.name)
    known = recipes()
    if name.lower() in known:
        return checked(known[name.lower()], name)
    raise UsageError(
        f"unknown recipe {name!r}: expected one of {', '.join(known)}",
        hint=_nearest(name.lower(), known),
    )


def checked(made: Recipe, where: str) -> Recipe:
    """The recipe itself, once its types, roles, layers and file type are known to exist. Raises
    RuleError.
    """
    try:
        for kind in (made.default, made.head or made.default, *(e.type for e in made.tensor)):
            encoder(kind)
    except UsageError as error:
        raise RuleError(f"{where}: {error}", hint=error.hint) from error
    if made.file_type not in gguf.LlamaFileType.__members__:
        raise RuleError(
            f"{where}: file_type: expected a name of gguf.LlamaFileType, got {made.file_type!r}",
            hint=_nearest(made.file_type, gguf.LlamaFileType.__members__),
        )
    for number, entry in enumerate(made.tensor):
        _check_roles(entry.roles, f"{where}: tensor[{number}].roles")
        try:
            layer_set(entry.layers)
        except ValueError as error:
            raise RuleError(f"{where}: tensor[{number}].layers: {error}") from None
    return made


def override_by_role(text: str) -> Override:
    """`ROLE=TYPE`, ROLE as in gguf.MODEL_TENSOR or as in a tensor name: FFN_DOWN_EXP or
    ffn_down_exps, any case.
    """
    left, kind = _split(text, "ROLE=TYPE")
    names = _role_names()
    if left.lower() not in names:
        raise UsageError(f"--set {text}: unknown role {left!r}", hint=_nearest(left.lower(), names))
    return Override(text, encoder(kind), role=names[left.lower()])


def override_by_pattern(text: str) -> Override:
    """`REGEX=TYPE`: searched anywhere in the tensor name, case-sensitive; the last `=` divides."""
    left, kind = _split(text, "REGEX=TYPE")
    try:
        return Override(text, encoder(kind), pattern=re.compile(left))
    except re.error as error:
        raise UsageError(f"--tensor-type {text}: bad regular expression: {error}") from None


def decide(placed: Sequence[Placed], architecture: str, choices: Choices) -> list[Decision]:
    """One decision for each tensor, in the same order.

    Raises UsageError for an override that matches nothing, or only tensors that a must rule holds.
    """
    musts, protects = rules_for(architecture)
    if choices.mirror is not None:
        protects = []
    if choices.gates == "recipe":
        protects = [p for p in protects if p.name != GATES]
    fallback = _fallbacks()[choices.mirror or "quality"]
    tied = not any(p.role == "OUTPUT" for p in placed)
    effective: set[Override] = set()
    held: dict[Override, Must] = {}
    decisions = []
    for tensor in placed:
        must = next((m for m in musts if m.holds(tensor)), None)
        wish = next((o for o in choices.overrides if o.holds(tensor)), None)
        if must is not None:
            decision = Decision(encoder(must.type), f"must: {must.name}")
            if wish is not None:
                held.setdefault(wish, must)
                decision = Decision(decision.encoder, f"must: {must.name} (not {wish.text})")
        elif tensor.name in choices.forced:
            decision = Decision(*choices.forced[tensor.name])
        elif wish is not None:
            decision = Decision(wish.encoder, f"override {wish.text}")
        else:
            decision = _protected(
                tensor, _by_recipe(tensor, choices.recipe, tied), protects, choices.gates
            )
        if wish is not None and must is None:
            effective.add(wish)
        decisions.append(_fitted(tensor, decision, fallback))
    for wish in choices.overrides:
        if wish in effective:
            continue
        if wish in held:
            raise UsageError(
                f"{wish.text} matches only tensors that must be {held[wish].type}",
                hint=f"{held[wish].name}: {held[wish].why}",
            )
        shadow = next(
            (
                o
                for o in choices.overrides
                if o is not wish and any(o.holds(p) and wish.holds(p) for p in placed)
            ),
            None,
        )
        raise UsageError(
            f"{wish.text} decides nothing: "
            + (
                f"{shadow.text} comes before it" if shadow else "it matches no tensor of this model"
            ),
            hint="`ggufmix plan` lists every name and role",
        )
    return decisions


def _by_recipe(tensor: Placed, recipe: Recipe, tied: bool) -> Decision:
    for entry in recipe.tensor:
        if entry.holds(tensor):
            return Decision(encoder(entry.type), f"recipe {recipe.name}: {entry.why}")
    if recipe.head is not None and tensor.role == ("TOKEN_EMBD" if tied else "OUTPUT"):
        return Decision(encoder(recipe.head), f"recipe {recipe.name}: head")
    return Decision(encoder(recipe.default), f"recipe {recipe.name}")


def _protected(
    tensor: Placed, decision: Decision, protects: Iterable[Protect], gates: Gates
) -> Decision:
    for protect in protects:
        if tensor.role in protect.roles:
            least = encoder(gates if protect.name == GATES else protect.type)
            if least.format.bits > decision.encoder.format.bits:
                return Decision(least, f"protect: {protect.name}")
    return decision


def _fitted(tensor: Placed, decision: Decision, fallback: Fallback) -> Decision:
    cols, asked, chosen = tensor.tensor.cols, decision.encoder, decision.encoder
    while cols % chosen.format.values:
        chosen = encoder(fallback.instead.get(chosen.format.name, fallback.last))
    if chosen is asked:
        return decision
    reason = f"{decision.reason}; {asked.name} does not fit a row of {cols}"
    return Decision(chosen, reason, asked)


def layer_set(ranges: Iterable[str]) -> frozenset[int]:
    """Layers from entries such as "0-3" and "40". Raises ValueError for anything else."""
    layers: set[int] = set()
    for entry in ranges:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", entry)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise ValueError(f'expected layers such as "0-3" or "40", got {entry!r}')
        layers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(layers)


T = TypeVar("T")


def _read(where: str, raw: bytes, kind: type[T]) -> T:
    try:
        return msgspec.toml.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise RuleError(f"rules/{where}: {error}") from error
    except msgspec.DecodeError as error:
        raise RuleError(f"rules/{where}: not valid TOML: {error}") from error


@cache
def _rule_files() -> tuple[RuleFile, ...]:
    books = []
    for where, raw in _toml_files("architectures"):
        book = _read(where, raw, RuleFile)
        for kind, entries in (("must", book.must), ("protect", book.protect)):
            for number, entry in enumerate(entries):
                _check_roles(entry.roles, f"rules/{where}: {kind}[{number}].roles")
        books.append(book)
    return tuple(books)


@cache
def _fallbacks() -> dict[str, Fallback]:
    raw = (files("ggufmix.rulebook") / "fallbacks.toml").read_bytes()
    return _read("fallbacks.toml", raw, FallbackFile).policy


def _toml_files(folder: str) -> Iterator[tuple[str, bytes]]:
    for item in sorted((files("ggufmix.rulebook") / folder).iterdir(), key=lambda f: f.name):
        if item.name.endswith(".toml"):
            yield f"{folder}/{item.name}", item.read_bytes()


@cache
def _role_names() -> dict[str, str]:
    names = {}
    for role, template in gguf.TENSOR_NAMES.items():
        names[role.name.lower()] = role.name
        names[template.removeprefix("blk.{bid}.")] = role.name
    return names


def _check_roles(roles: Iterable[str], where: str) -> None:
    for role in roles:
        if role not in gguf.MODEL_TENSOR.__members__:
            raise RuleError(
                f"{where}: expected a name of gguf.MODEL_TENSOR, got {role!r}",
                hint=_nearest(role, gguf.MODEL_TENSOR.__members__),
            )


def _split(text: str, form: str) -> tuple[str, str]:
    left, equals, right = text.rpartition("=")
    if not (left and equals and right):
        raise UsageError(f"expected {form}, got {text!r}")
    return left, right


def _nearest(name: str, known: Iterable[str]) -> str | None:
    close = get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else None
