"""Recipes: finding one by name, joining it with its base, and checking what it names."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import gguf
import msgspec

from ..errors import RuleError, UsageError
from ..tensor import BF16, Placed
from . import roles
from .files import SOURCE, Recipe, RecipeEntry, folder, nearest, read, shipped
from .places import layer_set, where_test
from .types import type_named

PURE = "pure:"
COPY = f"{PURE}source"
"""The recipe that leaves every tensor in the type it has."""
AUTO = "auto"
"""Stands for the recipe that `as_stored` names."""


def recipes() -> dict[str, Recipe]:
    """The built-in recipes by name, each joined with its base."""
    return {made.name.lower(): _joined(made, where) for where, made in shipped().recipes.items()}


def recipe(name: str) -> Recipe:
    """A built-in recipe by its name, in any case; "pure:TYPE" for one type everywhere; "pure:NAME"
    for a built-in recipe without its mixture; "auto", in whose place `as_stored` puts another; or
    one from a `.toml` file.

    Raises UsageError for an unknown name, RuleError for a file that is wrong.
    """
    if name.lower().endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"no such recipe file: {name}")
        made = read(path.name, path.read_bytes(), Recipe)
        return checked(_joined(made, path.name), path.name)
    if name.lower().startswith(PURE):
        return _pure(name[len(PURE) :])
    if name.lower() == AUTO:
        why = "16 bits in the type of the checkpoint"
        return Recipe(schema=1, name=AUTO, why=why, default=SOURCE, file_type="GUESSED")
    for where, made in shipped().recipes.items():
        if made.name.lower() == name.lower():
            return checked(_joined(made, where), where)
    known = [made.name for made in shipped().recipes.values()]
    medium = f"{name.lower()}_m"  # llama-quantize has Q4_K for Q4_K_M
    raise UsageError(
        f"unknown recipe {name!r}: expected one of {', '.join(known)}; pure:TYPE; auto; or a "
        ".toml file",
        hint=nearest(medium if medium in known else name.lower(), known),
    )


def as_stored(placed: Iterable[Placed]) -> str:
    """The recipe that llama.cpp's converter takes where none is named: "bf16" where the first
    matrix that has 16 bits is BF16, else "f16". Source: conversion/base.py, `GUESSED`.
    """
    kinds = (p.tensor.dtype for p in placed if len(p.tensor.shape) > 1)
    return "bf16" if next((kind for kind in kinds if kind.itemsize == 2), None) == BF16 else "f16"


def texts_of(name: str) -> list[tuple[str, str]]:
    """(file, TOML) of a recipe and of the bases under it; nothing for "pure:TYPE". Raises as
    `recipe`.
    """
    made = recipe(name)
    if name.lower().endswith(".toml"):
        found = [(Path(name).name, Path(name).read_text(encoding="utf-8"))]
    else:
        found = _built_in_text(made.name)
    return found if made.base is None else [*found, *texts_of(made.base)]


def checked(made: Recipe, where: str) -> Recipe:
    """The recipe itself, once its types, roles, places and file type are known to exist. Raises
    RuleError.
    """
    if made.default != SOURCE:
        _check_type(made.default, f"{where}: default")
    if made.file_type not in gguf.LlamaFileType.__members__:
        raise RuleError(
            f"{where}: file_type: expected a name of gguf.LlamaFileType, got {made.file_type!r}",
            hint=nearest(made.file_type, gguf.LlamaFileType.__members__),
        )
    for table, entries in (("tensor", made.tensor), ("ik", made.ik)):
        for i, entry in enumerate(entries):
            _check_entry(entry, f"{where}: {table}[{i}]")
    return made


def _check_type(kind: str, where: str) -> None:
    try:
        type_named(kind)
    except UsageError as error:
        raise RuleError(f"{where}: {error}", hint=error.hint) from error


@cache
def _architectures() -> frozenset[str]:
    """Those that the gguf package knows, and newer ones of llama.cpp's that recipes here name."""
    newer = {
        name
        for made in shipped().recipes.values()
        for entry in (*made.tensor, *made.ik)
        for name in entry.condition.architecture or ()
    }
    return frozenset(gguf.MODEL_ARCH_NAMES.values()) | newer


def _check_entry(entry: RecipeEntry, where: str) -> None:
    _check_type(entry.type, f"{where}.type")
    roles.check(entry.roles, f"{where}.roles", grouped=True)
    roles.check(entry.among, f"{where}.among", grouped=True)
    for name in entry.condition.architecture or ():
        if name not in _architectures():
            raise RuleError(
                f"{where}.if.architecture: expected a name of gguf.MODEL_ARCH, got {name!r}",
                hint=nearest(name, _architectures()) or "it is what general.architecture says",
            )
    if entry.where is not None and not entry.roles:
        raise RuleError(f"{where}.where: expected roles to count, got none")
    field = "layers"
    try:
        layer_set(entry.layers)
        field = "where"
        if entry.where is not None:
            where_test(entry.where)
    except ValueError as error:
        raise RuleError(f"{where}.{field}: {error}") from None


def tag(made: Recipe) -> str:
    """How file names spell the recipe, such as "Q4_K_M"."""
    return made.tag or made.name.upper()


def _joined(made: Recipe, where: str) -> Recipe:
    """A recipe with a base: its own entries first, then the base's; the rest where it is silent."""
    if made.base is None:
        return made
    for base_where, base in shipped().recipes.items():
        if base.name.lower() == made.base.lower() and base.name != made.name:
            under = _joined(base, base_where)
            return msgspec.structs.replace(
                made,
                file_type=made.file_type or under.file_type,
                default=made.default or under.default,
                tensor=(*made.tensor, *under.tensor),
                ik=made.ik or ((*made.tensor, *under.ik) if under.ik else ()),
            )
    known = [r.name for r in shipped().recipes.values()]
    raise RuleError(
        f"{where}: base: expected a built-in recipe, got {made.base!r}",
        hint=nearest(made.base.lower(), known),
    )


def _built_in_text(name: str) -> list[tuple[str, str]]:
    return [
        (where, raw.decode())
        for where, raw in folder("recipes")
        if shipped().recipes[where].name == name
    ]


def _pure(kind: str) -> Recipe:
    if kind.upper() == SOURCE:
        return Recipe(
            schema=1,
            name=COPY,
            why="every tensor as it is",
            tag="COPY",
            file_type="GUESSED",
            default=SOURCE,
        )
    made = recipes().get(kind.lower())
    try:
        name = type_named(kind).name
    except UsageError:
        if made is None:
            raise
        return msgspec.structs.replace(
            made,
            name=f"{PURE}{made.name}",
            tag=tag(made),
            why=f"{made.pure or made.default} for every tensor that rules leave free",
            default=made.pure or made.default,
            tensor=(),
            ik=(),
        )
    own = f"MOSTLY_{name}" if name != "F32" else "ALL_F32"
    small = f"{own}_S"
    known = gguf.LlamaFileType.__members__
    return Recipe(
        schema=1,
        name=f"{PURE}{name.lower()}",
        why=f"every tensor that rules leave free as {name}",
        tag=name,
        file_type=own if own in known else small if small in known else "GUESSED",
        default=name,
    )
