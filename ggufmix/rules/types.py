"""Names of storage types: those this program writes, those it only knows, and ik_llama.cpp's.

A rule, a recipe or a user may name any of them: a plan has their sizes. Whether a type can be
written is asked when something is to be written.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from functools import cache

from .. import codecs
from ..codecs import Encoder, Format
from ..errors import UsageError
from ..tensor import DTYPE_NAMES, Placed
from .files import nearest, shipped

_NOT_WEIGHTS = frozenset({"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"})


def type_named(name: str) -> Encoder:
    """The way to store a type, by its name in any case.

    Types without an encoder get one that carries the name and the size and whose
    `format.encodes` is False. Raises UsageError with the nearest name.
    """
    found = _types().get(name.upper())
    if found is None:
        raise UsageError(
            f"expected a type: {', '.join(codecs.ENCODERS)}, or one that only plans know; "
            f"got {name!r}",
            hint=nearest(name.upper(), _types()),
        )
    return found


def stored_type(placed: Placed) -> Encoder:
    """What a tensor has in the source: its blocks, or its values."""
    stored = placed.tensor.format
    if stored is not None:
        return Encoder(stored.name, stored)
    return type_named(DTYPE_NAMES.get(placed.tensor.dtype, "F32"))


def is_foreign(kind: Format) -> bool:
    """Whether only ik_llama.cpp reads this type."""
    return kind.name in shipped().types


def foreign_formats() -> list[Format]:
    """The types that only ik_llama.cpp reads."""
    return [type_named(name).format for name in shipped().types]


def plain(encoder: Encoder) -> Encoder | None:
    """What an interleaved type becomes where single rows are looked up (embeddings), or None."""
    foreign = shipped().types.get(encoder.format.name)
    return type_named(foreign.plain) if foreign and foreign.plain else None


@cache
def _types() -> dict[str, Encoder]:
    found = dict(codecs.ENCODERS)
    for name, kind in codecs.FORMATS.items():
        if name not in found and name not in _NOT_WEIGHTS:
            found[name] = Encoder(name, kind)
    for name, t in shipped().types.items():
        kind = Format(
            name, t.id, t.values, t.bytes, encodes=False, decodes=False, row_header=t.row_bytes
        )
        found.setdefault(name, Encoder(name, kind))
    return found
