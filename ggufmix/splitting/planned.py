"""The files of plans: each one, or several parts."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .. import checksums
from ..planning import Plan, Planned
from ..tensor import Tensor
from ..writing import Extent, Part, Sums
from ..writing.encoding import Counts, Each, Encoding, Target, encodings
from .dividing import Division, Item, Limits, divide, whole


@dataclass(frozen=True, slots=True)
class Output:
    """Where a plan goes.

    path    of the file; with limits or homes what the names of the parts begin with
    limits  of a part; None: one file, or as many parts as there are homes
    homes   names of the source's parts: each tensor goes to the part that it has there
    folder  of the parts, where there are several; None: that of `path`
    """

    plan: Plan
    path: Path
    limits: Limits | None = None
    homes: Sequence[str] = ()
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """What is to be written.

    parts  of all outputs, one output after the other
    jobs   that fill them
    of     numbers of the parts of each output
    """

    parts: tuple[Part, ...]
    jobs: tuple[Encoding, ...]
    of: tuple[range, ...]


def laid_out(outputs: Sequence[Output], *, measuring: bool = False) -> Layout:
    """Files and jobs for plans of one source. A tensor is read once for all of them.

    measuring  errors are measured, as `encodings` does
    """
    divided = [_divided(output) for output in outputs]
    numbers, first = [], 0
    for _, divisions in divided:
        numbers.append(range(first, first + len(divisions)))
        first = numbers[-1].stop
    targets = [
        Target(tensors[item.name], Extent(offset, item.n_bytes, number))
        for (tensors, divisions), own in zip(divided, numbers, strict=True)
        for division, number in zip(divisions, own, strict=True)
        for item, offset in zip(division.items, division.offsets, strict=True)
    ]
    jobs = encodings(targets, measuring=measuring)
    slots: dict[int, dict[str, tuple[str, int]]] = {}
    for job in jobs:
        for slot, target in enumerate(job.targets):
            slots.setdefault(target.extent.part, {})[target.planned.name] = job.name, slot
    parts = []
    for (tensors, divisions), own in zip(divided, numbers, strict=True):
        there = {name: slot for number in own for name, slot in slots.get(number, {}).items()}
        order = [there[name] for name in tensors]
        parts += [
            Part(d.path, d.header, d.size, partial(_sealed, d, order), leads=number == own.start)
            for d, number in zip(divisions, own, strict=True)
        ]
    return Layout(tuple(parts), tuple(jobs), tuple(numbers))


def _divided(output: Output) -> tuple[dict[str, Planned], list[Division]]:
    """The tensors of an output in the order of its parts, by name, and the parts."""
    tensors = list(output.plan.tensors)
    numbers = None
    if output.homes:
        home = {name: number for number, name in enumerate(output.homes)}
        # of one joined out of two parts the second: so it stays in its place among the others
        lies = {t.name: home[_last(t).file] for t in tensors}
        tensors.sort(key=lambda t: lies[t.name])
        numbers = [lies[t.name] for t in tensors]
    items = [Item(t.name, t.shape, t.encoder.format.id, t.n_bytes) for t in tensors]
    values = output.plan.values
    if output.limits is None and numbers is None:
        divisions = [whole(output.path, values, items)]
    else:
        divisions = divide(output.path, values, items, output.limits, numbers, len(output.homes))
    if output.folder is not None and len(divisions) > 1:
        divisions = [replace(d, path=output.folder / d.path.name) for d in divisions]
    return {t.name: t for t in tensors}, divisions


def _last(tensor: Planned) -> Tensor:
    """Where its last row comes from."""
    return tensor.placed.tensor.origin(tensor.placed.tensor.n_rows - 1)


def _sealed(
    division: Division,
    order: Sequence[tuple[str, int]],
    sums: Sums,
    found: Mapping[str, Each[Counts]],
) -> bytes:
    """The header of a part; the first one has the numbers of the tensors of all of them."""
    counts = [found[job].of[slot] for job, slot in order]
    numbers = {
        checksums.TENSORS: [sums[job][slot] for job, slot in order],
        checksums.SOURCES: [of_tensor.source for of_tensor in counts],
        checksums.METHODS: [of_tensor.method for of_tensor in counts],
    }
    return checksums.sealed(division.header, division.values, numbers)
