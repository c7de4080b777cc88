"""llama.cpp makes the same tokens of a text as the tokenizers library, from what we write."""

# SPDX-License-Identifier: MIT

import ctypes
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tokenizer.cases import LLAMA3, QWEN2, Case, N, added, tokenizer
from tokenizers import Tokenizer as Library

from ggufmix import runtime
from ggufmix.container import header, text
from ggufmix.tokenizer import load
from ggufmix.tokenizer.table import table

TEXTS = [
    "Hello there, I've 12345 like apples\n\n  and 3 pears.",
    "<|endoftext|>tea<tool>work<|looks|>  sure",
    "нещо 3.14 “quoted” \t tabs\r\n",
    table().text,
]


@contextmanager
def vocabulary(path: Path) -> Iterator[runtime.Llama]:
    """A file that llama.cpp has loaded for its vocabulary only."""
    params = runtime._model_defaults()
    flags = (ctypes.c_ubyte * len(runtime._FLAGS)).from_buffer(params, runtime._FLAGS_AT)
    assert bytes(flags) == runtime._FLAGS
    flags[0] = 1
    made = object.__new__(runtime.Llama)
    made._context = None
    made._model = runtime._load(os.fsencode(path), params)
    assert made._model, runtime._last_words()
    made._vocab = runtime._vocab_of(made._model)
    made.n_vocab = int(runtime._n_vocab_of(made._vocab))
    with made:
        yield made


def written(directory: Path, path: Path, rows: int, arch: str, pre: str | None = None) -> Path:
    """A GGUF file of the vocabulary alone."""
    config = json.loads((directory / "config.json").read_text())
    values = load(directory, config, rows=rows, arch=arch, pre=pre).values
    path.write_bytes(header({"general.architecture": text(arch)} | values, []))
    return path


SPECIAL = [
    added(N, "<|endoftext|>", special=True),
    added(N + 1, "<tool>"),
    added(N + 2, "<|looks|>"),
]
DIGITS = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
NONE = {"normalizer": None}  # llama.cpp does not normalize


NAMED = {"eos_token": "<|endoftext|>"}
QWEN = Case(tokenizer(QWEN2, tokens=SPECIAL, **NONE), NAMED, arch="qwen2")
LFM = Case(tokenizer(LLAMA3, tokens=SPECIAL, ignore_merges=True, **NONE), NAMED, arch="lfm2")
GLM = Case(tokenizer(LLAMA3, tokens=SPECIAL, **NONE), NAMED, arch="glm4moe")
SMOL = Case(tokenizer(tokens=SPECIAL, pre_tokenizer=DIGITS, **NONE), NAMED, arch="llama")


@pytest.mark.parametrize("case", [QWEN, LFM, GLM, SMOL], ids=["qwen2", "lfm2", "glm4", "smollm"])
def test_llama_cpp_tokenizes_as_the_library_does(case: Case, tmp_path: Path) -> None:
    """Names, merges, types and added tokens are right together: the ids are the same."""
    directory = case.write(tmp_path / "m")
    library = Library.from_file(str(directory / "tokenizer.json"))
    with vocabulary(written(directory, tmp_path / "v.gguf", case.rows, case.arch)) as llama:
        assert llama.n_vocab == case.rows
        for content in TEXTS:
            assert llama.tokenize(content) == library.encode(content, add_special_tokens=False).ids


def test_the_example_too(example: Path, heldout: str, tmp_path: Path) -> None:
    """A trained vocabulary, recognised by its regex, on text that it has not seen."""
    library = Library.from_file(str(example / "tokenizer.json"))
    with vocabulary(written(example, tmp_path / "v.gguf", 2048, "qwen35moe")) as llama:
        assert llama.tokenize(heldout[:20_000]) == library.encode(heldout[:20_000]).ids


@pytest.mark.parametrize("name", table().names)
def test_llama_cpp_loads_every_name_of_the_table(name: str, tmp_path: Path) -> None:
    """What --tokenizer-pre accepts is what llama.cpp knows."""
    case = Case(tokenizer(tokens=SPECIAL), {"eos_token": "<|endoftext|>"})
    directory = case.write(tmp_path / "m")
    with vocabulary(written(directory, tmp_path / "v.gguf", case.rows, "llama", name)) as llama:
        assert llama.n_vocab == case.rows
