"""The tokenizer of a checkpoint as the `tokenizer.*` keys of a GGUF file.

Byte-level BPE in `tokenizer.json`, SentencePiece in `tokenizer.model` or made into a
`tokenizer.json`, and ranks in `tiktoken.model`. The values are those of llama.cpp's converter, and
so is their order; where the two differ on purpose, the function at that place says why. Parts:
`source` reads the files, `vocab` makes tokens, types and merges, `pre` names the pre-tokenizer,
`special` finds special ids and chat templates; `sentencepiece` and `llama` read and make a
SentencePiece vocabulary, `tiktoken` reads Kimi's.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import Keys

from ..container import Value, i32s, text, texts
from ..errors import ModelError
from . import llama, source, special, tiktoken, vocab
from . import pre as pre_tokenizer
from .table import table

__all__ = ["Tokenizer", "load"]


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What a GGUF file says of its tokenizer: the keys in the order to write them, and warnings for
    the user.
    """

    values: dict[str, Value]
    warnings: list[str]


def load(
    directory: Path,
    config: Mapping[str, Any],
    *,
    rows: int,
    arch: str,
    pre: str | None = None,
) -> Tokenizer:
    """Read the tokenizer of a checkpoint.

    directory  has tokenizer.json, tokenizer.model or tiktoken.model, and tokenizer_config.json and
               chat templates if the model has them; tokenizer.model counts unless tokenizer.json is
               a byte-level one, tiktoken.model where there is no other
    config     config.json
    rows       rows of the embedding: the vocabulary is padded to them with `[PAD{id}]`
    arch       general.architecture of the GGUF file: decides among names for one pre-tokenizer
    pre        `tokenizer.ggml.pre` as the user wants it, or None to find it out
    Raises UsageError for an unknown `pre`, TokenizerError for a vocabulary that cannot be read or
    whose pre-tokenizer is not recognised, ModelError for a vocabulary larger than the embedding.
    Source: llama.cpp of 2026-08-04, conversion/base.py, TextModel._set_vocab_gpt2,
    get_vocab_base and what llama.py names.
    """
    if pre is not None:
        pre_tokenizer.check_name(pre)
    files = source.read(directory)
    warnings: list[str] = []
    if files.sentencepiece is not None or (
        files.tokenizer.model.byte_fallback and not files.byte_level
    ):
        if pre is not None:
            warnings.append("--tokenizer-pre: a SentencePiece vocabulary has no pre-tokenizer")
        made = llama.values(files, config, rows=rows, arch=arch, warnings=warnings)
        return Tokenizer(made, warnings)
    ranked = files.tiktoken is not None
    if files.tiktoken is not None:
        files = tiktoken.as_json(files, files.tiktoken, rows)
        config = tiktoken.config_with_named(files, config, arch)
    merges = vocab.merges(files)
    added = vocab.added_tokens(files, rows, warnings)
    _fits(files, added, rows)
    tokens, types = vocab.tokens(files, added, rows)
    if pre is not None:
        name = pre
    elif ranked:
        name = tiktoken.name(files, merges.joined, warnings)
    else:
        name = pre_tokenizer.recognise(files, merges.joined, arch, warnings)
    rules = [rule for rule in table().special if rule.fits(arch, name, rows)]

    keys = Keys.Tokenizer
    values = special.space_prefix(files.config, arch)
    values[keys.MODEL] = text("gpt2")
    values[keys.PRE] = text(name)
    values[keys.LIST] = texts(tokens)
    values[keys.TOKEN_TYPE] = i32s(types)
    if merges.texts:
        values[keys.MERGES] = texts(merges.texts)
    else:
        warnings.append(f"{files.path}: no merges: llama.cpp needs them to load this vocabulary")
    known = {} if ranked else added  # the converter asks config.json alone for ids of the former
    values |= special.values(files, known, config, rules=rules, rows=rows, warnings=warnings)
    return Tokenizer(values, warnings)


def _fits(files: source.Files, added: dict[str, vocab.Entry], rows: int) -> None:
    ids = [entry.id for entry in added.values()]
    last = max(max(files.tokenizer.model.vocab.values(), default=-1), max(ids, default=-1))
    if last >= rows:
        raise ModelError(
            f"{files.path}: the vocabulary has ids up to {last}, the embedding has {rows} rows",
            hint="it belongs to another model, or tokens were added and the embedding not resized",
        )
