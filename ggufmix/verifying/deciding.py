"""From what was found in a tensor to what is said of it."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .comparing import Comparison, Errors
from .findings import Tested
from .judging import Verdict, percent, verdict


@dataclass(frozen=True)
class Told:
    """What is known of a file besides its tensors.

    exact   how it was made is known, so that its bytes follow from the source
    stated  checksums that it carries, by tensor; None where it has none
    """

    exact: bool
    stated: Mapping[str, int] | None


def tested(job: Comparison, found: Errors, checksum: int, told: Told) -> Tested:
    """What there is to say of one tensor; `checksum`: of its bytes in the file."""
    kind = job.stored.kind
    same = found.same if job.bound or found.same else None
    judged = verdict(kind, found.whole, found.most)
    if same is not True and not kind.decodes:
        judged = Verdict("FAIL", f"nobody here can read {kind}, and its bytes are not the source's")
    elif same is False:
        intact = told.stated is not None and told.stated.get(job.name) == checksum
        judged = _other_bytes(job, found, intact=intact)
    elif judged.grade == "GOOD":
        judged = _carried(found) or judged
    placed = job.planned.placed
    copied = job.planned.copied or job.planned.widened
    should = "" if same is None else "the source's blocks" if copied else "encoded again"
    return Tested(
        job.name, placed.role, placed.layer, kind, found.whole, judged, same, should, found.parts
    )


def _other_bytes(job: Comparison, found: Errors, *, intact: bool) -> Verdict:
    kind = job.stored.kind
    why = f"row {found.row} is the first with other bytes than {job.planned.encoder} of SRC has"
    values = f"; relative RMSE {percent(found.whole.rrmse)}"
    own = verdict(kind, found.whole, found.most)
    if own.grade == "FAIL" and own.why:
        values = f"; {own.why}"
    if intact:
        return Verdict(
            "FAIL",
            why + values,
            "its checksum is right, so it was written like this: SRC (or the importance matrix) is "
            "not what it was made from",
        )
    return Verdict("FAIL", why + values, "the file is damaged or was changed: convert it again")


def _carried(found: Errors) -> Verdict | None:
    """A warning where the source's codes could have been kept and were not."""
    parts = found.parts
    if parts is None or parts.same_groups == parts.groups:
        return None
    return Verdict(
        "WARN",
        f"{parts.same_groups} of {parts.groups} groups of the source that this type holds exactly "
        "are in the file bit for bit, the rest was rounded again",
        "`convert --recipe q4_x` moves codes and scales as they are",
    )
