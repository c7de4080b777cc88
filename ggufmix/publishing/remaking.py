"""How to make a file again: the command that did, or a recipe of the types that it has."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import gguf

from .. import rules
from ..errors import GgufmixError
from ..inspection import ranges
from ..options import RECORDED
from ..outline import Entry, Outline
from .words import clean

_KNOWN = {of.option: of for of in RECORDED}
"""Other options are not repeated: a file may come from anyone, and the command is there to be
pasted.
"""
_NAME = re.compile(r"[\w.+-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Making:
    """A command to copy, a recipe file for it, and what else it takes; empty where there is none.

    recipe_name  of the file that `toml` is to be saved as
    """

    command: str = ""
    toml: str = ""
    recipe_name: str = ""
    needs: tuple[str, ...] = ()


def of_file(
    outline: Outline,
    *,
    out: str,
    recipe: str | None,
    options: Sequence[str],
    imatrix: str | None,
    source: str = "SRC",
    parts: int = 1,
    file_type: int | None = None,
) -> Making:
    """How to make a file again.

    out      its name
    recipe   what it says it was made with; None: nothing, it is not ours
    options  other than the defaults, as `options.recorded` writes them
    imatrix  name of the importance matrix, None for none
    source   what to make it from
    """
    needs = []
    if parts > 1:
        needs.append(f"it is in {parts} parts: --split-max-size or --split-max-tensors makes some")
    words = _words(options) if recipe is not None else None
    known = recipe is not None and words is not None and _built_in(recipe)
    toml, name = "", recipe or ""
    if not known:
        plain = _NAME.match(out.removesuffix(".gguf"))
        name = f"{plain[0] if plain else 'types'}.toml"
        toml = as_toml(outline, name.removesuffix(".toml"), file_type)
        words = ["--gates recipe"]
        needs += [
            f"save the recipe above as {name}: it has the types of this file, tensor for tensor; "
            + (
                f"what it was made with, {clean(recipe, 80)!r}, is no built-in recipe"
                if recipe is not None
                else "the file does not say how it was made"
            )
        ]
    assert words is not None
    for word in words:
        option, _, value = word.partition(" ")
        if option in _KNOWN and _KNOWN[option].file:
            needs.append(f"{option} takes a file, of which the header has the name: {clean(value)}")
    if imatrix is not None:
        needs.append(f"the importance matrix is a file of its own: {clean(imatrix)}")
        words = [*words, f"--imatrix {shlex.quote(PurePosixPath(clean(imatrix)).name)}"]
    lines = [f"ggufmix convert {source} -o {shlex.quote(out)}", f"--recipe {shlex.quote(name)}"]
    return Making(" \\\n  ".join([*lines, *words]), toml, name if toml else "", tuple(needs))


def _words(options: Sequence[str]) -> list[str] | None:
    """Options quoted for a shell; None where one of them is not known."""
    made = []
    for option in options:
        name, _, value = option.partition(" ")
        if not option.isprintable() or len(option) > 4000:
            return None
        known = _KNOWN.get(name)
        if known is None or (known.stands is None) != bool(value):
            return None
        made.append(f"{name} {shlex.quote(value)}" if value else name)
    return made


def _built_in(name: str) -> bool:
    """Whether it is one of ours; a file name is not: it would name whatever lies there."""
    try:
        return not name.lower().endswith(".toml") and bool(rules.recipe(name))
    except GgufmixError:
        return False


def as_toml(outline: Outline, name: str, file_type: int | None = None) -> str:
    """A recipe with the types of a file: its most common type, then what differs, by role and
    layer. Rules that hold in every recipe are not repeated.
    """
    free = [t for t in outline.tensors if t.dims > 1 and t.role != "UNKNOWN"]
    weights: Counter[str] = Counter()
    for t in free:
        weights[t.type] += t.weights
    default = max(weights, key=lambda kind: weights[kind], default="F16")
    kinds = {int(member): word for word, member in gguf.LlamaFileType.__members__.items()}
    lines = [
        "schema = 1",
        f'name = "{name}"',
        f'why = "the types of {name}, tensor for tensor"',
        f'file_type = "{kinds.get(file_type or -1, "GUESSED")}"',
        f'default = "{default}"',
    ]
    entries: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for role, members in _by_role(free).items():
        for kind, layers in _kinds(members, default):
            entries.setdefault((kind, layers), []).append(role)
    for (kind, layers), roles in sorted(entries.items(), key=lambda e: not e[0][1]):
        lines += ["", "[[tensor]]", f"roles = [{_listed(roles)}]"]
        lines += [f"layers = [{_listed(layers)}]"] if layers else []
        lines += [f'type = "{kind}"', 'why = "as there"']
    return "\n".join(lines) + "\n"


def _by_role(tensors: Sequence[Entry]) -> Mapping[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for t in tensors:
        found.setdefault(t.role, []).append(t)
    return found


def _kinds(members: Sequence[Entry], default: str) -> list[tuple[str, tuple[str, ...]]]:
    """Types of one role: with their layers where it has several, last the most common one."""
    counts = Counter(t.type for t in members)
    rest = counts.most_common(1)[0][0]
    if any(t.layer is None for t in members):
        rest = next(t.type for t in members if t.layer is None)
    found: list[tuple[str, tuple[str, ...]]] = []
    for kind in counts:
        layers = {t.layer for t in members if t.type == kind and t.layer is not None}
        if kind != rest and layers:
            found.append((kind, tuple(ranges(layers).split(", "))))
    return found + ([(rest, ())] if rest != default or found else [])


def _listed(words: Sequence[Any]) -> str:
    return ", ".join(f'"{word}"' for word in words)
