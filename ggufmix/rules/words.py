"""A recipe in words, for people who will not read TOML."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator

from .files import Condition, Recipe, RecipeEntry


def described(made: Recipe) -> list[tuple[str, str, str]]:
    """(type, tensors, why) of each entry in the order they are asked, the default last."""
    rows = [(e.type, ", ".join(_parts(e)), e.why) for e in made.tensor]
    return [*rows, (made.default, "all else", "")]


def first_sentence(text: str) -> str:
    """Up to the first colon, semicolon or full stop that ends a clause."""
    ends = [i for i in (text.find(mark) for mark in (": ", "; ", ". ")) if i > 0]
    return text[: min(ends)] if ends else text


def _parts(entry: RecipeEntry) -> Iterator[str]:
    roles = [role.removeprefix("any ") for role in entry.roles]
    yield " ".join(roles) if roles else "every tensor"
    if entry.dims is not None:
        stacks = {1: "vectors", 2: "single matrices", 3: "stacks of matrices"}
        yield stacks.get(entry.dims, f"{entry.dims} dimensions")
    if entry.layers:
        yield f"blocks {', '.join(entry.layers)}"
    if entry.where is not None:
        place = entry.where
        if place == "more":
            place = "first and last 1/8 and every third between"
        yield f"{place}{' by block' if entry.counted == 'block' else ''}"
    yield from _conditions(entry.condition)


def _conditions(condition: Condition) -> Iterator[str]:
    if condition.architecture is not None:
        yield f"if the model is {' or '.join(condition.architecture)}"
    if condition.size is not None:
        yield f"if it is a {condition.size}"
    if condition.experts is not None:
        yield f"if it has {condition.experts} experts"
    if condition.experts_at_least is not None:
        yield f"if it has {condition.experts_at_least} or more experts"
    if condition.gqa_at_least is not None:
        yield f"if {condition.gqa_at_least} or more heads share keys and values"
    if condition.imatrix is not None:
        yield f"{'with' if condition.imatrix else 'without'} an importance matrix"
    if condition.tied is not None:
        yield f"if embeddings {'serve' if condition.tied else 'do not serve'} as head"
