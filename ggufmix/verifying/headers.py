"""The header of a file beside the one that a plan gives."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .. import checksums
from ..container import Value, header
from ..planning import Plan
from ..sources import GgufFile
from . import reading
from .comparing import Errors
from .reading import Part

PADDING = "ggufmix.padding"
_FINGERPRINTS = "ggufmix.source.fingerprints"
_REVISIONS = "ggufmix.source.revisions"
_PLACES = ("ggufmix.source.", PADDING, "split.", *checksums.ARRAYS, checksums.HEADER)
"""Beginnings of keys that do not follow from a plan, or are looked at in another way."""


def damage(parts: Sequence[Part], *, seals: bool = True) -> Iterator[str]:
    """Sentences on headers that are not what their checksums say, on one that lost its checksum
    where others or the tensors have theirs, and on padding that is not zero.

    seals  False: nothing on checksums
    """
    sealed = [reading.is_sealed(part) for part in parts]
    summed = reading.stated_sums(parts) is not None
    for part, has_seal in zip(parts, sealed, strict=True):
        if seals and reading.seal_broken(part):
            yield f"{part.name}: the header is not what its checksum says: damaged"
        elif seals and not has_seal and (summed or any(sealed)):
            yield f"{part.name}: the header has no checksum, and should have one: damaged"
        yield from reading.strays(part)


def differences(parts: Sequence[Part], planned: Plan) -> tuple[list[str], list[str]]:
    """Problems and warnings of the header of a file that was planned again as it says it was made.

    Key-values that differ are problems, and warnings where the header's checksum is right: then
    somebody set them, or made the file of another state of the source.
    """
    problems = list(_types(parts, planned))
    values = parts[0].header.values
    sealed = all(reading.is_sealed(p) and not reading.seal_broken(p) for p in parts)
    different = list(_keys(values, planned.values))
    if sealed:
        warnings = [f"{sentence}; the header's checksum is right" for sentence in different]
    else:
        problems += different
        warnings = []
        problems += [
            f"{p.name}: its header has other bytes than its content is written as"
            for p in parts
            if reading.written_otherwise(p)
        ]
    if _other_source(values, planned):
        warnings.append("it was made from other files than SRC has: their headers are others")
    elif _other_place(values, planned):
        pass  # the header says where the source lay: its bytes are others, its keys were compared
    elif not problems and not warnings and len(parts) == 1 and PADDING not in values:
        stated = {key: values[key].data for key in checksums.ARRAYS if key in values}
        if len(stated) == len(checksums.ARRAYS) and planned.sealed(stated) != parts[0].raw:
            problems.append(f"{parts[0].name}: its header has other bytes than convert writes")
    return problems, warnings


def origins(file: GgufFile, found: Mapping[str, Errors]) -> Iterator[str]:
    """A sentence on tensors that have the right bytes, of which the file says that they were made
    from something else, or otherwise: `convert --reuse` goes by that.

    found  beside a source, as the file was made
    """
    stated = file.numbers(checksums.SOURCES), file.numbers(checksums.METHODS)
    if stated[0] is None or stated[1] is None:
        return
    sources, methods = stated[0], stated[1]
    wrong = [
        name
        for name, of in found.items()
        if of.same and (of.source, of.method) != (sources[name], methods[name])
    ]
    if wrong:
        more = f" and {len(wrong) - 1} more tensors have" if wrong[1:] else " has"
        yield (
            f"{wrong[0]}{more} the right bytes, but the file says that they were made from other "
            "values, or with something else, than SRC and recipe give"
        )


def _types(parts: Sequence[Part], planned: Plan) -> Iterator[str]:
    theirs = {t.name: t.type.name for part in parts for t in part.header.tensors}
    ours = {t.name: t.encoder.format.name for t in planned.tensors}
    for name, kind in theirs.items():
        if ours.get(name, kind) != kind:
            yield f"{name}: is {kind}, recipe {planned.recipe} makes it {ours[name]}"
    if theirs.keys() == ours.keys() and list(theirs) != list(ours):
        yield "its tensors are in another order than convert writes them"


def _keys(theirs: Mapping[str, Value], ours: Mapping[str, Value]) -> Iterator[str]:
    """Sentences on key-values that differ from a plan's."""
    for key in dict.fromkeys([*ours, *theirs]):
        if key.startswith(_PLACES):
            continue
        if key not in theirs:
            yield f"key {key}: is missing"
        elif key not in ours:
            yield f"key {key}: convert does not write it"
        elif not _same(theirs[key], ours[key]):
            yield f"key {key}: is not what convert writes"


def _other_source(values: Mapping[str, Value], planned: Plan) -> bool:
    """Whether a file records other files than the source has now."""
    stated, found = values.get(_FINGERPRINTS), planned.values.get(_FINGERPRINTS)
    return stated is not None and found is not None and not _same(stated, found)


def _other_place(values: Mapping[str, Value], planned: Plan) -> bool:
    """Whether a file was made from the same source at another place, or of another revision."""
    stated, found = values.get(_REVISIONS), planned.values.get(_REVISIONS)
    if stated is None or found is None:
        return stated is not found
    return not _same(stated, found)


def _same(a: Value, b: Value) -> bool:
    """Whether two values are the same in a file."""
    return header({"": a}, ()) == header({"": b}, ())
