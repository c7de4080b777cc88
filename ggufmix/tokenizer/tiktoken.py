"""Vocabularies in a `tiktoken.model`, as Kimi has them: lines of a token in base64 and its rank.

A word becomes tokens by joining the neighbours whose union has the lowest rank. Each token of more
than one byte is thus made by one last join, and those joins are the merges of a byte-level BPE.
Source: llama.cpp of 2026-08-04, conversion/deepseek.py, DeepseekV2Model.set_vocab; Kimi's
tokenization_kimi.py.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import TokenizerError
from . import pre
from .source import Added, Files, Model, TokenizerJson
from .table import table
from .vocab import SPECIAL_KINDS, byte_alphabet

NAME = "tiktoken.model"
PRE = "kimi-k2"
RESERVED = 258  # special tokens behind the ranks; Kimi's code says 256 and two
_BYTES = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}
_Pair = tuple[bytes, bytes]


def as_json(files: Files, given: bytes, rows: int) -> Files:
    """The same tokenizer as a tokenizer.json would say it: a byte-level BPE that splits text as
    Kimi does, and behind its tokens the special ones, as many as the embedding has rows for.

    given  tiktoken.model
    Raises TokenizerError for a file that is no such vocabulary.
    """
    ranks = parse(given, files.path)
    letters = bytes(byte_alphabet().values()).decode("latin-1")
    alphabet = str.maketrans(letters, "".join(byte_alphabet()))

    def spelled(token: bytes) -> str:
        return token.decode("latin-1").translate(alphabet)

    pairs: list[str | tuple[str, str]] = []
    for token, rank in ranks.items():
        if len(token) > 1 and (pair := last_join(ranks, token, rank)) is not None:
            pairs.append(f"{spelled(pair[0])} {spelled(pair[1])}")
    vocab = {spelled(token): rank for token, rank in ranks.items()}
    made = TokenizerJson(
        Model(vocab, pairs, type="BPE", ignore_merges=True),
        added_tokens=_special(files, len(ranks), rows),
        pre_tokenizer=_splits(),
        decoder=_BYTES,
    )
    return replace(files, tokenizer=made)


def parse(given: bytes, path: Path) -> dict[bytes, int]:
    """Tokens with their ranks, lowest first.

    Raises TokenizerError for a line that is no token and rank, for ranks that are not 0 to the
    number of tokens, and for bytes that are no token.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(given.splitlines(), 1):
        if not line.strip():
            continue
        try:
            coded, rank = line.split()
            token = b64decode(coded, validate=True)
            ranks[token] = int(rank)
        except (ValueError, NotBase64):
            raise TokenizerError(
                f"{path}: line {number}: expected a token in base64 and its rank, got {line[:40]!r}"
            ) from None
    ordered = dict(sorted(ranks.items(), key=lambda item: item[1]))
    if list(ordered.values()) != list(range(len(ordered))):
        raise TokenizerError(
            f"{path}: expected each rank from 0 to {len(ordered) - 1} once "
            f"({len(ordered)} tokens), got others"
        )
    absent = [byte for byte in range(256) if bytes([byte]) not in ordered]
    if absent or b"" in ordered:
        what = f"the byte {absent[0]:#04x}" if absent else "all tokens but an empty one"
        raise TokenizerError(f"{path}: expected {what} among the tokens")
    return ordered


def last_join(ranks: Mapping[bytes, int], token: bytes, rank: int) -> _Pair | None:
    """The two parts that `token` is at last made of, using no joins of its rank or above.

    None if more than two are left: no join makes it, so it is a token only as a whole word.
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    joins = [ranks.get(token[i : i + 2], rank) for i in range(len(token) - 1)]
    while len(parts) > 2 and (least := min(joins)) < rank:
        at = joins.index(least)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del joins[at]
        if at:
            joins[at - 1] = ranks.get(parts[at - 1] + parts[at], rank)
        if at < len(joins):
            joins[at] = ranks.get(parts[at] + parts[at + 1], rank)
    return (parts[0], parts[1]) if len(parts) == 2 else None


def name(files: Files, joined: list[str], warnings: list[str]) -> str:
    """The name of the pre-tokenizer. How text is split is in the code of such a checkpoint, which
    is not run: a vocabulary that is not Kimi's is said to be taken for one of its kind.
    """
    digest = pre.fingerprint(files, joined)
    if (PRE, digest) not in [(known.pre, known.sha256) for known in table().hash]:
        warnings.append(
            f"{files.path}: llama.cpp does not know this vocabulary (hash {digest}); text is taken "
            f"to be split as Kimi-K2 does ({PRE!r}). If the model's code does otherwise, set "
            "--tokenizer-pre"
        )
    return PRE


def config_with_named(files: Files, config: Mapping[str, Any], arch: str) -> dict[str, Any]:
    """config.json with the ids of tokens that tokenizer_config.json names, where it has none: as in
    llama.cpp's converter, which asks config.json alone, its own ids are the stronger here. But for
    the end of text, where the table says so of an architecture.
    """
    made = dict(config)
    inner = config.get("text_config")
    ids = {token.content: token.id for token in files.tokenizer.added_tokens}
    for kind in SPECIAL_KINDS:
        key, named = f"{kind}_token_id", (files.config or {}).get(f"{kind}_token")
        stated = [where.get(key) for where in (config, inner) if isinstance(where, Mapping)]
        content = named.get("content") if isinstance(named, Mapping) else named
        stronger = kind == "eos" and arch in table().named_eos
        if content in ids and (stronger or all(at is None for at in stated)):
            made[key] = ids[content]
    return made


def _special(files: Files, first: int, rows: int) -> list[Added]:
    """Special tokens: as `added_tokens_decoder` of tokenizer_config.json calls them, or reserved.
    All are control tokens, whatever it says of them.
    """
    decoder = (files.config or {}).get("added_tokens_decoder")
    named = decoder if isinstance(decoder, Mapping) else {}
    made = []
    for at in range(first, min(first + RESERVED, rows)):
        token = named.get(str(at))
        content = token.get("content") if isinstance(token, Mapping) else None
        own = isinstance(content, str) and content
        text = content if own else f"<|reserved_token_{at}|>"
        made.append(Added(at, str(text), special=True, normalized=False))
    return made


def _splits() -> dict[str, Any]:
    (regex,) = next(chain.steps for chain in table().chain if chain.pre == PRE)
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
            _BYTES,
        ],
    }
