"""`ggufmix report`."""

# SPDX-License-Identifier: MIT

from pathlib import Path
from typing import Annotated

import typer

from .said import note, shown

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
        with progress.shown() as bar:
            for path, file in zip(files, found, strict=True):
                sumfile.record([path.parent / part.name for part in file.parts], bar.step)
        found, notes = gathered()
    for sentence in notes:
        note(sentence)
    if all(f.model.made_from is None for f in found):
        note("no file says which repository it was made from: --base-model says it in the card")
    if not any(f.model.licenses for f in found):
        note("no file says what its license is: ggufmix meta --set-kv general.license=str:...")
    for path in publishing.publish(found, out, overwrite=overwrite):
        print(shown(str(path)))
