"""`ggufmix convert`."""

# SPDX-License-Identifier: MIT

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .options import Source, Threads, takes_choices
from .said import note, say, shown
from .splitting import NoTensorFirst, SplitMaxSize, SplitMaxTensors, limits, shown_paths

if TYPE_CHECKING:
    from ..clustering import Cluster
    from ..pipeline import Options, Result


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Say where a command that did not end well has left something to continue."""
    from .. import pipeline

    try:
        yield
    except BaseException:
        if pipeline.unfinished(out):
            note(f"{out} is unfinished: the same command with --resume continues it")
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
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Measure what is written against what was read; 1 where a tensor fails.",
        ),
    ] = False,
    split_max_size: SplitMaxSize = None,
    split_max_tensors: SplitMaxTensors = None,
    no_tensor_first_split: NoTensorFirst = False,
    keep_split: Annotated[
        bool,
        typer.Option(
            "--keep-split", help="Of a GGUF file in parts: as many parts, with the same tensors."
        ),
    ] = False,
    engine: Annotated[
        str, typer.Option("--engine", metavar="threads|dask", help="Who makes the tensors.")
    ] = "threads",
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="tcp://HOST:8786", help="Of a Dask cluster."),
    ] = None,
    sha256sums: Annotated[
        bool,
        typer.Option("--sha256sums", help="Write SHA256SUMS beside it, for `sha256sum -c`."),
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say on stderr where the time went.")
    ] = False,
    options: "Options",
) -> None:
    """Write a checkpoint as a quantized GGUF file."""
    from .. import pipeline, profiling, progress, report, sumfile

    wanted = (split_max_size, split_max_tensors)
    split = None
    if wanted != (None, None) or (no_tensor_first_split and not keep_split):
        split = limits(*wanted, bare_first=no_tensor_first_split)
    if keep_split and (split is not None or no_tensor_first_split):
        raise UsageError("--keep-split: says already what the parts are, leave the others out")

    with (
        profiling.recorded() if profile else nullcontext() as spent,
        resumable(out),
        progress.shown() as bar,
    ):
        result = pipeline.convert(
            src,
            out,
            options=options,
            threads=threads,
            overwrite=overwrite,
            resume=resume,
            verify=verify,
            split=split,
            keep_split=keep_split,
            progress=bar.step,
            planned=say,
            engine=_cluster(engine, scheduler),
        )
        if sha256sums:
            sumfile.record(result.paths, bar.step)
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
    n_bytes = sum(path.stat().st_size for path in result.paths)
    print(
        f"{shown_paths(result.paths)}: {report.size(n_bytes)}, {plan.bits_per_weight:.2f} bits per "
        f"weight, {plan.recipe}"
    )
    if spent is not None:
        report.console(stderr=True).print(report.spent(spent.stages, spent.clock))
    if verify:
        judge(result)


def _cluster(engine: str, scheduler: str | None) -> "Cluster | None":
    if engine not in {"threads", "dask"}:
        raise UsageError(f"--engine: expected threads or dask, got {engine!r}")
    if (engine == "dask") != (scheduler is not None):
        raise UsageError("--engine dask and --scheduler tcp://HOST:8786 belong together")
    if scheduler is None:
        return None
    from .. import clustering

    return clustering.on(scheduler)


def judge(result: "Result") -> None:
    """Print what was measured, and end with 1 where a tensor failed."""
    from .. import report, verifying
    from ..verifying import drawing

    found = verifying.of_plan(result.plan, result.measured)
    report.console().print("", drawing.picture(found), "")
    for line in drawing.lines(found, every=True):
        print(shown(line))
    print(drawing.closing(found, "measured while it was written"))
    if found.grade == "FAIL":
        raise typer.Exit(1)
