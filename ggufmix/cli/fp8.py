"""`ggufmix fp8` and `ggufmix dequantize`."""

# SPDX-License-Identifier: MIT

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from ..errors import UsageError
from .options import Json, Threads, one_of
from .said import note, resumable, warn

if TYPE_CHECKING:
    from ..fp8.choosing import Choice
    from ..fp8.reviewing import Review
    from ..fp8.saving import Planned

Checkpoint = Annotated[
    str | None,
    typer.Argument(
        metavar="SRC",
        help="Checkpoint: a directory with config.json and safetensors, hf://owner/name, s3:// or "
        "https://.",
    ),
]
InputDir = Annotated[
    str | None,
    typer.Option("--input-dir", "--input_dir", metavar="SRC", help="Another way to give SRC."),
]
Folder = Annotated[
    Path,
    typer.Option(
        "--out", "-o", "--output-dir", "--output_dir", metavar="DIR", help="Folder to write."
    ),
]
OptionalFolder = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", "--output-dir", "--output_dir", metavar="DIR", help="Folder to write."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write into a folder that has files in it.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with what a run that was stopped has left.")
]
ShardSize = Annotated[
    str | None,
    typer.Option(
        "--max-shard-size", metavar="5GB", help="Split the weights anew; by default as SRC does."
    ),
]


def fp8(
    src: Checkpoint = None,
    *,
    out: OptionalFolder = None,
    input_dir: InputDir = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            "--calib-mode",
            "--calib_mode",
            metavar="rms|max|percentile|mse",
            help="How the scale of a block is found.",
        ),
    ] = None,
    rms_factor: Annotated[
        float | None,
        typer.Option("--rms-factor", "--rms_factor", metavar="K", help="rms: K times RMS is 448."),
    ] = None,
    percentile: Annotated[
        float | None,
        typer.Option(
            "--percentile",
            "--calib-percentile",
            "--calib_percentile",
            metavar="P",
            help="percentile: that of the magnitudes is 448.",
        ),
    ] = None,
    grid: Annotated[
        int | None,
        typer.Option(
            "--grid",
            "--mse-grid-size",
            "--mse_grid_size",
            metavar="N",
            help="mse: scales that are tried.",
        ),
    ] = None,
    activation_stats: Annotated[
        Path | None,
        typer.Option(
            "--activation-stats",
            "--activation_stats",
            metavar="FILE",
            help="What rms and mse weigh columns by: of `calibrate`, a GGUF imatrix, or JSON.",
        ),
    ] = None,
    scale: Annotated[
        str, typer.Option(metavar="any|pow2", help="pow2: powers of two, which engines leave be.")
    ] = "any",
    scale_dtype: Annotated[
        str,
        typer.Option(
            "--scale-dtype", "--scale_dtype", metavar="bf16|f32", help="What scales are stored in."
        ),
    ] = "bf16",
    preset: Annotated[
        str,
        typer.Option(
            metavar="conservative|official",
            help="What becomes FP8; official: out_proj and shared expert too.",
        ),
    ] = "conservative",
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Modules that stay as they are; repeatable."),
    ] = None,
    quantize: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Modules that become FP8; repeatable."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(metavar="auto|cpu|cuda[:N]", help="Where it is done; auto: the CPU."),
    ] = "auto",
    max_shard_size: ShardSize = None,
    verify_samples: Annotated[
        int,
        typer.Option(
            "--verify-samples",
            "--verify_samples",
            min=0,
            metavar="N",
            help="FP8 weights of each file that are read back.",
        ),
    ] = 5,
    skip_verify: Annotated[
        bool,
        typer.Option("--skip-verify", "--skip_verify", help="Read nothing back, fail nothing."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would become of what. Writes nothing.")
    ] = False,
    threads: Threads = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint in block FP8, for vLLM, SGLang and transformers."""
    from .. import progress
    from ..fp8 import converting, saving
    from ..fp8.coding import Search

    given = {"mode": mode, "factor": rms_factor, "percentile": percentile, "grid": grid}
    options = converting.Options(
        preset=preset,
        keep=tuple(keep or ()),
        quantize=tuple(quantize or ()),
        search=Search(**{k: v for k, v in given.items() if v is not None}),  # type: ignore[arg-type]
        scale_dtype=one_of("--scale-dtype", scale_dtype, get_args(converting.ScaleDtype)),
        pow2=one_of("--scale", scale, ("any", "pow2")) == "pow2",
        statistics=activation_stats,
        device=device,
        max_shard_size=None if max_shard_size is None else saving.bytes_of(max_shard_size),
        verify_samples=verify_samples,
        verify=not skip_verify,
    )
    source = _source(src, input_dir)
    if dry_run:
        choice, planned = converting.plan(source, options)
        _announce(planned)
        _show(choice, planned, as_json=as_json)
        return
    if out is None:
        raise UsageError("expected a folder to write, -o DIR; or --dry-run")
    with resumable(out, lambda: saving.stopped(out)), progress.shown() as bar:
        how = saving.How(threads, overwrite, resume, bar.step, _announce)
        result = converting.convert(source, out, options, how)
    _report(result.review, out, as_json=as_json, extra={"written": _written(result.planned)})


def _show(choice: "Choice", planned: "Planned", *, as_json: bool) -> None:
    from .. import report

    if as_json:
        modules = [
            {"module": d.module, "shape": list(d.shape), "fp8": d.fp8, "reason": d.reason}
            for d in choice.decisions
        ]
        listed = list(choice.not_converted)
        whole = {**_written(planned), "modules_to_not_convert": listed, "modules": modules}
        print(json.dumps(whole, indent=1))
        return
    rows = [
        [name, " x ".join(map(str, shape)), str(n), "FP8" if fp8 else "as it is", reason]
        for (name, shape, fp8, reason), n in choice.kinds.items()
    ]
    heads = ("module", "shape", "modules", "becomes", "reason")
    report.console().print(report.table(heads, rows, right=("modules",)))
    print(f"\n{planned.fp8} FP8 weights, {report.size(planned.size)} in all")


def dequantize(
    src: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Checkpoint whose weights are in FP8, INT4, INT8, MXFP4 and the like.",
        ),
    ],
    *,
    out: Folder,
    dtype: Annotated[
        str, typer.Option(metavar="bf16|f32", help="What the weights become; F32 is exact.")
    ] = "bf16",
    max_shard_size: ShardSize = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Write a checkpoint of packed weights in BF16: what `fp8` does, backwards."""
    from .. import progress, report
    from ..fp8 import dequantizing, saving

    kind = one_of("--dtype", dtype, get_args(dequantizing.Dtype))
    with resumable(out, lambda: saving.stopped(out)), progress.shown() as bar:
        how = saving.How(threads, overwrite, resume, bar.step, _announce_plain)
        size = None if max_shard_size is None else saving.bytes_of(max_shard_size)
        planned = dequantizing.dequantize(src, out, kind, max_shard_size=size, how=how)
    print(f"{out}: {report.size(planned.size)}, {planned.fp8} weights in {kind.upper()}")


def _announce_plain(planned: "Planned") -> None:
    _announce(planned, "are unpacked")


def _source(src: str | None, input_dir: str | None) -> str:
    if (src is None) == (input_dir is None):
        got = "neither" if src is None else "both"
        raise UsageError(f"expected SRC, or --input-dir, got {got}")
    return src or input_dir or ""


def _announce(planned: "Planned", becomes: str = "become FP8") -> None:
    from .. import report

    for sentence in planned.warnings:
        warn(sentence)
    for name, why in planned.side.left:
        note(f"not copied: {name} ({why})")
    n = len(planned.shards)
    note(
        f"{planned.fp8} weights {becomes}, {planned.kept} stay as they are; "
        f"{report.size(planned.size)} in {n} file{'s' * (n != 1)}"
    )


def _written(planned: "Planned") -> dict[str, Any]:
    return {
        "bytes": planned.size,
        "files": [shard.name for shard in planned.shards],
        "copied": list(planned.side.copied),
        "left": [{"name": name, "reason": why} for name, why in planned.side.left],
        "warnings": list(planned.warnings),
    }


def show_review(review: "Review", title: str, *, as_json: bool) -> None:
    """Print what `ggufmix.fp8.rereading.verify` found. Exit 1 where something failed."""
    _report(review, Path(title), as_json=as_json, extra={})


def _report(review: "Review", out: Path, *, as_json: bool, extra: dict[str, Any]) -> None:
    from .. import report
    from ..fp8 import reviewing

    if as_json:
        print(json.dumps({**review.as_dict(), **extra}, indent=1))
    else:
        screen = report.console()
        for weight in review.weights if review.judged else ():
            if weight.verdict != "GOOD":
                lost = weight.lost
                what = weight.problem or (
                    f"rel. RMSE {100 * lost.rrmse:.3f} %, "
                    f"saturated {100 * lost.saturated_share:.4f} %, "
                    f"flushed {100 * lost.flushed_share:.4f} %"
                )
                print(f"{weight.verdict}: {weight.name}: {what}")
        for problem in review.problems:
            print(f"FAIL: {problem}")
        for title, rows in reviewing.summary(review):
            if title:
                print(f"\n{title}")
            width = max(len(row) for row in rows)
            screen.print(report.table([""] * width, [[*r, *[""] * (width - len(r))] for r in rows]))
        advice = reviewing.recommendations(review) if review.judged else ()
        for number, sentence in enumerate(advice, 1):
            print(f"\n{number}. {sentence}")
        print(f"\n{out}: {reviewing.closing(review)}")
        sys.stdout.flush()
    if review.judged and review.verdict == "FAIL":
        raise typer.Exit(1)
