"""`ggufmix eval`."""

# SPDX-License-Identifier: MIT

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SourceError, UsageError
from .options import Json, Threads

HEADS = "file", "ctx", "windows", "perplexity", "KLD", "99.9 % KLD", "same top", "RMS Δp"


def evaluate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.gguf...", help="GGUF files to run.")],
    *,
    text: Annotated[
        Path | None,
        typer.Option("--text", "-f", metavar="FILE", help="Text to run them over, UTF-8."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base",
            metavar="BF16.gguf",
            help="What to compare with: a file of the same model, or log probabilities that "
            "llama-perplexity saved.",
        ),
    ] = None,
    ctx: Annotated[
        str | None,
        typer.Option("--ctx", "-c", metavar="N,N,...", help="Tokens of context; 512 by default."),
    ] = None,
    windows: Annotated[
        int | None,
        typer.Option("--chunks", min=1, metavar="N", help="Windows of the text at most; all."),
    ] = None,
    like: Annotated[
        list[Path] | None,
        typer.Option("--like", metavar="LOG", help="A log of llama-perplexity, for the table."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="OUT.svg", help="Draw KL divergence over the position."),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Run files in llama.cpp: perplexity, and with --base the KL divergence from it."""
    from .. import evaluating, progress, publishing
    from ..evaluating import base as saved_base
    from ..evaluating import drawing

    saved = saved_base.read(base) if base is not None and saved_base.is_saved(base) else None
    if text is None and saved is None:
        raise UsageError(
            "expected a text", hint="--text FILE, such as the wikitext-2 test set that others use"
        )
    if plot is not None:
        if base is None:
            raise UsageError("--plot draws the divergence from a base: expected --base")
        drawing.check(plot)
    contexts = _contexts(ctx, saved.ctx if saved is not None else 512)
    words = _text(text) if text is not None and saved is None else None
    used = {"text": text.name} if text is not None and saved is None else {}
    used |= {"base": base.name} if base is not None else {}
    rows = [evaluating.read_log(log) | {"file": str(log)} for log in like or ()]
    curves = {}
    with progress.shown("tokens") as bar:
        for path, scores in evaluating.by_file(
            files, words, contexts, base=base, windows=windows, threads=threads, progress=bar.step
        ):
            row = scores.summary() | {"file": str(path), **publishing.identity(path), **used}
            if base is not None:
                positions = scores.by_position()
                row["kld_by_position"] = [{"position": p, "kld": k} for p, k in positions]
            rows.append(row)
            curves[f"{path.name}, {scores.ctx}"] = scores
    if plot is not None:
        drawing.draw(curves, plot)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _print(rows)


def _contexts(given: str | None, usual: int) -> list[int]:
    try:
        made = [int(part) for part in (given or str(usual)).split(",")]
    except ValueError:
        made = []
    if not made or min(made) < 4:
        raise UsageError(f"--ctx: expected numbers of tokens such as 512,4096, got {given!r}")
    return made


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: expected text in UTF-8, byte {error.start} is not") from error


def _print(rows: list[dict[str, Any]]) -> None:
    from .. import report

    out = report.console()
    compared = any("kld" in row for row in rows)
    heads = HEADS if compared else HEADS[:4]
    lines = ([*_line(row)][: len(heads)] for row in rows)
    out.print(report.table(heads, lines, right=heads[1:]))
    said = {row["base_ppl"] for row in rows if "base_ppl" in row}
    if len(said) == 1:
        print(f"perplexity of the base: {said.pop():.4f}")


def _line(row: dict[str, Any]) -> Iterable[str]:
    yield row["file"]
    yield str(row.get("ctx", ""))
    yield str(row.get("windows", ""))
    yield _around(row, "ppl", 1, 4, "")
    yield _around(row, "kld", 1, 6, "")
    yield f"{row['kld_999']:.6f}" if "kld_999" in row else ""
    yield _around(row, "same_top", 100, 2, " %")
    yield f"{100 * row['p_change_rms']:.3f} %" if "p_change_rms" in row else ""


def _around(row: dict[str, Any], name: str, unit: float, digits: int, end: str) -> str:
    if name not in row:
        return ""
    spread = row.get(f"{name}_spread", 0.0)
    return f"{unit * row[name]:.{digits}f} ± {unit * spread:.{digits}f}{end}"
