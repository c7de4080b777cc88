"""`ggufmix convert`."""

# SPDX-License-Identifier: MIT

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Source, Threads, takes_choices
from .said import note, say

if TYPE_CHECKING:
    from ..pipeline import Options


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Say where a command that did not end well has left something to continue."""
    from .. import pipeline

    try:
        yield
    except BaseException:
        if pipeline.unfinished(out):
            note(f"{out}.part is unfinished: the same command with --resume continues it")
        raise


@takes_choices
def convert(
    src: Source,
    out: Annotated[
        Path, typer.Option("--out", "-o", "--outfile", metavar="OUT.gguf", help="File to write.")
    ],
    *,
    threads: Threads = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue what a stopped run has left, if there is any."),
    ] = False,
    options: "Options",
) -> None:
    """Write a checkpoint as a quantized GGUF file."""
    from .. import pipeline, progress, report

    with resumable(out), progress.shown() as bar:
        result = pipeline.convert(
            src,
            out,
            options=options,
            threads=threads,
            overwrite=overwrite,
            resume=resume,
            progress=bar.step,
            planned=say,
        )
    if result.resumed:
        note(f"{result.resumed} of {len(result.plan.tensors)} tensors were there already")
    if result.damaged:
        note(f"{', '.join(result.damaged)}: changed on disk since they were written; written again")
    for name, losses in result.losses.items():
        note(
            f"{name}: {losses.flushed} blocks written as zeros (their scale is too small to hold), "
            f"{losses.wiped} blocks in which one value drowns the others"
        )
    for sentence in pipeline.of_int4(result):
        note(sentence)
    plan = result.plan
    print(
        f"{out}: {report.size(plan.total_bytes)}, {plan.bits_per_weight:.2f} bits per weight, "
        f"{plan.recipe}"
    )
