"""`ggufmix plan`."""

# SPDX-License-Identifier: MIT

import json
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json, Source, Threads, takes_choices
from .said import say

if TYPE_CHECKING:
    from ..pipeline import Options


@takes_choices
def plan(
    src: Source,
    *,
    threads: Threads = None,
    as_json: Json = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Leave out the list of tensors.")
    ] = False,
    options: "Options",
) -> None:
    """Show every tensor, its type, the reason and the exact bytes. Writes nothing."""
    from .. import pipeline, progress, report

    with progress.shown() as bar:
        made = pipeline.plan(src, options=options, threads=threads, progress=bar.step)
    say(made)
    described = made.as_dict()
    if as_json:
        print(json.dumps(described, indent=1))
        return
    out = report.console()
    if not summary:
        out.print(report.plan_lines(described["tensors"]), "")
    out.print(report.roles(described["roles"]), "")
    out.print(report.types(described["types"]), "")
    print(
        f"{made.architecture}, recipe {made.recipe}: {report.count(made.n_weights)} weights, "
        f"{made.bits_per_weight:.2f} bits per weight, {made.total_bytes:,} bytes "
        f"({report.size(made.total_bytes)})"
    )
