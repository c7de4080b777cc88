"""Running files in llama.cpp, window by window, beside a base model.

Both models take the same piece of a window, are compared, and the logits are forgotten: memory
grows with neither text nor context. Where a vocabulary asks for it, each window begins with BOS in
place of its first token, as llama-perplexity does it.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..container import read_header
from ..errors import EvaluationError, SourceError, UsageError
from . import base as saved_base
from .scores import Logits, Positions, Scores, compare, joined

if TYPE_CHECKING:
    from ..runtime import Llama

Progress = Callable[[str, int, int], None]
"""Called with the name of the file, the tokens done and those there are in all."""


def evaluate(
    path: Path,
    text: str | None,
    ctx: int,
    *,
    base: Path | None = None,
    windows: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Run one GGUF file over a text.

    text     cut into windows of `ctx` tokens, the rest is left out; None only with a base that
             brings its own tokens
    base     a GGUF file of the same model, run alongside; or what llama-perplexity has saved of it
    windows  how many at most, from the beginning
    threads  of llama.cpp
    Raises UsageError (llama.cpp is not installed, a text too short) and EvaluationError (it refuses
    a file; other vocabularies).
    """
    saved = saved_base.read(base) if base is not None and saved_base.is_saved(base) else None
    if saved is not None and saved.ctx != ctx:
        raise UsageError(
            f"{saved.path} was saved with windows of {saved.ctx} tokens, got a context of {ctx}",
            hint=f"--ctx {saved.ctx}",
        )
    with ExitStack() as stack:
        model = stack.enter_context(_opened(path, ctx, threads))
        other = None
        if saved is not None:
            _check_vocabulary(path, model.n_vocab, saved.path, saved.n_vocab)
            tokens = saved.tokens.copy()
        else:
            assert text is not None, "a text, or a base that has one"
            if base is not None:
                other = stack.enter_context(_opened(base, ctx, threads))
                _check_vocabulary(path, model.n_vocab, base, other.n_vocab)
            tokens = _cut(path, model, text, ctx)
        tokens = tokens[:windows]
        if model.bos is not None:
            tokens[:, 0] = model.bos
        found = []
        for number, window in enumerate(tokens):
            theirs = saved.window(number) if saved is not None else None
            found.append(_window(model, other, theirs, window.tolist()))
            if progress is not None:
                progress(path.name, (number + 1) * ctx, tokens.size)
    return Scores(ctx, tuple(found))


def _opened(path: Path, ctx: int, threads: int | None) -> Llama:
    from ..runtime import Llama

    if not path.is_file():
        raise UsageError(f"{path}: expected a GGUF file, there is none")
    if _is_draft(path):  # llama.cpp loads it, and dies of the blocks that are not there
        raise UsageError(
            f"{path}: a draft head alone (MTP) says nothing without its model",
            hint="give the file of the model: drafts never change what it says",
        )
    try:
        return Llama(path, ctx, threads=threads)
    except RuntimeError as error:
        raise EvaluationError(f"{path}: {error}") from error


def _is_draft(path: Path) -> bool:
    """Whether a file has blocks of multi-token prediction, and no first one in front of them."""
    try:
        with path.open("rb") as file:
            names = [t.name for t in read_header(file, path.stat().st_size, path.name).tensors]
    except (OSError, SourceError):
        return False  # llama.cpp says what is wrong
    return any(".nextn." in n for n in names) and not any(n.startswith("blk.0.") for n in names)


def _check_vocabulary(path: Path, here: int, base: Path, there: int) -> None:
    if here != there:
        raise EvaluationError(
            f"{path} has a vocabulary of {here} tokens, {base} one of {there}",
            hint="the base has to be the same model, usually its BF16 file",
        )


def _cut(path: Path, model: Llama, text: str, ctx: int) -> NDArray[np.int32]:
    """Windows, int32 (windows, ctx)."""
    tokens = np.array(model.tokenize(text, special=False, bos=True), np.int32)
    n = len(tokens) // ctx
    if n == 0:
        raise UsageError(
            f"{path}: the text has {len(tokens)} tokens, expected at least one window of {ctx}",
            hint="give a longer text, or a shorter --ctx",
        )
    return tokens[: n * ctx].reshape(n, ctx)


def _window(
    model: Llama, other: Llama | None, theirs: NDArray[np.float32] | None, window: list[int]
) -> Positions:
    known, found, at = len(window) - 1, [], 0
    own = model.stream(window)
    their = other.stream(window) if other is not None else None
    for logits in own:
        n = min(len(logits), known - at)
        base: Logits | None = None
        if their is not None:
            base = next(their)[:n]
        if n > 0:
            found += list(_piece(logits[:n], window[at + 1 : at + 1 + n], base, theirs, at, known))
        at += len(logits)
    return joined(found)


def _piece(
    logits: Logits,
    following: list[int],
    base: Logits | None,
    theirs: NDArray[np.float32] | None,
    at: int,
    known: int,
) -> Iterator[Positions]:
    """One piece, cut in two where a saved base begins."""
    if theirs is None:
        yield compare(logits, following, base)
        return
    first = known - len(theirs)
    before = min(max(first - at, 0), len(following))
    if before:
        yield compare(logits[:before], following[:before])
    if before < len(following):
        start = at + before - first
        part = theirs[start : start + len(following) - before]
        yield compare(logits[before:], following[before:], part)


def by_file(
    paths: Sequence[Path],
    text: str | None,
    contexts: Sequence[int],
    *,
    base: Path | None = None,
    windows: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Path, Scores]]:
    """Every file at every context, one after the other; arguments as `evaluate`."""
    for path in paths:
        for ctx in contexts:
            yield (
                path,
                evaluate(
                    path,
                    text,
                    ctx,
                    base=base,
                    windows=windows,
                    threads=threads,
                    progress=progress,
                ),
            )
