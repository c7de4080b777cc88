"""A report as people read it: errors by role and block as a picture, then tensors, worst first."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.table import Table

from ..report import table
from .findings import Report, Tested
from .judging import percent, share

LEVELS = "▁▂▃▄▅▆▇█"
BAR = 12
_BAR_EMPTY = "·" * BAR
STRIP = 48
"""Characters at most for the blocks of a model; more blocks share one."""
MOST, FEW = 12, 5
"""Tensors that are listed: of those that are not GOOD, and where all are."""
SENTENCES = 8
"""Sentences of one sort that are printed; the others are counted."""


def picture(report: Report, *, every: bool = False) -> Table:
    """A line for each role and type: its worst tensor as a bar, full at the end of GOOD, and a
    character for each block: how far up the band, `!` for WARN, `X` for FAIL, `·` where exact.
    Roles that are exact throughout share a line, unless `every`.
    """
    layers = [t.layer for t in report.tensors if t.layer is not None]
    last = max(layers, default=-1)
    each = max(1, -(-(last + 1) // STRIP))
    groups: dict[tuple[str, str], list[Tested]] = {}
    for t in report.tensors:
        groups.setdefault((t.role, t.kind.name), []).append(t)
    rows = []
    exact: dict[tuple[str, str], list[Tested]] = {}
    if not every:
        exact = {key: found for key, found in groups.items() if not any(map(_share, found))}
        groups = {key: found for key, found in groups.items() if key not in exact}
    for (role, kind), members in sorted(groups.items(), key=lambda g: -max(map(_share, g[1]))):
        worst = max(members, key=_share)
        rows.append(
            [
                role,
                kind,
                str(len(members)),
                _error(worst),
                _bar(worst),
                _strip(members, last + 1, each),
            ]
        )
    if exact:
        kinds = ", ".join(dict.fromkeys(kind for _, kind in exact))
        n = sum(map(len, exact.values()))
        rows.append([f"{len(exact)} others", kinds, str(n), "exact", _BAR_EMPTY, ""])
    of = f"blocks 0 to {last}" + (f", {each} a character" if each > 1 else "")
    heads = ("role", "type", "tensors", "relative RMSE", "of what GOOD allows", of)
    return table(heads, rows, right=("tensors", "relative RMSE"))


def _share(t: Tested) -> float:
    return share(t.kind, t.measures.rrmse, t.verdict.grade)


def _error(t: Tested) -> str:
    if t.measures.broken:
        return "not finite"
    return "exact" if t.measures.rrmse == 0 else percent(t.measures.rrmse)


def _bar(t: Tested) -> str:
    full = min(round(_share(t) * BAR), BAR)
    mark = {"GOOD": "", "WARN": " WARN", "FAIL": " FAIL"}[t.verdict.grade]
    return "█" * full + _BAR_EMPTY[full:] + mark


def _strip(members: Sequence[Tested], n: int, each: int) -> str:
    made = []
    for first in range(0, n, each):
        here = [t for t in members if t.layer is not None and first <= t.layer < first + each]
        made.append(_character(max(here, key=_share)) if here else " ")
    return "".join(made).rstrip()


def _character(t: Tested) -> str:
    if t.verdict.grade != "GOOD":
        return {"WARN": "!", "FAIL": "X"}[t.verdict.grade]
    if t.measures.rrmse == 0:
        return "·"
    return LEVELS[min(int(_share(t) * len(LEVELS)), len(LEVELS) - 1)]


def types(report: Report) -> Table:
    """A line for each type."""
    heads = ("type", "tensors", "same bytes", "relative RMSE", "worst", "cosine", "largest error")
    rows = [
        [
            name,
            str(found["tensors"]),
            str(found["same_bytes"]),
            *(
                "not finite" if found[key] is None else percent(found[key])
                for key in ("rrmse", "worst_rrmse")
            ),
            "" if found["cosine"] is None else f"{found['cosine']:.7f}",
            "" if found["max_abs_error"] is None else f"{found['max_abs_error']:.3g}",
        ]
        for name, found in report.by_type().items()
    ]
    return table(heads, rows, right=heads[1:])


def tensors(listed: Sequence[Tested]) -> Table:
    """A line for each of some tensors."""
    heads = ["", "tensor", "type", "relative RMSE", "cosine", "largest error", "bytes", "groups"]
    rows = [
        [
            t.verdict.grade,
            t.name,
            t.kind.name,
            _error(t),
            "" if math.isnan(t.measures.cosine) else f"{t.measures.cosine:.7f}",
            _where(t),
            {True: "the same", False: "others", None: ""}[t.same_bytes],
            "" if t.parts is None else f"{t.parts.same_groups} of {t.parts.groups} exact",
        ]
        for t in listed
    ]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return table(heads, rows, right=("relative RMSE", "cosine"))


def _where(t: Tested) -> str:
    m = t.measures
    return f"{m.most:.3g} at row {m.row}, column {m.column}" if m.most else "0"


def listed(report: Report, *, every: bool) -> list[Tested]:
    """Tensors to be listed, worst first."""
    ordered = report.worst_first()
    if every:
        return ordered
    off = [t for t in ordered if t.verdict.grade != "GOOD"]
    return off[:MOST] if off else [t for t in ordered if t.measures.most][:FEW]


def lines(report: Report, *, every: bool) -> Iterator[str]:
    """Sentences below the tables: what is wrong, what was compared, what that does not prove."""
    off = [t for t in report.worst_first() if t.verdict.grade != "GOOD"]
    yield from _some([f"{t.verdict.grade}: {t.name}: {t.verdict.why}" for t in off], every)
    yield from _some([f"FAIL: {sentence}" for sentence in report.problems], every)
    yield from _some([f"WARN: {sentence}" for sentence in report.warnings], every)
    for advice in dict.fromkeys(t.verdict.advice for t in off if t.verdict.advice):
        yield f"hint: {advice}"
    yield from (f"compared: {sentence}" for sentence in report.compared)
    yield from (f"not proven: {sentence}" for sentence in report.unproven)


def _some(sentences: Sequence[str], every: bool) -> Iterator[str]:
    yield from sentences if every else sentences[:SENTENCES]
    if not every and sentences[SENTENCES:]:
        yield f"... and {len(sentences) - SENTENCES} more; --all names them"


def closing(report: Report, title: str) -> str:
    """The last line."""
    counts = [f"{n} {grade}" for grade, n in report.counts.items() if n]
    n = len(report.problems)
    counts += [f"{n} problem" + "s" * (n != 1)] if n else []
    return f"{title}: {report.grade}" + (f" ({', '.join(counts)})" if counts else "")
