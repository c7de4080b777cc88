"""From a checkpoint to a Plan, and from a Plan to a file: the one place that knows all the others.

checkpoint -> Tensors -> model family -> GGUF tensors + metadata -> rules -> Plan -> file
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict, Unpack

from . import fingerprints, naming, outputs, reusing, scanning, splitting, writing
from .errors import UsageError
from .measures import Measures
from .options import Options
from .outputs import Work
from .placing import Placement
from .planning import Plan
from .preparing import check_readable, prepared, prepared_each
from .profiling import stage
from .writing.encoding import Counts, Each, by_part

__all__ = [
    "How",
    "Options",
    "Result",
    "convert",
    "convert_each",
    "of_int4",
    "plan",
    "plan_each",
    "unfinished",
]


@dataclass(frozen=True, slots=True)
class Result:
    """What `convert` did.

    paths    of the file, or of its parts
    found    what was counted, by tensor name
    inexact  packed weights, by name in the source: groups whose scale float16 does not hold
    resumed  tensors that an earlier run had written
    damaged  names of tensors that it had written, but whose bytes had changed since: written again
    skipped  nothing was written: it was there
    copied   of tensors that were copied from a file that was to be reused, its path
    reuse    sentences on that: what was copied, what not and why
    """

    paths: tuple[Path, ...]
    plan: Plan
    found: Mapping[str, Counts] = field(default_factory=dict)
    inexact: Mapping[str, int] = field(default_factory=dict)
    resumed: int = 0
    damaged: Sequence[str] = ()
    skipped: bool = False
    copied: Mapping[str, str] = field(default_factory=dict)
    reuse: Sequence[str] = ()

    @property
    def measured(self) -> dict[str, Measures]:
        """What was measured of each tensor, where that was asked for."""
        return {name: c.measures for name, c in self.found.items() if c.measures.count}

    @property
    def losses(self) -> dict[str, Counts]:
        """Those of tensors in which blocks were flushed or wiped."""
        return {name: c for name, c in self.found.items() if c.flushed or c.wiped}

    @property
    def lattice(self) -> dict[str, Counts]:
        """Those of tensors that Q4_X wrote."""
        return {name: c for name, c in self.found.items() if c.groups}


def plan(
    src: str | os.PathLike[str],
    recipe: str = "q8_0",
    *,
    options: Options | None = None,
    threads: int | None = None,
    progress: writing.Progress | None = None,
) -> Plan:
    """Decide what would be written for a checkpoint, down to the byte, and write nothing.

    src      directory with config.json, tokenizer.json and safetensors; or a GGUF file, of a split
             one any part; or an address of such, as hf://owner/name; or a .tsv listing
    recipe   name of a built-in recipe or path of a .toml file; `options`, where given, counts
             instead
    threads  for the scan, where one is asked for; all cores by default
    Raises the errors of ggufmix.errors. Costs the headers only, unless options ask for a scan.
    """
    with prepared(src, options or Options(recipe=recipe), threads, progress) as (made, _):
        return made


class How(TypedDict, total=False):
    """How files are written; nothing here changes their bytes, but `split` and `keep_split`.

    threads    that encode; by default one for each core, and more where they wait for a remote
               source; the bytes are the same for any number
    overwrite  replace existing outputs
    skip_existing  leave out what is there already
    resume     continue what an earlier run has left unfinished, if there is anything; the bytes are
               those of a run without a break
    verify     decode what is written and measure its errors, while it is in memory
    split      how large a part may be: `out-00001-of-00003.gguf` and so on are written
    keep_split  of a GGUF source in parts: as many parts, with the same tensors
    reuse      files that an earlier run has written: tensors that they have as they would be
               written are copied; of several files from the first that has it
    progress   called after each band with the tensor's name, the source bytes done, and all of them
    planned    called with the plans, and the paths of each, before the first byte is written
    engine     makes the tensors elsewhere, such as `clustering.on("tcp://host:8786")`
    """

    threads: int | None
    overwrite: bool
    skip_existing: bool
    resume: bool
    verify: bool
    split: splitting.Limits | None
    keep_split: bool
    reuse: Sequence[str | os.PathLike[str]]
    progress: writing.Progress | None
    planned: Callable[[Sequence[Plan], Sequence[Sequence[Path]]], None] | None
    engine: Callable[[Work], writing.Elsewhere[Each[Counts]]] | None


def convert(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: str = "q8_0",
    *,
    options: Options | None = None,
    **how: Unpack[How],
) -> Result:
    """Write a checkpoint, or a GGUF file, as one GGUF file or as parts of one.

    out  path of the file; or a template of it, as `naming.filled` takes them; or a folder. Written
         as `out.part` and renamed when it is whole and on disk
    how  see How
    Other arguments and errors: as `plan`; and WriteError, also where the source, the imatrix or the
    recipe is not what the unfinished run had.
    """
    options = options or Options(recipe=recipe)
    (result,) = convert_each(src, out, [options.recipe], options=options, **how)
    return result


def convert_each(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipes: Sequence[str],
    *,
    options: Options | None = None,
    **how: Unpack[How],
) -> list[Result]:
    """Write a file for each of some recipes: the source is read once, each band of it encoded once
    for all files that want it in the same type. Each file has the bytes that `convert` gives it;
    all get their names together.

    out      template of the paths, such as "out/{name}-{tag}.gguf"; or a folder
    options  their recipe does not count
    Other arguments and errors: as `convert`; UsageError where two files would have one path.
    """
    asked, template = _meant(out, recipes, options, how)
    threads, progress = how.get("threads"), how.get("progress")
    with (
        stage("opening, planning"),
        reusing.opened(how.get("reuse", ())) as olds,
        prepared_each(src, asked, threads, progress) as (plans, model),
    ):
        for made in plans:
            check_readable(src, made, model)
        run = _Run(_work(src, asked, template, plans, how), plans, model, how)
        results = [Result(paths, made, skipped=True) for paths, made in run.files()]
        half_named = how.get("resume") and writing.naming(run.layout.parts[0].path)
        skipping = how.get("skip_existing") and not half_named
        wanted = [
            number
            for number, result in enumerate(results)
            if not (skipping and all(path.exists() for path in result.paths))
        ]
        if not wanted:
            return results
        if len(wanted) < len(plans):
            run = _Run(run.work.only(wanted), [plans[n] for n in wanted], model, how)
        made_of = run.written(olds, fresh=naming.is_template(template))
    for number, result in zip(wanted, made_of, strict=True):
        results[number] = result
    return results


def plan_each(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipes: Sequence[str],
    *,
    options: Options | None = None,
    **how: Unpack[How],
) -> list[tuple[tuple[Path, ...], Plan]]:
    """What `convert_each` would write: the paths of each file, or of its parts, and its plan.

    Arguments and errors: as there.
    """
    asked, template = _meant(out, recipes, options, how)
    with prepared_each(src, asked, how.get("threads"), how.get("progress")) as (plans, model):
        run = _Run(_work(src, asked, template, plans, how), plans, model, how)
        return list(run.files())


class _Run:
    """Plans on their way to files."""

    def __init__(self, work: Work, plans: Sequence[Plan], model: Placement, how: How) -> None:
        self.work, self.plans, self.model, self.how = work, plans, model, how
        self.layout = outputs.laid_out(work, plans, model)

    def files(self) -> Iterator[tuple[tuple[Path, ...], Plan]]:
        """Paths of the parts of each plan."""
        for made, own in zip(self.plans, self.layout.of, strict=True):
            yield tuple(self.layout.parts[n].path for n in own), made

    def written(self, olds: reusing.Olds, *, fresh: bool) -> list[Result]:
        """Write them all.

        olds   files that tensors may be copied from
        fresh  folders may be made
        """
        work, model, how = self.work, self.model, self.how
        for part in self.layout.parts:
            _check_apart(part.path, model)
        announce = how.get("planned")
        if announce is not None:
            announce(self.plans, [paths for paths, _ in self.files()])
        threads = writing.thread_count(how.get("threads"), model.least_threads)
        progress, layout, reuse = how.get("progress"), self.layout, None
        if work.reuse:
            with stage("comparing"):
                reuse = reusing.compared(
                    layout, olds, threads=threads, progress=progress, abandon=model.abandon
                )
            work = replace(work, picks=tuple(reuse.picks))
            layout = reusing.picked(layout, olds, reuse.picks)
        engine = how.get("engine")
        elsewhere = engine(work.told(self.plans, layout)) if engine is not None else None
        bound = _bound(work, model, self.plans)
        with outputs.folders(layout, fresh=fresh):
            written = writing.write(
                layout.parts,
                layout.jobs,
                threads=threads,
                overwrite=how.get("overwrite", False),
                progress=progress,
                resumable=writing.Resumable(Each[Counts], bound, how.get("resume", False)),
                abandon=model.abandon,
                elsewhere=elsewhere,
            )
        if written.resumed and work.asked[0].on_inexact == "nearest":
            scanning.count_inexact(model.packed)  # this run has not read all of them
        found = by_part(layout.jobs, written.found)
        return self._results(found, written, reuse, olds)

    def _results(
        self,
        found: Mapping[int, Mapping[str, Counts]],
        written: writing.Written[Each[Counts]],
        reuse: reusing.Reuse | None,
        olds: reusing.Olds,
    ) -> list[Result]:
        inexact = {p.name: n for p in self.model.packed if (n := p.inexact())}
        intact = set(written.intact)
        names = {job.name: job.targets[0].planned.name for job in self.layout.jobs}
        anew = {name for job, name in names.items() if job not in intact}
        resumed = len(set(names.values()) - anew)  # a name may have a job for each of two forms
        results = []
        for (paths, made), own in zip(self.files(), self.layout.of, strict=True):
            of_all = {name: counts for n in own for name, counts in found.get(n, {}).items()}
            result = Result(
                paths,
                made,
                {t.name: of_all[t.name] for t in made.tensors if t.name in of_all},
                inexact,
                resumed,
                written.damaged,
            )
            if reuse is not None:
                copied = {name: path for (part, name), path in reuse.where.items() if part in own}
                sentences = (*olds.notes, reusing.said(reuse, own, len(made.tensors)))
                result = replace(result, copied=copied, reuse=sentences)
            results.append(result)
        return results


def _meant(
    out: str | os.PathLike[str], recipes: Sequence[str], options: Options | None, how: How
) -> tuple[tuple[Options, ...], str]:
    """Options for each recipe, and the template of paths. Raises what can be raised before anything
    is read.
    """
    asked = tuple(replace(options or Options(), recipe=recipe) for recipe in recipes)
    template = naming.template(out)
    if naming.is_template(template):
        return asked, template
    if len(asked) > 1:
        raise UsageError(
            f"{out}: one name for {len(asked)} recipes",
            hint="give a folder, or a template such as 'out/{name}-{tag}.gguf'",
        )
    in_parts = how.get("split") is not None or how.get("keep_split")
    continued = how.get("resume") and writing.left(Path(template))
    if not (in_parts or continued or how.get("skip_existing")):
        writing.check_place(Path(template), overwrite=how.get("overwrite", False))
    return asked, template


def _work(
    src: str | os.PathLike[str],
    asked: tuple[Options, ...],
    template: str,
    plans: Sequence[Plan],
    how: How,
) -> Work:
    pairs = zip(asked, plans, strict=True)
    return Work(
        str(src),
        tuple(outputs.place(str(src), template, one, made) for one, made in pairs),
        asked,
        how.get("split"),
        how.get("keep_split", False),
        how.get("verify", False),
        reuse=tuple(os.fspath(path) for path in how.get("reuse", ())),
    )


def unfinished(paths: Iterable[Path]) -> bool:
    """Whether a run has left something of outputs that begin at some paths, or of parts of them,
    that can be continued.
    """
    for path in paths:
        stem = glob.escape(path.name.removesuffix(".gguf"))
        parts = path.parent.glob(f"{stem}-*-of-*.gguf.part")
        begun = (p.with_name(p.name.removesuffix(".part")) for p in parts)
        if writing.left(path) or any(map(writing.left, begun)):
            return True
    return False


def of_int4(result: Result) -> Iterator[str]:
    """Sentences on weights that come from INT4: what was exact, what was not."""
    yield from scanning.lattice_notes(result.found)
    for name, n in result.inexact.items():
        yield f"{name}: {n} groups got the nearest float16 of their scale"


def _check_apart(out: Path, model: Placement) -> None:
    """Raise UsageError if the output is a file of the source."""
    for file in model.files:
        if file.path is not None and out.exists() and out.samefile(file.path):
            raise UsageError(
                f"{out}: expected another file than the source", hint="give another name with -o"
            )


def _bound(work: Work, model: Placement, plans: Sequence[Plan]) -> dict[str, str]:
    """What unfinished files are good for, beside the plans' names, sizes and key-values."""
    encoders = (f"{t.name}={t.encoder.name}" for made in plans for t in made.tensors)
    return {
        "version": version("ggufmix"),
        "source": fingerprints.of_source(model.files),
        "imatrix": fingerprints.of_contents(work.asked[0].imatrix),
        "recipe": fingerprints.of_words(encoders),
    } | ({"use of --verify": "yes"} if work.verify else {})
