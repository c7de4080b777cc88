"""Blocks of multi-token prediction: what is protected in them, and what they get in place of types
that need importance.
"""

# SPDX-License-Identifier: MIT

import random

import numpy as np
import pytest
from listings import facts_of, listing

from ggufmix import planning, rules
from ggufmix.codecs import ENCODERS
from ggufmix.errors import RuleError
from ggufmix.rules import Choices, Facts, decide, facts_from_shapes, override_by_pattern
from ggufmix.rules.files import RuleFile, read, shipped
from ggufmix.tensor import Placed, held

NEED = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}
"""llama.cpp, llama-quant.cpp, tensor_requires_imatrix, but for what one file type adds."""


def placed(name: str, role: str, *shape: int) -> Placed:
    layer = int(name.split(".")[1]) if name.startswith("blk.") else None
    return Placed(name, role, layer, held(name, np.zeros(shape, np.float32)))


TWO = [
    placed("token_embd.weight", "TOKEN_EMBD", 64, 256),
    placed("output.weight", "OUTPUT", 64, 256),
    placed("blk.0.ffn_up.weight", "FFN_UP", 64, 256),
    placed("blk.1.ffn_up.weight", "FFN_UP", 64, 256),
    placed("blk.1.nextn.eh_proj.weight", "NEXTN_EH_PROJ", 256, 512),
    placed("blk.1.nextn.enorm.weight", "NEXTN_ENORM", 256),
    placed("blk.1.nextn.embed_tokens.weight", "NEXTN_EMBED_TOKENS", 64, 256),
    placed("blk.1.nextn.shared_head_head.weight", "NEXTN_SHARED_HEAD_HEAD", 64, 256),
    placed("blk.2.ffn_down.weight", "FFN_DOWN", 256, 64),
    placed("blk.2.ffn_up.weight", "FFN_UP", 64, 256),
]
"""One layer and two MTP blocks, of which only the first has tensors that only they have."""

FACTS = Facts("qwen35", blocks=3, mtp_blocks=2)


def made(recipe: str, model: list[Placed] = TWO, **choices: object) -> dict[str, str]:
    found = decide(model, FACTS, Choices(rules.recipe(recipe), **choices))  # type: ignore[arg-type]
    return {p.name: d.encoder.name for p, d in zip(model, found, strict=True)}


@pytest.mark.parametrize(
    ("recipe", "joins", "ends"),
    [
        ("q8_0", "Q8_0", "Q8_0"),
        ("q4_k_m", "Q8_0", "Q6_K"),
        ("q3_k_xl", "Q8_0", "Q8_0"),
        ("q2_k", "Q8_0", "Q6_K"),
        ("bf16", "BF16", "BF16"),
    ],
)
def test_what_is_protected(recipe: str, joins: str, ends: str) -> None:
    """The matrix that all goes through is Q8_0 at least, embedding and head are what output.weight
    is, the norm is F32; the rest is as the recipe has it.
    """
    found = made(recipe)
    assert found["blk.1.nextn.eh_proj.weight"] == joins
    assert found["blk.1.nextn.embed_tokens.weight"] == ends == found["output.weight"]
    assert found["blk.1.nextn.shared_head_head.weight"] == ends
    assert found["blk.1.nextn.enorm.weight"] == "F32"
    assert found["blk.1.ffn_up.weight"] == found["blk.0.ffn_up.weight"]


def test_what_the_head_is_like() -> None:
    """Without an output matrix it is the embedding in its place; an override of either counts; and
    without both the recipe has the word. The order of the tensors does not matter.
    """
    head = "blk.1.nextn.shared_head_head.weight"
    tied = [p for p in TWO if p.role != "OUTPUT"]
    assert made("q4_k_m", tied)[head] == made("q4_k_m", tied)["token_embd.weight"] == "Q6_K"
    for model in (TWO, TWO[::-1]):
        wish = override_by_pattern("^output=Q8_0")
        assert made("q4_k_m", model, overrides=(wish,))[head] == "Q8_0"
    assert made("q4_k_m", [p for p in TWO if p.layer == 1])[head] == "Q4_K"


def test_blocks_are_counted_from_the_first_that_names_itself() -> None:
    """A listing has no keys: what lies behind the first MTP block is one too."""
    found = facts_from_shapes("qwen35", TWO)
    assert (found.blocks, found.mtp_blocks) == (FACTS.blocks, FACTS.mtp_blocks)
    assert facts_from_shapes("qwen35", TWO[:4]).mtp_blocks == 0


def test_the_users_word_and_the_mirror() -> None:
    """An override beats the protection; a mirror has none."""
    wish = override_by_pattern(r"nextn\.(eh_proj|shared)=Q3_K")
    found = made("q4_k_m", overrides=(wish,))
    assert found["blk.1.nextn.eh_proj.weight"] == "Q3_K"
    assert found["blk.1.nextn.shared_head_head.weight"] == "Q3_K"
    for name in ("eh_proj", "embed_tokens", "shared_head_head"):
        mirrored = made("q4_k_m", mirror="llama.cpp")
        assert mirrored[f"blk.1.nextn.{name}.weight"] == "Q4_K"


def test_types_that_need_importance() -> None:
    """The table has what llama-quantize refuses without importance and what our encoders demand it
    for; what takes their place needs none and is not smaller.
    """
    instead = shipped().unmeasured.instead
    assert set(instead) == NEED
    assert {e.format.name for e in ENCODERS.values() if e.importance == "REQUIRED"} <= NEED
    for name, other in instead.items():
        asked, given = rules.type_named(name), ENCODERS[other]
        assert other not in NEED
        assert given.importance != "REQUIRED"
        assert asked.format.bits < given.format.bits < asked.format.bits + 1.1


@pytest.mark.parametrize("kind", sorted(NEED))
def test_no_importance_in_mtp_blocks(kind: str) -> None:
    """Both MTP blocks get a type that works without, and layers that are measured keep theirs;
    rows that fit no K-quant fall further.
    """
    found, instead = made(f"pure:{kind}"), shipped().unmeasured.instead[kind]
    assert found["blk.0.ffn_up.weight"] == kind
    assert found["blk.1.ffn_up.weight"] == found["blk.2.ffn_up.weight"] == instead
    assert found["blk.2.ffn_down.weight"] == "IQ4_NL"
    shuffled = random.Random(kind).sample(TWO, len(TWO))
    assert made(f"pure:{kind}", shuffled) == found
    mirrored = made(f"pure:{kind}", mirror="llama.cpp", fallback=None)
    assert mirrored["blk.2.ffn_up.weight"] == kind  # llama-quantize stops there
    wish = override_by_pattern(f"blk.2.ffn_up={kind}")
    assert made("q8_0", overrides=(wish,))["blk.2.ffn_up.weight"] == kind


def test_it_is_said() -> None:
    """A plan's reasons and notes tell what became of the types that were asked for."""
    tensors = listing("GLM-4.5-Air")
    decisions = decide(tensors, facts_of("GLM-4.5-Air"), Choices(rules.recipe("pure:iq2_xxs")))
    laid_out = planning.lay_out(
        (p, d.encoder, d.reason, d.asked) for p, d in zip(tensors, decisions, strict=True)
    )
    kinds = {t.encoder.name for t in laid_out if t.placed.layer == 46}
    assert kinds == {"F32", "Q2_K", "Q8_0", "IQ4_NL"}
    [note] = [note for note in rules.remarks(laid_out) if "MTP" in note]
    assert note == (
        "10 tensors of MTP blocks get a type that needs no importance, an imatrix does not cover "
        "them: IQ2_XXS -> Q2_K (10)"
    )


def test_a_protection_is_like_one_thing() -> None:
    """A file that says a type and what it is like is refused, and so is a role that is none."""
    entry = 'schema = 1\narchitectures = ["x"]\n[[protect]]\nname = "n"\nwhy = "w"\nsource = "s"\n'
    book = read("x.toml", (entry + 'type = "Q8_0"\nlike = "head"\n').encode(), RuleFile)
    assert (book.protect[0].type, book.protect[0].like) == ("Q8_0", "head")
    check = rules.deciding._check_entry
    with pytest.raises(RuleError, match=r"x: expected type or like, got both"):
        check(book.protect[0], "x")
    book = read("x.toml", (entry + 'like = "HEADS"\n').encode(), RuleFile)
    with pytest.raises(RuleError, match=r"x\.like: expected a name of gguf\.MODEL_TENSOR"):
        check(book.protect[0], "x")
    book = read("x.toml", entry.encode(), RuleFile)
    with pytest.raises(RuleError, match=r"x\.type: expected a type"):
        check(book.protect[0], "x")
