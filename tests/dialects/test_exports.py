"""What is exported makes the other tool write the same types: read back, it gives the same plan."""

# SPDX-License-Identifier: MIT

import shlex
from pathlib import Path

import pytest
from unfold import unfold

import ggufmix
from ggufmix import review
from ggufmix.pipeline import Options
from ggufmix.planning import Plan

CASES = [
    ("GLM-4.5-Air", Options("hq4_k")),
    ("GLM-4.5-Air", Options("q5_k_m", mirror="ik")),
    ("Kimi-K2-Thinking", Options("q4_k_m")),
    ("Qwen3.5-35B-A3B", Options("q8_0")),
    ("Qwen3.5-35B-A3B", Options("q4_k_m", gates="f32")),
    ("Qwen3-Next-80B-A3B", Options("bf16", gates="f32")),
    ("Qwen3.8-27B", Options("aes-q4_k_m")),
]


def types(plan: Plan) -> dict[str, str]:
    return {t.name: t.encoder.format.name for t in plan.tensors}


def rules_in(command: str, option: str) -> list[str]:
    words = shlex.split(command.replace("\\\n", " "))
    return [words[i + 1] for i, word in enumerate(words) if word == option]


@pytest.mark.parametrize("tool", ["llama-quantize", "custom-q", "thireus"])
@pytest.mark.parametrize(("model", "options"), CASES, ids=lambda v: getattr(v, "recipe", v))
def test_round_trip(model: str, options: Options, tool: str, tmp_path: Path) -> None:
    """Exported and read back over another recipe, with no protection: every type is the same."""
    listing = unfold(model, tmp_path)
    made = ggufmix.plan(listing, options=options)
    text = review.export(made, tool).text
    file = tmp_path / "rules"
    if tool == "custom-q":
        back = Options("f16", mirror="ik", custom_q=rules_in(text, "--custom-q"))
    elif tool == "thireus":
        file.write_text(text)
        back = Options("f16", mirror="ik", thireus=[file])
    else:
        file.write_text("\n".join(rules_in(text, "--tensor-type")))
        back = Options("f16", mirror="ik", tensor_type_files=[file])
    again = ggufmix.plan(listing, options=back)
    assert types(again) == types(made)
    assert not [w for w in again.warnings if "decides nothing" in w]


@pytest.mark.parametrize("tool", ["llama-quantize", "custom-q"])
@pytest.mark.parametrize(("model", "options"), CASES, ids=lambda v: getattr(v, "recipe", v))
def test_exports_avoid_the_traps(model: str, options: Options, tool: str, tmp_path: Path) -> None:
    """No capital in a pattern, no comma, one `=`: what the tool reads is what was written."""
    made = ggufmix.plan(unfold(model, tmp_path), options=options)
    text = review.export(made, tool).text
    option = "--tensor-type" if tool == "llama-quantize" else "--custom-q"
    for rule in [r for given in rules_in(text, option) for r in given.split(",")]:
        pattern, kind = rule.split("=")
        assert pattern == pattern.lower()
        assert pattern.startswith("^")
        assert pattern.endswith("$")
        assert (kind == kind.lower()) or tool == "custom-q"


def test_what_the_tool_cannot_do_is_said(tmp_path: Path) -> None:
    """Ik's types and Q4_X are beyond llama-quantize; --symmetric-q40 is all or nothing."""
    kimi = ggufmix.plan(unfold("Kimi-K2-Thinking", tmp_path), "q4_x")
    assert any("no Q4_X" in n for n in review.export(kimi, "llama-quantize").notes)
    ours = review.export(kimi, "custom-q")
    assert "--symmetric-q40" in ours.text
    assert not any("llama.cpp's search" in n for n in ours.notes)
    air = unfold("GLM-4.5-Air", tmp_path)
    foreign = ggufmix.plan(air, options=Options("q5_k_m", mirror="ik"))
    assert any("does not know q6_0" in n for n in review.export(foreign, "llama-quantize").notes)
    assert not any("q6_0" in n for n in review.export(foreign, "custom-q").notes)


@pytest.mark.parametrize(
    ("model", "tool", "parts"),
    [
        ("gemma3n", "llama-quantize", ("altup", "laurel", "per_layer_model_proj")),
        ("lfm2moe", "llama-quantize", ("shortconv.conv",)),
        ("jamba", "custom-q", ("ssm_x", "ssm_dt", "ssm_conv1d")),
    ],
)
def test_what_the_tool_copies_gets_no_rule(
    model: str, tool: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    """Matrices that the tool hands through as they come have no rule, which would do nothing."""
    made = ggufmix.plan(unfold(model, tmp_path), options=Options("q8_0"))
    text = review.export(made, tool).text.replace("\\", "")
    for part in parts:
        assert any(part in t.name for t in made.tensors), part
        assert part not in text


def test_symmetric_and_plain_together(tmp_path: Path) -> None:
    """--symmetric-q40 would change plain Q4_0 too: a plan with both kinds says so."""
    both = Options("q4_x", set_roles=["ffn_up_exps=Q4_0"])
    made = ggufmix.plan(unfold("Kimi-K2-Thinking", tmp_path), options=both)
    assert any("become symmetric too" in n for n in review.export(made, "custom-q").notes)


def test_a_plan_of_one_float_type_needs_no_rules(tmp_path: Path) -> None:
    """BF16 everywhere is the file type BF16, under which llama-quantize reads no rules."""
    made = ggufmix.plan(unfold("Qwen3-4B-Instruct-2507", tmp_path), "bf16")
    text = review.export(made, "llama-quantize").text
    assert "--tensor-type" not in text
    assert text.endswith("BF16\n")
