"""Tensors that already have GGUF names: their roles, their layers, and which architecture they are
of. Tables of the gguf package, read backwards.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

import gguf

from ..tensor import Placed, Tensor

UNKNOWN = "UNKNOWN"
"""The role of a tensor whose name gguf does not know: only rules without roles speak for it."""

_NUMBER = re.compile(r"(?<=blk\.)\d+(?=\.)")
_PART = re.compile(r"(?<=\.)\d+(?=\.)")  # of a projector, as in mm.2.weight: no block
_SUFFIX = re.compile(r"\.(weight(\.1)?|bias|scale)$")


def role_of(name: str) -> tuple[str, int | None]:
    """Role, a member name of gguf.MODEL_TENSOR or UNKNOWN, and block number of a GGUF name."""
    number = _NUMBER.search(name)
    layer = int(number[0]) if number else None
    template = (_NUMBER if number else _PART).sub("{bid}", name, count=1)
    roles = _roles()
    for spelled in (template, _SUFFIX.sub("", template), _SUFFIX.sub("", name)):
        if spelled in roles:
            return roles[spelled], layer
    return UNKNOWN, layer


def by_name(tensors: Mapping[str, Tensor]) -> list[Placed]:
    """Every tensor in the place that its GGUF name gives it."""
    return [Placed(name, *role_of(name), tensor) for name, tensor in tensors.items()]


def architectures_of(roles: Iterable[str], file_name: str = "") -> list[str]:
    """Architectures whose tensors, as gguf lists them, cover these roles; the likeliest first.

    Likely is one that has few other tensors; of several, one whose name the file's name contains,
    then the one that has been known longest. Empty if no architecture has them all.
    """
    wanted = {_ALIKE.get(role, role) for role in roles} - {UNKNOWN} - _COMMON
    found: list[tuple[int, int, str]] = []
    for order, arch in enumerate(gguf.MODEL_ARCH):
        listed = {_ALIKE.get(role.name, role.name) for role in gguf.MODEL_TENSORS.get(arch, ())}
        if not wanted - listed:
            found.append((len(listed - wanted - _COMMON), order, gguf.MODEL_ARCH_NAMES[arch]))
    if not found:
        return []
    close = [f for f in found if f[0] <= min(found)[0] + _CLOSE]
    plain = file_name.lower().replace("-", "").replace(".", "")
    named = [(name.replace("-", "") in plain, len(name)) for _, _, name in close]
    ranked = sorted(
        zip(close, named, strict=True),
        key=lambda c: (not c[1][0], -c[1][1] if c[1][0] else 0, c[0][1]),
    )
    return [name for (_, _, name), _ in ranked]


_ALIKE = {"FFN_PRE_NORM": "FFN_NORM"}
_COMMON = {"ROPE_FREQS", "ATTN_ROT_EMBD", "OUTPUT"}
_CLOSE = 2


@cache
def _roles() -> dict[str, str]:
    found: dict[str, str] = {}
    for role, template in gguf.TENSOR_NAMES.items():
        found.setdefault(template, role.name)
    return found
