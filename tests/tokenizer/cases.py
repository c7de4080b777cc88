"""Small tokenizers from a formula: what the golden values were made from, and what the tests
read.
"""

# SPDX-License-Identifier: MIT

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufmix.tokenizer.vocab import byte_alphabet

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL
WORDS = [
    "Ġnormal",
    "Ġmultiple",
    "Ġemojis",
    "Ġwork",
    "Ġthere",
    "Ġsure",
    "Ġlike",
    "Ġtea",
    "333",
    "33",
    "ðŁ",
    "ĠðŁ",
    "ÑģÐ",
    "ĠÐ",
    "ĊĊ",
    "ĠĠĠ",
    "....",
    "'ve",
    "'ll",
]


def added(
    at: int, content: str, *, special: bool = False, normalized: bool = False
) -> dict[str, Any]:
    """An entry of added_tokens."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": at, "content": content, **flags, "normalized": normalized, "special": special}


def split(regex: str) -> dict[str, Any]:
    """A Split by regex and a ByteLevel without one, as in most tokenizers of today."""
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
            {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": False,
            },
        ],
    }


def template(
    *, first: str | None = None, last: str | None = None, ids: dict[str, int]
) -> dict[str, Any]:
    """A post processor that puts tokens before and after a text."""

    def token(name: str | None) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": name, "type_id": 0}}] if name else []

    def text(name: str, at: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": at}}

    return {
        "type": "TemplateProcessing",
        "single": [*token(first), text("A", 0), *token(last)],
        "pair": [
            *token(first),
            text("A", 0),
            *token(last),
            *token(first),
            text("B", 1),
            *token(last),
        ],
        "special_tokens": {
            name: {"id": name, "ids": [ids[name]], "tokens": [name]}
            for name in (first, last)
            if name
        },
    }


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The 256 bytes, and the words above letter by letter."""
    tokens = {letter: n for n, letter in enumerate(byte_alphabet())}
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens[word[:end]] = len(tokens)
                merges.append((word[: end - 1], word[end - 1]))
    return tokens, merges


@dataclass(frozen=True)
class Case:
    """The files of a tokenizer, the architecture and the rows of the embedding."""

    tokenizer: dict[str, Any] | None
    tokenizer_config: dict[str, Any] | None = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str | bytes] = field(default_factory=dict)
    arch: str = "qwen2"
    rows: int = 384

    def write(self, directory: Path) -> Path:
        """Write the files, and return the directory."""
        directory.mkdir(parents=True, exist_ok=True)
        made = {
            "tokenizer.json": self.tokenizer,
            "config.json": {**self.config, "vocab_size": self.rows},
            "tokenizer_config.json": self.tokenizer_config,
        }
        for name, content in made.items():
            if content is None:
                continue
            (directory / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        for name, given in self.files.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_bytes(given if isinstance(given, bytes) else given.encode())
        return directory


def tokenizer(
    regex: str = QWEN2,
    *,
    tokens: list[dict[str, Any]] | None = None,
    strings: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """A tokenizer.json; `changes` to the model, or to the whole where it has such a field."""
    vocab, merges = vocabulary()
    model: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": [" ".join(pair) for pair in merges]
        if strings
        else [list(pair) for pair in merges],
    }
    whole: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens or [],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": split(regex),
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": model,
    }
    for key, value in changes.items():
        (whole if key in whole else model)[key] = value
    return whole


N = len(vocabulary()[0])  # the first free id


def cases() -> dict[str, Case]:
    """Every case that has golden values, by name."""
    plain = [
        added(N, "<|endoftext|>", special=True),
        added(N + 1, "<tool>"),
        added(N + 2, "<|looks|>"),
    ]
    vocab, merges = vocabulary()
    holes = {token: n if n < 256 else n + 7 for token, n in vocab.items()}
    holes |= {"<|endoftext|>": 258, "<tool>": 261}
    spaced = vocab | {"a b": N, "a bc": N + 1}
    glm = ["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|observation|>"]
    odd = ["Ġfoo", "\u2581x\u2581", " lead ", "café x", "<unused7>", "<｜User｜>", "<pad>"]
    named = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    jinja = "{% for m in messages %}{{ m.content }}{% endfor %}"
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    bos = {"bos_token": {"__type": "AddedToken", "content": "<s>", **flags}, "eos_token": "</s>"}
    ends = [added(N, "<s>", special=True), added(N + 1, "</s>", special=True)]
    ids = {"<s>": N, "</s>": N + 1}
    return {
        "strings": Case(tokenizer(tokens=plain, strings=True), named, {"bos_token_id": 3}),
        "pairs-padded": Case(tokenizer(tokens=plain), named, {"eos_token_id": 5}, rows=500),
        "holes": Case(
            tokenizer(
                tokens=[added(258, "<|endoftext|>", special=True), added(261, "<tool>")],
                vocab=holes,
            ),
            named,
            rows=400,
        ),
        "space-in-merge": Case(
            tokenizer(vocab=spaced, merges=[*merges, ("a", " b"), ("a b", "c")])
            if " b" in spaced
            else tokenizer(
                vocab=spaced | {" b": N + 2}, merges=[*merges, ("a", " b"), ("a b", "c")]
            ),
            {},
            {"eos_token_id": 0},
        ),
        "odd-added": Case(
            tokenizer(tokens=[added(N + n, text, normalized=n == 1) for n, text in enumerate(odd)]),
            {"mask_token": "<pad>"},
            {"eos_token_id": 1},
        ),
        "ignore-merges": Case(
            tokenizer(
                LLAMA3,
                tokens=ends,
                ignore_merges=True,
                post_processor=template(first="<s>", ids=ids),
            ),
            bos,
            arch="llama",
        ),
        "adds-both": Case(
            tokenizer(tokens=ends, post_processor=template(first="<s>", last="</s>", ids=ids)),
            {**bos, "add_eos_token": False},
            {"text_config": {"pad_token_id": 7}},
        ),
        "ends-otherwise": Case(
            tokenizer(
                tokens=[*ends, added(N + 2, "<end>", special=True)],
                post_processor=template(last="<end>", ids={"<end>": N + 2}),
            ),
            bos,
        ),
        "no-config": Case(
            tokenizer(tokens=ends, post_processor=template(first="<s>", last="</s>", ids=ids)),
            None,
            {"bos_token_id": N, "eos_token_id": N + 1},
        ),
        "no-bos-named": Case(
            tokenizer(tokens=ends, post_processor=template(first="<s>", ids=ids)),
            {"eos_token": "</s>"},
        ),
        "template-inside": Case(tokenizer(tokens=plain), {**named, "chat_template": jinja}),
        "template-list": Case(
            tokenizer(tokens=plain),
            {
                **named,
                "chat_template": [
                    {"name": "default", "template": jinja},
                    {"name": "tool-use", "template": jinja + "tools"},
                ],
            },
        ),
        "template-files": Case(
            tokenizer(tokens=plain),
            named,
            files={
                "chat_template.jinja": jinja,
                "additional_chat_templates/rag.jinja": jinja + "rag",
            },
        ),
        "template-json": Case(
            tokenizer(tokens=plain),
            named,
            files={"chat_template.json": json.dumps({"chat_template": jinja})},
        ),
        "glm": Case(
            tokenizer(
                LLAMA3, tokens=[added(N + n, text, special=True) for n, text in enumerate(glm)]
            ),
            {"eos_token": "<|endoftext|>"},
            arch="glm4moe",
        ),
        "digits": Case(
            tokenizer(
                tokens=plain,
                pre_tokenizer={
                    "type": "Sequence",
                    "pretokenizers": [
                        {"type": "Digits", "individual_digits": True},
                        {
                            "type": "ByteLevel",
                            "add_prefix_space": False,
                            "trim_offsets": True,
                            "use_regex": True,
                        },
                    ],
                },
            ),
            named,
        ),
        "added-in-the-text": Case(
            tokenizer(tokens=[*plain, added(N + 3, "apple"), added(N + 4, "  ")]), named
        ),
    }
