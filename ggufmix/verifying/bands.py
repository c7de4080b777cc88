"""What relative RMSE a type may have: rules/bands.toml."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

from ..codecs import Format
from ..rules.files import read

_WHERE = "bands.toml"


class Band(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Relative RMSE: up to `good` is GOOD, up to `warn` WARN, beyond FAIL."""

    good: float
    warn: float


EXACT = Band(0.0, 0.0)
"""Of types that hold what they were given, or nothing is known of."""


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    schema: Literal[1]
    source: str
    band: dict[str, Band]


@cache
def bands() -> dict[str, Band]:
    """All there are, by type."""
    raw = (files("ggufmix.rulebook") / _WHERE).read_bytes()
    return read(f"rules/{_WHERE}", raw, _File).band


def band(kind: Format) -> Band:
    """Of one type; EXACT where it has none."""
    return bands().get(kind.name, EXACT)
