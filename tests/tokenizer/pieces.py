"""A small SentencePiece vocabulary from a formula, as tokenizer.model and as the tokenizer.json
that a fast tokenizer has of it.
"""

# SPDX-License-Identifier: MIT

import json
import struct
from typing import Any

from tokenizer.cases import Case, added

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
WORDS = [
    "▁the", "▁there", "▁then", "▁like", "▁apples", "▁and", "▁pears", "▁sure", "▁tea", "▁work",
    "▁нещо", "▁t", "▁a", "he", "re", "in", "▁▁", "▁▁▁▁", "ing", "ear", "ples", "33", "work",
]  # fmt: skip

Given = tuple[str, float, int]


def pieces() -> list[Given]:
    """Three special tokens, the bytes, the words and what they grow from, letters last."""
    made: list[Given] = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    made += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    grown = [word[:end] for word in WORDS for end in range(2, len(word) + 1)]
    letters = sorted({letter for word in WORDS for letter in word} | set("Hloe123 ,.I'vs") - {" "})
    texts = [*dict.fromkeys(grown), *letters]
    return made + [(text, -float(n), NORMAL) for n, text in enumerate(texts)]


def varint(number: int) -> bytes:
    """A whole number as protocol buffers write it."""
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def sized(field: int, raw: bytes) -> bytes:
    """A field of bytes."""
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def number(field: int, value: int) -> bytes:
    """A field of a whole number."""
    return varint(field << 3) + varint(value)


def piece(text: str, score: float, kind: int) -> bytes:
    """A piece with its field."""
    own = sized(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
    return sized(1, own + (number(3, kind) if kind != NORMAL else b""))


def model(
    given: list[Given] | None = None, *, algorithm: int = 2, squeeze: int = 0, prefix: int = 1
) -> bytes:
    """A tokenizer.model like Llama 2's."""
    trainer = number(3, algorithm) + number(35, 1) + number(4, len(given or pieces()))
    normalizer = sized(1, b"identity") + sized(2, b"") + number(3, prefix) + number(4, squeeze)
    body = b"".join(piece(*one) for one in given or pieces())
    return body + sized(2, trainer) + sized(3, normalizer + number(5, 1))


def fast(tokens: list[dict[str, Any]], *, prepend: bool = True, **changes: Any) -> dict[str, Any]:
    """The tokenizer.json of the same vocabulary: merges are all ways to make a piece of two, by the
    score of what they make.
    """
    vocab = {text: at for at, (text, _, _) in enumerate(pieces())}
    joined = [text for text, _, kind in pieces() if kind == NORMAL and len(text) > 1]
    merges = []
    for text in joined:
        pairs = [(text[:at], text[at:]) for at in range(1, len(text))]
        known = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
        merges += sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    whole: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                *([{"type": "Prepend", "prepend": "▁"}] if prepend else []),
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(pair) for pair in merges],
        },
    }
    return whole | changes


N = len(pieces())
SPECIAL = [added(at, text, special=True) for at, text in enumerate(("<unk>", "<s>", "</s>"))]
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TOOLS = [added(N, "<tool>"), added(N + 1, "<|end|>", special=True)]
INFILL = [
    added(32007 + n, f"▁<{text}>", special=True)
    for n, text in enumerate(("PRE", "SUF", "MID", "EOT"))
]


def decoder(*tokens: dict[str, Any]) -> dict[str, Any]:
    """`added_tokens_decoder` of tokenizer_config.json."""
    kept = [{key: value for key, value in token.items() if key != "id"} for token in tokens]
    return {str(token["id"]): one for token, one in zip(tokens, kept, strict=True)}


def cases() -> dict[str, Case]:
    """Every case that has golden values, by name."""
    spm = {"tokenizer.model": model()}
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    extra = json.dumps({"<tool>": N, "<gone>": 5000})
    odd = [added(N + 2, "<|looks|>"), added(N + 3, "▁x▁"), added(5000, "<far>")]
    config = {**NAMED, "add_bos_token": True, "add_eos_token": False, "add_prefix_space": True}
    return {
        "spm-alone": Case(None, None, ids, spm, "llama", N),
        "spm-padded": Case(None, {**NAMED, "chat_template": "x"}, ids, spm, "qwen2", N + 20),
        "spm-added": Case(
            None,
            {**config, "added_tokens_decoder": decoder(*SPECIAL, *odd)},
            {**ids, "pad_token_id": 5001},
            {**spm, "added_tokens.json": extra},
            "llama",
            N + 20,
        ),
        "spm-and-fast": Case(
            fast([*SPECIAL, *TOOLS]),
            {**config, "added_tokens_decoder": decoder(*SPECIAL, *TOOLS)},
            {"eos_token_id": [2, 5]},
            spm,
            "llama",
            N + 2,
        ),
        "spm-infill": Case(
            None,
            {**config, "chat_template": "x", "added_tokens_decoder": decoder(*INFILL)},
            ids,
            spm,
            "llama",
            32016,
        ),
        "fast": Case(fast([*SPECIAL, *TOOLS]), config, ids, {}, "llama", N + 2),
        "fast-no-space": Case(
            fast(SPECIAL, prepend=False), {**NAMED, "add_prefix_space": False}, ids, {}, "llama", N
        ),
    }
