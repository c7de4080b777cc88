"""`ggufmix report`."""

# SPDX-License-Identifier: MIT

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .said import note, shown, unsummed

if TYPE_CHECKING:
    from .. import publishing
    from ..pipeline import Result

BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base-model", metavar="OWNER/NAME", help="The hub's name of the quantized checkpoint."
    ),
]
QuantizedBy = Annotated[
    str | None, typer.Option("--quantized-by", metavar="NAME", help="For the model card.")
]


def report(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE.gguf...", help="GGUF files of one model; any part of a set."),
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where to put them; is made.")
    ],
    scores: Annotated[
        list[Path] | None,
        typer.Option("--eval", metavar="JSON", help="What `ggufmix eval --json` has printed."),
    ] = None,
    verified: Annotated[
        list[Path] | None,
        typer.Option("--verify", metavar="JSON", help="What `ggufmix verify --json` has printed."),
    ] = None,
    base_model: BaseModel = None,
    quantized_by: QuantizedBy = None,
    sha256sums: Annotated[
        bool,
        typer.Option("--sha256sums", help="Write SHA256SUMS beside the files first; reads them."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write what publishing takes: index.html, a report on files, and README.md, a model card."""
    from .. import progress, publishing, sumfile

    publishing.check_place(out, overwrite=overwrite)
    rows = [row for path in scores or () for row in publishing.read_eval(path)]
    tests = [publishing.read_verify(path) for path in verified or ()]

    def gathered() -> tuple[list[publishing.File], list[str]]:
        return publishing.gather(
            files, scores=rows, verified=tests, made_from=base_model, quantized_by=quantized_by
        )

    found, notes = gathered()
    if sha256sums:
        dropped: set[str] = set()
        with progress.shown() as bar:
            for path, file in zip(files, found, strict=True):
                dropped.update(
                    sumfile.record([path.parent / part.name for part in file.parts], bar.step)
                )
        unsummed(dropped - {part.name for file in found for part in file.parts})
        found, notes = gathered()
    _publish(found, notes, out, overwrite=overwrite)


def publish(results: Sequence["Result"], src: str, out: Path, *, overwrite: bool) -> None:
    """The same of what a convert of `src` has just written or left as it was, with what it has
    measured.
    """
    from .. import publishing, verifying

    tests = [
        publishing.of_report(
            {"file": r.paths[0].name, **verifying.of_plan(r.plan, r.measured).as_dict()}
        )
        for r in results
        if r.measured
    ]
    found, notes = publishing.gather(
        [r.paths[0] for r in results],
        verified=tests,
        made_from=publishing.repository(src) if "://" in src else None,
        coverage={
            r.paths[0].name: r.plan.imatrix
            for r in results
            if r.plan.imatrix is not None and not r.skipped
        },
    )
    _publish(found, notes, out, overwrite=overwrite)


def _publish(
    found: Sequence["publishing.File"], notes: Sequence[str], out: Path, *, overwrite: bool
) -> None:
    from .. import publishing

    for sentence in notes:
        note(sentence)
    parts = [part for f in found for part in f.parts]
    unknown = [part.name for part in parts if not part.sha256]
    if 0 < len(unknown) < len(parts):
        note(
            f"no digest of {', '.join(unknown)}: SHA256SUMS has none, or is older than the file; "
            "--sha256sums writes it anew"
        )
    if all(f.model.made_from is None for f in found):
        note("the card has no base model: ggufmix report --base-model OWNER/NAME puts it there")
    if not any(f.model.licenses for f in found):
        note("the card has no license: ggufmix meta --set-kv general.license=str:NAME sets it")
    for path in publishing.publish(found, out, overwrite=overwrite):
        print(shown(str(path)))
