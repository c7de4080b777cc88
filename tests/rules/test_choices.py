"""What a user chooses besides a recipe: fallbacks, edges, a target, types only known by name."""

# SPDX-License-Identifier: MIT

import numpy as np
import pytest
from listings import facts_of, listing

from ggufmix import codecs, planning, rules
from ggufmix.container import array, u32
from ggufmix.errors import RuleError, ShapeError, UsageError
from ggufmix.rules import Choices, Facts, decide
from ggufmix.rules.files import shipped
from ggufmix.rules.places import layer_set, where_test
from ggufmix.tensor import Placed, held


def one(cols: int, role: str = "FFN_DOWN", name: str = "blk.0.ffn_down.weight") -> list[Placed]:
    """A single matrix with rows of `cols`."""
    return [Placed(name, role, 0, held(name, np.zeros((8, cols), np.float32)))]


def planned(model: str, recipe: str, **choices: object) -> tuple[planning.Planned, ...]:
    """The tensors of a real model, laid out."""
    tensors = listing(model)
    made = decide(tensors, facts_of(model), Choices(rules.recipe(recipe), **choices))  # type: ignore[arg-type]
    return planning.lay_out(
        (p, d.encoder, d.reason, d.asked) for p, d in zip(tensors, made, strict=True)
    )


@pytest.mark.parametrize(
    ("asked", "quality", "llama_cpp", "ik"),
    [
        ("Q2_K", "IQ4_NL", "Q4_0", "IQ4_NL"),
        ("Q3_K", "IQ4_NL", "Q4_0", "IQ4_NL"),
        ("IQ4_XS", "IQ4_NL", "IQ4_NL", "IQ4_NL"),
        ("Q4_K", "Q5_0", "Q5_0", "Q5_0"),
        ("Q5_K", "Q8_0", "Q5_1", "Q6_0"),
        ("Q6_K", "Q8_0", "Q8_0", "Q8_0"),
    ],
)
def test_three_tables_for_rows_that_do_not_fit(
    asked: str, quality: str, llama_cpp: str, ik: str
) -> None:
    """Each policy's answer to a K-quant on rows of 1408, and on rows of 40: BF16 or F16."""
    recipe = rules.recipe(f"pure:{asked}")
    for fallback, expected, last in (
        ("quality", quality, "BF16"),
        ("llama.cpp", llama_cpp, "F16"),
        ("ik", ik, "F16"),
    ):
        choices = Choices(recipe, fallback=fallback)  # type: ignore[arg-type]
        assert decide(one(1408), Facts("llama"), choices)[0].encoder.name == expected
        assert decide(one(40), Facts("llama"), choices)[0].encoder.name == last


def test_quality_has_no_fewer_bits_than_asked() -> None:
    """The default's replacement never has fewer bits per weight than what was asked for."""
    for asked, instead in shipped().fallbacks["quality"].instead.items():
        bits = rules.type_named(instead).format.bits
        assert bits >= rules.type_named(asked).format.bits, asked


@pytest.mark.parametrize("spread", ["normal", "student", "laplace", "uniform"])
def test_quality_has_no_larger_error_than_asked(spread: str) -> None:
    """On weights spread around zero, what the default writes is no further from them than what was
    asked for, measured for every pair that can be written.
    """
    rng = np.random.default_rng(4)
    shape = (64, 1024)
    x = {
        "normal": rng.standard_normal(shape),
        "student": rng.standard_t(3, shape),
        "laplace": rng.laplace(size=shape),
        "uniform": rng.uniform(-1, 1, shape),
    }[spread].astype(np.float32)

    def error(kind: str) -> float:
        return float(np.square(codecs.decode(codecs.encode(x, kind), kind) - x).mean())

    table = shipped().fallbacks["quality"].instead
    pairs = [(asked, now) for asked, now in table.items() if asked in codecs.ENCODERS]
    assert len(pairs) == 7
    for asked, instead in pairs:
        assert error(instead) <= error(asked), asked


def test_error_names_the_tensor_and_the_row() -> None:
    """--fallback error stops with the place instead of replacing; a fitting row passes."""
    choices = Choices(rules.recipe("pure:q4_k"), fallback="error")
    with pytest.raises(ShapeError, match=r"blk\.0\.ffn_down\.weight: Q4_K .* row of 1408"):
        decide(one(1408), Facts("llama"), choices)
    assert decide(one(256), Facts("llama"), choices)[0].encoder.name == "Q4_K"


def test_a_mirror_has_its_own_fallback() -> None:
    """--mirror takes all of a tool: another tool's fallback beside it is a contradiction."""
    choices = Choices(rules.recipe("q4_k_m"), mirror="ik", fallback="quality")
    with pytest.raises(UsageError, match="--mirror ik has its own fallback"):
        decide(one(256), Facts("llama"), choices)


def test_the_price_of_what_was_not_asked_for() -> None:
    """A replaced type costs what it takes beyond the one asked for: GLM-4.5-Air's down experts in
    Q5_0 for Q4_K are one bit per weight more; the plan's note adds it up.
    """
    by_name = {t.name: t for t in planned("GLM-4.5-Air", "pure:q4_k")}
    down = by_name["blk.7.ffn_down_exps.weight"]
    assert (down.encoder.name, down.asked.name) == ("Q5_0", "Q4_K")  # type: ignore[union-attr]
    assert down.price_bits == 1
    assert down.price_bytes == 1408 * 4096 * 128 // 8
    assert by_name["blk.7.ffn_up_exps.weight"].price_bytes == 0
    [note] = rules.remarks(by_name.values())
    assert "93 tensors" in note
    assert "Q4_K -> Q5_0 (93)" in note
    assert "4.28 GB more" in note


def test_protection_has_a_price_too() -> None:
    """Gates kept BF16 in a Q8_0 file: asked, written, and 3.7 MB for Qwen3.5-35B-A3B."""
    gates = [t for t in planned("Qwen3.5-35B-A3B", "q8_0") if t.reason == "protect: gates"]
    assert len(gates) == 60
    assert {t.asked.name for t in gates if t.asked} == {"Q8_0"}
    assert sum(t.price_bytes for t in gates) == 60 * 2048 * 32 * (256 - 136) // 128


def test_edges_raise_and_never_lower() -> None:
    """--edges 2=Q6_K raises the first and last two blocks of the trunk to Q6_K at least; several
    make a gradient; blocks of multi-token prediction do not count as last.
    """
    made = {
        t.name: t.encoder.name
        for t in planned(
            "GLM-4.5",
            "pure:q4_k",
            edges=(rules.edge("2=q6_k"), rules.edge("4=Q5_K")),
        )
    }
    up = [made[f"blk.{i}.ffn_up_exps.weight"] for i in (3, 4, 88, 89, 90, 91, 92)]
    assert up == ["Q5_K", "Q4_K", "Q5_K", "Q5_K", "Q6_K", "Q6_K", "Q4_K"]
    assert made["blk.0.attn_q.weight"] == "Q6_K"
    assert made["token_embd.weight"] == "Q4_K"
    flat = planned("GLM-4.5", "pure:q8_0", edges=(rules.edge("2=q6_k"),))
    assert not any(t.reason.startswith("edges") for t in flat)


@pytest.mark.parametrize("text", ["Q6_K", "0=Q6_K", "x=Q6_K", "2=Q9_K", "-1=Q6_K"])
def test_edges_that_cannot_be_meant(text: str) -> None:
    """A number of blocks and a type, or an error."""
    with pytest.raises(UsageError):
        rules.edge(text)


def test_vulkan_names_what_is_slow_and_offers_f32() -> None:
    """--target vulkan: the gates of Qwen3.5-35B-A3B are the only BF16 matrices under q8_0, and F32
    costs 7.9 MB more; with --gates f32 there is nothing to say.
    """
    slow, offer = rules.remarks(planned("Qwen3.5-35B-A3B", "q8_0"), "vulkan")
    assert "60 matrices in BF16 (7.9 MB: ssm_alpha, ssm_beta)" in slow
    assert "bf16: 0" in slow
    assert "--gates f32" in offer
    assert "7.9 MB more" in offer
    assert not list(rules.remarks(planned("Qwen3.5-35B-A3B", "q8_0", gates="f32"), "Vulkan"))
    with pytest.raises(UsageError, match="vulkan") as caught:
        list(rules.remarks((), "vulcan"))
    assert caught.value.hint == "did you mean 'vulkan'?"


@pytest.mark.parametrize(("typed", "meant"), [("Q4_K", "q4_k_m"), ("q8_O", "q8_0")])
def test_a_recipe_that_is_nearly_one(typed: str, meant: str) -> None:
    """Q4_K is what llama-quantize calls Q4_K_M too; hq4_k is another recipe."""
    with pytest.raises(UsageError, match=f"unknown recipe '{typed}'") as caught:
        rules.recipe(typed)
    assert caught.value.hint == f"did you mean '{meant}'?"


def test_types_are_known_that_cannot_be_written() -> None:
    """Every type of gguf and of ik_llama.cpp has a name and a size; convert asks `encodes`."""
    foreign = rules.type_named("q6_0")
    assert foreign.format.bits == 6.5
    assert not foreign.format.encodes
    assert rules.is_foreign(foreign.format)
    assert not rules.is_foreign(rules.type_named("IQ2_XXS").format)
    assert rules.type_named("Q8_0").format.encodes
    with pytest.raises(UsageError, match="expected a type") as caught:
        rules.type_named("Q4_KM")
    assert "Q4_K" in str(caught.value.hint)


def test_mirrors_protect_nothing() -> None:
    """Under a mirror no reason is a protection, for any tool."""
    for mirror in ("llama.cpp", "ik"):
        made = planned("Kimi-K2-Thinking", "q4_k_m", mirror=mirror)
        assert not any(t.reason.startswith("protect") for t in made)
    assert any(t.reason == "protect: latent factors" for t in planned("Kimi-K2-Thinking", "q4_k_m"))


def test_llama_quantize_does_not_count_what_is_overridden() -> None:
    """Under --mirror llama.cpp an overridden tensor does not advance the running number that the
    mixture asks for; elsewhere an override moves no other tensor.
    """
    wish = rules.override_by_pattern(r"blk\.0\.attn_v=Q8_0")
    free = {t.name: t.encoder.name for t in planned("Qwen3-14B", "q3_k_m")}
    ours = {t.name: t.encoder.name for t in planned("Qwen3-14B", "q3_k_m", overrides=(wish,))}
    theirs = {
        t.name: t.encoder.name
        for t in planned("Qwen3-14B", "q3_k_m", overrides=(wish,), mirror="llama.cpp")
    }
    assert {n for n in free if free[n] != ours[n]} == {"blk.0.attn_v.weight"}
    assert {n for n in free if ours[n] != theirs[n]} == {"blk.2.attn_v.weight"}


def test_eight_experts_and_falcon_and_an_imatrix() -> None:
    """Conditions that no snapshot has: Mixtral's eight experts, Falcon, an importance matrix."""
    tensors = listing("Qwen3-14B")

    def made(recipe: str, facts: Facts) -> dict[str, str]:
        choices = Choices(rules.recipe(recipe), mirror="llama.cpp")
        decisions = decide(tensors, facts, choices)
        return {p.name: d.encoder.name for p, d in zip(tensors, decisions, strict=True)}

    eight = made("q4_k_m", Facts("llama", blocks=40, experts=8, heads=32, kv_heads=8))
    assert eight["blk.20.attn_v.weight"] == eight["blk.20.attn_k.weight"] == "Q8_0"
    assert eight["blk.20.attn_output.weight"] == "Q5_K"
    falcon = made("q4_k_m", Facts("falcon", blocks=40))
    assert falcon["output.weight"] == "Q8_0"
    downs = [falcon[f"blk.{i}.ffn_down.weight"] for i in (0, 1, 2, 4, 5, 6, 7, 35)]
    assert downs == ["Q6_K", "Q6_K", "Q5_K", "Q5_K", "Q4_K", "Q4_K", "Q5_K", "Q5_K"]
    with_matrix = made("q4_0", Facts("llama", blocks=40, imatrix=True))
    assert with_matrix["blk.4.ffn_down.weight"] == "Q4_1"
    assert with_matrix["blk.5.ffn_down.weight"] == "Q4_0"
    assert made("iq4_xs", Facts("llama", blocks=40))["blk.4.ffn_down.weight"] == "Q5_K"
    assert made("iq4_xs", Facts("llama", 40, imatrix=True))["blk.4.ffn_down.weight"] == "IQ4_XS"


def test_facts_from_a_header() -> None:
    """Numbers and arrays by block; heads without key-value heads are their own."""
    values = {
        "lfm2.block_count": u32(16),
        "lfm2.attention.head_count": u32(32),
        "lfm2.attention.head_count_kv": array(u32(0).type, [0, 0, 8, 0]),
    }
    assert rules.facts("lfm2", values) == Facts("lfm2", blocks=16, heads=32, kv_heads=0)
    assert rules.facts("lfm2", values).gqa == 0
    assert rules.facts("gpt2", {"gpt2.attention.head_count": u32(12)}).gqa == 1
    assert Facts("llama", blocks=80, heads=64, kv_heads=8).size == "70B"
    assert Facts("llama", blocks=80, heads=64, kv_heads=64).size is None


@pytest.mark.parametrize(
    ("text", "n", "hit"),
    [
        ("first 4", 9, [0, 1, 2, 3]),
        ("last 2", 9, [7, 8]),
        ("first 1/8", 17, [0, 1]),
        ("last 1/8", 17, [14, 15, 16]),
        ("more", 16, [0, 1, 4, 7, 10, 13, 14, 15]),
    ],
)
def test_places(text: str, n: int, hit: list[int]) -> None:
    """The closed vocabulary of `where`, in llama.cpp's whole numbers."""
    assert [i for i in range(n) if where_test(text)(i, n)] == hit


@pytest.mark.parametrize("text", ["", "some", "first", "first 0", "first 9/8", "middle 1/8"])
def test_places_that_are_not(text: str) -> None:
    """Anything else is an error that says what is meant."""
    with pytest.raises(ValueError, match="more"):
        where_test(text)


def test_tensors_without_a_role() -> None:
    """A name that gguf does not know is decided by its shape, its ending, or the recipe."""
    choices = Choices(rules.recipe("q8_0"))
    for name, expected in (
        ("blk.0.strange.weight", "Q8_0"),
        ("blk.0.strange.bias", "F32"),
        ("blk.0.indexer.k_proj.weight", "F32"),
    ):
        assert decide(one(64, "UNKNOWN", name), Facts("new"), choices)[0].encoder.name == expected


def test_layer_ranges() -> None:
    """Blocks by number and range."""
    assert layer_set(["0-2", "40"]) == {0, 1, 2, 40}


BASED = """
schema = 1
name = "mine"
base = "q4_k_m"
why = "a test of recipes on recipes"
[[tensor]]
roles = ["any ffn_down"]
where = "first 2"
type = "Q8_0"
why = "mine come first"
"""


def test_a_recipe_on_another(tmp_path) -> None:
    """A base fills in what is left out and answers where the recipe itself is silent."""
    file = tmp_path / "mine.toml"
    file.write_text(BASED)
    made = rules.recipe(str(file))
    assert (made.default, made.file_type) == ("Q4_K", "MOSTLY_Q4_K_M")
    plain = {t.name: t.encoder.name for t in planned("Qwen3-14B", "q4_k_m")}
    ours = {t.name: t.encoder.name for t in planned("Qwen3-14B", str(file))}
    changed = {n for n in plain if plain[n] != ours[n]}
    assert changed == {"blk.0.ffn_down.weight", "blk.1.ffn_down.weight"}
    assert [name for name, _ in rules.texts_of(str(file))] == [
        "mine.toml",
        "rules/recipes/q4_k_m.toml",
    ]


@pytest.mark.parametrize(
    ("was", "now", "place", "hint"),
    [
        ('base = "q4_k_m"', 'base = "q4_km"', "base", "q4_k_m"),
        ('where = "first 2"', 'where = "first two"', r"tensor[0].where", ""),
        ("any ffn_down", "any ffn_dwn", "tensor[0].roles", "any ffn_down"),
        ('roles = ["any ffn_down"]\n', "", "tensor[0].where", ""),
        ('where = "first 2"', 'wher = "first 2"', "wher", "where"),
        ('where = "first 2"', "if = { expert = 8 }", "expert", "experts"),
        ('where = "first 2"', 'counted = "blocks"', "counted", ""),
        ('type = "Q8_0"', 'type = "Q8_00"', "tensor[0].type", "Q8_0"),
        ('type = "Q8_0"', "type = 8", "tensor", ""),
    ],
)
def test_errors_say_where_and_what(tmp_path, was: str, now: str, place: str, hint: str) -> None:
    """File, place, what was expected and what came, and the nearest name there is."""
    file = tmp_path / "mine.toml"
    assert was in BASED
    file.write_text(BASED.replace(was, now, 1))
    with pytest.raises(RuleError) as caught:
        rules.recipe(str(file))
    assert "mine.toml" in str(caught.value)
    assert place in str(caught.value)
    assert hint in str(caught.value.hint or "")


def test_recipes_in_words() -> None:
    """`recipes show` has a line for every entry, the default last, and the TOML behind it."""
    for name, made in rules.recipes().items():
        rows = rules.described(made)
        assert len(rows) == len(made.tensor) + 1
        assert rows[-1][:2] == (made.default, "all else")
        assert rules.texts_of(name)[0][1].lstrip("# ").strip()
    assert rules.texts_of("pure:q4_k") == []
    assert rules.tag(rules.recipe("q3_k_xl")) == "Q3_K_XL"
