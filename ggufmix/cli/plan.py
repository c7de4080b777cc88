"""`ggufmix plan`."""

# SPDX-License-Identifier: MIT

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .options import Json, Threads, takes_choices
from .said import note, say

if TYPE_CHECKING:
    from ..pipeline import Options
    from ..planning import Plan


@takes_choices
def plan(
    src: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Checkpoint directory or .gguf file, hf://owner/name, s3:// or https://; or .tsv "
            "listing of tensors.",
        ),
    ],
    *,
    threads: Threads = None,
    as_json: Json = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Leave out the list of tensors.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="config.json", help="Config of a listing.")
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option("--arch", metavar="NAME", help="Architecture of a listing, if not clear."),
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option("--versus", metavar="RECIPE", help="Compare with the plan of another recipe."),
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(
            "--export",
            metavar="llama-quantize|custom-q|thireus",
            help="Print what makes that tool write these types.",
        ),
    ] = None,
    options: "Options",
) -> None:
    """Show every tensor, its type, the reason and the exact bytes. Writes nothing."""
    from .. import pipeline, progress, review

    if versus is not None and export is not None:
        raise UsageError("--versus and --export: expected one of them, got both")
    options = replace(options, config=config, arch=arch)
    if versus is not None:
        _compare(review.versus(src, options, versus), as_json=as_json)
        return
    with progress.shown() as bar:
        made = pipeline.plan(src, options=options, threads=threads, progress=bar.step)
    say([made])
    if export is not None:
        exported = review.export(made, export)
        for sentence in exported.notes:
            note(sentence)
        sys.stdout.write(exported.text)
        return
    show(made, as_json=as_json, summary=summary)


def show(made: "Plan", *, as_json: bool = False, summary: bool = False) -> None:
    """Print a plan: on stdout, for people or for machines."""
    from .. import report, review

    described = review.described(made)
    if as_json:
        print(json.dumps(described, indent=1, default=_readable))
        return
    out = report.console()
    if not summary:
        out.print(report.plan_lines(described["tensors"]), "")
    out.print(report.roles(described["roles"]), "")
    out.print(report.types(described["types"]), "")
    if described["active"] is not None:
        print(report.active(described["active"]))
    print(_last_line(made))


def _last_line(made: "Plan") -> str:
    from .. import report

    start = (
        f"{made.architecture}, recipe {made.recipe}: {report.count(made.n_weights)} weights, "
        f"{made.bits_per_weight:.2f} bits per weight, "
    )
    if made.whole:
        return start + f"{made.total_bytes:,} bytes ({report.size(made.total_bytes)})"
    return start + (
        f"{made.data_bytes:,} bytes of data ({report.size(made.data_bytes)}); the header in front "
        "of it is unknown from a listing"
    )


def _compare(found: dict[str, Any], *, as_json: bool) -> None:
    from .. import report

    if as_json:
        print(json.dumps(found, indent=1))
        return
    report.console().print(report.comparison(found))


def _readable(data: object) -> str:
    """Of keys that are no text: bytes that are not valid UTF-8."""
    return data.decode(errors="replace") if isinstance(data, bytes) else str(data)
