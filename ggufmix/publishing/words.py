"""Text from files that anyone may have written, as a page may show it; numbers in words."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
import re
from typing import Any

LONG = 300
"""Characters of a value that are shown."""
_SPACE = re.compile(r"\s+")
_HUB = re.compile(
    r"(?:https://huggingface\.co/|hf://)([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@[\w./-]+)?/?",
    re.ASCII,
)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def clean(data: object, most: int = LONG) -> str:
    """One line of printable text, at most so many characters: a replacement character stands for
    what is not printable, direction marks and halves of surrogates included.
    """
    text = data.decode(errors="replace") if isinstance(data, bytes) else str(data)
    text = text[: 4 * most] if len(text) > 4 * most else text
    text = _SPACE.sub(" ", text).strip()
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def word(data: object, most: int = LONG) -> str | None:
    """`clean` of a string, None for what is none or empty."""
    return (clean(data, most) or None) if isinstance(data, str | bytes) else None


def repository(text: object) -> str | None:
    """What the hub calls a repository, "owner/name", of its page or an hf:// address of all of it;
    of the bare name too. None of anything else.
    """
    if not isinstance(text, str):
        return None
    found = _HUB.fullmatch(text)
    name = found[1] if found else text
    return name if _REPOSITORY.fullmatch(name) and len(name) <= LONG else None


def page(text: object) -> str | None:
    """An address that may stand in a link, else None."""
    known = isinstance(text, str) and re.fullmatch(r"https?://[!-~]{1,300}", text)
    return str(text) if known else None


def gib(n_bytes: float) -> str:
    """Bytes in GiB, of a small file in smaller units."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size / 10 or unit == "KiB":
            return f"{n_bytes / size:,.2f} {unit}"
    raise AssertionError


def around(row: Any, name: str, digits: int, unit: float = 1, end: str = "") -> str:
    """A figure with what it may be off by: "4.6436 ± 0.1812"; "" where there is none."""
    value, spread = getattr(row, name), getattr(row, f"{name}_spread", None)
    if value is None:
        return ""
    value, spread = unit * value, unit * (spread if spread is not None else math.nan)
    if not math.isfinite(value):
        return "not finite"
    off = f" ± {spread:.{digits}f}" if math.isfinite(spread) else ""
    return f"{value:.{digits}f}{off}{end}"
