"""`ggufmix convert`."""

# SPDX-License-Identifier: MIT

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .options import Overwrite, Resume, Source, Threads, takes_choices
from .plan import show
from .report import publish
from .said import note, resumable, say, shown, unsummed
from .splitting import NoTensorFirst, SplitMaxSize, SplitMaxTensors, limits, shown_paths

if TYPE_CHECKING:
    from ..clustering import Cluster
    from ..pipeline import Options, Result
    from ..planning import Plan


@takes_choices
def convert(
    src: Source,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            "--outfile",
            metavar="OUT.gguf",
            help="File to write; or a folder; or a template, such as '{name}-{tag}.gguf'.",
        ),
    ],
    *,
    threads: Threads = None,
    overwrite: Overwrite = False,
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Leave outputs alone that are there already."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the plan, as `plan` does, of several recipes a line each; write nothing.",
        ),
    ] = False,
    resume: Resume = False,
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
    reuse: Annotated[
        list[str] | None,
        typer.Option(
            "--reuse",
            metavar="OLD.gguf",
            help="Copy tensors that this file has already as they would be written; repeatable.",
        ),
    ] = None,
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
    report_to: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="DIR", help="Write a page on it and a model card there; see report."
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say on stderr where the time went.")
    ] = False,
    recipes: Sequence[str],
    options: "Options",
) -> None:
    """Write a checkpoint as a quantized GGUF file, or as several of one reading: a file for each
    --recipe.
    """
    from .. import pipeline, profiling, progress, report, sumfile

    wanted = (split_max_size, split_max_tensors)
    split = None
    if wanted != (None, None) or (no_tensor_first_split and not keep_split):
        split = limits(*wanted, bare_first=no_tensor_first_split)
    if keep_split and (split is not None or no_tensor_first_split):
        raise UsageError("--keep-split: says already what the parts are, leave the others out")
    if report_to is not None:
        from .. import publishing

        publishing.check_place(report_to, overwrite=overwrite)
    if skip_existing and overwrite:
        raise UsageError("--skip-existing and --overwrite: expected one of them, got both")
    if dry_run:
        with progress.shown() as bar:
            files = pipeline.plan_each(
                src,
                out,
                recipes,
                options=options,
                threads=threads,
                overwrite=True,
                split=split,
                keep_split=keep_split,
                progress=bar.step,
            )
        say([made for _, made in files])
        if len(files) == 1:
            show(files[0][1])
            if (named := shown_paths(files[0][0])) != out:
                note(f"it would be {named}")
        for paths, made in files if len(files) > 1 else ():
            print(_line(paths, made.total_bytes, made))
        return
    begun: list[Path] = []

    def planned(plans: Sequence["Plan"], paths: Sequence[Sequence[Path]]) -> None:
        names = [path.name for of_plan in paths for path in of_plan]
        if report_to is not None and len(set(names)) < len(names):
            raise UsageError(
                "--report: two of the files would have one name, and it goes by names",
                hint="{tag} or {recipe} in the name tells them apart",
            )
        begun.extend(path for of_plan in paths for path in of_plan[:1])
        say(plans)

    with (
        profiling.recorded() if profile else nullcontext() as spent,
        resumable(out, lambda: pipeline.unfinished([Path(out), *begun])),
        progress.shown() as bar,
    ):
        results = pipeline.convert_each(
            src,
            out,
            recipes,
            options=options,
            threads=threads,
            overwrite=overwrite,
            skip_existing=skip_existing,
            resume=resume,
            verify=verify,
            split=split,
            keep_split=keep_split,
            reuse=reuse or (),
            progress=bar.step,
            planned=planned,
            engine=_cluster(engine, scheduler),
        )
        skipped = [result for result in results if result.skipped]
        results = [result for result in results if not result.skipped]
        if sha256sums:
            written = [path for result in results for path in result.paths]
            there = [path for result in skipped for path in result.paths]
            for folder in _by_folder([*written, *(p for p in there if sumfile.stated(p) is None)]):
                unsummed(sumfile.record(folder, bar.step))
    for result in skipped:
        note(f"{shown_paths(result.paths)}: there already, left as it is")
    tell(results)
    if report_to is not None:
        publish([*results, *skipped], src, report_to, overwrite=overwrite)
    if spent is not None:
        report.console(stderr=True).print(report.spent(spent.stages, spent.clock))
    if verify:
        judge(results)


def tell(results: Sequence["Result"]) -> None:
    """Say what was written, and what was lost in it."""
    for result in results[:1]:  # said of the run as a whole
        if result.resumed:
            n_tensors = len({t.name for r in results for t in r.plan.tensors})
            note(f"{result.resumed} of {n_tensors} tensors were there already")
        if result.damaged:
            names = ", ".join(result.damaged)
            note(f"{names}: changed on disk since they were written; written again")
    for sentence in dict.fromkeys(s for result in results for s in result.reuse[:-1]):
        note(sentence)
    for result in results:
        for sentence in result.reuse[-1:]:
            note((f"{result.plan.recipe}: " if len(results) > 1 else "") + sentence)
        _lost(result, f"{result.plan.recipe}: " if len(results) > 1 else "")
        n_bytes = sum(path.stat().st_size for path in result.paths)
        print(_line(result.paths, n_bytes, result.plan))


def _line(paths: Sequence[Path], n_bytes: int, plan: "Plan") -> str:
    from .. import report

    return (
        f"{shown_paths(paths)}: {report.size(n_bytes)}, {plan.bits_per_weight:.2f} bits per "
        f"weight, {plan.recipe}"
    )


def _by_folder(paths: Sequence[Path]) -> list[list[Path]]:
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    return list(folders.values())


def _lost(result: "Result", which: str) -> None:
    """What some blocks have lost. `which`: the file, where there are several."""
    from .. import pipeline

    for name, losses in result.losses.items():
        note(
            f"{which}{name}: {losses.flushed} blocks written as zeros (their scale is too small to "
            f"hold), {losses.wiped} blocks in which one value drowns the others"
        )
    for sentence in pipeline.of_int4(result):
        note(which + sentence)


def _cluster(engine: str, scheduler: str | None) -> "Cluster | None":
    if engine not in {"threads", "dask"}:
        raise UsageError(f"--engine: expected threads or dask, got {engine!r}")
    if (engine == "dask") != (scheduler is not None):
        raise UsageError("--engine dask and --scheduler tcp://HOST:8786 belong together")
    if scheduler is None:
        return None
    from .. import clustering

    return clustering.on(scheduler)


def judge(results: Sequence["Result"]) -> None:
    """Print what was measured, and end with 1 where a tensor failed."""
    from .. import report, verifying
    from ..verifying import drawing

    grades = []
    for result in results:
        found = verifying.of_plan(result.plan, result.measured)
        if len(results) > 1:
            print(f"\n{shown_paths(result.paths)}")
        report.console().print("", drawing.picture(found), "")
        for line in drawing.lines(found, every=True):
            print(shown(line))
        print(drawing.closing(found, "measured while it was written"))
        grades.append(found.grade)
    if "FAIL" in grades:
        raise typer.Exit(1)
