"""Is a GGUF file what its source, its recipe and its checksums say? Plans it again from what it
records of itself, compares every tensor with the source's, and the header with the plan's.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import rules, sources, writing
from .codecs import ENCODERS
from .container import Value
from .errors import GgufmixError, TokenizerError, UsageError
from .options import Options, fields_of
from .planning import Plan, Planned
from .preparing import prepared
from .verifying import Report, Tested, headers, reading
from .verifying.comparing import Comparison, expected_as, holds_as_it_is
from .verifying.deciding import Told, tested
from .verifying.reading import Reading
from .verifying.sampling import sampled

IMATRIX = "quantize.imatrix."
"""What keys of files that were made with an importance matrix begin with."""


@dataclass(frozen=True)
class _Known:
    """What a file says of how it was made.

    options  to plan it again; None where they are not enough
    why      not, in words
    """

    options: Options | None
    why: str = ""


def recalled(
    values: Mapping[str, Value],
    *,
    recipe: str | None = None,
    imatrix: Sequence[str | os.PathLike[str]] = (),
) -> _Known:
    """The options that a file records; `recipe` and `imatrix`: what it was made with, where the
    file has only their names.
    """
    made_by, named = _text(values, "ggufmix.version"), _text(values, "ggufmix.recipe")
    if made_by is None or named is None:
        return _Known(None, "it was not made by ggufmix")
    try:
        rules.recipe(recipe or named)
    except UsageError:
        return _Known(None, f"it was made with recipe {named!r}: --recipe FILE names it")
    stated = values.get("ggufmix.options")
    listed = stated.data if stated is not None and isinstance(stated.data, list) else []
    fields, rest = fields_of(
        raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw) for raw in listed
    )
    if rest:
        return _Known(None, f"it was made with {rest[0]}, of which it keeps no more")
    if made_by != version("ggufmix"):
        return _Known(None, f"it was made by ggufmix {made_by}, this is {version('ggufmix')}")
    if any(key.startswith(IMATRIX) for key in values) and not imatrix:
        return _Known(None, "it was made with an importance matrix: --imatrix FILE names it")
    return _Known(Options(recipe=recipe or named, imatrix=tuple(imatrix), **fields))


def _text(values: Mapping[str, Value], key: str) -> str | None:
    found = values.get(key)
    return found.data if found is not None and isinstance(found.data, str) else None


def verify_sums(
    out: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: writing.Progress | None = None,
) -> Report:
    """Hold a file against the checksums that it carries. Raises UsageError where it has none."""
    with reading.parts_of(Path(out)) as parts:
        stated, problems = reading.stated_sums(parts), list(headers.damage(parts))
        if stated is None and problems and reading.is_sealed(parts[0]):
            return Report((), tuple(problems), n_all=sum(len(p.header.tensors) for p in parts))
        if stated is None:
            sources.open_gguf(out).close()  # parts that are not of one file are said first
            raise UsageError(
                f"{out}: carries no checksums of its tensors: there is nothing to hold it against",
                hint="--against SRC compares it with what it was made from",
            )
    with sources.open_gguf(out) as file:
        jobs = [Reading(stored) for stored in file.tensors.values()]
        found = _sums(jobs, threads, progress)[1]
    problems += reading.sum_problems(found, stated)
    return Report(
        (),
        tuple(problems),
        compared=(f"checksums of the header and of {len(found)} tensors, and the padding",),
        unproven=("that the file is what its source was: --against SRC tells",),
        n_all=len(found),
    )


def _sums(
    jobs: Sequence[Any],
    threads: int | None,
    progress: writing.Progress | None,
) -> tuple[dict[str, Any], dict[str, int]]:
    """What jobs of one tensor each have found, and the checksums of the tensors."""
    sums: dict[str, int] = {}

    def ended(job: Any, _: Any, of_job: tuple[int, ...]) -> None:
        [sums[job.name]] = of_job

    count = writing.thread_count(threads)
    return writing.run(jobs, None, ended, threads=count, progress=progress), sums


def verify(
    out: str | os.PathLike[str],
    src: str | os.PathLike[str],
    *,
    recipe: str | None = None,
    imatrix: Sequence[str | os.PathLike[str]] = (),
    quick: bool = False,
    sample: int | None = None,
    threads: int | None = None,
    progress: writing.Progress | None = None,
) -> Report:
    """Hold a GGUF file against what it was made from.

    out      a GGUF file of this machine; of a split one any part
    src      as for `pipeline.plan`
    recipe   the .toml file that it was made with, imatrix  the files; where it was
    quick    encode nothing again: blocks are compared by value, and by checksum where there is one
    sample   compare so many tensors, chosen by name, type and role; all by default
    threads, progress  as for `pipeline.convert`
    Raises the errors of ggufmix.errors; what is wrong with the file's values is in the report.
    """
    with ExitStack() as stack:
        parts = stack.enter_context(reading.parts_of(Path(out)))
        known = recalled(parts[0].header.values, recipe=recipe, imatrix=imatrix)
        file = stack.enter_context(sources.open_gguf(out))
        planned, known = _planned(stack, out, src, file, known, imatrix, threads, progress)
        by_name = _with_outer_scales(planned)
        told = Told(
            exact=known.options is not None,
            stated=reading.stated_sums(parts),
        )
        problems = list(_strangers(file, by_name))
        jobs = list(_jobs(file, by_name, told, quick=quick))
        jobs = sampled(
            jobs,
            sample,
            lambda j: (j.stored.kind.name, j.planned.placed.role),
            lambda j: j.stored.n_values,
        )
        found, sums = _sums(jobs, threads, progress)
        tensors = tuple(tested(job, found[job.name], sums[job.name], told) for job in jobs)
        broken = any(map(reading.seal_broken, parts))
        retyped = _retyped(tensors, planned) if told.exact and broken else set()
        if told.stated is not None:
            kept = {name: n for name, n in sums.items() if name not in retyped}
            problems += reading.sum_problems(kept, told.stated)
        problems += headers.damage(parts, seals=not retyped)
        warnings = []
        if retyped:
            warnings.append(
                f"quantized by another tool from a file of ggufmix: {len(retyped)} tensors are of "
                "other types than that file had; its key-values are not compared"
            )
        elif told.exact:
            more, warnings = headers.differences(parts, planned)
            problems += more
            warnings += headers.origins(file, found)
        return Report(
            tensors,
            tuple(problems),
            tuple(warnings),
            tuple(_compared(tensors, file, known, told, quick=quick, others=bool(retyped))),
            (_UNPROVEN,),
            n_all=len(file.tensors),
        )


def _retyped(tensors: Sequence[Tested], planned: Plan) -> set[str]:
    """Names of tensors that have the right values in another type than the plan's: the marks of a
    tool that quantizes a file and keeps its key-values, as llama-quantize does; damage has not.
    """
    ours = {t.name: t.encoder.format.id for t in planned.tensors}
    return {
        t.name
        for t in tensors
        if t.verdict.grade != "FAIL" and t.kind.id != ours.get(t.name, t.kind.id)
    }


_UNPROVEN = (
    "that norms, orders of heads and experts are put as the runtime wants them: source and file "
    "are compared through the steps that convert takes, so a fault in those does not show; logits "
    "do, beside those of the source or of a file of llama.cpp's converter"
)


def _planned(
    stack: ExitStack,
    out: str | os.PathLike[str],
    src: str | os.PathLike[str],
    file: sources.GgufFile,
    known: _Known,
    imatrix: Sequence[str | os.PathLike[str]],
    threads: int | None,
    progress: writing.Progress | None,
) -> tuple[Plan, _Known]:
    """The plan of a file, open with the stack: as it records it; else with the types that it has;
    else with none of them, so that values can be compared at least.
    """
    as_it_lies = Options(recipe="f32", gates="recipe", allow_requantize=True, on_inexact="nearest")
    if _text(file.values, "general.type") == "mmproj" and sources.suffix(src) != ".gguf":
        as_it_lies = replace(as_it_lies, component="mmproj")
    alike = replace(as_it_lies, like=out, imatrix=tuple(imatrix))
    for options in (known.options, alike):
        if options is None:
            continue
        try:
            return _adjusted(stack, src, file, options, threads, progress), known
        except GgufmixError as error:
            known = _Known(None, known.why or f"its plan cannot be made again: {error}")
    return _adjusted(stack, src, file, as_it_lies, threads, progress), known


def _adjusted(
    stack: ExitStack,
    src: str | os.PathLike[str],
    file: sources.GgufFile,
    options: Options,
    threads: int | None,
    progress: writing.Progress | None,
) -> Plan:
    """A plan and what is open for it. What files of other tools, and older ones, do not record of
    their options is taken from tensors and keys: multi-token prediction left out or alone, fused
    experts, a name, a pre-tokenizer.
    """

    def entered(options: Options) -> tuple[ExitStack, Plan]:
        with ExitStack() as inner:
            made, _ = inner.enter_context(prepared(src, options, threads, progress))
            return inner.pop_all(), made

    pre = _text(file.values, "tokenizer.ggml.pre")
    try:
        inner, made = entered(options)
    except TokenizerError:
        if options.tokenizer_pre is not None or pre is None:
            raise
        options = replace(options, tokenizer_pre=pre)
        inner, made = entered(options)
    changed = replace(options, **_shape_of(file, made, options))
    name = _text(file.values, "general.name")
    if name is not None and name != _text(made.values, "general.name"):
        changed = replace(changed, model_name=name)
    if pre is not None and pre != _text(made.values, "tokenizer.ggml.pre"):
        changed = replace(changed, tokenizer_pre=pre)
    if changed != options:
        inner.close()
        inner, made = entered(changed)
    stack.push(inner)
    return made


def _shape_of(file: sources.GgufFile, made: Plan, options: Options) -> dict[str, Any]:
    """Options that follow from which tensors a file has."""
    found: dict[str, Any] = {}
    both = ".ffn_gate_up_exps."
    if any(both in n for n in file.tensors) and not any(both in t.name for t in made.tensors):
        found["fuse_gate_up_exps"] = True
    layer_of = {t.name: -1 if t.placed.layer is None else t.placed.layer for t in made.tensors}
    kept = {layer for name, layer in layer_of.items() if name in file.tensors}
    lost = set(layer_of.values()) - kept
    layers = kept - {-1}
    if options.component == "model" and lost and -1 not in lost and layers:
        if min(layers) > max(lost):
            found["component"] = "mtp"
        elif options.mtp:
            found["mtp"] = False
    return found


def _with_outer_scales(plan: Plan) -> dict[str, Planned]:
    """Tensors by name; with scales that belong to blocks of the source, should the file have them
    as they are.
    """
    by_name = {t.name: t for t in plan.tensors}
    for t in plan.tensors:
        outer, name = t.placed.tensor.outer_scale, t.name.removesuffix(".weight") + ".scale"
        if outer is not None and name not in by_name:
            placed = replace(t.placed, name=name, tensor=outer)
            by_name[name] = Planned(placed, ENCODERS["F32"], "", None, 0, 0)
    return by_name


def _strangers(file: sources.GgufFile, planned: Mapping[str, Planned]) -> Iterator[str]:
    """Sentences on tensors that only one side has, or that have another shape there."""
    for name, stored in file.tensors.items():
        if name not in planned:
            yield f"{name}: SRC has nothing that becomes it"
        elif not _alike(stored.shape, planned[name].placed.tensor.shape):
            theirs, ours = stored.shape[::-1], planned[name].shape
            yield f"{name}: is {list(theirs)}, of SRC it would be {list(ours)}"
    for name, of in planned.items():
        if name not in file.tensors and of.n_bytes:
            yield f"{name}: is missing, SRC has it"


def _alike(a: Sequence[int], b: Sequence[int]) -> bool:
    """The same shape; leading dimensions of 1 are none."""

    def plain(shape: Sequence[int]) -> list[int]:
        dims = list(shape)
        while dims[:1] == [1]:
            del dims[0]
        return dims

    return plain(a) == plain(b)


def _jobs(
    file: sources.GgufFile, planned: Mapping[str, Planned], told: Told, *, quick: bool
) -> Iterator[Comparison]:
    for name, stored in file.tensors.items():
        of = planned.get(name)
        if of is None or not _alike(stored.shape, of.placed.tensor.shape):
            continue
        wanted = expected_as(stored, of)
        cheap = stored.kind.values == 1 or wanted.copied or wanted.widened
        encodes = (stored.kind.encodes and not quick) or cheap
        bound = holds_as_it_is(wanted) or (told.exact and wanted is of)
        yield Comparison(stored, wanted, encodes=encodes, bound=bound)


def _compared(
    tensors: Sequence[Tested],
    file: sources.GgufFile,
    known: _Known,
    told: Told,
    *,
    quick: bool,
    others: bool,
) -> Iterator[str]:
    """Sentences on what was compared, and on what was not."""
    n, of = len(tensors), len(file.tensors)
    some = f"{n} tensors" if n == of else f"{n} of {of} tensors"
    equal = sum(t.same_bytes is True for t in tensors)
    if not n:
        yield "no tensor: file and SRC have none in common"
    elif known.options is None:
        yield f"{some} by value; not the header nor the choice of types: {known.why}"
        if not quick:
            yield f"{equal} of them have the very bytes that convert writes in their types"
    elif others:
        yield f"{some} by value, {equal} of them have the very bytes that convert writes"
        yield "padding"
        return
    elif quick:
        yield f"every byte of the header and of {equal} tensors, {n - equal} others by value"
    else:
        yield f"every byte of the header and of {some}, made again as the file says it was made"
    if told.stated is not None and n:
        yield f"checksums of the header and of {some}"
    yield "padding"
