"""What commands say besides their result: on stderr, one sentence a line."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ..planning import Plan

LONGEST = 4000
"""Characters of the longest sentence that is printed."""


def say(plans: Sequence[Plan]) -> None:
    """The notes and warnings of plans; where it is not said of all of them, with the recipe."""
    for put, of_plans in (
        (note, [(plan.recipe, plan.notes) for plan in plans]),
        (warn, [(plan.recipe, plan.warnings) for plan in plans]),
    ):
        said: dict[str, list[str]] = {}
        for recipe, sentences in of_plans:
            for sentence in sentences:
                said.setdefault(sentence, []).append(recipe)
        for sentence, recipes in said.items():
            put(sentence if len(recipes) == len(plans) else f"{', '.join(recipes)}: {sentence}")


def warn(sentence: str) -> None:
    """Something that should not be overlooked."""
    print(f"warning: {shown(sentence)}", file=sys.stderr)


def unsummed(names: Iterable[str]) -> None:
    """Files of which SHA256SUMS has no line any more."""
    if listed := ", ".join(sorted(names)):
        note(
            f"SHA256SUMS has no line on {listed} any more, which was written after it: "
            "`ggufmix report --sha256sums` makes one"
        )


def note(sentence: str) -> None:
    """Something worth knowing."""
    print(f"note: {shown(sentence)}", file=sys.stderr)


@contextmanager
def resumable(out: str | Path, unfinished: Callable[[], bool]) -> Iterator[None]:
    """Say where a command that did not end well has left something to continue."""
    try:
        yield
    except BaseException:
        if unfinished():
            note(f"{out} is unfinished: the same command with --resume continues it")
        raise


def shown(sentence: str) -> str:
    """A sentence as a terminal may get it: names in it come from files that anyone may have
    written, so no control characters, and an end.
    """
    sentence = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in sentence)
    return sentence if len(sentence) <= LONGEST else f"{sentence[:LONGEST]}..."
