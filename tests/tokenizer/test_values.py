"""Tokenizers as GGUF keys, against llama.cpp's converter."""

# SPDX-License-Identifier: MIT

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType
from tokenizer import pieces, ranks
from tokenizer.cases import QWEN2, Case, N, added, cases, tokenizer, vocabulary

from ggufmix.container import Value, header, read_header
from ggufmix.errors import ModelError, TokenizerError, UsageError
from ggufmix.tokenizer import load

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


def brief(value: Value) -> list[Any]:
    """A value as golden.json has it."""
    data = value.data
    if isinstance(data, list) and len(data) > 20:
        data = sha256(json.dumps(data).encode()).hexdigest()
    return [value.type.name, data]


@pytest.mark.parametrize("name", cases())
def test_same_keys_values_and_order_as_the_converter(name: str, tmp_path: Path) -> None:
    """For each kind of tokenizer, key by key, what llama.cpp's converter writes."""
    case = cases()[name]
    made = load(case.write(tmp_path), case.config, rows=case.rows, arch=case.arch, pre="glm4")
    got = {key: brief(value) for key, value in made.values.items()}
    got.pop("tokenizer.ggml.pre")
    assert got == GOLDEN[name]["keys"]
    assert list(got) == list(GOLDEN[name]["keys"])


def test_every_case_has_its_golden_values() -> None:
    """Nothing is compared with nothing."""
    assert set(GOLDEN) == set(cases()) | set(pieces.cases()) | set(ranks.cases())


def test_a_header_takes_the_values(tmp_path: Path) -> None:
    """What is made can be packed and read back."""
    case = cases()["strings"]
    values = load(case.write(tmp_path / "m"), {}, rows=case.rows, arch="qwen2").values
    path = tmp_path / "vocab.gguf"
    path.write_bytes(header(values, []))
    with path.open("rb") as file:
        read = read_header(file, path.stat().st_size, str(path))
    tokens = read.values["tokenizer.ggml.tokens"]
    assert tokens.item is GGUFValueType.STRING
    assert [token.decode() for token in tokens.data] == values["tokenizer.ggml.tokens"].data


def test_a_list_of_ends_of_text_gives_its_first(tmp_path: Path) -> None:
    """Where only a list says what ends a text, llama.cpp would assume id 11: the first is taken,
    and told.
    """
    made = load(Case(tokenizer()).write(tmp_path), {"eos_token_id": [7, 9]}, rows=384, arch="qwen2")
    assert made.values["tokenizer.ggml.eos_token_id"].data == 7
    assert any("eos_token_id" in warning for warning in made.warnings)


def test_a_token_that_only_tokenizer_config_has_follows_the_others(tmp_path: Path) -> None:
    """Transformers adds it at the end; so do we, and where the embedding ends it is left out and
    told.
    """
    config = {"added_tokens_decoder": {str(N + 9): {"content": "<late>", "special": True}}}
    directory = Case(tokenizer(), config).write(tmp_path)
    made = load(directory, {"eos_token_id": 0}, rows=N + 1, arch="qwen2")
    assert made.values["tokenizer.ggml.tokens"].data[N] == "<late>"
    assert made.values["tokenizer.ggml.token_type"].data[N] == 3
    full = load(directory, {"eos_token_id": 0}, rows=N, arch="qwen2")
    assert "<late>" not in full.values["tokenizer.ggml.tokens"].data
    assert any("<late>" in warning for warning in full.warnings)


def test_added_ids_are_those_that_the_library_gives(tmp_path: Path) -> None:
    """Added tokens follow the vocabulary whatever id the file gives them, and a difference is
    told.
    """
    from tokenizers import Tokenizer

    directory = Case(tokenizer(tokens=[added(N + 5, "<x>"), added(N + 9, "<y>")])).write(tmp_path)
    made = load(directory, {"eos_token_id": 0}, rows=N + 10, arch="qwen2")
    library = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokens = made.values["tokenizer.ggml.tokens"].data
    assert [tokens.index(token) for token in ("<x>", "<y>")] == [
        library.token_to_id(token) for token in ("<x>", "<y>")
    ]
    assert any("'<x>'" in warning for warning in made.warnings)


def test_a_token_whose_bytes_are_no_text_stays(tmp_path: Path) -> None:
    """An added token that reads as a lone byte is kept, where the converter writes a replacement
    character.
    """
    made = load(
        Case(tokenizer(tokens=[added(N, "éé")])).write(tmp_path),
        {"eos_token_id": 0},
        rows=N + 1,
        arch="qwen2",
    )
    assert made.values["tokenizer.ggml.tokens"].data[N] == "éé"


def broken(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json with changes."""
    return tokenizer(QWEN2, **changes)


VOCAB, MERGES = vocabulary()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (broken(merges=[["a", "nope"]]), "nope"),
        (broken(merges=["a b"]), "'ab'"),
        (broken(merges=["a b c"]), "two parts"),
        (broken(merges=["a"]), "two parts"),
        (broken(merges=[" ab", "a b"]), "two parts"),
        (broken(merges=["a", "a b c"]), "two parts"),
        (broken(merges=[["a", "b", "c"]]), r"merges\[0\]"),
        (broken(vocab=VOCAB | {"twice": 5}), "both have the id 5"),
        (broken(vocab=VOCAB | {"minus": -5}), "-5"),
        (broken(vocab=VOCAB | {"[PAD380]": N}), "PAD380"),
        (broken(vocab=VOCAB | {"high": 383}, tokens=[added(383, "x")]), None),
        (broken(type="WordPiece"), "WordPiece, which is not supported yet"),
        (broken(type="Unigram", vocab=[["a", -1.0]]), "Unigram, which is not supported yet"),
        (broken(byte_fallback=True, decoder=None), "pre-tokenizer of SentencePiece"),
        (broken(byte_fallback=True), None),
        (broken(vocab={"a": "b"}), "model.vocab"),
    ],
)
def test_a_broken_vocabulary_is_refused(
    made: dict[str, Any], says: str | None, tmp_path: Path
) -> None:
    """The file and the reason are named."""
    directory = Case(made).write(tmp_path)
    if says is None:
        load(directory, {"eos_token_id": 0}, rows=384, arch="qwen2")
        return
    with pytest.raises(TokenizerError, match=says) as caught:
        load(directory, {"eos_token_id": 0}, rows=384, arch="qwen2")
    assert "tokenizer.json" in str(caught.value)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'{"model": 3}', b"\xff\xfe", b"[]", b'{"model": null}']
)
def test_what_is_no_tokenizer_json_is_refused(raw: bytes, tmp_path: Path) -> None:
    """Damage to the file is an error of the family, not of a parser."""
    (tmp_path / "tokenizer.json").write_bytes(raw)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load(tmp_path, {}, rows=384, arch="qwen2")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (None, "found no tokenizer"),
        ("tokenizer.model", "SentencePiece"),
    ],
)
def test_other_tokenizers_are_named(name: str | None, says: str, tmp_path: Path) -> None:
    """A checkpoint without tokenizer.json is told what it has instead."""
    if name:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(TokenizerError, match=says):
        load(tmp_path, {}, rows=384, arch="qwen2")


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    """Both numbers are named."""
    with pytest.raises(ModelError, match=rf"up to {N - 1}.* 300 rows"):
        load(Case(tokenizer()).write(tmp_path), {}, rows=300, arch="qwen2")


def test_a_special_id_must_be_a_row(tmp_path: Path) -> None:
    """An id outside the embedding would crash a reader."""
    with pytest.raises(TokenizerError, match="eos_token_id"):
        load(Case(tokenizer()).write(tmp_path), {"eos_token_id": 384}, rows=384, arch="qwen2")


def test_an_unknown_pre_tokenizer_name_is_a_usage_error(tmp_path: Path) -> None:
    """It is found before anything is read, and near names are listed."""
    with pytest.raises(UsageError, match="qwen3") as caught:
        load(tmp_path, {}, rows=384, arch="qwen2", pre="qwen3")
    assert "qwen35" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_nesting_without_end_is_refused(name: str, tmp_path: Path) -> None:
    """A file that nests deeper than any parser goes is named, like any other damage."""
    directory = Case(tokenizer(QWEN2)).write(tmp_path)
    (directory / name).write_bytes(b'{"a":' * 20_000)
    with pytest.raises(TokenizerError, match=name):
        load(directory, {"model_type": "qwen3"}, rows=N, arch="qwen3")


def test_a_panic_of_the_library_is_an_error_of_the_file(tmp_path: Path) -> None:
    """The tokenizers package panics on a prefix longer than a token; we name the file."""
    content = tokenizer(QWEN2)
    content["model"]["continuing_subword_prefix"] = "longer than any token of the vocabulary"
    directory = Case(content).write(tmp_path)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load(directory, {}, rows=N, arch="qwen3")
