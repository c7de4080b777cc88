"""Where in a model a tensor stands: the closed vocabulary of `layers`, `where` and `counted`.

    layers = ["0-3", "40"]   block numbers
    where = "first 4"        the first four
    where = "last 1/8"       from seven eighths on, in whole numbers
    where = "more"           llama.cpp's spread: first eighth, last eighth, every third between

`counted` says among what: "kind" is the tensors of the entry's roles, in file order; "block" is
the blocks of the model, by block number in a mixture of experts and by running number otherwise,
which is how llama-quantize counts its feed-forward tensors.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..tensor import Placed
from .facts import Facts
from .files import Counted

_WHERE = re.compile(r"(first|last) (\d+)(?:/(\d+))?")


def layer_set(ranges: Iterable[str]) -> frozenset[int]:
    """Layers from entries such as "0-3" and "40". Raises ValueError for anything else."""
    layers: set[int] = set()
    for entry in ranges:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", entry)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise ValueError(f'expected layers such as "0-3" or "40", got {entry!r}')
        layers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(layers)


def where_test(text: str) -> Callable[[int, int], bool]:
    """A test of the i-th (from 0) of n for one phrase of `where`. Raises ValueError for another."""
    if text == "more":
        return lambda i, n: i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2
    match = _WHERE.fullmatch(text)
    if match is None or (match[3] and int(match[2]) >= int(match[3])) or int(match[2]) == 0:
        raise ValueError(
            f'expected "more", or "first" or "last" with a number or a fraction, got {text!r}'
        )
    side, a, b = match[1], int(match[2]), int(match[3] or 0)
    if side == "first":
        return lambda i, n: i < (a * n // b if b else a)
    return lambda i, n: i >= ((b - a) * n // b if b else n - a)


@dataclass(frozen=True)
class Positions:
    """Answers where a tensor stands, for one model.

    tensors  that a recipe may decide on, in file order
    skipped  names that do not advance the running numbers (llama-quantize does not count tensors
             that the user overrode)
    """

    tensors: Sequence[Placed]
    facts: Facts
    skipped: frozenset[str]
    _found: dict[tuple[frozenset[str], Counted, frozenset[str]], dict[str, tuple[int, int]]]

    @classmethod
    def of(
        cls, tensors: Sequence[Placed], facts: Facts, skipped: frozenset[str] = frozenset()
    ) -> Positions:
        """For these tensors."""
        return cls(tensors, facts, skipped, {})

    def find(
        self, name: str, roles: frozenset[str], counted: Counted, among: frozenset[str]
    ) -> tuple[int, int]:
        """(i, n): the tensor is the i-th of n; n counts the roles `among`, where there are any."""
        key = (roles, counted, among)
        if key not in self._found:
            self._found[key] = self._count(*key)
        return self._found[key][name]

    def _count(
        self, roles: frozenset[str], counted: Counted, among: frozenset[str]
    ) -> dict[str, tuple[int, int]]:
        kind = [p for p in self.tensors if p.role in roles]
        n = sum(p.role in (among or roles) for p in self.tensors)
        n = n if counted == "kind" else self.facts.blocks
        places = {}
        i = 0
        for p in kind:
            by_number = counted == "block" and self.facts.experts > 1 and p.layer is not None
            places[p.name] = (p.layer if by_number and p.layer is not None else i, n)
            i += p.name not in self.skipped
        return places
