"""The command line: arguments in, text out. Results go to stdout, all else to stderr; exit codes
are those of ggufmix.errors.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import GgufmixError, UsageError

if TYPE_CHECKING:
    from .pipeline import Options
    from .planning import Plan

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Model checkpoints to quantized GGUF, in one pass, with rules that know the architecture.",
)

Source = Annotated[
    Path,
    typer.Argument(metavar="SRC", help="Checkpoint: a directory with config.json and safetensors."),
]
Recipe = Annotated[
    str,
    typer.Option(
        "--recipe", "-r", metavar="NAME", help="Recipe name (see `recipes`), or a .toml file."
    ),
]
GatesOption = Annotated[
    str,
    typer.Option(
        "--gates",
        metavar="bf16|f32|recipe",
        help="What SSM gates keep at least; recipe: no protection.",
    ),
]
MirrorOption = Annotated[
    str | None,
    typer.Option(
        "--mirror", metavar="llama.cpp", help="No protection: write what llama-quantize would."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="ROLE=TYPE", help="A type for a role, such as ffn_down_exps=Q6_K."
    ),
]
TypeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tensor-type", metavar="REGEX=TYPE", help="A type for names; the first match wins."
    ),
]
NoMtp = Annotated[bool, typer.Option("--no-mtp", help="Leave multi-token-prediction blocks out.")]
Pre = Annotated[
    str | None,
    typer.Option(
        "--tokenizer-pre", metavar="NAME", help="Pre-tokenizer, where it is not recognised."
    ),
]
Name = Annotated[
    str | None, typer.Option("--model-name", metavar="NAME", help="general.name of the output.")
]
Scan = Annotated[
    bool,
    typer.Option("--scan", help="Read the data once before planning, and say what will not fit."),
]
Outlier = Annotated[
    str,
    typer.Option(
        "--on-outlier",
        metavar="error|bf16",
        help="A value no block scale can hold; bf16 implies --scan.",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", "-t", min=1, help="Threads; all cores by default.")
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]


@app.command()
def convert(
    src: Source,
    out: Annotated[
        Path, typer.Option("--out", "-o", "--outfile", metavar="OUT.gguf", help="File to write.")
    ],
    recipe: Recipe = "q8_0",
    gates: GatesOption = "bf16",
    mirror: MirrorOption = None,
    set_roles: SetOption = None,
    tensor_types: TypeOption = None,
    no_mtp: NoMtp = False,
    tokenizer_pre: Pre = None,
    model_name: Name = None,
    scan: Scan = False,
    on_outlier: Outlier = "error",
    threads: Threads = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output.")
    ] = False,
) -> None:
    """Write a checkpoint as a quantized GGUF file."""
    from . import pipeline, progress, report

    options = _options(
        recipe,
        gates,
        mirror,
        set_roles,
        tensor_types,
        no_mtp,
        tokenizer_pre,
        model_name,
        scan,
        on_outlier,
    )
    with progress.shown() as bar:

        def planned(plan: Plan) -> None:
            _say(plan)
            bar.begin(
                sum(t.placed.tensor.n_values * t.placed.tensor.dtype.itemsize for t in plan.tensors)
            )

        result = pipeline.convert(
            src,
            out,
            options=options,
            threads=threads,
            overwrite=overwrite,
            progress=bar.step,
            planned=planned,
        )
    for name, losses in result.losses.items():
        _note(
            f"{name}: {losses.flushed} blocks written as zeros (their scale is too small to hold), "
            f"{losses.wiped} blocks in which one value drowns the others"
        )
    plan = result.plan
    print(
        f"{out}: {report.size(plan.total_bytes)}, {plan.bits_per_weight:.2f} bits per weight, "
        f"{plan.recipe}"
    )


@app.command()
def plan(
    src: Source,
    recipe: Recipe = "q8_0",
    gates: GatesOption = "bf16",
    mirror: MirrorOption = None,
    set_roles: SetOption = None,
    tensor_types: TypeOption = None,
    no_mtp: NoMtp = False,
    tokenizer_pre: Pre = None,
    model_name: Name = None,
    scan: Scan = False,
    on_outlier: Outlier = "error",
    threads: Threads = None,
    as_json: Json = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Leave out the list of tensors.")
    ] = False,
) -> None:
    """Show every tensor, its type, the reason and the exact bytes. Writes nothing."""
    from . import pipeline, progress, report

    options = _options(
        recipe,
        gates,
        mirror,
        set_roles,
        tensor_types,
        no_mtp,
        tokenizer_pre,
        model_name,
        scan,
        on_outlier,
    )
    with progress.shown() as bar:
        made = pipeline.plan(src, options=options, threads=threads, progress=bar.step)
    described = made.as_dict()
    if as_json:
        print(json.dumps(described, indent=1))
        return
    _say(made)
    out = report.console()
    if not summary:
        out.print(report.plan_lines(described["tensors"]), "")
    out.print(
        report.shares("type", described["types"]), "", report.shares("role", described["roles"]), ""
    )
    print(
        f"{made.architecture}, recipe {made.recipe}: {report.count(made.n_weights)} weights, "
        f"{made.bits_per_weight:.2f} bits per weight, {made.total_bytes:,} bytes "
        f"({report.size(made.total_bytes)})"
    )


@app.command()
def inspect(
    src: Annotated[
        Path,
        typer.Argument(metavar="FILE.gguf|DIR", help="A GGUF file, or a checkpoint directory."),
    ],
    as_json: Json = False,
) -> None:
    """Say what a file or checkpoint holds: architecture, layers, types, metadata."""
    from . import inspection, report

    found = inspection.inspect(src)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    out = report.console()
    facts = {k: v for k, v in found.items() if isinstance(v, str | int | float)}
    out.print(report.table(("", ""), ([k.replace("_", " "), str(v)] for k, v in facts.items())), "")
    out.print(report.shares("type", found["types"]), "")
    out.print(report.table(("key", "value"), ([k, str(v)] for k, v in found["metadata"].items())))


@app.command()
def formats(as_json: Json = False) -> None:
    """List the storage types: bits per weight, and which can be encoded."""
    from . import codecs, report

    rows = [
        {
            "type": f.name,
            "bits_per_weight": f.bits,
            "block": f.values,
            "encodes": f.encodes,
            "importance": f.importance,
            "encoders": [e.name for e in codecs.ENCODERS.values() if e.format is f],
        }
        for f in codecs.formats().values()
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    report.console().print(
        report.table(
            ("type", "bits/weight", "block", "encoders", "importance"),
            (
                [
                    str(r["type"]),
                    f"{r['bits_per_weight']:.4g}",
                    str(r["block"]),
                    ", ".join(r["encoders"]) if r["encodes"] else "decoded only",  # type: ignore[arg-type]
                    str(r["importance"]) if r["encodes"] else "",
                ]
                for r in rows
            ),
            right=("bits/weight", "block"),
        )
    )


@app.command()
def recipes() -> None:
    """List the built-in recipes."""
    from . import report, rules

    report.console().print(
        report.table(
            ("recipe", "default", "why"),
            ([r.name, r.default, r.why] for r in rules.recipes().values()),
        )
    )


def main() -> None:
    """Entry point of the `ggufmix` command."""
    with _errors_told():
        app()


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if show_version:
        from importlib.metadata import version

        print(version("ggufmix"))
        raise typer.Exit


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except GgufmixError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def _options(
    recipe: str,
    gates: str,
    mirror: str | None,
    set_roles: list[str] | None,
    tensor_types: list[str] | None,
    no_mtp: bool,
    tokenizer_pre: str | None,
    model_name: str | None,
    scan: bool,
    on_outlier: str,
) -> Options:
    from .pipeline import Options

    return Options(
        recipe=recipe,
        gates=_one_of("--gates", gates, ("bf16", "f32", "recipe")),
        mirror=_one_of("--mirror", mirror, ("llama.cpp",)) if mirror is not None else None,
        set_roles=tuple(set_roles or ()),
        tensor_types=tuple(tensor_types or ()),
        mtp=not no_mtp,
        tokenizer_pre=tokenizer_pre,
        model_name=model_name,
        scan=scan,
        on_outlier=_one_of("--on-outlier", on_outlier, ("error", "bf16")),
    )


def _one_of(option: str, given: str, known: tuple[str, ...]) -> Any:
    if given.lower() not in known:
        raise UsageError(f"{option}: expected one of {', '.join(known)}, got {given!r}")
    return given.lower()


def _say(plan: Plan) -> None:
    for note in plan.notes:
        _note(note)
    for warning in plan.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _note(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)
