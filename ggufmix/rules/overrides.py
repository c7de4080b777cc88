"""What a user asks for besides a recipe: types for roles and names, edges raised."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..codecs import Encoder
from ..errors import UsageError
from ..tensor import Placed
from . import roles
from .facts import Facts
from .files import SOURCE, nearest
from .types import stored_type, type_named


@dataclass(frozen=True, slots=True)
class Override:
    """A user's own choice of a type for tensors: by role, or by a regular expression searched in
    the name.

    text     how the user spelled it
    encoder  None: as the source has it
    roles    plain ones, and the groups "head" and "embeddings" until `resolved`
    pattern  None where there are roles
    """

    text: str
    encoder: Encoder | None
    roles: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None

    def holds(self, placed: Placed) -> bool:
        """Whether the override speaks for this tensor."""
        return placed.role in self.roles or (
            self.pattern is not None and self.pattern.search(placed.name) is not None
        )

    def of(self, placed: Placed) -> Encoder:
        """The type of this tensor."""
        return self.encoder or stored_type(placed)

    def resolved(self, *, tied: bool) -> Override:
        """For one model, with plain roles alone. `tied`: it has no output matrix."""
        return replace(self, roles=roles.members(self.roles, tied=tied)) if self.roles else self


@dataclass(frozen=True, slots=True)
class Edge:
    """At least this type in the first and last `blocks` blocks. Several make a gradient.

    Blocks of multi-token prediction stand behind the last one and are not counted.
    """

    text: str
    blocks: int
    encoder: Encoder

    def holds(self, placed: Placed, facts: Facts) -> bool:
        """Whether the tensor stands in one of the blocks."""
        trunk = facts.blocks - facts.mtp_blocks
        return placed.layer is not None and (
            placed.layer < self.blocks or trunk - self.blocks <= placed.layer < trunk
        )


def override_by_role(text: str) -> Override:
    """`ROLE=TYPE`, ROLE as in gguf.MODEL_TENSOR or as in a tensor name: FFN_DOWN_EXP or
    ffn_down_exps, any case; "head" is the output matrix, or the embeddings that serve as one;
    "embeddings" those of tokens, per layer too.
    """
    left, kind = _split(text, "ROLE=TYPE")
    known = {**roles.names(), roles.HEAD: roles.HEAD, roles.TOKENS: roles.TOKENS}
    if left.lower() not in known:
        raise UsageError(f"--set {text}: unknown role {left!r}", hint=nearest(left.lower(), known))
    return Override(text, _type(kind, f"--set {text}"), frozenset((known[left.lower()],)))


def override_by_pattern(text: str) -> Override:
    """`REGEX=TYPE`: searched anywhere in the tensor name, case-sensitive; the last `=` divides."""
    left, kind = _split(text, "REGEX=TYPE")
    encoder = _type(kind, f"--tensor-type {text}")
    try:
        return Override(text, encoder, pattern=re.compile(left))
    except re.error as error:
        raise UsageError(f"--tensor-type {text}: bad regular expression: {error}") from None


def edge(text: str) -> Edge:
    """`N=TYPE`: at least TYPE in the first and last N blocks."""
    left, kind = _split(text, "N=TYPE")
    if not left.isascii() or not left.isdigit() or int(left) == 0:
        raise UsageError(f"--edges {text}: expected a number of blocks, got {left!r}")
    least = _type(kind, f"--edges {text}")
    if least is None:
        raise UsageError(f"--edges {text}: expected a type to be the least, got {kind}")
    return Edge(text, int(left), least)


def without_effect(
    overrides: Iterable[Override], effective: Iterable[Override], placed: Iterable[Placed]
) -> UsageError | None:
    """The error for the first override that decided nothing: nothing typed is dropped silently."""
    overrides, effective, placed = list(overrides), set(effective), list(placed)
    for wish in overrides:
        if wish in effective:
            continue
        shadow = next(
            (
                o
                for o in overrides
                if o is not wish and any(o.holds(p) and wish.holds(p) for p in placed)
            ),
            None,
        )
        reason = (
            f"{shadow.text} comes before it" if shadow else "it matches no tensor of this model"
        )
        return UsageError(
            f"{wish.text} decides nothing: {reason}",
            hint="`ggufmix plan` lists every name and role",
        )
    return None


def _split(text: str, form: str) -> tuple[str, str]:
    left, equals, right = text.rpartition("=")
    if not (left and equals and right):
        raise UsageError(f"expected {form}, got {text!r}")
    return left, right


def _type(kind: str, where: str) -> Encoder | None:
    try:
        return None if kind.upper() == SOURCE else type_named(kind)
    except UsageError as error:
        raise UsageError(f"{where}: {error}", hint=error.hint) from error
