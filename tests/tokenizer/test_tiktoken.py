"""tiktoken vocabularies: against llama.cpp's converter, against tiktoken's way of joining, in
llama.cpp, and damaged.
"""

# SPDX-License-Identifier: MIT

from pathlib import Path

import pytest
from tokenizer import ranks
from tokenizer.cases import Case
from tokenizer.ranks import NAMED, PATTERN, N, ids, model, special, word_ids
from tokenizer.test_runtime import vocabulary, written
from tokenizer.test_values import GOLDEN, brief
from tokenizers import Regex
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from ggufmix.errors import ModelError, TokenizerError
from ggufmix.tokenizer import Tokenizer, load, tiktoken
from ggufmix.tokenizer.vocab import byte_alphabet

BY_NAME = {"tokenizer.ggml.bos_token_id": N, "tokenizer.ggml.eos_token_id": N + 1}
"""Where config.json has no ids the converter writes none, and llama.cpp assumes 11."""

TEXTS = [
    "Hello there, I've 12345 like apples\n\n  and 3 pears.",
    "[BOS]tea<think>work<|im_end|>  sure<|reserved_token_400|>",
    "我想在apple工作1314151天～ нещо 3.14 “quoted” \t tabs\r\n",
    "",
]


def made(case: Case, directory: Path) -> Tokenizer:
    """What we make of a case."""
    return load(case.write(directory), case.config, rows=case.rows, arch=case.arch)


@pytest.mark.parametrize("name", ranks.cases())
def test_same_keys_values_and_order_as_the_converter(name: str, tmp_path: Path) -> None:
    """Key by key what llama.cpp's converter writes, but for ids that only tokenizer_config.json
    names.
    """
    case, want = ranks.cases()[name], GOLDEN[name]["keys"]
    values = made(case, tmp_path).values
    assert values.pop("tokenizer.ggml.pre").data == "kimi-k2"
    ours = {key: value.data for key, value in values.items() if key not in want}
    assert ours == (BY_NAME if name == "ranks-padded" else {})
    got = {key: brief(value) for key, value in values.items() if key in want}
    assert got == want
    assert list(got) == list(want)


def test_the_hash_is_that_of_the_converter(tmp_path: Path) -> None:
    """Kimi's own vocabulary would be known by it; of another one the user is told."""
    (warning,) = made(ranks.cases()["ranks"], tmp_path).warnings
    assert f"(hash {GOLDEN['ranks']['hash']})" in warning
    assert "--tokenizer-pre" in warning


def test_a_known_hash_is_no_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For Kimi's own vocabulary nothing is said."""
    (known,) = (k for k in tiktoken.table().hash if k.pre == "kimi-k2")
    monkeypatch.setattr(tiktoken.pre, "fingerprint", lambda *_: known.sha256)
    assert made(ranks.cases()["ranks"], tmp_path).warnings == []


def test_llama_cpp_tokenizes_as_tiktoken_does(tmp_path: Path) -> None:
    """Merges, special tokens and the name of the pre-tokenizer are right together."""
    case = ranks.cases()["ranks"]
    directory = case.write(tmp_path / "m")
    with vocabulary(written(directory, tmp_path / "v.gguf", case.rows, case.arch)) as llama:
        assert llama.n_vocab == case.rows
        for text in TEXTS:
            assert llama.tokenize(text) == ids(ranks.ranks(), special(case.rows), text), text


@pytest.fixture(scope="module")
def trained(heldout: str) -> dict[bytes, int]:
    """Ranks of a vocabulary that was trained on text."""
    library = Library(BPE())
    library.pre_tokenizer = Sequence(
        [Split(Regex(PATTERN), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = BpeTrainer(
        vocab_size=3000, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    library.train_from_iterator([heldout[:100_000]], trainer)
    alphabet = byte_alphabet()
    tokens = sorted(library.get_vocab().items(), key=lambda item: item[1])
    return {bytes(map(alphabet.__getitem__, token)): rank for token, rank in tokens}


def test_a_trained_vocabulary_too(trained: dict[bytes, int], heldout: str, tmp_path: Path) -> None:
    """On text that it has not seen."""
    files = {"tiktoken.model": model(trained)}
    case = Case(None, NAMED, {"eos_token_id": 3001}, dict(files), "deepseek2", len(trained) + 256)
    directory = case.write(tmp_path / "m")
    text = heldout[100_000:120_000]
    with vocabulary(written(directory, tmp_path / "v.gguf", case.rows, case.arch)) as llama:
        assert llama.tokenize(text) == ids(trained, {}, text)


def test_the_last_join(trained: dict[bytes, int]) -> None:
    """Of each token it is the one that is left when its own rank is not there yet."""
    for token, rank in trained.items():
        if len(token) > 1:
            before = {t: r for t, r in trained.items() if r < rank} if rank < 600 else None
            pair = tiktoken.last_join(trained, token, rank)
            assert pair is not None
            assert b"".join(pair) == token
            if before is not None:
                assert [before[part] for part in pair] == word_ids(before, token)
    assert tiktoken.last_join({b"a": 0, b"b": 1, b"aba": 2}, b"aba", 2) is None


def test_special_tokens_end_with_the_embedding(tmp_path: Path) -> None:
    """Kimi's code has two more special tokens than Kimi-K2's embedding has rows for."""
    for rows, n in ((N + 10, 10), (N + 258, 258), (N + 300, 258)):
        case = Case(None, NAMED, {}, {"tiktoken.model": model(ranks.ranks())}, "deepseek2", rows)
        values = made(case, tmp_path / str(rows)).values
        types = values["tokenizer.ggml.token_type"].data
        assert types[N:] == [3] * n + [5] * (rows - N - n)


def test_ranks_in_any_order(tmp_path: Path) -> None:
    """Merges are ordered by rank, whatever the order of the lines: llama.cpp goes by theirs."""
    lines = model(ranks.ranks()).splitlines()
    shuffled = b"\n".join([*reversed(lines), b""])
    want = made(ranks.cases()["ranks"], tmp_path / "a").values
    case = Case(None, NAMED, ranks.cases()["ranks"].config, {"tiktoken.model": shuffled})
    got = load(case.write(tmp_path / "b"), case.config, rows=N + 256, arch="deepseek2").values
    assert got == want


LINES = model(ranks.ranks())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (LINES + b"no token\n", f"line {N + 1}: expected a token in base64 and its rank, got b'no"),
        (LINES + b"IQ==\n", f"line {N + 1}: expected a token in base64 and its rank, got b'IQ=="),
        (LINES + b"IQ== 1 2\n", f"line {N + 1}: expected a token"),
        (LINES + b"//79 5\n", f"expected each rank from 0 to {N} once ({N + 1} tokens)"),
        (LINES[: LINES.index(b"\n", 300) + 1], "expected the byte 0x"),
        (LINES + f"= {N}\n".encode(), "expected "),
        (b"", "expected the byte 0x00 among the tokens"),
        (b"\x00\xff\x80" * 9, "line 1: expected a token in base64"),
    ],
)
def test_damage(given: bytes, told: str, tmp_path: Path) -> None:
    """What is no such vocabulary names the line or what is amiss."""
    case = Case(None, NAMED, {}, {"tiktoken.model": given}, "deepseek2", N + 256)
    with pytest.raises(TokenizerError) as caught:
        made(case, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'tiktoken.model'}: ")
    assert told in str(caught.value)


def test_a_larger_vocabulary_than_the_embedding(tmp_path: Path) -> None:
    """It belongs to another model."""
    case = Case(None, NAMED, {}, {"tiktoken.model": LINES}, "deepseek2", N - 1)
    with pytest.raises(ModelError, match=f"ids up to {N - 1}, the embedding has {N - 1} rows"):
        made(case, tmp_path)
