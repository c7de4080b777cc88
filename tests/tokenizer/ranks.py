"""Small tiktoken vocabularies, and what tiktoken makes of a text with one."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from base64 import b64encode
from itertools import pairwise
from typing import Any

import regex
from tokenizer.cases import Case, vocabulary

from ggufmix.tokenizer.table import table
from ggufmix.tokenizer.vocab import byte_alphabet

(PATTERN,) = next(chain.steps for chain in table().chain if chain.pre == "kimi-k2")


def ranks() -> dict[bytes, int]:
    """The vocabulary of the other cases, as bytes."""
    alphabet = byte_alphabet()
    return {bytes(map(alphabet.__getitem__, token)): at for token, at in vocabulary()[0].items()}


def model(given: dict[bytes, int]) -> bytes:
    """tiktoken.model."""
    lines = [f"{b64encode(token).decode()} {rank}" for token, rank in given.items()]
    return "\n".join([*lines, ""]).encode()


def word_ids(given: dict[bytes, int], word: bytes) -> list[int]:
    """A word: whole if it is a token, else joined, the lowest rank first, as long as that goes.

    Written down from tiktoken's Rust, byte_pair_merge.
    """
    if word in given:
        return [given[word]]
    parts = [bytes([byte]) for byte in word]
    while True:
        joined = [a + b for a, b in pairwise(parts)]
        found = [(given[token], at) for at, token in enumerate(joined) if token in given]
        if not found:
            return [given[part] for part in parts]
        _, at = min(found)
        parts[at : at + 2] = [joined[at]]


def ids(given: dict[bytes, int], special: dict[str, int], text: str) -> list[int]:
    """A text with special tokens in it."""
    made: list[int] = []
    split = re.split("(" + "|".join(map(re.escape, special)) + ")", text) if special else [text]
    for part in split:
        if part in special:
            made.append(special[part])
            continue
        for word in regex.findall(PATTERN, part, flags=regex.V1):
            made += word_ids(given, word.encode())
    return made


N = len(ranks())
DECODER: dict[str, Any] = {
    str(N): {"content": "[BOS]", "special": True},
    str(N + 1): {"content": "[EOS]", "special": True},
    str(N + 2): {"content": "<|im_end|>", "special": True},
    str(N + 5): {"content": "<think>", "special": False},
}
NAMED = {"bos_token": "[BOS]", "eos_token": {"content": "[EOS]"}, "added_tokens_decoder": DECODER}


def special(rows: int) -> dict[str, int]:
    """Special tokens by text, as Kimi's code names them."""
    named = {at: DECODER.get(str(at), {}).get("content") for at in range(N, min(N + 258, rows))}
    return {content or f"<|reserved_token_{at}|>": at for at, content in named.items()}


def cases() -> dict[str, Case]:
    """Every case that has golden values, by name."""
    files: dict[str, str | bytes] = {"tiktoken.model": model(ranks())}
    end = {"bos_token_id": N, "eos_token_id": N + 2, "pad_token_id": N + 255}
    return {
        "ranks": Case(None, NAMED, end, files, "deepseek2", N + 256),
        "ranks-padded": Case(
            None, {**NAMED, "chat_template": "{{ x }}"}, {}, files, "deepseek2", N + 300
        ),
        "ranks-named-end": Case(None, NAMED, end, files, "kimi-linear", N + 256),
        "ranks-wrapped": Case(
            None,
            None,
            {"text_config": end},
            files,
            "deepseek2",
            N + 256,
        ),
    }
