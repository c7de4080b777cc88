"""What commands say besides their result: on stderr, one sentence a line."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..planning import Plan

LONGEST = 4000
"""Characters of the longest sentence that is printed."""


def say(plan: Plan) -> None:
    """The notes and warnings of a plan."""
    for sentence in plan.notes:
        note(sentence)
    for sentence in plan.warnings:
        print(f"warning: {shown(sentence)}", file=sys.stderr)


def note(sentence: str) -> None:
    """Something worth knowing."""
    print(f"note: {shown(sentence)}", file=sys.stderr)


def shown(sentence: str) -> str:
    """A sentence as a terminal may get it: names in it come from files that anyone may have
    written, so no control characters, and an end.
    """
    sentence = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in sentence)
    return sentence if len(sentence) <= LONGEST else f"{sentence[:LONGEST]}..."
