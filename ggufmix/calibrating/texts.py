"""What a model is run over: prompts with what it makes of them, or windows of a text."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BUILT_IN = "prompts.txt"
"""Our own prompts, one a line."""


def prompts(path: Path | None) -> list[str]:
    """The lines of a file that are not blank, or the built-in ones.

    Raises UsageError where there is no such file or nothing in it, SourceError for what is no text.
    """
    text = files(__package__).joinpath(BUILT_IN).read_text("utf-8") if path is None else _text(path)
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise UsageError(f"{path}: expected prompts, one a line, the file has none")
    return found


def text_of(path: Path) -> str:
    """A text. Raises as `prompts`."""
    text = _text(path)
    if not text.strip():
        raise UsageError(f"{path}: expected text, the file is empty")
    return text


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: expected text in UTF-8: {error}") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def conversations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[str],
    max_tokens: int,
) -> Iterator[list[int]]:
    """Token ids of each prompt, in the chat template where the tokenizer has one, with up to
    `max_tokens` tokens that the model continues it by, greedily.

    Raises SourceError where the tokenizer is not the model's.
    """
    import torch
    from transformers import GenerationConfig

    stated = model.generation_config
    end = stated.eos_token_id if stated is not None else None
    end = tokenizer.eos_token_id if end is None else end
    greedy = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max(max_tokens, 1),
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end[0] if isinstance(end, list) else end or 0,
    )
    for prompt in asked:
        ids = _framed(model, tokenizer, prompt)
        if max_tokens:
            given = torch.tensor([ids], device=model.device)
            made = model.generate(  # type: ignore[operator]
                given, attention_mask=torch.ones_like(given), generation_config=greedy
            )
            ids = made[0].tolist()
        yield ids


def _framed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    if tokenizer.chat_template is None:
        return _ids(model, tokenizer, prompt, special=True)
    said = [{"role": "user", "content": prompt}]
    framed = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    return _ids(model, tokenizer, str(framed), special=False)  # the template has its own


def _ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool
) -> list[int]:
    ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    if not ids or max(ids) >= rows:  # transformers makes up a tokenizer where it finds no files
        got = f"token {max(ids)}" if ids else "no token"
        raise SourceError(
            f"{tokenizer.name_or_path}: the tokenizer makes {got} of {text[:40]!r}, the model has "
            f"{rows}",
            hint="tokenizer.json is missing, or of another model",
        )
    return ids


def windows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    where: str,
    ctx: int,
    most: int | None,
) -> list[list[int]]:
    """Token ids of a text in windows of `ctx` tokens, `most` at most; what is left at the end is
    left out. Each begins with the token that the tokenizer begins texts with, if it has one, in
    place of its first: as llama-imatrix has it.

    Raises UsageError for a text that does not fill a window.
    """
    ids = _ids(model, tokenizer, text, special=True)
    if len(ids) < ctx:
        raise UsageError(
            f"{where}: expected at least {ctx} tokens, got {len(ids)}",
            hint="give a longer text, or a smaller --ctx",
        )
    made = [ids[start : start + ctx] for start in range(0, len(ids) - ctx + 1, ctx)][:most]
    begin = tokenizer.bos_token_id
    if begin is not None and ids[0] == begin:
        for window in made:
            window[0] = begin
    return made
