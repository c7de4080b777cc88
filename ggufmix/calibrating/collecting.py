"""From a checkpoint and some text to a file of statistics."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import imatrix, sources, tracing
from ..errors import UsageError
from ..writing import check_place
from . import loading, texts
from .assembling import Progress, collect
from .naming import parameters

_OUTPUT = "output.weight"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is run.

    prompts_file    prompts, one a line; by default the built-in ones
    text            a text that is run over in windows, instead of prompts
    ctx             tokens of a window, and of what the file calls a chunk
    chunks          windows at most
    max_tokens      tokens that the model continues each prompt by; none are generated after a text
    device_map      of from_pretrained
    dtype           "auto", "bf16", "f16" or "f32"
    process_output  measure the output matrix too, as llama-imatrix does where it is told to
    """

    prompts_file: Path | None = None
    text: Path | None = None
    ctx: int = 512
    chunks: int | None = None
    max_tokens: int = 256
    device_map: str = "auto"
    dtype: str = "auto"
    process_output: bool = False

    def check(self) -> None:
        """Raise UsageError for values that cannot be meant."""
        loading.dtype_of(self.dtype)
        if self.text is not None and self.prompts_file is not None:
            raise UsageError("--text and --prompts-file: expected one of them")
        if self.chunks is not None and self.text is None:
            raise UsageError("--chunks counts windows of a text: expected --text")
        for option, value, least in (
            ("--ctx", self.ctx, 2),
            ("--chunks", self.chunks, 1),
            ("--max-tokens", self.max_tokens, 0),
        ):
            if value is not None and value < least:
                raise UsageError(f"{option}: expected a number from {least} up, got {value}")


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What was measured.

    path       the file
    sequences  prompts or windows that were run, `tokens` of them in all
    entries    GGUF tensors that have statistics now
    unrouted   of tensors of experts: those experts that no token was routed to
    ahead      GGUF matrices of blocks that transformers does not run (multi-token prediction)
    without    GGUF matrices whose inputs it computes by another way than llama.cpp
    """

    path: Path
    sequences: int
    tokens: int
    entries: int
    unrouted: dict[str, tuple[int, ...]]
    ahead: tuple[str, ...]
    without: tuple[str, ...]

    @property
    def warnings(self) -> Iterator[str]:
        """Sentences on what the file says nothing of."""
        if self.unrouted:
            worst = sorted(self.unrouted, key=lambda name: -len(self.unrouted[name]))
            yield (
                f"{len(worst)} tensors with experts that no token was routed to: "
                + _some([f"{len(self.unrouted[name])} in {name}" for name in worst])
            )
        if self.without:
            yield (
                f"{len(self.without)} matrices are not measured, since transformers computes with "
                f"them by another way than llama.cpp: {_some(self.without)}"
            )


def calibrate(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Calibrated:
    """Run a checkpoint over text and write what flows into its weights as a GGUF importance matrix.

    src        directory with config.json, tokenizer and safetensors in BF16, F16 or F32
    out        path of the file: entries under GGUF names, `.in_sum2`, `.counts` and `.in_max`
    overwrite  replace an existing output
    progress   called after each sequence, with what it was, and how much is done and there is: in
               prompts, or in tokens of a text
    Raises UsageError for options that cannot be meant and where transformers is not installed,
    SourceError and ModelError for a checkpoint that cannot be run, WriteError for the output.
    """
    options = options or Options()
    options.check()
    path = Path(out)
    check_place(path, overwrite=overwrite)
    sources.check_local(src, "calibrate")
    with sources.open_checkpoint(src) as checkpoint:
        loading.check_plain(checkpoint.where, checkpoint.config)
        directory, stored = checkpoint.directory, list(checkpoint.tensors)
        origins = tracing.trace(checkpoint.config, checkpoint.tensors)
    prompts = texts.prompts(options.prompts_file) if options.text is None else []
    text = texts.text_of(options.text) if options.text is not None else ""
    loading.check_installed()
    model, tokenizer = loading.load(directory, options.dtype, options.device_map)
    sequences: Iterable[list[int]]
    step = progress
    if options.text is not None:
        sequences = texts.windows(
            model, tokenizer, text, str(options.text), options.ctx, options.chunks
        )
        n, dataset = len(sequences), options.text.name
        if progress is not None:
            step = _in_tokens(progress, options.ctx)
    else:
        sequences = texts.conversations(model, tokenizer, prompts, options.max_tokens)
        n, dataset = len(prompts), "prompts of ggufmix"
        if options.prompts_file is not None:
            dataset = options.prompts_file.name
    if not options.process_output:
        origins.pop(_OUTPUT, None)
    found = collect(
        model,
        parameters(model, stored),
        origins,
        sequences,
        n,
        whole=options.process_output,
        progress=step,
    )
    imatrix.write(
        path,
        found.entries,
        datasets=[dataset],
        chunk_count=max(found.tokens // options.ctx, 1),
        chunk_size=options.ctx,
        overwrite=overwrite,
    )
    unrouted = {
        entry.name: tuple(np.flatnonzero(entry.tokens == 0).tolist())
        for entry in found.entries
        if not entry.tokens.all()
    }
    return Calibrated(
        path, n, found.tokens, len(found.entries), unrouted, found.ahead, found.without
    )


def _in_tokens(progress: Progress, ctx: int) -> Progress:
    return lambda what, done, n: progress(what, done * ctx, n * ctx)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
