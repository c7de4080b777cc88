"""From a checkpoint to a Plan, and from a Plan to a file: the one place that knows all the others.

checkpoint -> Tensors -> model family -> GGUF tensors + metadata -> rules -> Plan -> file
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import gguf

from . import general, imatrix, models, planning, rules, sources, tokenizer, writer
from .codecs import Encoder, encoder
from .container import Value, array, text, texts, u32
from .errors import FormatError, UsageError
from .planning import Plan
from .rules import FallbackName, Gates, Mirror

OnOutlier = Literal["error", "bf16"]


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asks for, apart from where it comes from and goes to.

    recipe         name of a built-in recipe, "pure:TYPE", or the path of a .toml file
    gates          what SSM gates are kept in at least: "bf16", "f32", or "recipe" for no protection
    mirror         "llama.cpp" or "ik": that tool's mixture and fallbacks, no protection
    fallback       for rows that do not fit a type: "quality", "llama.cpp", "ik" or "error"; by
                   default the mirror's, else "quality"
    edges          N=TYPE: at least TYPE in the first and last N blocks
    target         where the file is to run, such as "vulkan": notes say what is slow there
    set_roles      ROLE=TYPE, first match wins, before tensor_types
    tensor_types   REGEX=TYPE, first match wins
    mtp            keep multi-token-prediction blocks that the checkpoint has
    tokenizer_pre  value of tokenizer.ggml.pre where it cannot be recognised
    model_name     value of general.name
    scan           read the data once before planning
    imatrix        importance matrices, GGUF or legacy; several are merged
    on_outlier     "error", or "bf16": a tensor whose scales would be infinite is written in BF16
                   (implies scan)
    """

    recipe: str = "q8_0"
    gates: Gates = "bf16"
    mirror: Mirror | None = None
    fallback: FallbackName | None = None
    edges: Sequence[str] = ()
    target: str | None = None
    set_roles: Sequence[str] = ()
    tensor_types: Sequence[str] = ()
    mtp: bool = True
    tokenizer_pre: str | None = None
    model_name: str | None = None
    scan: bool = False
    on_outlier: OnOutlier = "error"
    imatrix: Sequence[str | os.PathLike[str]] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What `convert` did. `losses` are by tensor name and hold only tensors that had any."""

    path: Path
    plan: Plan
    losses: Mapping[str, writer.Losses] = field(default_factory=dict)


def plan(
    src: str | os.PathLike[str],
    recipe: str = "q8_0",
    *,
    options: Options | None = None,
    threads: int | None = None,
    progress: writer.Progress | None = None,
) -> Plan:
    """Decide what would be written for a checkpoint, down to the byte, and write nothing.

    src      directory with config.json, tokenizer.json and safetensors
    recipe   name of a built-in recipe or path of a .toml file; `options`, where given, counts
             instead
    threads  for the scan, where one is asked for; all cores by default
    Raises the errors of ggufmix.errors. Costs the headers only, unless options ask for a scan.
    """
    with _prepared(src, options or Options(recipe=recipe), threads, progress) as made:
        return made


def convert(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: str = "q8_0",
    *,
    options: Options | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: writer.Progress | None = None,
    planned: Callable[[Plan], None] | None = None,
) -> Result:
    """Write a checkpoint as one GGUF file.

    out        path of the file; written as `out.part` and renamed when it is whole and on disk
    threads    that encode; all cores by default; the bytes are the same for any number
    overwrite  replace an existing output
    progress   called after each band with the tensor's name and the source bytes done
    planned    called with the plan before the first byte is written
    Other arguments and errors: as `plan`; and WriteError.
    """
    path = Path(out)
    with _prepared(src, options or Options(recipe=recipe), threads, progress) as made:
        _check_encoders(made)
        if planned is not None:
            planned(made)
        part = writer.Part(path, made.header, made.tensors, made.total_bytes)
        tally = writer.write(
            [part], threads=_threads(threads), overwrite=overwrite, progress=progress
        )
    return Result(path, made, tally.losses)


@contextmanager
def _prepared(
    src: str | os.PathLike[str],
    options: Options,
    threads: int | None,
    progress: writer.Progress | None,
) -> Iterator[Plan]:
    choices = _choices(options)
    importance = imatrix.read(options.imatrix) if options.imatrix else None
    with sources.open_checkpoint(src) as checkpoint:
        model = models.place(checkpoint.config, checkpoint.tensors, mtp=options.mtp)
        directory = checkpoint.directory
        words = tokenizer.load(
            directory,
            checkpoint.config,
            rows=model.vocab_rows,
            arch=model.arch,
            pre=options.tokenizer_pre,
        )
        warnings = list(words.warnings)
        values: dict[str, Value] = {"general.architecture": text(model.arch)}
        values |= general.general(
            directory,
            parameters=model.parameters,
            model_name=options.model_name,
            warnings=warnings,
        )
        values |= model.values
        values["general.file_type"] = u32(gguf.LlamaFileType[choices.recipe.file_type])
        values["general.quantization_version"] = u32(gguf.GGML_QUANT_VERSION)
        values |= words.values
        values |= importance.keys() if importance is not None else {}
        values |= _provenance(options, choices, checkpoint.files)
        ordered = planning.in_order(model.tensors)
        facts = rules.facts(model.arch, model.values, imatrix=importance is not None)

        def decided(forced: Mapping[str, tuple[Encoder, str]]) -> Plan:
            decisions = rules.decide(ordered, facts, replace(choices, forced=forced))
            laid_out = planning.lay_out(
                (p, d.encoder, d.reason, d.asked) for p, d in zip(ordered, decisions, strict=True)
            )
            weighed = imatrix.assign(laid_out, importance, exact=options.mirror == "llama.cpp")
            return Plan(
                recipe=choices.recipe.name,
                architecture=model.arch,
                values=values,
                tensors=weighed.tensors,
                notes=(
                    *model.notes,
                    *weighed.notes,
                    *rules.remarks(weighed.tensors, options.target),
                ),
                warnings=(*warnings, *weighed.warnings),
                imatrix=weighed.report,
                sources={file.name: file.size for file in checkpoint.files},
            )

        made = decided({})
        if options.scan or options.on_outlier == "bf16":
            _check_encoders(made)
            tally = writer.scan(made.tensors, threads=_threads(threads), progress=progress)
            found = {
                name: (
                    encoder("BF16"),
                    f"outlier at row {e.row}, column {e.column}: no scale of a block can hold it",
                )
                for name, e in tally.outliers.items()
            }
            if found and options.on_outlier == "bf16":
                made = decided(found)
            made = replace(
                made, warnings=(*made.warnings, *_scan_warnings(tally, options.on_outlier))
            )
        yield made


def _check_encoders(plan: Plan) -> None:
    """Raise FormatError if the plan names a type that is known but cannot be written."""
    for tensor in plan.tensors:
        kind = tensor.encoder.format
        if not kind.encodes:
            reader = "ik_llama.cpp alone reads it" if rules.is_foreign(kind) else "no encoder yet"
            raise FormatError(
                f"{tensor.name}: {kind} cannot be written ({reader}): {tensor.reason}",
                hint="`ggufmix formats` lists the types that can be encoded; `plan` takes them all",
            )


def _choices(options: Options) -> rules.Choices:
    overrides = [rules.override_by_role(o) for o in options.set_roles]
    overrides += [rules.override_by_pattern(o) for o in options.tensor_types]
    return rules.Choices(
        recipe=rules.recipe(options.recipe),
        gates=options.gates,
        mirror=options.mirror,
        fallback=options.fallback,
        overrides=tuple(overrides),
        edges=tuple(rules.edge(e) for e in options.edges),
    )


def _provenance(
    options: Options, choices: rules.Choices, files: Sequence[sources.SourceFile]
) -> dict[str, Value]:
    """Where the file comes from, for whoever holds it: no paths, no times."""
    chosen = [f"--gates {options.gates}"] if options.gates != "bf16" else []
    chosen += [f"--mirror {options.mirror}"] if options.mirror else []
    chosen += [f"--fallback {options.fallback}"] if options.fallback else []
    chosen += [f"--edges {e}" for e in options.edges]
    chosen += [f"--set {o}" for o in options.set_roles]
    chosen += [f"--tensor-type {o}" for o in options.tensor_types]
    chosen += [f"--on-outlier {options.on_outlier}"] if options.on_outlier != "error" else []
    return {
        "ggufmix.version": text(version("ggufmix")),
        "ggufmix.recipe": text(choices.recipe.name),
        "ggufmix.options": texts(chosen),
        "ggufmix.source.files": texts([f.name for f in files]),
        "ggufmix.source.sizes": array(gguf.GGUFValueType.UINT64, [f.size for f in files]),
        "ggufmix.source.fingerprints": texts([f.fingerprint for f in files]),
    }


def _scan_warnings(tally: writer.Tally, on_outlier: OnOutlier) -> Iterator[str]:
    for name, error in tally.outliers.items():
        where = (
            f"{name}: row {error.row}, column {error.column} is too large for the scale of a block"
        )
        yield where + (
            ": written in BF16"
            if on_outlier == "bf16"
            else "; --on-outlier bf16 writes the tensor in BF16"
        )


def _threads(asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise UsageError(f"threads: expected at least 1, got {asked}")
    return (
        asked or len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else (asked or os.cpu_count() or 1)
    )
