"""What imported rules do to a plan: they decide as they would there, and what is idle is said."""

# SPDX-License-Identifier: MIT

import json
import re
from pathlib import Path
from typing import Any

import pytest

import ggufmix
from ggufmix.errors import FormatError, UsageError
from ggufmix.pipeline import Options
from ggufmix.planning import Plan


def types(plan: Plan) -> dict[str, str]:
    return {t.name: t.encoder.format.name for t in plan.tensors}


def test_the_first_match_decides_and_protection_gives_way(example: Path) -> None:
    """An imported rule is an override: first match, before protection, under must."""
    made = ggufmix.plan(
        example, options=Options(custom_q=[r"ssm_alpha=q4_0,ssm_=bf16", "conv1d=q8_0,_norm=q8_0"])
    )
    found = types(made)
    assert found["blk.0.ssm_alpha.weight"] == "Q4_0"
    assert found["blk.0.ssm_beta.weight"] == "BF16"
    assert found["blk.0.ssm_conv1d.weight"] == "F32"
    assert [w for w in made.warnings if "decides nothing" in w] == [
        "--custom-q: conv1d=q8_0 decides nothing: it matches only tensors that must be F32",
        "--custom-q: _norm=q8_0 decides nothing: it matches only tensors that must be F32",
    ]


def test_what_is_typed_comes_first(example: Path, tmp_path: Path) -> None:
    """--set beats --custom-q, that beats a file, and a file the ones after it."""
    recipe = tmp_path / "a.recipe"
    recipe.write_text("ffn_down_exps=q6_k\nattn_k\\.=bf16\nattn_q\\.=f16\n")
    made = ggufmix.plan(
        example,
        options=Options(set_roles=["attn_q=F32"], custom_q=[r"attn_k\.=q4_0"], thireus=[recipe]),
    )
    found = types(made)
    assert found["blk.3.attn_q.weight"] == "F32"
    assert found["blk.3.attn_k.weight"] == "Q4_0"
    assert [w.split(" decides")[0] for w in made.warnings if "comes before it" in w] == [
        "a.recipe: attn_k\\.=bf16",
        "a.recipe: attn_q\\.=f16",
    ]


def test_idle_rules_are_recorded(example: Path) -> None:
    """The plan says what became of each rule; one that matches nothing is no error in imports."""
    made = ggufmix.plan(example, options=Options(custom_q=["attn_q=q4_0,nothing=q8_0"]))
    first, second = made.uses
    assert (first["matches"], first["decides"]) == (5, 4)
    assert [re.sub(r"\d+", "N", n) for n in first["cut"]] == ["blk.N.attn_qkv.weight"]
    assert (second["matches"], second["decides"]) == (0, 0)
    assert any("nothing=q8_0 decides nothing: it matches no tensor" in w for w in made.warnings)
    with pytest.raises(UsageError, match="matches no tensor"):
        ggufmix.plan(example, options=Options(tensor_types=["nothing=Q8_0"]))


def test_an_unknown_type_names_its_rule(example: Path) -> None:
    """The error says where, and which type is nearest."""
    with pytest.raises(UsageError, match=r"--custom-q\[2\]: ") as caught:
        ggufmix.plan(example, options=Options(custom_q=["attn_q=q8_0,attn_k=q8_00"]))
    assert caught.value.hint == "did you mean 'Q8_0'?"


def test_types_of_ik_are_planned_and_not_written(example: Path, tmp_path: Path) -> None:
    """A recipe with ik_llama.cpp's types can be planned; convert says that it cannot write them."""
    options = Options(custom_q=["ffn_gate_exps=iq4_ks"])
    assert types(ggufmix.plan(example, options=options))["blk.0.ffn_gate_exps.weight"] == "IQ4_KS"
    with pytest.raises(FormatError, match=r"IQ4_KS cannot be written \(ik_llama\.cpp alone"):
        ggufmix.convert(example, tmp_path / "x.gguf", options=options)


def test_like_another_file(example: Path, tmp_path: Path) -> None:
    """--like gives every tensor the type it has there, mixtures and gates included."""
    other = tmp_path / "other.gguf"
    ggufmix.convert(example, other, options=Options("q4_0", gates="f32", set_roles=["attn_k=F16"]))
    made = ggufmix.plan(example, options=Options(like=other))
    assert types(made) == types(
        ggufmix.plan(example, options=Options("q4_0", gates="f32", set_roles=["attn_k=F16"]))
    )
    but = ggufmix.plan(example, options=Options(like=other, set_roles=["attn_k=Q8_0"]))
    assert types(but)["blk.3.attn_k.weight"] == "Q8_0"


def test_like_a_file_that_lacks_tensors(example: Path, tmp_path: Path) -> None:
    """What the other file does not have is decided by the recipe, and said."""
    other = tmp_path / "other.gguf"
    ggufmix.convert(example, other, "q4_0")
    raw = bytearray(other.read_bytes())
    at = raw.index(b"blk.3.attn_k.weight")
    raw[at : at + 19] = b"blk.9.attn_k.weight"
    other.write_bytes(raw)
    made = ggufmix.plan(example, options=Options("bf16", like=other))
    assert types(made)["blk.3.attn_k.weight"] == "BF16"
    assert "other.gguf has no blk.3.attn_k.weight: the recipe decides" in made.notes


def test_capitals_of_our_own_option_are_kept(example: Path) -> None:
    """--tensor-type keeps the case of a pattern, llama-quantize does not: said where it matters."""
    made = ggufmix.plan(example, options=Options(tensor_types=[r"blk\.\D*\d\.attn_k\.=Q6_K"]))
    assert types(made)["blk.3.attn_k.weight"] == "Q6_K"
    assert any(r"would search for blk\.\d*\d\.attn_k\." in note for note in made.notes)
    assert not ggufmix.plan(example, options=Options(tensor_types=["attn_k=Q6_K"])).notes[1:]


def test_an_unanchored_line_of_a_published_recipe(example: Path, tmp_path: Path) -> None:
    r"""`output\.weight` in front takes attn_output too, in Thireus' downloader as here: said. So is
    what a recipe, which means to name every tensor, does not.
    """
    recipe = tmp_path / "glm.recipe"
    recipe.write_text("output\\.weight=q8_0\nblk\\.[0-9]\\.attn_output\\.weight=iq4_xs\n")
    made = ggufmix.plan(example, options=Options(thireus=[recipe]))
    assert types(made)["blk.3.attn_output.weight"] == "Q8_0"
    [warning] = [w for w in made.warnings if "attn_output" in w]
    assert r"decides nothing: output\.weight=q8_0 comes before it" in warning
    assert any(
        "glm.recipe names" in n and "the recipe decides on the rest" in n for n in made.notes
    )


MADE = json.loads((Path(__file__).parent / "llama_quantize.json").read_text())


@pytest.mark.parametrize("case", MADE, ids=lambda case: f"{case['base']} {case['rules']}")
def test_files_of_rules_mean_what_llama_quantize_makes_of_them(
    example: Path, tmp_path: Path, case: dict[str, Any]
) -> None:
    """Run there and planned here with --mirror: the same tensors change, to the same types."""
    file = tmp_path / "rules"
    file.write_text(case["rules"])
    plain, ruled = (
        types(
            ggufmix.plan(
                example,
                options=Options(case["base"], mirror="llama.cpp", tensor_type_files=files),
            )
        )
        for files in ([], [file])
    )
    changed = {
        kind: [n for n in ruled if ruled[n] == kind and plain[n] != kind]
        for kind in sorted(set(ruled.values()))
    }
    assert {kind: names for kind, names in changed.items() if names} == case["changed"]
