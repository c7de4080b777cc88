"""What commands say besides their result: on stderr, one sentence a line."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..planning import Plan


def say(plan: Plan) -> None:
    """The notes and warnings of a plan."""
    for sentence in plan.notes:
        note(sentence)
    for sentence in plan.warnings:
        print(f"warning: {sentence}", file=sys.stderr)


def note(sentence: str) -> None:
    """Something worth knowing."""
    print(f"note: {sentence}", file=sys.stderr)
