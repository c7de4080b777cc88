"""What a verify found: a line for each tensor, and what it says of the file."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..codecs import Format
from ..measures import Measures
from ..planning import Plan
from .bands import band
from .judging import Grade, Verdict, verdict, worst


@dataclass(frozen=True, slots=True)
class Parts:
    """Of weights that the source has in blocks: those that the file has bit for bit.

    groups  that share a scale; codes and scales of all of them: `same_*` are bit-equal
    """

    groups: int = 0
    same_groups: int = 0
    same_codes: int = 0
    same_scales: int = 0
    codes: int = 0

    def __add__(self, other: Parts) -> Parts:
        """Both."""
        return Parts(
            self.groups + other.groups,
            self.same_groups + other.same_groups,
            self.same_codes + other.same_codes,
            self.same_scales + other.same_scales,
            self.codes + other.codes,
        )


@dataclass(frozen=True, slots=True)
class Tested:
    """One tensor.

    role, layer  as in tensor.Placed
    kind         what the file stores it as
    measures     of the source's values and the file's
    verdict      on it
    same_bytes   whether its bytes are those that they should be; None where nobody can say
    should       what those bytes are, in words: "copied", "encoded again"; "" where nobody can say
    parts        of a source in blocks that this type can hold as they are, else None
    """

    name: str
    role: str
    layer: int | None
    kind: Format
    measures: Measures
    verdict: Verdict
    same_bytes: bool | None = None
    should: str = ""
    parts: Parts | None = None

    def as_dict(self) -> dict[str, Any]:
        """For machines; what is no number is null."""
        m, parts = self.measures, self.parts
        return {
            "name": self.name,
            "role": self.role,
            "layer": self.layer,
            "type": self.kind.name,
            "verdict": self.verdict.grade,
            "why": self.verdict.why,
            "advice": self.verdict.advice,
            "weights": m.count,
            "rrmse": _number(m.rrmse),
            "cosine": _number(m.cosine),
            "max_abs_error": _number(m.most),
            "row": m.row,
            "column": m.column,
            "not_finite": m.broken,
            "same_bytes": self.same_bytes,
            "should_be": self.should or None,
            "groups": None
            if parts is None
            else {
                "all": parts.groups,
                "same": parts.same_groups,
                "same_scales": parts.same_scales,
                "codes": parts.codes,
                "same_codes": parts.same_codes,
            },
        }


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None


@dataclass(frozen=True)
class Report:
    """A whole file.

    tensors   those that were tested, in the order of the file
    problems  sentences on anything else that is wrong; each one fails the file
    warnings  sentences on what is not as expected, yet no failure
    compared  sentences on what was compared
    unproven  sentences on what was not, or what that does not prove
    n_all     tensors of the file, tested or not
    """

    tensors: tuple[Tested, ...]
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()
    n_all: int = 0

    @property
    def grade(self) -> Grade:
        """The worst there is."""
        found: set[Grade] = {t.verdict.grade for t in self.tensors}
        found |= {"FAIL"} if self.problems else {"WARN"} if self.warnings else set()
        return worst(found)

    @property
    def counts(self) -> dict[str, int]:
        """Tensors by grade."""
        grades = [t.verdict.grade for t in self.tensors]
        return {grade: grades.count(grade) for grade in ("GOOD", "WARN", "FAIL")}

    def by_type(self) -> dict[str, dict[str, Any]]:
        """Type -> tensors, those with the right bytes, and the errors of all of them together."""
        groups: dict[str, list[Tested]] = {}
        for t in self.tensors:
            groups.setdefault(t.kind.name, []).append(t)
        found: dict[str, dict[str, Any]] = {}
        for name, members in sorted(
            groups.items(), key=lambda g: -sum(t.measures.count for t in g[1])
        ):
            total = sum((t.measures for t in members), Measures())
            found[name] = {
                "tensors": len(members),
                "same_bytes": sum(t.same_bytes is True for t in members),
                "weights": total.count,
                "rrmse": _number(total.rrmse),
                "cosine": _number(total.cosine),
                "max_abs_error": _number(total.most),
                "worst_rrmse": _number(max(t.measures.rrmse for t in members)),
            }
        return found

    def worst_first(self) -> list[Tested]:
        """Failures first, then by how far a tensor is up its band."""
        return sorted(self.tensors, key=lambda t: (-_severity(t), t.name))

    def as_dict(self) -> dict[str, Any]:
        """For `verify --json`: plain values only."""
        return {
            "verdict": self.grade,
            "counts": self.counts,
            "tensors_in_file": self.n_all,
            "problems": list(self.problems),
            "warnings": list(self.warnings),
            "compared": list(self.compared),
            "unproven": list(self.unproven),
            "types": self.by_type(),
            "tensors": [t.as_dict() for t in self.tensors],
        }


def _severity(t: Tested) -> float:
    grades = {"GOOD": 0.0, "WARN": 1e9, "FAIL": 2e9}
    rrmse = t.measures.rrmse
    share = 1e8 if not math.isfinite(rrmse) else rrmse / max(band(t.kind).good, 1e-9)
    return grades[t.verdict.grade] + min(share, 1e8)


def of_plan(plan: Plan, measured: Mapping[str, Measures]) -> Report:
    """Judge what `convert` measured while it wrote: sums by tensor name."""
    tensors = tuple(
        Tested(
            t.name,
            t.placed.role,
            t.placed.layer,
            t.encoder.format,
            measured[t.name],
            verdict(t.encoder.format, measured[t.name]),
        )
        for t in plan.tensors
        if t.name in measured
    )
    return Report(tensors, n_all=len(plan.tensors))


def sentences(tensors: Sequence[Tested]) -> Iterator[str]:
    """One on each tensor that is not GOOD: what it is, why, and what to do."""
    for t in tensors:
        if t.verdict.grade != "GOOD":
            yield f"{t.verdict.grade} {t.name} ({t.kind}): {t.verdict.why}"
            if t.verdict.advice:
                yield f"  hint: {t.verdict.advice}"
