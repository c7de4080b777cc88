"""From a checkpoint to a Plan, and from a Plan to a file: the one place that knows all the others.

checkpoint -> Tensors -> model family -> GGUF tensors + metadata -> rules -> Plan -> file
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import gguf

from . import (
    checksums,
    fingerprints,
    imatrix,
    placing,
    planning,
    rules,
    scanning,
    sources,
    splitting,
    writing,
)
from .codecs import Encoder
from .container import Value, array, text, texts, u32
from .errors import FormatError, SourceError, UsageError
from .measures import Measures
from .options import Options, recorded
from .placing import Placement
from .planning import Plan
from .wishes import Wishes, gather, settle
from .writing.encoding import Counts, scannings

__all__ = ["Options", "Result", "convert", "of_int4", "plan", "prepared", "unfinished"]


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
    Other arguments and errors: as `plan`; and WriteError, also where the source, the imatrix or the
    recipe is not what the unfinished run had.
    """
    path = Path(out)
    options = options or Options(recipe=recipe)
    if not (resume and writing.left(path)) and split is None and not keep_split:
        writing.check_place(path, overwrite=overwrite)  # before a scan of hours
    with prepared(src, options, threads, progress) as (made, model):
        _check_readable(src, made, model)
        homes = _homes(src, model) if keep_split else ()
        parts = splitting.parts_of(made, path, limits=split, homes=homes, measuring=verify)
        for part in parts:
            _check_apart(part.path, model)
        if planned is not None:
            planned(made)
        written = writing.write(
            parts,
            threads=writing.thread_count(threads, model.least_threads),
            overwrite=overwrite,
            progress=progress,
            resumable=writing.Resumable(
                Counts, _bound(options, model, made, verify=verify), resume
            ),
            abandon=model.abandon,
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


@contextmanager
def prepared(
    src: str | os.PathLike[str],
    options: Options,
    threads: int | None = None,
    progress: writing.Progress | None = None,
) -> Iterator[tuple[Plan, Placement]]:
    """The plan for a checkpoint and what it was made from, open as long as the block lasts.
    Arguments and errors: as `plan`.
    """
    choices, wishes = _choices(options)
    importance = imatrix.read(options.imatrix) if options.imatrix else None
    with placing.opened(
        src,
        config=Path(options.config) if options.config is not None else None,
        arch=options.arch,
        mtp=options.mtp,
        pre=options.tokenizer_pre,
        model_name=options.model_name,
        on_inexact=options.on_inexact,
    ) as model:
        values = dict(model.values)
        values["general.file_type"] = u32(gguf.LlamaFileType[choices.recipe.file_type])
        values["general.quantization_version"] = u32(gguf.GGML_QUANT_VERSION)
        values |= model.words
        values |= importance.keys() if importance is not None else {}
        values |= _provenance(options, choices, model.files)
        ordered = planning.in_order(model.tensors)
        facts = _facts(model, imatrix=importance is not None)
        own_file = choices.recipe if options.recipe.lower().endswith(".toml") else None
        settled = settle(wishes, ordered, facts, own_file)
        choices = replace(choices, overrides=settled.overrides)

        def decided(forced: Mapping[str, tuple[Encoder, str]]) -> Plan:
            decisions = rules.decide(ordered, facts, replace(choices, forced=forced))
            again = options.allow_requantize or bool(model.packed)  # there is nothing better
            widen = options.mirror != "llama.cpp"
            carried = rules.carry(ordered, decisions, again=again, widen=widen)
            laid_out = planning.lay_out(
                (
                    (p, d.encoder, d.reason, d.asked)
                    for p, d in zip(carried.placed, carried.decisions, strict=True)
                ),
                planning.alignment_of(values),
            )
            weighed = imatrix.assign(laid_out, importance, exact=options.mirror == "llama.cpp")
            return Plan(
                recipe=choices.recipe.name,
                architecture=model.arch,
                values=values | checksums.reserved(len(weighed.tensors)),
                tensors=weighed.tensors,
                notes=(
                    *model.notes,
                    *settled.notes,
                    *carried.notes,
                    *weighed.notes,
                    *rules.remarks(weighed.tensors, options.target),
                ),
                warnings=(*model.warnings, *settled.warnings, *weighed.warnings),
                imatrix=weighed.report,
                sources={file.name: file.size for file in model.files},
                uses=tuple(asdict(use) for use in settled.uses),
                whole=model.whole,
            )

        made = decided({})
        if options.scan or options.on_outlier == "bf16" or _asks_exact(options, model):
            _check_readable(src, made, model)
            jobs = scannings(made.tensors)
            found = writing.run(
                jobs,
                threads=writing.thread_count(threads, model.least_threads),
                progress=progress,
                abandon=model.abandon,
            )
            kept = options.on_outlier == "error"
            forced = scanning.forced(
                found, outliers=not kept, inexact=options.on_inexact != "error"
            )
            made = decided(forced) if forced else made
            made = replace(
                made,
                notes=(
                    *made.notes,
                    *scanning.lattice_notes({n: s.counts for n, s in found.items()}),
                ),
                warnings=(
                    *made.warnings,
                    *scanning.outlier_warnings(found, kept=kept),
                    *scanning.inexact_warnings(model.packed),
                ),
            )
        yield made, model


def _facts(model: Placement, *, imatrix: bool) -> rules.Facts:
    stated = rules.facts(model.arch, model.values, imatrix=imatrix)
    if not model.shapes:
        return stated
    found = rules.facts_from_shapes(model.arch, model.tensors, imatrix=imatrix)
    hybrid = any(p.role.startswith("SSM_") for p in model.tensors)
    if found.heads or hybrid:
        return found
    return replace(found, heads=stated.heads, kv_heads=stated.kv_heads)


def _check_readable(src: str | os.PathLike[str], plan: Plan, model: Placement) -> None:
    """Raise SourceError if there are no weights to read, FormatError as `_check_encoders`."""
    if not model.readable:
        raise SourceError(
            f"{src}: plan takes it, convert cannot yet (nor --scan): they want a checkpoint",
            hint="give the folder of the safetensors checkpoint it was made from",
        )
    _check_encoders(plan)


def _check_apart(out: Path, model: Placement) -> None:
    """Raise UsageError if the output is a file of the source."""
    for file in model.files:
        if file.path is not None and out.exists() and out.samefile(file.path):
            raise UsageError(
                f"{out}: expected another file than the source", hint="give another name with -o"
            )


def _check_encoders(plan: Plan) -> None:
    """Raise FormatError if the plan names a type that is known but cannot be written."""
    for tensor in plan.tensors:
        kind = tensor.encoder.format
        if not kind.encodes and not tensor.copied:
            reader = "ik_llama.cpp alone reads it" if rules.is_foreign(kind) else "no encoder yet"
            raise FormatError(
                f"{tensor.name}: {kind} cannot be written ({reader}): {tensor.reason}",
                hint="`ggufmix formats` lists the types that can be encoded; `plan` takes them all",
            )


def _choices(options: Options) -> tuple[rules.Choices, Wishes]:
    wishes = gather(
        set_roles=options.set_roles,
        tensor_types=options.tensor_types,
        custom_q=options.custom_q,
        tensor_type_files=[Path(p) for p in options.tensor_type_files],
        thireus=[Path(p) for p in options.thireus],
        like=Path(options.like) if options.like is not None else None,
    )
    choices = rules.Choices(
        recipe=rules.recipe(options.recipe),
        gates=options.gates,
        mirror=options.mirror,
        fallback=options.fallback,
        edges=tuple(rules.edge(e) for e in options.edges),
    )
    return choices, wishes


def _provenance(
    options: Options, choices: rules.Choices, files: Sequence[sources.SourceFile]
) -> dict[str, Value]:
    """Where the file comes from, for whoever holds it: no paths, no times."""
    made = {
        "ggufmix.version": text(version("ggufmix")),
        "ggufmix.recipe": text(choices.recipe.name),
        "ggufmix.options": texts(recorded(options)),
        "ggufmix.source.files": texts([f.name for f in files]),
        "ggufmix.source.sizes": array(gguf.GGUFValueType.UINT64, [f.size for f in files]),
        "ggufmix.source.fingerprints": texts([f.fingerprint for f in files]),
    }
    if any(f.revision for f in files):
        made["ggufmix.source.revisions"] = texts([f.revision or "" for f in files])
    return made


def _bound(options: Options, model: Placement, made: Plan, *, verify: bool) -> dict[str, str]:
    """What unfinished files are good for, beside the plan's names, sizes and key-values."""
    return {
        "version": version("ggufmix"),
        "source": fingerprints.of_source(model.files),
        "imatrix": fingerprints.of_contents(options.imatrix),
        "recipe": fingerprints.of_words(f"{t.name}={t.encoder.name}" for t in made.tensors),
    } | ({"use of --verify": "yes"} if verify else {})


def _asks_exact(options: Options, model: Placement) -> bool:
    return options.on_inexact == "f32" and bool(model.packed)
