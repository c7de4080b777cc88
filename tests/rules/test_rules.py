"""What decides a type: must before override before protection before recipe, and the shape before
all.
"""

# SPDX-License-Identifier: MIT

import re

import gguf
import numpy as np
import pytest

from ggufmix import rules
from ggufmix.codecs import encoder
from ggufmix.errors import RuleError, UsageError
from ggufmix.rules import Choices, Facts, decide, edge, override_by_pattern, override_by_role
from ggufmix.tensor import Placed, held


def placed(name: str, role: str, *shape: int) -> Placed:
    layer = int(name.split(".")[1]) if name.startswith("blk.") else None
    return Placed(name, role, layer, held(name, np.zeros(shape, np.float32)))


HYBRID = [
    placed("token_embd.weight", "TOKEN_EMBD", 64, 256),
    placed("output.weight", "OUTPUT", 64, 256),
    placed("blk.0.attn_norm.weight", "ATTN_NORM", 256),
    placed("blk.0.ssm_alpha.weight", "SSM_ALPHA", 4, 256),
    placed("blk.0.ssm_beta.weight", "SSM_BETA", 4, 256),
    placed("blk.0.ssm_conv1d.weight", "SSM_CONV1D", 64, 4),
    placed("blk.0.ssm_a", "SSM_A", 4),
    placed("blk.0.ffn_gate_inp.weight", "FFN_GATE_INP", 4, 256),
    placed("blk.0.ffn_down_exps.weight", "FFN_DOWN_EXP", 4, 256, 128),
    placed("blk.1.ffn_down_exps.weight", "FFN_DOWN_EXP", 4, 256, 128),
]


def types(recipe: str = "q8_0", model: list[Placed] = HYBRID, **choices: object) -> dict[str, str]:
    made = decide(model, Facts("qwen35moe"), Choices(rules.recipe(recipe), **choices))  # type: ignore[arg-type]
    return {p.name: d.encoder.name for p, d in zip(model, made, strict=True)}


def reasons(recipe: str = "q8_0", **choices: object) -> dict[str, str]:
    made = decide(HYBRID, Facts("qwen35moe"), Choices(rules.recipe(recipe), **choices))  # type: ignore[arg-type]
    return {p.name: d.reason for p, d in zip(HYBRID, made, strict=True)}


def test_the_default_is_q8_0_with_bf16_gates() -> None:
    """The main promise: flat Q8_0, gates BF16, and F32 where llama.cpp cannot do otherwise."""
    assert types() == {
        "token_embd.weight": "Q8_0",
        "output.weight": "Q8_0",
        "blk.0.attn_norm.weight": "F32",
        "blk.0.ssm_alpha.weight": "BF16",
        "blk.0.ssm_beta.weight": "BF16",
        "blk.0.ssm_conv1d.weight": "F32",
        "blk.0.ssm_a": "F32",
        "blk.0.ffn_gate_inp.weight": "F32",
        "blk.0.ffn_down_exps.weight": "Q8_0",
        "blk.1.ffn_down_exps.weight": "Q8_0",
    }


@pytest.mark.parametrize(
    ("recipe", "gates", "expected"),
    [
        ("q8_0", "bf16", "BF16"),
        ("q8_0", "f32", "F32"),
        ("q8_0", "recipe", "Q8_0"),
        ("f32", "bf16", "F32"),
        ("f16", "bf16", "F16"),
        ("bf16", "f32", "F32"),
        ("q4_0", "bf16", "BF16"),
    ],
)
def test_gates_keep_at_least_what_was_chosen(recipe: str, gates: str, expected: str) -> None:
    """Protection raises a recipe's type and never lowers it."""
    assert types(recipe, gates=gates)["blk.0.ssm_alpha.weight"] == expected


def test_the_mirror_has_no_protection() -> None:
    """`--mirror llama.cpp` gives the gates the recipe's type, as llama-quantize does, and keeps
    what must be F32.
    """
    made = types(mirror="llama.cpp")
    assert made["blk.0.ssm_alpha.weight"] == "Q8_0"
    assert made["blk.0.ffn_gate_inp.weight"] == "F32"


def test_qwen3next_protects_the_joint_matrix() -> None:
    """Qwen3-Next has alpha and beta in ssm_ba."""
    model = [placed("blk.0.ssm_ba.weight", "SSM_BETA_ALPHA", 8, 256)]
    assert (
        decide(model, Facts("qwen3next"), Choices(rules.recipe("q8_0")))[0].encoder.name == "BF16"
    )


def test_an_override_beats_protection_and_recipe() -> None:
    """What the user typed counts: by role in either spelling, by pattern anywhere in the name."""
    for text in ("ssm_alpha=Q4_0", "SSM_ALPHA=q4_0"):
        assert types(overrides=(override_by_role(text),))["blk.0.ssm_alpha.weight"] == "Q4_0"
    made = types(
        overrides=(
            override_by_pattern(r"^blk\.1\.ffn=Q4_X"),
            override_by_role("ffn_down_exps=Q4_0"),
        )
    )
    assert made["blk.1.ffn_down_exps.weight"] == "Q4_X"
    assert made["blk.0.ffn_down_exps.weight"] == "Q4_0"


def test_must_beats_an_override_and_says_so() -> None:
    """A pattern that also hits a norm leaves the norm F32; one that hits nothing else is an error
    with the reason.
    """
    made = reasons(overrides=(override_by_pattern(r"blk\.0\.=Q4_0"),))
    assert made["blk.0.attn_norm.weight"] == r"must: 1-D (not blk\.0\.=Q4_0)"
    with pytest.raises(UsageError, match="only tensors that must be F32") as caught:
        types(overrides=(override_by_role("ffn_gate_inp=Q8_0"),))
    assert "router" in str(caught.value.hint)


def test_an_override_without_effect_is_an_error() -> None:
    """Nothing that was typed is dropped silently: no match, and shadowed by an earlier one."""
    with pytest.raises(UsageError, match="matches no tensor"):
        types(overrides=(override_by_pattern("attn_q=Q8_0"),))
    with pytest.raises(UsageError, match="ssm_alpha=F32 comes before it"):
        types(overrides=(override_by_role("ssm_alpha=F32"), override_by_pattern("alpha=F16")))


@pytest.mark.parametrize(
    ("make", "text", "says"),
    [
        (override_by_role, "ffn_dwn_exps=Q8_0", "unknown role"),
        (override_by_role, "ffn_down_exps", "ROLE=TYPE"),
        (override_by_role, "ffn_down_exps=Q9_0", "Q9_0"),
        (override_by_pattern, "(=Q8_0", "bad regular expression"),
    ],
)
def test_what_cannot_be_meant(make: object, text: str, says: str) -> None:
    """A mistyped override is a usage error that names its part."""
    with pytest.raises(UsageError, match=says):
        make(text)  # type: ignore[operator]


def test_the_head_follows_tied_embeddings() -> None:
    """A recipe's head is output.weight, or token_embd.weight where there is no other."""
    assert types("q4_0")["output.weight"] == "Q6_K"
    assert types("q4_0")["token_embd.weight"] == "Q4_0"
    assert types("q4_0", [t for t in HYBRID if t.role != "OUTPUT"])["token_embd.weight"] == "Q6_K"


@pytest.mark.parametrize(
    ("cols", "asked", "mirror", "written"),
    [
        (128, "Q6_K", None, "Q8_0"),
        (128, "Q4_K", None, "Q5_0"),
        (128, "Q5_K", None, "Q8_0"),
        (128, "Q5_K", "llama.cpp", "Q5_1"),
        (40, "Q8_0", None, "BF16"),
        (40, "Q4_K", "llama.cpp", "F16"),
        (256, "Q6_K", None, "Q6_K"),
    ],
)
def test_a_shape_that_does_not_fit(cols: int, asked: str, mirror: str | None, written: str) -> None:
    """A row that is no multiple of the block gets the policy's type, and the plan says what was
    asked.
    """
    model = [placed("blk.0.ffn_down.weight", "FFN_DOWN", 8, cols)]
    choices = Choices(
        rules.recipe("q8_0"), mirror=mirror, overrides=(override_by_role(f"ffn_down={asked}"),)
    )  # type: ignore[arg-type]
    [decision] = decide(model, Facts("qwen35"), choices)
    assert decision.encoder.name == written
    assert (decision.asked is None) == (asked == written)
    assert (f"{asked} does not fit a row of {cols}" in decision.reason) == (asked != written)


def test_every_fallback_ends_in_a_type_that_fits() -> None:
    """Both policies reach a type for a row of one value."""
    for kind in (
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "IQ4_XS",
        "IQ4_NL",
        "Q8_0",
        "Q4_0",
        "MXFP4",
        "NVFP4",
    ):
        for mirror, last in ((None, "BF16"), ("llama.cpp", "F16")):
            model = [placed("blk.0.ffn_down.weight", "FFN_DOWN", 8, 1)]
            choices = Choices(
                rules.recipe("q8_0"),
                mirror=mirror,
                overrides=(override_by_role(f"ffn_down={kind}"),),
            )  # type: ignore[arg-type]
            assert decide(model, Facts("qwen35"), choices)[0].encoder is encoder(last)


RECIPE = """
schema = 1
name = "mine"
file_type = "MOSTLY_Q8_0"
default = "Q8_0"
why = "a test"
[[tensor]]
roles = ["FFN_DOWN_EXP"]
layers = ["1-3"]
type = "Q4_0"
why = "smaller"
"""


def test_a_recipe_file_with_layers(tmp_path) -> None:
    """A user's own TOML file decides by role and layer."""
    file = tmp_path / "mine.toml"
    file.write_text(RECIPE)
    made = types(str(file))
    assert made["blk.0.ffn_down_exps.weight"] == "Q8_0"
    assert made["blk.1.ffn_down_exps.weight"] == "Q4_0"


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ("why", "wy", "wy"),
        ('"FFN_DOWN_EXP"', '"FFN_DOWN_EXPS"', "did you mean 'FFN_DOWN_EXP'"),
        ('type = "Q4_0"', 'type = "Q4_9"', "Q4_9"),
        ('"1-3"', '"3-1"', r"tensor\[0\].layers"),
        ("MOSTLY_Q8_0", "MOSTLY_Q9", "file_type"),
        ("schema = 1", "schema = 2", r"schema.* expected 1$"),
        ('why = "smaller"', 'why = "s"\ncounted = "blok"', r"counted.* expected kind or block$"),
        ('why = "smaller"', 'why = "s"\nif = { size = "7B" }', r"size.* expected 70B$"),
        (
            'why = "smaller"',
            'why = "s"\nif = { architcture = ["llama"] }',
            r"tensor\[0\].if.* did you mean 'architecture'\?$",
        ),
        (
            'why = "smaller"',
            'why = "s"\nif = { architecture = ["llama", "qwen35mo"] }',
            r"tensor\[0\].if.architecture: .* got 'qwen35mo' did you mean 'qwen35moe'\?$",
        ),
        ("schema = 1", "schema =", "not valid TOML"),
        ("[[tensor]]", "[[tensors]]", "tensors"),
    ],
)
def test_a_recipe_file_that_is_wrong(tmp_path, was: str, now: str, says: str) -> None:
    """An unknown key, role, type, layer or file type is an error that names file and place."""
    file = tmp_path / "mine.toml"
    file.write_text(RECIPE.replace(was, now, 1))
    with pytest.raises(RuleError) as caught:
        rules.recipe(str(file))
    message = f"{caught.value} {caught.value.hint}"
    assert "mine.toml" in message
    assert re.search(says, message)


def test_architectures_that_recipes_ask_for() -> None:
    """The built-in ones are gguf's own names, but for what llama.cpp has newer; a recipe of the
    user's may ask for those too.
    """
    asked = {
        name
        for made in rules.recipes().values()
        for entry in (*made.tensor, *made.ik)
        for name in entry.condition.architecture or ()
    }
    assert asked - {*gguf.MODEL_ARCH_NAMES.values()} == {"bailingmoe3"}
    assert "falcon" in asked


def test_recipe_names() -> None:
    """Names in any case; an unknown one lists those that are known and the nearest."""
    assert rules.recipe("Q8_0").name == "q8_0"
    assert rules.recipe("Q4_K_M").file_type == "MOSTLY_Q4_K_M"
    assert rules.recipe("PURE:iq4_ks").default == "IQ4_KS"
    with pytest.raises(UsageError, match=r"bf16, .*, q8_0") as caught:
        rules.recipe("q8_00")
    assert caught.value.hint == "did you mean 'q8_0'?"


@pytest.mark.parametrize(
    ("read", "text", "option"),
    [
        (override_by_role, "ffn_down=Q4_9", "--set"),
        (override_by_pattern, "ffn_down=Q4_9", "--tensor-type"),
        (edge, "2=Q4_9", "--edges"),
    ],
)
def test_a_type_that_is_none_is_found_in_its_option(read, text: str, option: str) -> None:
    """Of several options the message names the one with the wrong type, and the nearest type."""
    with pytest.raises(UsageError, match=rf"^{option} {text}: expected a type") as caught:
        read(text)
    assert "did you mean 'Q4_" in str(caught.value.hint)
