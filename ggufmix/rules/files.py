"""The TOML files behind the rules: their fields, and reading them strictly.

What ships lies in the package `ggufmix.rulebook` (the folder rules/ of the repository). Here is
what a file may hold; whether its names exist is checked where they are known.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Literal, TypeVar, get_args

import msgspec

from ..errors import RuleError

T = TypeVar("T")

SOURCE = "SOURCE"
"""In place of a type: as the checkpoint has it."""

Counted = Literal["kind", "block"]
MirrorName = Literal["llama.cpp", "ik"]


class _Strict(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Any table of a file: unknown fields are errors."""


class _Entry(_Strict, frozen=True):
    name: str
    type: str
    why: str
    source: str
    roles: tuple[str, ...] = ()


class Must(_Entry, frozen=True):
    """What llama.cpp cannot load or run otherwise. Matches by role, by number of dimensions, by the
    end of the name, or by an end that the name does not have. The type may be "SOURCE": as the
    checkpoint has it. `also` names types that do as well, where recipe or user asks for one.
    """

    dims: tuple[int, ...] = ()
    endings: tuple[str, ...] = ()
    but_endings: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


class Protect(_Entry, frozen=True, kw_only=True):
    """What is fragile and cheap. `type` is a lower bound: a recipe with more bits keeps them.
    `like`, in its place, names a role or "head" whose type is.
    """

    type: str = ""
    like: str = ""


class RuleFile(_Strict, frozen=True):
    """One TOML file of rules. Fields: see rules/architectures/generic.toml."""

    schema: Literal[1]
    architectures: tuple[str, ...]
    heads_by_block: bool = False
    must: tuple[Must, ...] = ()
    protect: tuple[Protect, ...] = ()


class Condition(_Strict, frozen=True):
    """What a recipe's entry asks of the model. All that are given must hold."""

    architecture: tuple[str, ...] | None = None
    experts: int | None = None
    experts_at_least: int | None = None
    gqa_at_least: int | None = None
    imatrix: bool | None = None
    size: Literal["70B"] | None = None
    tied: bool | None = None


class RecipeEntry(_Strict, frozen=True, rename={"condition": "if"}):
    """An exception of a recipe. Fields: see rules/recipes/q8_0.toml."""

    type: str
    why: str
    roles: tuple[str, ...] = ()
    dims: int | None = None
    layers: tuple[str, ...] = ()
    where: str | None = None
    counted: Counted = "kind"
    among: tuple[str, ...] = ()
    condition: Condition = Condition()


class Recipe(_Strict, frozen=True):
    """One recipe file. Fields: see rules/recipes/q8_0.toml. `default` and `file_type` are empty
    only in a file that names a `base`; a recipe that has been looked up has both.
    """

    schema: Literal[1]
    name: str
    why: str
    source: str = ""
    tag: str = ""
    base: str | None = None
    file_type: str = ""
    default: str = ""
    pure: str = ""
    tensor: tuple[RecipeEntry, ...] = ()
    ik: tuple[RecipeEntry, ...] = ()


class Group(_Strict, frozen=True):
    """Roles under one name."""

    roles: tuple[str, ...]
    why: str
    source: str


class _Groups(_Strict, frozen=True):
    schema: Literal[1]
    group: dict[str, Group]


class Fallback(_Strict, frozen=True):
    """A policy for rows that do not fit: `instead` from asked type to the next one to try, else
    `last`; without `last` such a row is an error.
    """

    why: str
    source: str
    last: str | None = None
    instead: dict[str, str] = {}


class Unmeasured(_Strict, frozen=True):
    """What takes the place of a type that needs importance, in blocks that no imatrix covers."""

    why: str
    source: str
    instead: dict[str, str]


class _Fallbacks(_Strict, frozen=True):
    schema: Literal[1]
    policy: dict[str, Fallback]
    unmeasured: Unmeasured


class ForeignType(_Strict, frozen=True):
    """A storage type that neither this program nor llama.cpp writes."""

    id: int
    values: int
    bytes: int
    row_bytes: int = 0
    plain: str | None = None


class _Types(_Strict, frozen=True):
    schema: Literal[1]
    source: str
    type: dict[str, ForeignType]


class Slow(_Strict, frozen=True):
    """Matrices of a type that a target runs slowly."""

    type: str
    why: str
    source: str


class Target(_Strict, frozen=True):
    """What is known of a place where files run."""

    slow: tuple[Slow, ...]


class _Targets(_Strict, frozen=True):
    schema: Literal[1]
    target: dict[str, Target]


@dataclass(frozen=True)
class Shipped:
    """All that ships. `books` and `recipes` are by file."""

    books: dict[str, RuleFile]
    recipes: dict[str, Recipe]
    groups: dict[str, Group]
    fallbacks: dict[str, Fallback]
    unmeasured: Unmeasured
    types: dict[str, ForeignType]
    targets: dict[str, Target]

    @property
    def heads_by_block(self) -> frozenset[str]:
        """Architectures whose files say for every block how many heads it has."""
        return frozenset(
            a for b in self.books.values() if b.heads_by_block for a in b.architectures
        )


@cache
def shipped() -> Shipped:
    """Everything in `ggufmix.rulebook`, read once."""
    fallbacks = _one("fallbacks.toml", _Fallbacks)
    return Shipped(
        books={where: read(where, raw, RuleFile) for where, raw in folder("architectures")},
        recipes={where: read(where, raw, Recipe) for where, raw in folder("recipes")},
        groups=_one("groups.toml", _Groups).group,
        fallbacks=fallbacks.policy,
        unmeasured=fallbacks.unmeasured,
        types=_one("types.toml", _Types).type,
        targets=_one("targets.toml", _Targets).target,
    )


def read(where: str, raw: bytes, kind: type[T]) -> T:
    """A TOML file as a struct. Raises RuleError with the place, what was expected and what came."""
    try:
        return msgspec.toml.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise RuleError(f"{where}: {error}", hint=_field_hint(str(error), kind)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RuleError(f"{where}: not valid TOML: {error}") from error


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A hint with the known name that is most alike, if one is."""
    known = list(known)
    close = get_close_matches(name, known, 1)
    if not close:  # in another case, perhaps
        lower = {k.lower(): k for k in known}
        close = [lower[c] for c in get_close_matches(name.lower(), list(lower), 1)]
    return f"did you mean {close[0]!r}?" if close else None


def _field_hint(message: str, kind: object) -> str | None:
    """Name the fields there are where the error is one too many, the words where one is none."""
    structs: list[type[msgspec.Struct]] = (
        [RuleFile, Must, Protect] if kind is RuleFile else [Recipe, RecipeEntry, Condition]
    )
    known = {f.encode_name: f.type for s in structs for f in msgspec.structs.fields(s)}
    quoted = message.split("`")
    if "unknown field" in message:
        return nearest(quoted[1], known) or f"fields are {', '.join(sorted(known))}"
    if "Invalid enum value" in message:
        parts = get_args(known[quoted[-2].rpartition(".")[2]])  # of a Literal, or of one | None
        words = [word for part in parts for word in get_args(part) or (part,)]
        return f"expected {' or '.join(str(w) for w in words if w is not type(None))}"
    return None


def _one(name: str, kind: type[T]) -> T:
    return read(f"rules/{name}", (files("ggufmix.rulebook") / name).read_bytes(), kind)


def folder(name: str) -> Iterator[tuple[str, bytes]]:
    """(path in the repository, bytes) of each TOML file in a folder of the rulebook, by name."""
    for item in sorted((files("ggufmix.rulebook") / name).iterdir(), key=lambda f: f.name):
        if item.name.endswith(".toml"):
            yield f"rules/{name}/{item.name}", item.read_bytes()
