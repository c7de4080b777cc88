"""From a checkpoint to a Plan, and from a Plan to a file: the one place that knows all the others.

checkpoint -> Tensors -> model family -> GGUF tensors + metadata -> rules -> Plan -> file
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from . import fingerprints, scanning, splitting, writing
from .errors import UsageError, WriteError
from .measures import Measures
from .options import Options
from .placing import Placement
from .planning import Plan
from .preparing import check_readable, prepared
from .profiling import stage
from .writing.encoding import Counts

__all__ = ["Options", "Result", "Work", "convert", "of_int4", "plan", "unfinished", "worked"]


@dataclass(frozen=True, slots=True)
class Result:
    """What `convert` did.

    paths    of the file, or of its parts
    found    what was counted, by tensor name
    inexact  packed weights, by name in the source: groups whose scale float16 does not hold
    resumed  tensors that an earlier run had written
    damaged  names of tensors that it had written, but whose bytes had changed since: written again
    """

    paths: tuple[Path, ...]
    plan: Plan
    found: Mapping[str, Counts] = field(default_factory=dict)
    inexact: Mapping[str, int] = field(default_factory=dict)
    resumed: int = 0
    damaged: Sequence[str] = ()

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


def convert(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: str = "q8_0",
    *,
    options: Options | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    split: splitting.Limits | None = None,
    keep_split: bool = False,
    progress: writing.Progress | None = None,
    planned: Callable[[Plan], None] | None = None,
    engine: Callable[[Work], writing.Elsewhere[Counts]] | None = None,
) -> Result:
    """Write a checkpoint, or a GGUF file, as one GGUF file or as parts of one.

    out        path of the file; written as `out.part` and renamed when it is whole and on disk
    threads    that encode; by default one for each core, and more where they wait for a remote
               source; the bytes are the same for any number
    overwrite  replace an existing output
    resume     continue what an earlier run has left unfinished, if there is anything; the bytes are
               those of a run without a break
    verify     decode what is written and measure its errors, while it is in memory
    split      how large a part may be: `out-00001-of-00003.gguf` and so on are written
    keep_split  of a GGUF source in parts: as many parts, with the same tensors
    progress   called after each band with the tensor's name, the source bytes done, and all of them
    planned    called with the plan before the first byte is written
    engine     makes the tensors elsewhere, such as `clustering.on("tcp://host:8786")`
    Other arguments and errors: as `plan`; and WriteError, also where the source, the imatrix or the
    recipe is not what the unfinished run had.
    """
    path = Path(out)
    options = options or Options(recipe=recipe)
    if not (resume and writing.left(path)) and split is None and not keep_split:
        writing.check_place(path, overwrite=overwrite)  # before a scan of hours
    with (
        stage("opening, planning"),
        prepared(src, options, threads, progress) as (made, model),
    ):
        check_readable(src, made, model)
        work = Work(str(src), str(path), options, split, keep_split, verify)
        parts = _parts(work, made, model)
        for part in parts:
            _check_apart(part.path, model)
        if planned is not None:
            planned(made)
        elsewhere = engine(work.told(made, parts)) if engine is not None else None
        written = writing.write(
            parts,
            threads=writing.thread_count(threads, model.least_threads),
            overwrite=overwrite,
            progress=progress,
            resumable=writing.Resumable(
                Counts, _bound(options, model, made, verify=verify), resume
            ),
            abandon=model.abandon,
            elsewhere=elsewhere,
        )
        if written.resumed and options.on_inexact == "nearest":
            scanning.count_inexact(model.packed)  # this run has not read all of them
        inexact = {p.name: n for p in model.packed if (n := p.inexact())}
    return Result(
        tuple(part.path for part in parts),
        made,
        written.found,
        inexact,
        written.resumed,
        written.damaged,
    )


def unfinished(out: str | os.PathLike[str]) -> bool:
    """Whether a run has left something of this output that can be continued."""
    path = Path(out)
    parts = path.parent.glob(f"{glob.escape(path.name.removesuffix('.gguf'))}-*-of-*.gguf.part")
    return any(writing.left(p.with_name(p.name.removesuffix(".part"))) for p in parts) or (
        writing.left(path)
    )


@dataclass(frozen=True)
class Work:
    """A run, told so that another process can make the same parts of it. Arguments as `convert`.

    forced  name, encoder and reason of each tensor where a scan has decided, which is not repeated
    digest  SHA-256 of the headers, which say all but the data
    """

    src: str
    out: str
    options: Options
    split: splitting.Limits | None
    keep_split: bool
    verify: bool
    forced: tuple[tuple[str, str, str], ...] = ()
    digest: str = ""

    def told(self, made: Plan, parts: Sequence[writing.Part[Counts]]) -> Work:
        """The same for elsewhere: with whole paths, and with what was found out."""
        scanned = self.options.scans or self.options.on_inexact == "f32"
        forced = [(t.name, t.encoder.name, t.reason) for t in made.tensors if scanned]
        return replace(
            self,
            src=self.src if "://" in self.src else os.path.abspath(self.src),
            out=os.path.abspath(self.out),
            options=self.options.absolute(),
            forced=tuple(forced),
            digest=_digest(parts),
        )


@contextmanager
def worked(work: Work) -> Iterator[Sequence[writing.Part[Counts]]]:
    """The parts of a run that was begun elsewhere, open as long as the block lasts.

    Raises WriteError where they would be others here, and what `plan` raises.
    """
    with prepared(work.src, work.options, forced=work.forced) as (made, model):
        parts = _parts(work, made, model)
        if _digest(parts) != work.digest:
            raise WriteError(
                f"{work.out}: on another machine the same plan came out otherwise",
                hint="they need the same ggufmix, and the same source under the same path",
            )
        yield parts


def _parts(work: Work, made: Plan, model: Placement) -> list[writing.Part[Counts]]:
    homes = _homes(work.src, model) if work.keep_split else ()
    return splitting.parts_of(
        made, Path(work.out), limits=work.split, homes=homes, measuring=work.verify
    )


def _digest(parts: Sequence[writing.Part[Counts]]) -> str:
    return hashlib.sha256(b"".join(part.header for part in parts)).hexdigest()


def _homes(src: str | os.PathLike[str], model: Placement) -> list[str]:
    """Names of the parts of a GGUF source."""
    names = [file.name for file in model.files]
    if len(names) < 2 or not all(name.endswith(".gguf") for name in names):
        raise UsageError(f"{src}: --keep-split is for a GGUF file in parts, and this is none")
    return names


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


def _bound(options: Options, model: Placement, made: Plan, *, verify: bool) -> dict[str, str]:
    """What unfinished files are good for, beside the plan's names, sizes and key-values."""
    return {
        "version": version("ggufmix"),
        "source": fingerprints.of_source(model.files),
        "imatrix": fingerprints.of_contents(options.imatrix),
        "recipe": fingerprints.of_words(f"{t.name}={t.encoder.name}" for t in made.tensors),
    } | ({"use of --verify": "yes"} if verify else {})
