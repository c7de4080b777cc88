"""`ggufmix imatrix`."""

# SPDX-License-Identifier: MIT

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Json, Overwrite
from .said import note

if TYPE_CHECKING:
    from ..imatrix import Entry

MOST = 20
"""Lines of the table, unless all are asked for."""


def imatrix(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Importance matrices, GGUF or legacy .dat; several are merged."
        ),
    ],
    *,
    as_json: Json = False,
    every: Annotated[
        bool, typer.Option("--all", help="List every entry, not only the least covered.")
    ] = False,
    merge: Annotated[
        Path | None,
        typer.Option("--merge", metavar="OUT.gguf", help="Write it, merged, as a GGUF imatrix."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Say what an importance matrix covers: entries, tokens, experts, what looks wrong."""
    from .. import imatrix as importance
    from .. import report

    made = importance.read(files)
    rows = [_row(entry) for entry in made.entries.values()]
    if merge is not None:
        importance.save(made, merge, overwrite=overwrite)
        note(f"{merge}: {len(rows)} entries")
    described = importance.described(made)
    if as_json:
        print(json.dumps(described | {"by_entry": rows}, indent=1))
        return
    out = report.console()
    facts = {key.replace("_", " "): _said(value) for key, value in described.items()}
    out.print(report.table(("", ""), facts.items()), "")
    rows.sort(key=lambda row: (not row["looks"], row["covered"] / row["matrices"], row["least"]))
    shown = rows if every else rows[:MOST]
    heads = ("entry", "matrices", "columns", "covered", "tokens, least", "most", "looks wrong")
    lines = (
        [
            row["name"],
            str(row["matrices"]),
            str(row["columns"]),
            f"{100 * row['covered'] / row['matrices']:.1f} %",
            f"{row['least']:,}",
            f"{row['most']:,}",
            ", ".join(row["looks"]),
        ]
        for row in shown
    )
    out.print(report.table(heads, lines, right=heads[1:6]))
    if len(shown) < len(rows):
        print(f"and {len(rows) - len(shown)} more, covered as well or better (--all lists them)")
    whole = sum(row["covered"] == row["matrices"] for row in rows)
    wrong = sum(bool(row["looks"]) for row in rows)
    print(
        f"{made.name}: {len(rows)} entries, {whole} covered whole, "
        f"{sum(row['matrices'] - row['covered'] for row in rows)} matrices that no token reached, "
        f"{wrong} entries that look wrong"
    )


def _row(entry: "Entry") -> dict[str, Any]:
    from .. import imatrix as importance

    health = importance.examine(entry)
    looks = [f"{health.nonfinite} values not finite"] if health.nonfinite else []
    looks += [f"{health.negative} values below zero"] if health.negative else []
    looks += [f"{len(health.zero)} matrices all zero"] if health.zero else []
    return {
        "name": entry.name,
        "matrices": health.matrices,
        "columns": entry.n_values // health.matrices,
        "covered": health.matrices - len(health.unrouted),
        "least": int(entry.tokens.min()),
        "most": int(entry.tokens.max()),
        "zeros": health.zeros,
        "unrouted": list(health.unrouted),
        "looks": looks,
    }


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
