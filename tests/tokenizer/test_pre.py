"""How the pre-tokenizer is named: by hash, by its steps, or not at all."""

# SPDX-License-Identifier: MIT

import json
import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tokenizer.cases import (
    LLAMA3,
    QWEN2,
    WORDS,
    Case,
    N,
    added,
    cases,
    split,
    tokenizer,
    vocabulary,
)
from tokenizers import Tokenizer as Library

from ggufmix.errors import RuleError, TokenizerError
from ggufmix.tokenizer import load, pre, source, vocab
from ggufmix.tokenizer.table import FILE, parse, table

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


def fingerprint(case: Case, directory: Path) -> str:
    """The hash of a case."""
    files = source.read(case.write(directory))
    return pre.fingerprint(files, vocab.merges(files).joined)


@pytest.mark.parametrize("name", cases())
def test_the_hash_is_that_of_the_converter(name: str, tmp_path: Path) -> None:
    """llama.cpp's get_vocab_base_pre prints the same digest for the same tokenizer."""
    assert fingerprint(cases()[name], tmp_path) == GOLDEN[name]["hash"]


def grown(seed: int, **changes: Any) -> dict[str, Any]:
    """A vocabulary with some hundred random merges, of which many apply to the text."""
    draw = random.Random(seed)
    tokens, merges = vocabulary()
    pool = list(tokens)
    text = "".join(WORDS) + "Ġtoldasksthereemojis3333....``''"
    while len(tokens) < 1500:
        at = draw.randrange(len(text) - 1)
        first = draw.choice([*pool, *text[at : at + 1] * 500])
        second = text[at + 1] if draw.random() < 0.7 else draw.choice(pool)
        if first + second not in tokens and len(first + second) < 16:
            tokens[first + second] = len(tokens)
            merges.append((first, second))
            pool += [first + second] * 2
    draw.shuffle(merges)
    return tokenizer(vocab=tokens, merges=merges, **changes)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ignore", [False, True])
def test_the_reduced_vocabulary_gives_the_same_ids(seed: int, ignore: bool, tmp_path: Path) -> None:
    """Cutting a vocabulary down to what can occur in the text changes no id."""
    made = grown(seed, ignore_merges=ignore, pre_tokenizer=split([QWEN2, LLAMA3][seed % 2]))
    files = source.read(Case(made).write(tmp_path))
    whole = Library.from_file(str(files.path)).encode(table().text).ids
    reduced = pre._reduced_ids(files, vocab.merges(files).joined)
    assert reduced == whole
    assert len(set(whole)) > 60


@pytest.mark.parametrize(
    "made",
    [
        tokenizer(unk_token="!"),
        tokenizer(tokens=[added(N, "apple")]),
        tokenizer(tokens=[added(N, " ")]),
        tokenizer(vocab={t: n for t, n in vocabulary()[0].items() if t != "%"}),
    ],
    ids=["unknown token", "added word", "added space", "a byte is missing"],
)
def test_the_whole_vocabulary_is_taken_where_it_may_matter(
    made: dict[str, Any], tmp_path: Path
) -> None:
    """What the reduction does not cover goes the slow way, to the same hash as the library's."""
    files = source.read(Case(made).write(tmp_path))
    joined = vocab.merges(files).joined
    assert pre._reduced_ids(files, joined) is None
    ids = Library.from_file(str(files.path)).encode(table().text).ids
    assert pre.fingerprint(files, joined) == sha256(str(ids).encode()).hexdigest()


def test_truncation_in_the_file_does_not_change_the_hash(tmp_path: Path) -> None:
    """A tokenizer saved in the middle of training is the same tokenizer; transformers resets that
    too.
    """
    short = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    tokens = [added(N, "apple")]  # takes the slow way
    assert fingerprint(
        Case(tokenizer(tokens=tokens, truncation=short)), tmp_path / "a"
    ) == fingerprint(Case(tokenizer(tokens=tokens)), tmp_path / "b")


def test_a_known_hash_names_the_pre_tokenizer_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash counts, whatever the steps look like."""
    case = cases()["strings"]
    known = table().hash[0]
    monkeypatch.setattr(known, "sha256", GOLDEN["strings"]["hash"])
    made = load(case.write(tmp_path), case.config, rows=case.rows, arch="qwen2")
    assert made.values["tokenizer.ggml.pre"].data == known.pre
    assert made.warnings == []


def test_the_example_is_recognised_by_its_regex_and_says_so(example: Path) -> None:
    """A vocabulary trained anew is unknown to llama.cpp's converter; here it is qwen35, with a
    warning.
    """
    config = json.loads((example / "config.json").read_text())
    made = load(example, config, rows=2048, arch="qwen35moe")
    assert made.values["tokenizer.ggml.pre"].data == "qwen35"
    assert any("--tokenizer-pre" in w and "qwen35" in w for w in made.warnings)


def test_the_users_name_is_taken_without_a_word(example: Path) -> None:
    """With --tokenizer-pre nothing is guessed, so there is nothing to warn of."""
    made = load(example, {"eos_token_id": 1}, rows=2048, arch="qwen35moe", pre="qwen2")
    assert made.values["tokenizer.ggml.pre"].data == "qwen2"
    assert made.warnings == []


@pytest.mark.parametrize(
    ("arch", "ignore", "name"),
    [
        ("llama", True, "llama-bpe"),
        ("llama", False, "dbrx"),
        ("glm4moe", False, "glm4"),
        ("falcon-h1", True, "falcon-h1"),
        ("lfm2moe", True, "lfm2"),
        ("granitehybrid", False, "dbrx"),
    ],
)
def test_the_architecture_decides_among_names_for_one_regex(
    arch: str, ignore: bool, name: str, tmp_path: Path
) -> None:
    """Llama 3's regex has many names, which differ in what llama.cpp does beside it."""
    directory = Case(tokenizer(LLAMA3, ignore_merges=ignore)).write(tmp_path)
    made = load(directory, {"eos_token_id": 0}, rows=384, arch=arch)
    assert made.values["tokenizer.ggml.pre"].data == name


def test_an_unknown_pre_tokenizer_is_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    """Neither hash nor regex: the hint says --tokenizer-pre, and with it the file loads."""
    directory = Case(tokenizer(r"\w+|\s+|.")).write(tmp_path)
    with pytest.raises(TokenizerError, match="not known") as caught:
        load(directory, {"eos_token_id": 0}, rows=384, arch="qwen2")
    assert "--tokenizer-pre" in (caught.value.hint or "")
    made = load(directory, {"eos_token_id": 0}, rows=384, arch="qwen2", pre="qwen2")
    assert made.values["tokenizer.ggml.pre"].data == "qwen2"


def test_removing_what_does_not_match_is_isolating_what_does(tmp_path: Path) -> None:
    """Granite and MiniMax write the same split the other way round."""
    made = split(QWEN2)
    made["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}
    assert pre.steps(made) == pre.steps(split(QWEN2)) == [QWEN2]


def test_line_ends_in_a_regex_are_compared_as_escapes() -> None:
    """DeepSeek's regexes hold real line ends, others write them as escapes."""
    assert pre.steps(split("[^\r\n]+")) == [r"[^\r\n]+"]


@pytest.mark.parametrize("chain", table().chain, ids=lambda chain: chain.pre)
def test_every_regex_of_the_table_is_one_that_the_library_takes(chain: Any) -> None:
    """A typing error in the table would be a pre-tokenizer that no model has."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    for step in chain.steps:
        if not step.startswith("<"):
            pieces = Split(Regex(step.removesuffix(" <merged with next>")), "isolated")
            assert "".join(p for p, _ in pieces.pre_tokenize_str(table().text)) == table().text


def test_the_table_has_no_entry_twice() -> None:
    """First match wins, so a second one would never be seen."""
    hashes = [known.sha256 for known in table().hash]
    chains = [(tuple(chain.steps), chain.ignore_merges) for chain in table().chain]
    assert len(set(hashes)) == len(hashes) == 91
    assert len(set(chains)) == len(chains)
    assert all(len(digest) == 64 for digest in hashes)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (b"schema = 2", "schema"),
        (b"schema = 1\nnmes = []", "nmes"),
        (b'names = ["a"]', "b"),
        (b"schema = ", FILE),
    ],
)
def test_a_wrong_table_is_refused(wrong: bytes, says: str) -> None:
    """Unknown fields, unknown names and other schemas are told with the file."""
    base = {
        b"schema": b"schema = 1",
        b"names": b"names = []",
        b"rest": b'text = ""\nspace_prefix = []\nnamed_eos = []\nhash = []\nspecial = []',
        b"chain": b'chain = [{ pre = "b", steps = [], source = "" }]',
    }
    key = wrong.split(b" ")[0]
    base[key if key in base else b"names"] = wrong if b"nmes" not in wrong else b"nmes = []"
    with pytest.raises(RuleError, match=says):
        parse(b"\n".join(base.values()))
