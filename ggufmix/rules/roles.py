"""Roles: members of gguf.MODEL_TENSOR, and groups of them that recipes call by one name."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import gguf

from ..errors import RuleError
from ..tensor import Placed
from .files import Group, nearest, shipped

HEAD = "head"
"""The group that depends on the model: the output matrix, or the embeddings where the model has
none of its own.
"""

TOKENS = "embeddings"
"""The group of all embeddings of tokens."""

EMBEDDINGS = frozenset({"TOKEN_EMBD", "PER_LAYER_TOKEN_EMBD"})


@cache
def groups() -> dict[str, Group]:
    """The groups of rules/groups.toml by name."""
    return shipped().groups


@cache
def names() -> dict[str, str]:
    """Spellings of a role on the command line, in lower case, to the role: FFN_DOWN_EXP and
    ffn_down_exps are one.
    """
    found = {}
    for role, template in gguf.TENSOR_NAMES.items():
        found[role.name.lower()] = role.name
        found[template.removeprefix("blk.{bid}.")] = role.name
    return found


def members(roles: Iterable[str], *, tied: bool) -> frozenset[str]:
    """The plain roles behind roles and groups. `tied`: the model has no output matrix."""
    found: set[str] = set()
    for role in roles:
        if role == HEAD:
            found |= EMBEDDINGS if tied else {"OUTPUT"}
        elif role == TOKENS:
            found |= EMBEDDINGS
        elif role in groups():
            found |= set(groups()[role].roles)
        else:
            found.add(role)
    return frozenset(found)


def is_tied(placed: Iterable[Placed]) -> bool:
    """Whether the embedding serves as output matrix: there is no output.weight."""
    return not any(p.role == "OUTPUT" for p in placed)


def check(roles: Iterable[str], where: str, *, grouped: bool = False) -> None:
    """Raise RuleError for a name that is no role, nor, where `grouped`, a group."""
    known = set(gguf.MODEL_TENSOR.__members__)
    also = {HEAD, *groups()} if grouped else set()
    for role in roles:
        if role not in known | also:
            raise RuleError(
                f"{where}: expected a name of gguf.MODEL_TENSOR"
                + (f" or one of {', '.join(map(repr, sorted(also)))}" if grouped else "")
                + f", got {role!r}",
                hint=nearest(role, known | also),
            )
