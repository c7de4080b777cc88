"""`ggufmix verify`."""

# SPDX-License-Identifier: MIT

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .options import Json, Threads
from .said import shown

if TYPE_CHECKING:
    from ..verifying import Report


def verify(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.gguf|DIR",
            help="A .gguf file, of a split one any part; or an FP8 checkpoint.",
        ),
    ],
    *,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="SRC", help="What it was made from; an address will do."),
    ] = None,
    checksums: Annotated[
        bool,
        typer.Option("--checksums", help="Hold it against its own checksums; no SRC is needed."),
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", metavar="FILE", help="The .toml recipe it was made with."),
    ] = None,
    imatrix: Annotated[
        list[Path] | None,
        typer.Option("--imatrix", metavar="FILE", help="The importance matrix it was made with."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Encode nothing again: compare values and checksums."),
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Compare N tensors: some of each type and role."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List every tensor.")] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Hold a file against its source, or its checksums. Exit 1 where a tensor or a byte fails."""
    if out.is_dir():
        given = {"--recipe": recipe, "--imatrix": imatrix, "--quick": quick, "--sample": sample}
        given |= {"--all": every, "--checksums": checksums and against is not None}
        for option, value in given.items():
            if value:
                raise UsageError(f"{option} is for GGUF files: of a folder all is compared")
        _folder(out, against, threads, as_json=as_json)
        return
    from .. import progress, proof, publishing

    if checksums and against is not None:
        raise UsageError("--checksums needs nothing but the file: leave --against out, or it")
    with progress.shown() as bar:
        if against is None:
            _only({"--recipe": recipe, "--imatrix": imatrix, "--quick": quick, "--sample": sample})
            report = proof.verify_sums(out, threads=threads, progress=bar.step)
        else:
            report = proof.verify(
                out,
                against,
                recipe=recipe,
                imatrix=imatrix or (),
                quick=quick,
                sample=sample,
                threads=threads,
                progress=bar.step,
            )
    if as_json:
        named = {"file": out.name, **publishing.identity(out)}
        print(json.dumps(named | report.as_dict(), indent=1))
    else:
        _print(report, out.name, sample=sample, every=every)
    if report.grade == "FAIL":
        raise typer.Exit(1)


def _only(given: dict[str, Any]) -> None:
    for option, value in given.items():
        if value:
            raise UsageError(f"{option} is for --against SRC: checksums need nothing but the file")


def _print(report: "Report", title: str, *, sample: int | None, every: bool) -> None:
    from ..report import console
    from ..verifying import drawing

    screen = console()
    if report.tensors:
        screen.print(drawing.picture(report, every=every), "", drawing.types(report), "")
        listed = drawing.listed(report, every=every)
        if listed:
            screen.print(drawing.tensors(listed), "")
        if sample is not None and not every:
            print(f"sampled: {', '.join(shown(t.name) for t in report.tensors)}")
    for line in drawing.lines(report, every=every):
        print(shown(line))
    print(shown(drawing.closing(report, title)))


def _folder(out: Path, against: str | None, threads: int | None, *, as_json: bool) -> None:
    """An FP8 checkpoint."""
    from .. import progress
    from ..fp8 import rereading
    from .fp8 import show_review

    if against is None:
        raise UsageError(
            f"{out}: a folder has no checksums of its own: there is nothing to hold it against",
            hint="--against SRC compares it with the checkpoint it was made from",
        )
    with progress.shown() as bar:
        review = rereading.verify(out, against, threads=threads, progress=bar.step)
    show_review(review, out.name, as_json=as_json)
