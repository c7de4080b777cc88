"""Some of many, always the same, and of every kind some."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeVar

import xxhash


class Named(Protocol):
    """What can be chosen by name."""

    @property
    def name(self) -> str:
        """Unlike any other."""


T = TypeVar("T", bound=Named)


def sampled(
    items: Sequence[T], n: int | None, kind: Callable[[T], Hashable], size: Callable[[T], int]
) -> list[T]:
    """Items in their order: `n` of them, all where that is None.

    One of each kind first, of the largest kind before the others, then a second one, and so on;
    within a kind by the hash of the name. So the choice depends on names, kinds and sizes alone.
    """
    if n is None or n >= len(items):
        return list(items)
    groups: dict[Hashable, list[T]] = {}
    for item in sorted(items, key=lambda i: xxhash.xxh64_intdigest(i.name.encode())):
        groups.setdefault(kind(item), []).append(item)
    ordered = sorted(groups.values(), key=lambda g: (-sum(map(size, g)), g[0].name))
    turns = max(map(len, ordered))
    in_turn = [group[i] for i in range(turns) for group in ordered if i < len(group)]
    chosen = {item.name for item in in_turn[:n]}
    return [item for item in items if item.name in chosen]
