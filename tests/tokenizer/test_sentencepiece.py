"""SentencePiece vocabularies: against llama.cpp's converter, against the library, in llama.cpp, and
damaged.
"""

# SPDX-License-Identifier: MIT

import ctypes
import json
import random
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizer.cases import Case, added
from tokenizer.pieces import (
    BYTE,
    NAMED,
    NORMAL,
    SPECIAL,
    TOOLS,
    USER_DEFINED,
    N,
    cases,
    decoder,
    fast,
    model,
    number,
    piece,
    pieces,
    sized,
)
from tokenizer.test_runtime import vocabulary, written
from tokenizer.test_values import GOLDEN, brief
from tokenizers import Tokenizer as Library

from ggufmix.errors import ModelError, TokenizerError
from ggufmix.runtime import _function
from ggufmix.tokenizer import Tokenizer, load, sentencepiece

TOKENS, SCORES, TYPES = (f"tokenizer.ggml.{key}" for key in ("tokens", "scores", "token_type"))
OURS = {"tokenizer.ggml.unknown_token_id": 0}
"""Without a tokenizer.json the converter does not look for the tokens that are named."""

TEXTS = [
    "the then there like apples and pears",
    "  the    33 apples\nи нещо — 漢字 🦙",
    "heretherein workwork teapples",
    "t",
    "",
    " ",
]


def made(case: Case, directory: Path) -> Tokenizer:
    """What we make of a case."""
    return load(case.write(directory), case.config, rows=case.rows, arch=case.arch)


@pytest.mark.parametrize("name", cases())
def test_same_keys_values_and_order_as_the_converter(name: str, tmp_path: Path) -> None:
    """Key by key what llama.cpp's converter writes. Of a tokenizer.json it has no scores, and calls
    a special token user-defined unless tokenizer_config.json names its role.
    """
    case, want = cases()[name], GOLDEN[name]["keys"]
    values = made(case, tmp_path).values
    assert values.pop("tokenizer.ggml.pre").data == "default"
    assert {key: value.data for key, value in values.items() if key not in want} in ({}, OURS)
    if name.startswith("fast"):
        values[SCORES].data[:] = [-1000.0] * case.rows
        values[TYPES].data[N + 1 :] = [USER_DEFINED] * (case.rows > N)
    got = {key: brief(value) for key, value in values.items() if key in want}
    assert got == want
    assert list(got) == list(want)


def test_llama_cpp_knows_the_tokens_of_an_infill(tmp_path: Path) -> None:
    """Code Llama's: three by their text, the end of one by the key."""
    path = written(cases()["spm-infill"].write(tmp_path), tmp_path / "v.gguf", 32016, "llama")
    with vocabulary(path) as llama:
        found = [
            _function(f"llama_vocab_{what}", ctypes.c_int32, ctypes.c_void_p)(llama._vocab)
            for what in ("fim_pre", "fim_suf", "fim_mid", "eot")
        ]
    assert found == [32007, 32008, 32009, 32010]


def test_the_library_reads_the_same(tmp_path: Path) -> None:
    """Every piece, score and kind is what sentencepiece reads."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model())
    theirs = SentencePieceProcessor(model_file=str(path))
    ours = sentencepiece.parse(path.read_bytes(), path)
    assert ours.pieces == pieces()
    assert [(p.text, p.score) for p in ours.pieces] == [
        (theirs.id_to_piece(at), theirs.get_score(at)) for at in range(theirs.vocab_size())
    ]
    assert [p.kind == BYTE for p in ours.pieces] == [theirs.is_byte(at) for at in range(N)]
    assert (ours.algorithm, ours.prefix, ours.squeeze, ours.escape) == (2, True, False, True)


@pytest.mark.parametrize("prefix", [1, 0])
def test_llama_cpp_tokenizes_as_sentencepiece_does(prefix: int, tmp_path: Path) -> None:
    """From tokenizer.model alone: the same ids, with and without a space in front."""
    case = Case(None, None, {}, {"tokenizer.model": model(prefix=prefix)}, "llama", N + 5)
    directory = case.write(tmp_path / "m")
    theirs = SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    with vocabulary(written(directory, tmp_path / "v.gguf", case.rows, case.arch)) as llama:
        for text in TEXTS:
            assert llama.tokenize(text) == theirs.encode(text), text


def test_a_trained_vocabulary_too(heldout: str, tmp_path: Path) -> None:
    """A vocabulary that sentencepiece trained, on text that it has not seen."""
    (tmp_path / "text").write_text(heldout[:70_000], encoding="utf-8")
    SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "made"),
        vocab_size=2000,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    raw = (tmp_path / "made.model").read_bytes()
    directory = Case(None, NAMED, {}, {"tokenizer.model": raw}, "llama", 2000).write(tmp_path / "m")
    theirs = SentencePieceProcessor(model_proto=raw)
    with vocabulary(written(directory, tmp_path / "v.gguf", 2000, "llama")) as llama:
        for line in heldout[70_000:].splitlines():
            assert llama.tokenize(line) == theirs.encode(line), line


@pytest.mark.parametrize("name", ["fast", "fast-no-space", "spm-and-fast"])
def test_llama_cpp_tokenizes_as_tokenizers_does(name: str, tmp_path: Path) -> None:
    """From a tokenizer.json too, added tokens included."""
    case = cases()[name]
    directory = case.write(tmp_path / "m")
    library = Library.from_file(str(directory / "tokenizer.json"))
    with vocabulary(written(directory, tmp_path / "v.gguf", case.rows, case.arch)) as llama:
        for text in [*TEXTS, "the<tool>tea<|end|>and</s> work"][: None if "no" not in name else -1]:
            assert llama.tokenize(text) == library.encode(text, add_special_tokens=False).ids, text


def test_equal_scores_make_other_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter's scores for a tokenizer.json, all the same, are no order of merges."""
    from ggufmix.tokenizer import llama as vocabularies

    kept = vocabularies.from_bpe

    def flat(*given: Any) -> vocabularies.Tokens:
        tokens = kept(*given)
        tokens.scores = [-1000.0] * len(tokens.scores)
        return tokens

    monkeypatch.setattr(vocabularies, "from_bpe", flat)
    case = cases()["fast"]
    directory = case.write(tmp_path / "m")
    library = Library.from_file(str(directory / "tokenizer.json"))
    with vocabulary(written(directory, tmp_path / "v.gguf", case.rows, case.arch)) as llama:
        assert any(
            llama.tokenize(text) != library.encode(text, add_special_tokens=False).ids
            for text in TEXTS
        )


def test_a_byte_level_tokenizer_json_goes_before_tokenizer_model(tmp_path: Path) -> None:
    """Some repositories keep the old tokenizer.model of another tool beside it."""
    from tokenizer.cases import cases as byte_level

    case = byte_level()["strings"]
    directory = case.write(tmp_path)
    (directory / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    values = load(directory, case.config, rows=case.rows, arch=case.arch, pre="qwen2").values
    assert values["tokenizer.ggml.model"].data == "gpt2"


def test_a_unigram_tokenizer_json_beside_tokenizer_model_is_fine(tmp_path: Path) -> None:
    """Its added tokens count where other files leave ids free; the vocabulary is not read."""
    whole = fast([*SPECIAL, *TOOLS]) | {"model": {"type": "Unigram", "vocab": [["a", -1.0]]}}
    case = Case(whole, NAMED, {}, {"tokenizer.model": model()}, "llama", N + 2)
    values = made(case, tmp_path).values
    assert values[TOKENS].data[N:] == ["<tool>", "<|end|>"]
    assert values[TYPES].data[N:] == [4, 3]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"algorithm": 1}, "it is no BPE"),
        ({"squeeze": 1}, "it makes one space of many"),
        ({"given": [p for p in pieces() if p[2] != BYTE]}, "not all 256 bytes are tokens"),
    ],
)
def test_what_llama_cpp_does_otherwise_is_told(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    """A vocabulary that llama.cpp cannot follow in every text comes with a warning."""
    case = Case(None, NAMED, {}, {"tokenizer.model": model(**changes)}, "llama", N)
    assert any(told in warning for warning in made(case, tmp_path).warnings)


def test_a_plain_vocabulary_has_no_warnings(tmp_path: Path) -> None:
    """Llama 2's own kind is followed to the letter."""
    assert made(cases()["spm-padded"], tmp_path).warnings == []


def test_tokens_and_ids_without_a_row_are_told(tmp_path: Path) -> None:
    """What is beyond the embedding is left out by name, as is a special id there."""
    warnings = made(cases()["spm-added"], tmp_path).warnings
    assert any("'<gone>' (5000), '<far>' (5000)" in warning for warning in warnings)
    assert any(warning.startswith("pad_token_id: expected a row") for warning in warnings)


def test_a_larger_vocabulary_is_refused(tmp_path: Path) -> None:
    """Pieces beyond the embedding belong to another model."""
    with pytest.raises(ModelError, match=f"up to {N - 1}.* {N - 1} rows"):
        load(cases()["spm-alone"].write(tmp_path), {}, rows=N - 1, arch="llama")
    with pytest.raises(ModelError, match=f"up to {N + 1}.* {N} rows"):
        load(cases()["fast"].write(tmp_path / "f"), {}, rows=N, arch="llama")


def test_one_text_with_two_ids_is_refused(tmp_path: Path) -> None:
    """llama.cpp would end the program."""
    config = {**NAMED, "added_tokens_decoder": decoder(added(N, "▁the"), added(N + 1, "<s>"))}
    case = Case(None, config, {}, {"tokenizer.model": model()}, "llama", N + 2)
    with pytest.raises(TokenizerError, match="'<s>' has the ids 1 and"):
        made(case, tmp_path)


A = ("a", 0.0, NORMAL)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "it has no pieces"),
        (b"IQ== 0\nIg== 1\n", "it has no pieces"),
        (model()[:-7], "bytes, "),
        (model() + b"\x0a", "does not end"),
        (piece("", 0.0, NORMAL), "the piece at byte 2 is ''"),
        (piece("a", float("nan"), NORMAL), "score nan"),
        (piece("a", float("inf"), NORMAL), "score inf"),
        (piece("a", 0.0, 7), "type 7"),
        (piece("a", 0.0, 0), "type 0"),
        (sized(1, sized(1, b"\xff")), "no UTF-8"),
        (sized(1, number(1, 5)), "field 1 of the piece at byte 2 has wire type 0"),
        (number(1, 5), "field 1 before byte 2 has wire type 0"),
        (piece(*A) + number(3, 5), "has wire type 0"),
        (piece(*A) + b"\x0b", "wire type 3"),
        (piece(*A) + b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "are left"),
        (piece(*A) + b"\xff" * 11, "does not end"),
        (piece(*A) + sized(0, b""), "field 0"),
    ],
)
def test_damage_is_told(raw: bytes, told: str) -> None:
    """What is no SentencePiece model is refused, with the place."""
    with pytest.raises(TokenizerError) as caught:
        sentencepiece.parse(raw, Path("x/tokenizer.model"))
    assert str(caught.value).startswith("x/tokenizer.model: this is no SentencePiece model: ")
    assert told in str(caught.value)


def test_unknown_fields_are_passed_over() -> None:
    """A newer SentencePiece may write more."""
    own = sized(1, b"a") + number(200, 5) + b"\x2d1234" + b"\x31" + bytes(8)
    raw = sized(1, own) + sized(9, b"more") + number(2047, 1 << 63)
    assert sentencepiece.parse(raw, Path()).pieces == [A]


def test_fuzz() -> None:
    """Any damage ends in an error of the family or in a vocabulary, and soon."""
    whole, draw = model(pieces()[240:300]), random.Random(7)
    for _ in range(3000):
        raw = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(raw))
            match draw.randrange(3):
                case 0:
                    raw[at] = draw.randrange(256)
                case 1:
                    del raw[at : at + draw.randint(1, 40)]
                case _:
                    raw[at:at] = draw.randbytes(draw.randint(1, 12))
        try:
            made = sentencepiece.parse(bytes(raw), Path("m"))
        except TokenizerError:
            continue
        assert all(p.text and 1 <= p.kind <= 6 for p in made.pieces)


@pytest.mark.parametrize("raw", [b"{", b'{"a": "b"}', b"[1]", b"\xff"])
def test_damage_to_added_tokens_json(raw: bytes, tmp_path: Path) -> None:
    """The file and the reason are named."""
    case = Case(None, None, {}, {"tokenizer.model": model(), "added_tokens.json": raw}, "llama", N)
    with pytest.raises(TokenizerError, match=r"added_tokens\.json"):
        made(case, tmp_path)


def test_user_defined_pieces_are_normal_ones(tmp_path: Path) -> None:
    """As the converter has it: llama.cpp would put a space behind each that is user-defined."""
    given = [*pieces(), ("xyz", 0.0, USER_DEFINED)]
    case = Case(None, NAMED, {}, {"tokenizer.model": model(given)}, "llama", N + 1)
    assert made(case, tmp_path).values[TYPES].data[-1] == NORMAL


def test_json_of_the_cases_is_what_the_library_takes(tmp_path: Path) -> None:
    """The merges of the formula make what the scores make."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model())
    theirs = SentencePieceProcessor(model_file=str(path))
    library = Library.from_str(json.dumps(fast(SPECIAL)))
    for text in TEXTS[:3]:
        assert library.encode(text).ids == theirs.encode(text)
