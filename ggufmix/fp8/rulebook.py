"""The TOML files of rules/fp8: which modules become FP8, and which of them go together."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cache, cached_property
from typing import Literal

import msgspec

from ..errors import UsageError
from ..rules.files import folder, nearest, read

_COMMON, _GROUPS = "rules/fp8/modules.toml", "rules/fp8/groups.toml"


class Entry(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, dict=True):
    """Modules that are kept, or quantized. Fields: see rules/fp8/modules.toml."""

    name: str
    modules: tuple[str, ...]
    why: str
    source: str
    must: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What the name of a module has to match."""
        return any_of(self.modules)


class Group(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Modules that engines run as one. Fields: see rules/fp8/groups.toml."""

    name: str
    members: tuple[str, ...]
    why: str
    source: str
    unless: tuple[str, ...] = ()


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    schema: Literal[1]
    name: str = ""
    why: str = ""
    source: str = ""
    keep: tuple[Entry, ...] = ()
    quantize: tuple[Entry, ...] = ()


class _Groups(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    schema: Literal[1]
    group: tuple[Group, ...]


@dataclass(frozen=True)
class Preset:
    """A choice of what becomes FP8, what holds in every preset included.

    keep, quantize  in the order in which they are asked; what keeps comes first
    """

    name: str
    why: str
    keep: Sequence[Entry]
    quantize: Sequence[Entry]


@cache
def presets() -> dict[str, Preset]:
    """The presets by name."""
    files = {where: read(where, raw, _File) for where, raw in folder("fp8") if where != _GROUPS}
    common = files.pop(_COMMON)
    return {
        made.name: Preset(
            made.name,
            made.why,
            (*made.keep, *common.keep),
            (*made.quantize, *common.quantize),
        )
        for made in files.values()
    }


@cache
def groups() -> tuple[Group, ...]:
    """Modules that engines run as one."""
    raw = dict(folder("fp8"))[_GROUPS]
    return read(_GROUPS, raw, _Groups).group


def preset(name: str) -> Preset:
    """A preset by its name, in any case. Raises UsageError."""
    known = presets()
    if name.lower() not in known:
        raise UsageError(
            f"unknown preset {name!r}: expected one of {', '.join(known)}",
            hint=nearest(name.lower(), known),
        )
    return known[name.lower()]


def any_of(globs: Sequence[str]) -> re.Pattern[str]:
    """Globs as one regular expression, to be matched against a whole name."""
    return re.compile("|".join(map(translate, globs)))
