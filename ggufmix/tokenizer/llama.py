"""Vocabularies that llama.cpp calls "llama": SentencePiece's BPE, from tokenizer.model, or from a
tokenizer.json that a fast tokenizer made of it.

llama.cpp joins the neighbours that make the token with the highest score, and falls back to bytes.
Source: llama.cpp of 2026-08-04, conversion/base.py, _create_vocab_sentencepiece and
_set_vocab_llama_hf; src/llama-vocab.cpp, llm_tokenizer_spm_session.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gguf import GGUFValueType, Keys, TokenType

from ..container import Value, array, boolean, i32s, text, texts
from ..errors import ModelError, TokenizerError
from . import sentencepiece, special, vocab
from .sentencepiece import SentencePiece
from .source import Files
from .table import table

ADDED, UNUSED = -1000.0, -10000.0  # scores of added tokens, and of ids without a token
_BYTE = re.compile(r"<0x[0-9A-F]{2}>", re.IGNORECASE)


@dataclass(slots=True)
class Tokens:
    """The vocabulary by id: texts, scores and types (gguf.TokenType)."""

    texts: list[str]
    scores: list[float]
    types: list[int]

    @classmethod
    def unused(cls, rows: int) -> Tokens:
        """`rows` ids without a token."""
        return cls(
            [f"[PAD{at}]" for at in range(rows)], [UNUSED] * rows, [int(TokenType.UNUSED)] * rows
        )

    def put(self, at: int, content: str, score: float, kind: TokenType | int) -> None:
        """Set one token."""
        self.texts[at], self.scores[at], self.types[at] = content, score, int(kind)

    def add(self, at: int, content: str, *, control: bool) -> None:
        """Set an added token; llama.cpp finds one in the text as it is written, with spaces."""
        kind = TokenType.CONTROL if control else TokenType.USER_DEFINED
        written = content if control else content.replace(vocab.METASPACE, " ")
        self.put(at, written, ADDED, kind)

    def values(self) -> dict[str, Value]:
        """The keys, in the converter's order."""
        keys = Keys.Tokenizer
        return {
            keys.MODEL: text("llama"),
            keys.PRE: text("default"),
            keys.LIST: texts(self.texts),
            keys.SCORES: array(GGUFValueType.FLOAT32, self.scores),
            keys.TOKEN_TYPE: i32s(self.types),
        }


def values(
    files: Files, config: Mapping[str, Any], *, rows: int, arch: str, warnings: list[str]
) -> dict[str, Value]:
    """The keys of the tokenizer, in the converter's order.

    Raises TokenizerError for a vocabulary that cannot be read or that llama.cpp cannot follow,
    ModelError for one larger than the embedding.
    """
    given = files.sentencepiece
    if given is not None:
        made = from_sentencepiece(files, given, rows, warnings)
        added = {
            content: vocab.Entry(at, kind == TokenType.CONTROL, normalized=False)
            for at, (content, kind) in enumerate(zip(made.texts, made.types, strict=True))
            if kind != TokenType.UNUSED
        }
        prefix = given.prefix
    else:
        added = vocab.added_tokens(files, rows, warnings)
        made = from_bpe(files, added, rows)
        prefix = _prepends(files)
    vocab.check_unique(files, made.texts)
    if not {f"<0x{byte:02X}>" for byte in range(256)} <= set(made.texts):
        warnings.append(
            f"{files.path}: not all 256 bytes are tokens: llama.cpp fails on texts with characters "
            "that the vocabulary lacks"
        )
    spaces = special.space_prefix(files.config, arch)
    if not spaces and not prefix:
        spaces = {Keys.Tokenizer.ADD_PREFIX: boolean(False)}
    rules = [rule for rule in table().special if rule.fits(arch, "default", rows)]
    ids = special.values(
        files, added, config, rules=rules, rows=rows, warnings=warnings, tolerant=True
    )
    return spaces | made.values() | ids


def from_sentencepiece(
    files: Files, given: SentencePiece, rows: int, warnings: list[str]
) -> Tokens:
    """The tokens of tokenizer.model, and those that other files add to it.

    Those are, the later the stronger: added_tokens.json, `added_tokens_decoder` of
    tokenizer_config.json. Beyond llama.cpp's converter, added tokens of tokenizer.json fill ids
    that are free after that. Tokens beyond the embedding are left out, and told in `warnings`.
    """
    pieces = given.pieces
    if len(pieces) > rows:
        raise _too_large(files, len(pieces) - 1, rows)
    made = Tokens.unused(rows)
    for at, (content, score, kind) in enumerate(pieces):
        plain = kind == sentencepiece.USER_DEFINED  # the converter takes them for normal ones
        made.put(at, content, score, TokenType.NORMAL if plain else kind)
    beyond: list[str] = []
    for at, content, control, source in _added(files):
        if not content:
            continue
        if not 0 <= at < rows:
            beyond.append(f"{content!r} ({at})")
        elif source != "tokenizer.json" or (
            made.types[at] == TokenType.UNUSED and made.scores[at] == UNUSED
        ):
            made.add(at, content, control=control)
    if beyond:
        shown = ", ".join(dict.fromkeys(beyond))
        warnings.append(f"{files.path}: left out tokens beyond the {rows} rows: {shown}")
    lacks = [
        what
        for what, differs in (
            ("it is no BPE", given.algorithm != sentencepiece.BPE),
            ("it replaces characters", given.charsmap),
            ("it makes one space of many", given.squeeze),
            ("it leaves spaces as they are", not given.escape),
            ("spaces go with the word before them", given.suffix),
        )
        if differs
    ]
    if lacks:
        warnings.append(
            f"{files.path}: llama.cpp's tokenizer does otherwise for some texts: {'; '.join(lacks)}"
        )
    return made


def from_bpe(files: Files, added: Mapping[str, vocab.Entry], rows: int) -> Tokens:
    """The tokens of a tokenizer.json with byte_fallback.

    Unlike llama.cpp's converter, which scores all with -1000 and so has llama.cpp join from left to
    right, a token's score is minus the rank of the first merge that makes it: llama.cpp then joins
    in the order of the merges. And a special token is a control token though no file names its
    role.
    """
    model = files.tokenizer.model
    _followed(files)
    last = max([*model.vocab.values(), *(entry.id for entry in added.values())], default=-1)
    if last >= rows:
        raise _too_large(files, last, rows)
    made = Tokens.unused(rows)
    rank = {token: n for n, token in reversed(list(enumerate(vocab.merges(files).joined)))}
    for content, at in model.vocab.items():
        if at < 0 or made.scores[at] != UNUSED:
            raise TokenizerError(
                f"{files.path}: the token {content!r} has the id {at}, a taken one"
            )
        kind = TokenType.BYTE if _BYTE.fullmatch(content) else TokenType.NORMAL
        made.put(at, content, -float(rank.get(content, len(rank))), kind)
    for content, entry in added.items():
        if entry.special or entry.id >= len(model.vocab):
            made.add(entry.id, content, control=entry.special)
    return made


def _added(files: Files) -> Iterator[tuple[int, str, bool, str]]:
    """Id, text, whether it is a control token, and the file that adds it."""
    for content, at in files.added.items():
        yield at, content, False, "added_tokens.json"
    decoder = (files.config or {}).get("added_tokens_decoder")
    for key, token in decoder.items() if isinstance(decoder, dict) else ():
        named = token.get("content") if isinstance(token, dict) else None
        if isinstance(named, str) and key.isdecimal():
            control = token.get("special") is True or vocab.looks_special(named)
            yield int(key), named, control, "tokenizer_config.json"
    for own in files.tokenizer.added_tokens:
        control = own.special or vocab.looks_special(own.content)
        yield own.id, own.content, control, "tokenizer.json"


def _followed(files: Files) -> None:
    """Raise TokenizerError for steps that are none of SentencePiece's."""
    steps = files.tokenizer.pre_tokenizer or {}
    pattern = steps.get("pattern")
    whole = isinstance(pattern, Mapping) and pattern.get("String") == " "
    if steps and steps.get("type") != "Metaspace" and not whole:
        raise TokenizerError(
            f"{files.path}: expected the pre-tokenizer of SentencePiece (none, or Metaspace) with "
            f"byte_fallback, got {steps.get('type')!r}"
        )


def _prepends(files: Files) -> bool:
    """Whether a space is put in front of a text."""
    normalizer = files.tokenizer.normalizer or {}
    steps = normalizer.get("normalizers") or [normalizer]
    if any(isinstance(step, dict) and step.get("type") == "Prepend" for step in steps):
        return True
    metaspace = files.tokenizer.pre_tokenizer or {}
    if metaspace.get("type") != "Metaspace":
        return False
    return bool(metaspace.get("prepend_scheme", "always") != "never") and (
        metaspace.get("add_prefix_space") is not False
    )


def _too_large(files: Files, last: int, rows: int) -> ModelError:
    return ModelError(
        f"{files.path}: the vocabulary has ids up to {last}, the embedding has {rows} rows",
        hint="it belongs to another model, or tokens were added and the embedding not resized",
    )
