"""`ggufmix calibrate`."""

# SPDX-License-Identifier: MIT

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .options import Overwrite
from .said import note, warn


def calibrate(
    src: Annotated[
        Path | None,
        typer.Argument(metavar="SRC", help="Checkpoint: a directory with config.json and weights."),
    ] = None,
    *,
    model_dir: Annotated[
        Path | None,
        typer.Option("--model-dir", "--model_dir", metavar="SRC", help="Another way to say SRC."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", "--output", metavar="OUT.gguf", help="File to write.")
    ],
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts-file",
            "--prompts_file",
            metavar="FILE",
            help="Prompts, one a line; by default 48 of our own.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            "--max_tokens",
            min=0,
            metavar="N",
            help="Tokens that the model answers each prompt by, greedily; 256 by default, 0: none.",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", "-f", metavar="FILE", help="A text to run over, instead of prompts."
        ),
    ] = None,
    ctx: Annotated[
        int, typer.Option("--ctx", "-c", min=2, metavar="N", help="Tokens of a window of the text.")
    ] = 512,
    chunks: Annotated[
        int | None,
        typer.Option("--chunks", min=1, metavar="N", help="Windows of the text at most; all."),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(metavar="auto|bf16|f16|f32", help="What to compute in; auto: what is stored."),
    ] = "auto",
    device_map: Annotated[
        str,
        typer.Option(
            "--device-map",
            "--device_map",
            metavar="auto|cpu|cuda|...",
            help="Where the model goes, as transformers has it; auto: accelerators, then memory.",
        ),
    ] = "auto",
    process_output: Annotated[
        bool, typer.Option("--process-output", help="Measure the output matrix too.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Run a checkpoint over text and measure what its weights see, for convert and fp8."""
    from .. import calibrating, progress

    if (src is None) == (model_dir is None):
        raise UsageError("expected one checkpoint, as SRC or --model-dir")
    if text is not None and max_tokens is not None:
        raise UsageError("--max-tokens is for prompts: after a text nothing is generated")
    unit = "prompts" if text is None else "windows"
    with progress.shown("prompts" if text is None else "tokens") as bar:
        made = calibrating.calibrate(
            src or model_dir or "",
            out,
            calibrating.Options(
                prompts_file=prompts_file,
                text=text,
                ctx=ctx,
                chunks=chunks,
                max_tokens=256 if max_tokens is None else max_tokens,
                device_map=device_map,
                dtype=dtype,
                process_output=process_output,
            ),
            overwrite=overwrite,
            progress=bar.step,
        )
    for sentence in made.warnings:
        warn(sentence)
    if made.ahead:
        note(f"{len(made.ahead)} matrices of blocks that transformers does not run (MTP)")
    print(f"{out}: {made.entries} entries of {made.tokens:,} tokens, {made.sequences} {unit}")
