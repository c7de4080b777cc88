"""Tensors that earlier files have already, byte for byte as they would be written.

A file that ggufmix wrote says of each tensor what it was made from, and what with (see checksums).
Where both, name, shape and type are those of a tensor that is to be written, its data are copied.
Before that the source is read and hashed, the file's data are held against the file's checksums,
and the first row of every band is encoded again and held against the file's. What does not fit, or
cannot be seen to fit, is encoded.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from enum import IntEnum, auto
from importlib.metadata import version

from . import checksums, writing
from .errors import SourceError, WriteError
from .planning import Planned
from .sources import GgufFile, open_gguf
from .splitting import Layout
from .writing import Job
from .writing.comparing import Comparing, Match
from .writing.encoding import Each, Encoding
from .writing.origins import Ready, whole_method


class Why(IntEnum):
    """Why a tensor is not copied; of several files the reason of the one that comes nearest counts,
    which is the greatest.
    """

    NOWHERE = auto()
    ABSENT = auto()
    SHAPE = auto()
    TYPE = auto()
    METHOD = auto()
    SOURCE = auto()
    DAMAGED = auto()
    OTHERWISE = auto()
    STORED = auto()


_WHY = {
    Why.ABSENT: "not in it",
    Why.SHAPE: "of another shape",
    Why.TYPE: "of another type",
    Why.METHOD: "by another encoder or with another importance",
    Why.SOURCE: "of other values",
    Why.DAMAGED: "damaged in it",
    Why.OTHERWISE: "not as this encoder writes them",
    Why.STORED: "moved from the source as they are",
}

Pick = tuple[str, int, int]
"""Name of a job, number of one of its targets, number of the file that has its data."""


@dataclass(frozen=True, slots=True)
class Old:
    """A file whose tensors may be copied, with what it says of them, by name."""

    path: str
    file: GgufFile
    sums: Mapping[str, int]
    sources: Mapping[str, int]
    methods: Mapping[str, int]

    def ready(self, name: str) -> Ready:
        """A tensor of it."""
        numbers = (of[name] for of in (self.sums, self.sources, self.methods))
        return Ready(self.path, self.file.tensors[name], *numbers)

    def lacks(self, planned: Planned, method: int) -> Why | None:
        """Why a tensor cannot be copied from it, as far as its header says; None where it may."""
        theirs = self.file.tensors.get(planned.name)
        if theirs is None:
            return Why.ABSENT
        if (theirs.shape[::-1] or (1,)) != planned.shape:
            return Why.SHAPE
        if theirs.kind.id != planned.encoder.format.id:
            return Why.TYPE
        return None if self.methods[planned.name] == method else Why.METHOD


@dataclass(frozen=True, slots=True)
class Olds:
    """Files that may be reused, by their number among those named; and why others may not."""

    files: Mapping[int, Old]
    notes: tuple[str, ...] = ()


@contextmanager
def opened(paths: Sequence[str | os.PathLike[str]]) -> Iterator[Olds]:
    """Open files that may be reused, of a split one any part.

    Raises UsageError where there is none; a file that is no good is noted and left out.
    """
    files: dict[int, Old] = {}
    notes = []
    with ExitStack() as stack:
        for number, path in enumerate(os.fspath(path) for path in paths):
            try:
                file = stack.enter_context(open_gguf(path))
                files[number] = _trusted(path, file)
            except SourceError as error:
                notes.append(f"{path} is not reused: {error}")
        yield Olds(files, tuple(notes))


def _trusted(path: str, file: GgufFile) -> Old:
    """Raises SourceError for a file that does not say what its tensors follow from, or that cannot
    be believed.
    """
    stated, own = file.values.get("ggufmix.version"), version("ggufmix")
    arrays = [file.numbers(key) for key in checksums.ARRAYS]
    if stated is None:
        raise SourceError("it was not written by ggufmix")
    if stated.data != own:
        raise SourceError(f"it was written by ggufmix {stated.data}, this is {own}")
    for name in file.unsealed():
        raise SourceError(f"the header of {name} has no checksum")
    for name in file.broken_seals():
        raise SourceError(f"the header of {name} is not what its checksum says")
    sums, sources, methods = arrays
    if sums is None or sources is None or methods is None:
        raise SourceError("it does not say what its tensors were made from")
    return Old(path, file, sums, sources, methods)


@dataclass(frozen=True, slots=True)
class Reuse:
    """What is copied.

    picks  what from where
    where  path of the file, by number of the part and name of the tensor
    why    why others are not, the same way
    """

    picks: list[Pick] = field(default_factory=list)
    where: dict[tuple[int, str], str] = field(default_factory=dict)
    why: dict[tuple[int, str], Why] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What is to be encoded for some targets of a job, and a file that may have it."""

    planned: Planned
    targets: Sequence[int]
    number: int
    ready: Ready


def compared(
    layout: Layout,
    olds: Olds,
    *,
    threads: int,
    progress: writing.Progress | None = None,
    abandon: Callable[[], None] | None = None,
) -> Reuse:
    """See which data of a layout files have. Reads the source, and the files, as far as their
    headers give hope. Raises the errors of reading the source.
    """
    reuse = Reuse()
    hoped: dict[str, tuple[Encoding, list[_Candidate]]] = {}
    for job in layout.jobs:
        candidates = []
        for planned, targets in job.kinds:
            reason, found = _looked_up(planned, olds)
            reuse.why.update((_key(job, target), reason) for target in targets)
            candidates += [_Candidate(planned, targets, number, ready) for number, ready in found]
        if candidates:
            hoped[job.name] = job, candidates

    def ended(job: Job[Each[Match]], found: Each[Match], sums: tuple[int, ...]) -> None:
        of, candidates = hoped[job.name]
        for candidate, match, total in zip(candidates, found.of, sums, strict=True):
            reason = _judged(candidate.ready, match, total)
            for target in candidate.targets:
                key = _key(of, target)
                if key in reuse.where:
                    continue
                if reason is not None:
                    reuse.why[key] = max(reuse.why[key], reason)
                    continue
                del reuse.why[key]
                reuse.where[key] = candidate.ready.where
                reuse.picks.append((of.name, target, candidate.number))

    writing.run(
        [Comparing(of, tuple((c.planned, c.ready) for c in them)) for of, them in hoped.values()],
        None,
        ended,
        threads=threads,
        progress=progress,
        abandon=abandon,
    )
    return reuse


def _looked_up(planned: Planned, olds: Olds) -> tuple[Why, list[tuple[int, Ready]]]:
    """Why a tensor is not copied, if it is not; and files that may have it, by their headers."""
    if planned.copied or planned.widened:
        return Why.STORED, []
    if not olds.files:
        return Why.NOWHERE, []
    method = whole_method(planned)
    lacks = {number: old.lacks(planned, method) for number, old in olds.files.items()}
    found = [
        (n, olds.files[n].ready(planned.name)) for n, reason in lacks.items() if reason is None
    ]
    why_not = (reason for reason in lacks.values() if reason is not None)
    return max(why_not, default=Why.ABSENT), found


def _judged(ready: Ready, match: Match, total: int) -> Why | None:
    """Why data are not taken; None where they are.

    total  their checksum
    """
    if match.source != ready.source:
        return Why.SOURCE
    if total != ready.sum:
        return Why.DAMAGED
    return None if match.same else Why.OTHERWISE


def _key(job: Encoding, target: int) -> tuple[int, str]:
    """Number of the part, and name of the tensor."""
    of = job.targets[target]
    return of.extent.part, of.planned.name


def picked(layout: Layout, olds: Olds, picks: Sequence[Pick]) -> Layout:
    """A layout some of whose data are ready. Raises WriteError where a file is no longer so."""
    numbers = {(job, target): number for job, target, number in picks}

    def ready(job: Encoding) -> Encoding:
        targets = list(job.targets)
        for slot, target in enumerate(targets):
            of = numbers.get((job.name, slot))
            if of is None:
                continue
            if of not in olds.files:
                raise WriteError(
                    f"{target.planned.name}: was to be copied from a file that is not there or has "
                    f"changed: {'; '.join(olds.notes)}"
                )
            targets[slot] = replace(target, ready=olds.files[of].ready(target.planned.name))
        return replace(job, targets=tuple(targets))

    return replace(layout, jobs=tuple(map(ready, layout.jobs)))


def said(reuse: Reuse, parts: Sequence[int], n_tensors: int) -> str:
    """A sentence on what was copied into some parts, of so many tensors."""
    files = Counter(path for (part, _), path in reuse.where.items() if part in parts)
    reasons = Counter(reason for (part, _), reason in reuse.why.items() if part in parts)
    copied = sum(files.values())
    sentence = f"{copied} of {n_tensors} tensors copied"
    if len(files) == 1:
        sentence += f" from {next(iter(files))}"
    elif files:
        sentence += f" ({', '.join(f'{n} from {path}' for path, n in files.items())})"
    if stored := reasons.pop(Why.STORED, 0):
        sentence += f", {stored} {_WHY[Why.STORED]}"
    if encoded := sum(reasons.values()):
        sentence += f", {encoded} encoded"
        why = [
            f"{n} {_WHY[reason]}" for reason, n in sorted(reasons.items()) if reason != Why.NOWHERE
        ]
        sentence += f": {', '.join(why)}" if why else ""
    return sentence
