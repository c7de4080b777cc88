"""Other tools' rules are read as those tools read them, traps included."""

# SPDX-License-Identifier: MIT

from pathlib import Path

import pytest

from ggufmix import dialects
from ggufmix.errors import UsageError

NAMES = ["blk.1.attn_q.weight", "blk.1.attn_qkv.weight", "blk.10.ffn_down_exps.weight"]


def hits(reading: dialects.Reading) -> list[list[int]]:
    """For each rule the names it is found in."""
    return [[i for i, n in enumerate(NAMES) if line.pattern.search(n)] for line in reading.lines]


def test_custom_q_divides_at_commas_then_at_the_first_equals() -> None:
    """As ik_llama.cpp: un-anchored, in order, types as they are."""
    reading = dialects.custom_q(r"attn_q=iq4_ks,blk\.1\.=q4_K")
    assert [(line.text, line.type) for line in reading.lines] == [
        ("attn_q=iq4_ks", "iq4_ks"),
        (r"blk\.1\.=q4_K", "q4_K"),
    ]
    assert hits(reading) == [[0, 1], [0, 1]]
    assert reading.notes == ()


def test_custom_q_as_scripts_keep_it() -> None:
    """A commented block of lines is what people join with sed: it is taken as it is."""
    text = "# attention\nattn_q=q8_0,\n\n# experts\n  ffn_down_exps=q6_K"
    assert [line.type for line in dialects.custom_q(text).lines] == ["q8_0", "q6_K"]


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        (r"blk\.\d{1,3}\.ffn=q8_0", r"\[1\]: expected regex=type", "commas divide"),
        ("(?=attn)q=q8_0", r"\[1\]: expected a type after the first `=`", "the first `=`"),
        ("attn_q", r"\[1\]", "commas divide"),
        ("attn_q=q8_0,=q8_0", r"\[2\]", "commas divide"),
        ("a(=q8_0", "bad regular expression", None),
        ("", "no rule", None),
    ],
)
def test_custom_q_that_cannot_be_meant(text: str, says: str, hint: str | None) -> None:
    """The error names the rule by its number and says which trap it fell into."""
    with pytest.raises(UsageError, match=says) as caught:
        dialects.custom_q(text)
    assert hint is None or hint in (caught.value.hint or "")


def test_custom_q_types_have_capitals() -> None:
    """A type that ik_llama.cpp would refuse is read here, and said."""
    [note] = dialects.custom_q("ffn=Q4_K,attn=q8_0").notes
    assert "[1]" in note
    assert "spells q4_K and would refuse Q4_K" in note


def test_tensor_type_is_lower_cased() -> None:
    r"""llama-quantize searches for the lower-cased pattern: `\D` becomes its opposite."""
    reading = dialects.tensor_types([r"BLK\.\D+\.attn_q=Q8_0", "ffn=q6_k=x"])
    assert reading.lines[0].pattern.pattern == r"blk\.\d+\.attn_q"
    assert hits(reading)[0] == [0, 1]
    [note] = reading.notes
    assert r"reads BLK\.\D+\.attn_q as blk\.\d+\.attn_q" in note
    assert r"\D became \d, its opposite" in note
    assert reading.lines[1].type == "q6_k=x"


def test_an_escaped_backslash_is_no_class() -> None:
    r"""`\\D` is a backslash and a letter: nothing is lost but its capital."""
    [note] = dialects.tensor_types([r"\\D=q8_0"]).notes
    assert "opposite" not in note


def test_tensor_type_files_have_whitespace_between(tmp_path: Path) -> None:
    """Rules on one line or several; a comment is what llama-quantize stops at."""
    file = tmp_path / "types.txt"
    file.write_text("attn_q=q8_0 ffn_down=q6_k\n\tffn_up=q4_k\n")
    reading = dialects.tensor_type_file(file)
    assert [line.where for line in reading.lines] == [f"types.txt[{i}]" for i in (1, 2, 3)]
    file.write_text("# mine\nattn_q=q8_0")
    with pytest.raises(UsageError, match="knows no comments"):
        dialects.tensor_type_file(file)
    file.write_text("")
    with pytest.raises(UsageError, match="got nothing"):
        dialects.tensor_type_file(file)


THIREUS = r"""## Quant mix recipe
# Model name: GLM-4.5

## Model head & embeddings
output_norm\.weight=f32
^token_embd\.weight$=q8_0

blk\.(0|2)\.ffn_up\.weight=iq6_k
  ^blk\.([3-9]|[1-8][0-9]|9[0-2])\.ffn_gate_inp\.weight$=Q8_0=locked
## THE END!
"""


def test_thireus_recipes(tmp_path: Path) -> None:
    """One rule a line, comments and blanks left out, types in any case, a third field ignored."""
    file = tmp_path / "glm.recipe"
    file.write_text(THIREUS)
    reading = dialects.thireus(file)
    assert [(line.type, line.where) for line in reading.lines] == [
        ("f32", "glm.recipe:5"),
        ("q8_0", "glm.recipe:6"),
        ("iq6_k", "glm.recipe:8"),
        ("Q8_0", "glm.recipe:9"),
    ]
    file.write_text("blk=q8_0\nnonsense\n")
    with pytest.raises(UsageError, match=r"glm\.recipe:2: expected regex=type"):
        dialects.thireus(file)
    file.write_text("(?:a|b)=q8_0\n")
    with pytest.raises(UsageError, match="bash"):
        dialects.thireus(file)
    with pytest.raises(UsageError, match="No such file"):
        dialects.thireus(tmp_path / "none")


@pytest.mark.parametrize("pattern", ["(?<!a)b", "(?P<x>a)", "(?i)a", "a*+", r"\Aa", "(?>a)"])
def test_what_only_python_knows_is_refused(pattern: str) -> None:
    """A pattern at which that tool would stop is an error here, not a silent success."""
    with pytest.raises(UsageError, match=r"have no|something else in Python"):
        dialects.custom_q(f"{pattern}=q8_0")


def test_an_open_count_is_refused() -> None:
    """`{,3}` is from nothing to three in Python and an error there."""
    with pytest.raises(UsageError, match=r"have no \{,"):
        dialects.tensor_types(["a{,3}=q8_0"])


def test_posix_classes_mean_what_they_mean_there() -> None:
    """std::regex and bash know [:digit:], Python does not."""
    [line] = dialects.custom_q(r"blk\.[[:digit:]]+\.attn=q8_0").lines
    assert line.pattern.search("blk.17.attn_q.weight")
    assert not line.pattern.search("blk.d.attn_q.weight")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("Q4_K", "q4_K"), ("IQ4_K", "iq4_k"), ("Q8_0", "q8_0"), ("Q8_KV", "q8_KV"), ("BF16", "bf16")],
)
def test_how_ik_spells_types(ours: str, theirs: str) -> None:
    """Lower case, but for the K of K-quants and Q8_KV."""
    assert dialects.ik_name(ours) == theirs
