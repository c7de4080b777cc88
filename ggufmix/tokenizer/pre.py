"""The name of the pre-tokenizer, `tokenizer.ggml.pre`.

llama.cpp knows a vocabulary by the hash of what it makes of a fixed text. Where the hash is not
known (a vocabulary that was trained anew, another template), the steps of the pre-tokenizer are
compared with those of the known ones, and the user is told so.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from hashlib import sha256
from itertools import compress
from typing import Any

import msgspec

from ..errors import TokenizerError, UsageError
from .source import Files
from .table import Chain, table
from .vocab import byte_alphabet


def check_name(name: str) -> None:
    """Raise UsageError unless llama.cpp loads a vocabulary with this name."""
    names = table().names
    if name not in names:
        near = get_close_matches(name, names, n=4, cutoff=0.4) or names
        raise UsageError(
            f"--tokenizer-pre: expected a name that llama.cpp knows, got {name!r}",
            hint=f"near it: {', '.join(near)}",
        )


def recognise(files: Files, joined: list[str], arch: str, warnings: list[str]) -> str:
    """The name of the pre-tokenizer: by the hash, else by its steps with a warning.

    joined  what each merge makes
    arch    general.architecture, decides where several names fit the steps
    Raises TokenizerError where neither is known.
    """
    digest = fingerprint(files, joined)
    for known in table().hash:
        if known.sha256 == digest:
            return known.pre
    ignore = files.tokenizer.model.ignore_merges
    found = steps(files.tokenizer.pre_tokenizer)
    for chain in table().chain:
        if chain.steps == found and chain.ignore_merges in (None, ignore):
            return _recognised(files, chain, digest, arch, warnings)
    raise TokenizerError(
        f"{files.path}: the pre-tokenizer is not known: neither its hash {digest} "
        f"nor its steps {found}",
        hint="say what it is with --tokenizer-pre NAME",
    )


def _recognised(files: Files, chain: Chain, digest: str, arch: str, warnings: list[str]) -> str:
    name = chain.arch.get(arch, chain.pre)
    others = [other for other in dict.fromkeys((chain.pre, *chain.also)) if other != name]
    also = f" ({', '.join(others)} would fit too)" if others else ""
    warnings.append(
        f"{files.path}: llama.cpp does not know this vocabulary (hash {digest}); "
        f"its pre-tokenizer was recognised by its regex as {name!r}{also}. "
        "A wrong name means worse text: check it, and set --tokenizer-pre if you know better"
    )
    return name


def steps(pre_tokenizer: Mapping[str, Any] | None) -> list[str]:
    """The steps of a pre-tokenizer as the table writes them; what cannot be read is `<its
    type>`.
    """
    if pre_tokenizer is None:
        return []
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        inner = pre_tokenizer.get("pretokenizers")
        return (
            [step for part in inner for step in steps(part)]
            if isinstance(inner, list)
            else ["<Sequence>"]
        )
    if kind == "ByteLevel":
        prefix = ["<byte-level: space first>"] if pre_tokenizer.get("add_prefix_space") else []
        return prefix + (["<byte-level: regex>"] if pre_tokenizer.get("use_regex", True) else [])
    if kind == "Digits":
        return ["<digits: each>" if pre_tokenizer.get("individual_digits") else "<digits: runs>"]
    if kind == "Punctuation":
        return [f"<punctuation: {str(pre_tokenizer.get('behavior', 'Isolated')).lower()}>"]
    if kind == "Split":
        return [_split(pre_tokenizer)]
    return [f"<{kind}>"]


def _split(step: Mapping[str, Any]) -> str:
    pattern = step.get("pattern")
    if not isinstance(pattern, Mapping) or not isinstance(pattern.get("Regex"), str):
        return "<Split: no regex>"
    regex: str = pattern["Regex"].replace("\r", r"\r").replace("\n", r"\n")
    how = (step.get("behavior"), bool(step.get("invert")))
    if how in (("Isolated", False), ("Removed", True)):
        return regex
    if how == ("MergedWithNext", False):
        return regex + " <merged with next>"
    return f"{regex} <{how[0]}, invert {how[1]}>"


def fingerprint(files: Files, joined: list[str]) -> str:
    """The hash by which llama.cpp knows a vocabulary: hex SHA-256 of the ids of the table's text.

    Reading a vocabulary of 250,000 tokens takes the tokenizers library half a second. What can
    occur in one text is a few hundred of them, so it gets those only; where it is not certain that
    the result is the same, it gets all.
    Source: conversion/base.py, get_vocab_base_pre.
    """
    import tokenizers

    try:
        ids = _reduced_ids(files, joined)
        if ids is None:
            raw = files.raw or msgspec.json.encode(files.tokenizer)
            whole = tokenizers.Tokenizer.from_buffer(raw)
            whole.no_truncation()
            whole.no_padding()
            ids = whole.encode(table().text).ids
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises plain Exception, its panics not even that
        raise TokenizerError(f"{files.path}: {error}") from None
    return sha256(str(ids).encode()).hexdigest()


def _reduced_ids(files: Files, joined: list[str]) -> list[int] | None:
    """The ids of the table's text from a vocabulary cut down to it, or None where that might change
    them.

    BPE joins neighbours, so all it ever makes of a word are substrings of that word. First a
    tokenizer without merges gives the words as characters; then tokens and merges that are
    substrings of no word can go, and with them nothing changes: ranks keep their order, ids are
    kept. Not so if unknown characters become something (unk_token) or parts are marked (prefix,
    suffix), if words are not made of the 256 byte characters, or if an added token, whose id
    depends on the size of the vocabulary, occurs in the text.
    """
    import tokenizers

    model = files.tokenizer.model
    vocab = model.vocab
    marks = (
        model.dropout,
        model.unk_token,
        model.continuing_subword_prefix,
        model.end_of_word_suffix,
    )
    alphabet = byte_alphabet()
    if any(marks) or not all(map(vocab.__contains__, alphabet)):
        return None
    content = table().text

    def cut_down(tokens: dict[str, int], merges: list[Any]) -> tokenizers.Tokenizer:
        cut = msgspec.structs.replace(model, vocab=tokens, merges=merges)
        raw = msgspec.json.encode(msgspec.structs.replace(files.tokenizer, model=cut))
        return tokenizers.Tokenizer.from_buffer(raw)

    letters = cut_down({letter: vocab[letter] for letter in alphabet}, []).encode(
        content, add_special_tokens=False
    )
    words: dict[int, str] = {}
    for token, word in zip(letters.tokens, letters.word_ids, strict=True):
        if token not in alphabet or word is None:
            return None
        words[word] = words.get(word, "") + token
    if sum(map(len, words.values())) > 20_000 or max(map(len, words.values()), default=0) > 400:
        return None
    parts = {
        w[i:j] for w in words.values() for i in range(len(w)) for j in range(i + 1, len(w) + 1)
    }
    kept = {part: vocab[part] for part in parts if part in vocab}
    merges = list(compress(model.merges, map(kept.__contains__, joined)))
    cut = cut_down(kept, merges)
    encoding = cut.encode(content, add_special_tokens=False)
    if any(kept.get(token) != at for token, at in zip(encoding.tokens, encoding.ids, strict=True)):
        return None
    ids: list[int] = cut.encode(content).ids
    return ids
