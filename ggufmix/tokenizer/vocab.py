"""Tokens, their types, and merges of a BPE vocabulary."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice, repeat
from operator import contains
from typing import cast

from gguf import TokenType

from ..errors import TokenizerError
from .source import Added, Files

SPACE = "\u0120"  # how byte-level vocabularies write a space
METASPACE = "\u2581"
# The special tokens that every tokenizer_config.json may name. Source: gguf, SpecialVocab.
SPECIAL_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True, slots=True)
class Entry:
    """An added token with the id it really gets."""

    id: int
    special: bool
    normalized: bool


@dataclass(frozen=True, slots=True)
class Merges:
    """Merges in order of rank: as GGUF writes them, and what each one makes."""

    texts: list[str]
    joined: list[str]


def byte_alphabet() -> dict[str, int]:
    """The 256 characters that stand for bytes in a byte-level vocabulary, each with its byte.

    Printable Latin-1 characters stand for themselves, the other bytes for the characters from
    U+0100 on.
    Source: GPT-2's encoder.py, bytes_to_unicode.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(b): b for b in plain} | {chr(0x100 + n): b for n, b in enumerate(others)}


def merges(files: Files) -> Merges:
    """The merges, written as "a b"; a space inside a part of a pair is written as U+0120.

    Raises TokenizerError for a merge that is no pair, or that makes what is no token. That the
    parts are tokens is not looked up, which would take longer than the rest: a part that is not
    was made by no merge, so its own merge never applies.
    """
    model = files.tokenizer.model
    given = model.merges
    kinds = set(map(type, given))
    if kinds == {str}:
        written = cast("list[str]", given)
        joined = [merge.replace(" ", "") for merge in written]
        spaces = sum(map(len, written)) - sum(map(len, joined))
        lines = "\n".join(["", *written, ""])
        one_each = spaces == len(written) and all(map(contains, written, repeat(" ")))
        if not one_each or "\n " in lines or " \n" in lines:
            for merge in written:
                _pair(merge, files)
    else:
        pairs = [_pair(m, files) if isinstance(m, str) else m for m in given]
        written, joined = list(map(" ".join, pairs)), list(map("".join, pairs))
        if any(map(contains, joined, repeat(" "))):
            written = [f"{a.replace(' ', SPACE)} {b.replace(' ', SPACE)}" for a, b in pairs]
    if prefix := model.continuing_subword_prefix:
        parts = [m if isinstance(m, tuple) else _pair(m, files) for m in given]
        joined = [a + b.removeprefix(prefix) for a, b in parts]
    if not _made_in_order(model.vocab, joined):
        for at in [n for n, token in enumerate(joined) if token not in model.vocab][:1]:
            raise TokenizerError(
                f"{files.path}: model.merges[{at}]: {written[at]!r} makes {joined[at]!r}, "
                "which is not in the vocabulary"
            )
    return Merges(written, joined)


def _made_in_order(vocab: dict[str, int], joined: list[str]) -> bool:
    """Whether the merges make a run of the vocabulary, one token each: trained ones mostly do."""
    start = vocab.get(joined[0]) if joined else None
    return start is not None and list(islice(vocab, start, start + len(joined))) == joined


def added_tokens(files: Files, rows: int, warnings: list[str]) -> dict[str, Entry]:
    """The added tokens, by text, with the ids they get.

    A token that is in the vocabulary has its id there; others follow the vocabulary in order,
    whatever id the file gives them: so do tokenizers and transformers, so that is what the model
    has seen. tokenizer_config.json may add tokens and may say that one is special; what it adds
    beyond the last embedding row is left out. Tokens that got another id than the files say, or
    that are left out, are told in `warnings`.
    Source: tokenizers 0.23, AddedVocabulary::add_tokens; transformers 5.23, TokenizersBackend.
    """
    vocab = files.tokenizer.model.vocab
    taken = set(vocab.values()) if len(vocab) <= max(vocab.values(), default=-1) else set()
    made: dict[str, Entry] = {}
    free = len(vocab)
    strays: list[str] = []
    for token, own in _declared(files):
        if not token.content:
            continue
        old = made.get(token.content)
        if old is not None:
            made[token.content] = Entry(old.id, old.special or token.special, old.normalized)
            continue
        at = vocab.get(token.content)
        if at is None:
            if not own and (free >= rows or token.id < 0):
                warnings.append(
                    f"tokenizer_config.json: {token.content!r} is not in tokenizer.json; left out"
                )
                continue
            at, free = free, free + 1
            if at in taken:
                raise TokenizerError(
                    f"{files.path}: the added token {token.content!r} gets id {at}, "
                    "which the vocabulary uses",
                    hint="the ids of model.vocab have holes; put the added tokens into it",
                )
        if token.id not in (at, -1):
            strays.append(f"{token.content!r} ({token.id} -> {at})")
        made[token.content] = Entry(at, token.special, token.normalized)
    if strays:
        shown = ", ".join(strays[:4]) + (", ..." if len(strays) > 4 else "")
        warnings.append(
            f"{files.path}: {len(strays)} added tokens get other ids than the file says, "
            f"as they do in transformers: {shown}"
        )
    return made


def tokens(files: Files, added: dict[str, Entry], rows: int) -> tuple[list[str], list[int]]:
    """The tokens and their types, by id; ids without a token are `[PAD{id}]`, unused.

    All ids must be below `rows`. Raises TokenizerError for two tokens with one id, or one text with
    two ids.
    Source: conversion/base.py, get_vocab_base and does_token_look_special.
    """
    vocab = files.tokenizer.model.vocab
    made: list[str | None] = [None] * rows
    types = [int(TokenType.NORMAL)] * rows
    if list(vocab.values()) == list(range(len(vocab))):
        made[: len(vocab)] = vocab
    else:
        _place(files, made)
    alphabet = byte_alphabet() if files.byte_level else {}
    for content, entry in added.items():
        text = content if entry.normalized else _decoded(content, alphabet)
        if entry.special or looks_special(text):
            types[entry.id] = int(TokenType.CONTROL)
        else:
            text = text.replace(METASPACE, " ")
            types[entry.id] = int(TokenType.USER_DEFINED)
        made[entry.id] = text
    for at in [n for n, token in enumerate(made) if token is None]:
        made[at] = f"[PAD{at}]"
        types[at] = int(TokenType.UNUSED)
    whole = [token for token in made if token is not None]
    check_unique(files, whole)
    return whole, types


def check_unique(files: Files, tokens: list[str]) -> None:
    """Raise TokenizerError for one text with two ids: llama.cpp ends the program at it."""
    if len(set(tokens)) != len(tokens):
        twice = next(token for token, n in Counter(tokens).items() if n > 1)
        first, second = [n for n, token in enumerate(tokens) if token == twice][:2]
        raise TokenizerError(
            f"{files.path}: the token {twice!r} has the ids {first} and {second}; "
            "llama.cpp needs unique tokens"
        )


def _declared(files: Files) -> list[tuple[Added, bool]]:
    """Added tokens in the order they are added, and whether tokenizer.json has them; id -1 where no
    file says.
    """
    made = [(token, True) for token in files.tokenizer.added_tokens]
    config = files.config or {}
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        for key, token in sorted(
            decoder.items(), key=lambda item: int(item[0]) if item[0].isdecimal() else -1
        ):
            if (
                isinstance(token, dict)
                and isinstance(token.get("content"), str)
                and key.isdecimal()
            ):
                special = token.get("special") is True
                normalized = token.get("normalized") is not False
                made.append((Added(int(key), token["content"], special, normalized), False))
    known = {token.content for token, _ in made}
    vocab = files.tokenizer.model.vocab
    named = [config.get(f"{kind}_token") for kind in SPECIAL_KINDS]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        named += config[key] if isinstance(config.get(key), list) else []
    for token in named:
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and (content in known or content in vocab):
            made.append((Added(-1, content, special=True, normalized=False), False))
    return made


def _place(files: Files, made: list[str | None]) -> None:
    for token, at in files.tokenizer.model.vocab.items():
        if at < 0:
            raise TokenizerError(f"{files.path}: the token {token!r} has the id {at}")
        if made[at] is not None:
            raise TokenizerError(
                f"{files.path}: the tokens {made[at]!r} and {token!r} both have the id {at}"
            )
        made[at] = token


def _pair(merge: str, files: Files) -> tuple[str, str]:
    first, _, second = merge.partition(" ")
    if not first or not second or " " in second:
        raise TokenizerError(f"{files.path}: model.merges: expected two parts, got {merge!r}")
    return first, second


def _decoded(content: str, alphabet: dict[str, int]) -> str:
    """An added token as the byte-level decoder gives it back.

    Unlike llama.cpp's converter, a token whose characters happen to be bytes that are no text stays
    as it is: a replacement character would match nothing.
    """
    if not alphabet or not all(character in alphabet for character in content):
        return content
    try:
        return bytes(alphabet[character] for character in content).decode()
    except UnicodeDecodeError:
        return content


def looks_special(token: str) -> bool:
    """Whether llama.cpp's converter takes a token for a control token by its text."""
    return (
        token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (token.startswith("<|") and token.endswith("|>"))
        or (token.startswith("<\uff5c") and token.endswith("\uff5c>"))
        or (token.startswith("<unused") and token.endswith(">"))
    )
