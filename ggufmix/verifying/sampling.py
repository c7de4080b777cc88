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


def sampled(items: Sequence[T], n: int | None, kind: Callable[[T], Hashable]) -> list[T]:
    """Items in their order: `n` of them, all where that is None.

    One of each kind first, then a second one, and so on; within a kind by the hash of the name, so
    that the choice depends on names alone.
    """
    if n is None or n >= len(items):
        return list(items)
    groups: dict[Hashable, list[T]] = {}
    for item in sorted(items, key=lambda i: xxhash.xxh64_intdigest(i.name.encode())):
        groups.setdefault(kind(item), []).append(item)
    turns = max(map(len, groups.values()))
    in_turn = [group[i] for i in range(turns) for group in groups.values() if i < len(group)]
    chosen = {item.name for item in in_turn[:n]}
    return [item for item in items if item.name in chosen]
