"""From what the user asks for to a plan: source, model, rules and importance meet here.

`prepared_each` is the one way to plans; it stays open as long as rows are read.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import gguf

from . import (
    checksums,
    imatrix,
    overriding,
    placing,
    planning,
    pruning,
    rules,
    scanning,
    sources,
    writing,
)
from .codecs import Encoder, encoder
from .container import Value, array, text, texts, u32
from .errors import FormatError, SourceError, UsageError
from .options import Options, recorded
from .placing import Placement
from .planning import Plan
from .profiling import stage
from .tensor import Placed
from .wishes import Settled, Wishes, gather, settle
from .writing.encoding import by_part
from .writing.scans import Scanned, scannings

Forced = Sequence[tuple[str, str, str]]
"""Name, encoder and reason of tensors for which a scan has found them."""


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
    with prepared_each(src, [options], threads, progress) as ((made,), model):
        yield made, model


@contextmanager
def prepared_each(
    src: str | os.PathLike[str],
    asked: Sequence[Options],
    threads: int | None = None,
    progress: writing.Progress | None = None,
    forced: Sequence[Forced] = (),
) -> Iterator[tuple[list[Plan], Placement]]:
    """Plans for one checkpoint, opened once, and read once where a scan is asked for.

    asked   differ in nothing but their recipes
    forced  for each of them, as a scan has found it: there is no other then
    Other arguments and errors: as `plan`.
    """
    options = asked[0]
    chosen = [_choices(one) for one in asked]  # what is wrong there is said before a source is read
    importance = _importance(options)
    with placing.opened(
        src,
        config=Path(options.config) if options.config is not None else None,
        arch=options.arch,
        component=options.component,
        mtp=options.mtp,
        fuse=options.fuse_gate_up_exps,
        pre=options.tokenizer_pre,
        model_name=options.model_name,
        metadata=Path(options.metadata) if options.metadata is not None else None,
        on_inexact=options.on_inexact,
    ) as whole:
        pruned = pruning.prune(whole, options.prune_layers)
        model = pruned.model
        said = _words(options, model, importance)
        ordered = planning.in_order(model.tensors)
        facts = _facts(model, {**model.values, **said}, imatrix=importance is not None)
        if pruned.blocks is not None and options.mirror == "llama.cpp":
            facts = replace(facts, blocks=pruned.blocks)  # its mixtures go on counting them
        importance = importance.renamed(pruned.name) if importance is not None else None
        deciding = [
            _Deciding.of(one, choices, wishes, model, said, ordered, facts, importance)
            for one, (choices, wishes) in zip(asked, chosen, strict=True)
        ]
        plans = [
            d.plan({name: (encoder(kind), reason) for name, kind, reason in known})
            for d, known in zip(deciding, forced or [()] * len(asked), strict=True)
        ]
        if not forced and (options.scans or (options.on_inexact == "f32" and bool(model.packed))):
            for made in plans:
                check_readable(src, made, model)
            jobs = scannings([made.tensors for made in plans])
            with stage("scan"):
                found = writing.run(
                    jobs,
                    threads=writing.thread_count(threads, model.least_threads),
                    progress=progress,
                    abandon=model.abandon,
                )
            scanned = by_part([job.of for job in jobs], found)
            pairs = enumerate(zip(deciding, plans, strict=True))
            plans = [d.after(made, scanned[n]) for n, (d, made) in pairs]
        yield plans, model


@dataclass(frozen=True, slots=True)
class _Deciding:
    """All that a plan follows from."""

    options: Options
    choices: rules.Choices
    settled: Settled
    model: Placement
    ordered: Sequence[Placed]
    facts: rules.Facts
    importance: imatrix.Imatrix | None
    values: Mapping[str, Value]

    @classmethod
    def of(
        cls,
        options: Options,
        choices: rules.Choices,
        wishes: Wishes,
        model: Placement,
        said: Mapping[str, Value],
        ordered: Sequence[Placed],
        facts: rules.Facts,
        importance: imatrix.Imatrix | None,
    ) -> _Deciding:
        if choices.recipe.name == rules.AUTO:
            choices = replace(choices, recipe=rules.recipe(rules.as_stored(model.tensors)))
        values = dict(model.values)
        values["general.file_type"] = _file_type(choices.recipe, model)
        values["general.quantization_version"] = u32(gguf.GGML_QUANT_VERSION)
        values |= model.words
        values |= said
        values |= _provenance(options, choices, model.files)
        own_file = choices.recipe if options.recipe.lower().endswith(".toml") else None
        mirrored = choices.recipe if options.mirror == "llama.cpp" else None
        settled = settle(wishes, ordered, facts, own_file, mirrored)
        choices = replace(choices, overrides=settled.overrides)
        return cls(options, choices, settled, model, ordered, facts, importance, values)

    def plan(self, forced: Mapping[str, tuple[Encoder, str]]) -> Plan:
        """The plan, with encoder and reason of tensors for which a scan has found them."""
        options, model = self.options, self.model
        choices = replace(self.choices, forced=forced)
        decisions = rules.decide(self.ordered, self.facts, choices)
        again = options.allow_requantize or bool(model.packed)  # there is nothing better
        widen = options.mirror != "llama.cpp"
        carried = rules.carry(self.ordered, decisions, again=again, widen=widen)
        laid_out = planning.lay_out(
            (
                (p, d.encoder, d.reason, d.asked)
                for p, d in zip(carried.placed, carried.decisions, strict=True)
            ),
            planning.alignment_of(self.values),
        )
        weighed = imatrix.assign(laid_out, self.importance, exact=options.mirror == "llama.cpp")
        return Plan(
            recipe=choices.recipe.name,
            architecture=model.arch,
            values=dict(self.values) | checksums.reserved(len(weighed.tensors)),
            tensors=weighed.tensors,
            notes=(
                *model.notes,
                *self.settled.notes,
                *carried.notes,
                *weighed.notes,
                *rules.remarks(weighed.tensors, options.target),
                *(rules.forgone(weighed.tensors, model.arch) if options.mirror else ()),
            ),
            warnings=(*model.warnings, *self.settled.warnings, *weighed.warnings),
            imatrix=weighed.report,
            sources={file.name: file.size for file in model.files},
            uses=tuple(asdict(use) for use in self.settled.uses),
            whole=model.whole,
        )

    def after(self, made: Plan, found: Mapping[str, Scanned]) -> Plan:
        """The plan after a scan of what it would write."""
        kept = self.options.on_outlier == "error"
        beyond = scanning.forced(
            found, outliers=not kept, inexact=self.options.on_inexact != "error"
        )
        made = self.plan(beyond) if beyond else made
        counts = {name: s.counts for name, s in found.items()}
        return replace(
            made,
            notes=(*made.notes, *scanning.lattice_notes(counts)),
            warnings=(
                *made.warnings,
                *scanning.outlier_warnings(found, kept=kept),
                *scanning.inexact_warnings(self.model.packed),
            ),
        )


def _importance(options: Options) -> imatrix.Imatrix | None:
    include, exclude = options.include_weights, options.exclude_weights
    if options.imatrix:
        return imatrix.read(options.imatrix).chosen(include, exclude)
    if include or exclude:
        raise UsageError("--include-weights and --exclude-weights choose of an --imatrix")
    return None


def _words(
    options: Options, model: Placement, importance: imatrix.Imatrix | None
) -> dict[str, Value]:
    """What the imatrix and the user say in the header."""
    words = importance.keys() if importance is not None else {}
    known = {**model.values, **model.words, **words}
    return words | overriding.overridden(options.override_kv, known)


def _file_type(recipe: rules.Recipe, model: Placement) -> Value:
    """general.file_type; a copy keeps the one it has."""
    stated = model.values.get("general.file_type")
    if recipe.name == rules.COPY and stated is not None:
        return stated
    return u32(gguf.LlamaFileType[recipe.file_type])


def _facts(model: Placement, values: Mapping[str, Value], *, imatrix: bool) -> rules.Facts:
    stated = rules.facts(model.arch, values, imatrix=imatrix)
    if not model.shapes:
        return stated
    found = rules.facts_from_shapes(model.arch, model.tensors, imatrix=imatrix)
    hybrid = any(p.role.startswith("SSM_") for p in model.tensors)
    if found.heads or hybrid:
        return found
    return replace(found, heads=stated.heads, kv_heads=stated.kv_heads)


def check_readable(src: str | os.PathLike[str], plan: Plan, model: Placement) -> None:
    """Raise SourceError if there are no weights to read, FormatError as `_check_encoders`."""
    if not model.readable:
        raise SourceError(
            f"{src}: plan takes it, convert cannot yet (nor --scan): they want a checkpoint",
            hint="give the folder of the safetensors checkpoint it was made from",
        )
    _check_encoders(plan)


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
        mirror=options.mirror,
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
