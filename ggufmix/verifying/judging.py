"""GOOD, WARN or FAIL: what a tensor has become, held against what its type can do."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from ..codecs import Format
from ..measures import Measures
from .bands import band

Grade = Literal["GOOD", "WARN", "FAIL"]
GRADES: tuple[Grade, ...] = ("GOOD", "WARN", "FAIL")
"""From best to worst."""

UNRELATED = 0.5
"""Cosine below which two tensors are not the same one, however few bits there are: TQ1_0 keeps 0.59
of a bell-shaped weight.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A grade, what it rests on, and what to do about it; `why` and `advice` are empty where all
    is well.
    """

    grade: Grade
    why: str = ""
    advice: str = ""


GOOD = Verdict("GOOD")


def worst(grades: Collection[Grade]) -> Grade:
    """The worst of some grades; GOOD where there are none."""
    return max(grades, key=GRADES.index, default="GOOD")


def verdict(kind: Format, found: Measures, most: Measures | None = None) -> Verdict:
    """Judge the errors of one tensor.

    kind   what it is stored as
    found  sums over all of it
    most   sums over the band of it that is furthest off, where bands were looked at: damage to a
           few rows is lost in the sums of a large tensor
    """
    ends = band(kind)
    if found.broken:
        return Verdict(
            "FAIL",
            f"{found.broken} values are NaN or infinite, the first at row {found.row}, column "
            f"{found.column}",
            "the file is damaged, or was made of a damaged checkpoint: convert it again",
        )
    if found.rrmse > ends.warn:
        return _failed(kind, found, f"relative RMSE {percent(found.rrmse)}")
    if most is not None and most.rrmse > ends.warn:
        return _failed(
            kind, most, f"relative RMSE {percent(most.rrmse)} around row {most.row}, the rest fits"
        )
    if found.rrmse > ends.good:
        return Verdict(
            "WARN",
            f"relative RMSE {percent(found.rrmse)}, {kind} keeps ordinary weights within "
            f"{percent(ends.good)}",
            "weights with outliers do that, and quantizing twice does: a type with more bits "
            "keeps more of them",
        )
    return GOOD


def _failed(kind: Format, found: Measures, what: str) -> Verdict:
    limit = band(kind).warn
    why = f"{what}, {kind} does no worse than {percent(limit)} to any weights"
    if found.cosine < UNRELATED:
        return Verdict(
            "FAIL",
            f"{why}; cosine {found.cosine:.3f}: these are other weights",
            "another source, another tensor, or rows in another order: see that SRC is the "
            "checkpoint it was made from",
        )
    return Verdict(
        "FAIL",
        why,
        "made of another checkpoint (another fine-tune, a merge), quantized from fewer bits than "
        f"{kind} has, or damaged: convert it again from SRC",
    )


def share(kind: Format, rrmse: float, grade: Grade) -> float:
    """How far up the band of its type a tensor is: up to 1 where it is GOOD, 1 for WARN, 2 for
    FAIL.
    """
    if grade != "GOOD":
        return float(GRADES.index(grade))
    good = band(kind).good
    return min(rrmse / good, 1.0) if good else 0.0


def percent(x: float) -> str:
    """A relative error in three digits: 2.64 %."""
    return f"{100 * x:#.3g} %" if x else "0 %"
