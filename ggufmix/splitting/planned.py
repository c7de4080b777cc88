"""The files of a plan: one, or several parts."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from .. import checksums
from ..planning import Plan, Planned
from ..writing import Part, Sums
from ..writing.encoding import Counts, encodings
from .dividing import Division, Item, Limits, divide, whole


def parts_of(
    plan: Plan,
    out: Path,
    *,
    limits: Limits | None = None,
    homes: Sequence[str] = (),
    measuring: bool = False,
) -> list[Part[Counts]]:
    """What is to be written for a plan.

    out        path of the file; with limits or homes what the names of the parts begin with
    limits     of a part; None: one file, or as many parts as there are homes
    homes      names of the source's parts: each tensor goes to the part that it has there
    measuring  errors are measured, as `encodings` does
    """
    tensors = list(plan.tensors)
    numbers = None
    if homes:
        home = {name: number for number, name in enumerate(homes)}
        tensors.sort(key=lambda t: home[t.placed.tensor.file])
        numbers = [home[t.placed.tensor.file] for t in tensors]
    items = [Item(t.name, t.shape, t.encoder.format.id, t.n_bytes) for t in tensors]
    if limits is None and numbers is None:
        divisions = [whole(out, plan.values, items)]
    else:
        divisions = divide(out, plan.values, items, limits, numbers, len(homes))
    names = [t.name for t in tensors]
    planned = {t.name: t for t in tensors}
    return [_part(division, planned, names, measuring=measuring) for division in divisions]


def _part(
    division: Division, planned: dict[str, Planned], names: Sequence[str], *, measuring: bool
) -> Part[Counts]:
    base = len(division.header)
    tensors = [
        replace(planned[item.name], offset=offset - base)
        for item, offset in zip(division.items, division.offsets, strict=True)
    ]
    return Part(
        division.path,
        division.header,
        encodings(tensors, base, measuring=measuring),
        division.size,
        partial(_sealed, division, names),
    )


def _sealed(division: Division, names: Sequence[str], sums: Sums) -> bytes:
    """The header of a part; the first one has the checksums of the tensors of all of them."""
    return checksums.sealed(division.header, division.values, [sums[name][0] for name in names])
