"""Every lint has a case that triggers it and one that does not."""

# SPDX-License-Identifier: MIT

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
from unfold import unfold

import ggufmix
from ggufmix import review
from ggufmix.codecs import FORMATS
from ggufmix.errors import SourceError
from ggufmix.inspection import inspect
from ggufmix.models.gguf_names import role_of
from ggufmix.outline import Entry, Outline, Use
from ggufmix.pipeline import Options
from ggufmix.review.lint import LINTS, TARGETS, Finding, Knowledge, Target, check, failed, promised
from ggufmix.splitting import Limits, split

SLOW = {"vulkan": {"BF16": "no fast path"}}
GATES = frozenset({"SSM_ALPHA", "SSM_BETA"})
MUSTS = {"blk.0.ffn_norm.weight": "F32", "blk.0.ffn_gate_inp.weight": "F32"}


def model(**types: str) -> Outline:
    """A small hybrid, all of it Q8_0; types by the last part of a name, `_` for `.`."""
    inside = ["ffn_gate_exps", "ffn_up_exps", "attn_q", "attn_k", "attn_v", "ssm_alpha"]
    inside += ["ffn_norm", "ffn_gate_inp"]
    names = ["token_embd.weight", "output.weight", *(f"blk.0.{kind}.weight" for kind in inside)]
    tensors = []
    for name in names:
        stem = name.split(".")[-2]
        kind = types.get(stem, MUSTS.get(name, "BF16" if stem == "ssm_alpha" else "Q8_0"))
        shape = (256,) if "norm" in stem else (256, 64)
        n = 256 * (1 if "norm" in stem else 64)
        bits = FORMATS[kind].bits if kind in FORMATS else 6.5
        tensors.append(Entry(name, shape, *role_of(name), kind, round(n * bits / 8)))
    return Outline("x", "qwen35moe", tuple(tensors), promises=("recipe q8_0",))


def uses(*found: Use) -> Outline:
    made = model()
    return Outline(made.title, made.architecture, made.tensors, made.promises, uses=found)


def named(name: str, **types: str) -> Outline:
    made = model(**types)
    return Outline(made.title, made.architecture, made.tensors, promises=(name,))


def findings(outline: Outline, target: Target | None = None) -> list[Finding]:
    return check(outline, target, Knowledge(MUSTS, lambda kind: kind == "Q6_0", SLOW, GATES))


LOW = named(
    "the file name X-Q8_0",
    **dict.fromkeys(("ffn_gate_exps", "ffn_up_exps", "attn_q", "attn_k", "attn_v"), "Q4_0"),
)
SHORT = named(
    "X-Q8_0",
    **dict.fromkeys(("attn_q", "attn_k", "attn_v"), "Q4_0"),
    **dict.fromkeys(("ssm_alpha", "ffn_gate_inp"), "Q8_0"),
)
CLEAN = uses(Use("attn_q=Q8_0", "--set", 4, 4))
CUT = Outline("x", "qwen35moe", model().tensors, damage=("x.gguf: truncated: a ends at byte 9",))
CASES: list[tuple[str, Outline, Target | None, str]] = [
    ("damaged-file", CUT, None, "truncated: a ends at byte 9"),
    ("unmatched-rule", uses(Use("x=Q8_0", "a.recipe", 0, 0)), None, "matches no tensor"),
    ("shadowed-rule", uses(Use("q=Q8_0", "a", 3, 0, "attn=F16")), None, "attn=F16 comes before"),
    (
        "loose-pattern",
        uses(Use("attn_q=Q8_0", "a", 3, 3, cut=("blk.0.attn_qkv.weight",))),
        None,
        "also hits blk.0.attn_qkv.weight",
    ),
    ("must-type", model(ffn_norm="Q8_0"), None, "must be F32, got Q8_0"),
    ("split-experts", model(ffn_up_exps="Q6_K"), None, "Q8_0 and Q6_K"),
    ("split-qkv", model(attn_q="Q6_K"), "ik", "attn_q and attn_k differ in block 0"),
    ("split-qkv", model(attn_v="Q6_K"), "ik", "attn_v differs"),
    ("target-loads", model(attn_v="Q6_0"), "llama.cpp", "only ik_llama.cpp loads"),
    ("target-loads", model(attn_v="Q6_0"), "vulkan", "only ik_llama.cpp loads"),
    ("target-slow", model(), "vulkan", "1 matrices are BF16 (all of them gates)"),
    ("low-gates", model(ssm_alpha="Q8_0"), None, "nobody has published"),
    ("low-gates", model(ssm_alpha="Q3_K"), None, "harm is shown"),
    ("low-head", model(output="Q5_1"), None, "output.weight"),
    ("name-promises", LOW, None, "the file name X-Q8_0 says Q8_0 (8.5 bits): 2 of 10 tensors"),
    ("name-promises", SHORT, None, "67 % of the weights have as many bits, the whole has 7."),
]


@pytest.mark.parametrize(("lint", "outline", "target", "says"), CASES, ids=lambda v: str(v)[:20])
def test_it_triggers(lint: str, outline: Outline, target: Target | None, says: str) -> None:
    """The lint fires on its case, says what is so, and has a hint."""
    found = [f for f in findings(outline, target) if f.lint == lint]
    assert len(found) == 1
    assert says in found[0].sentence
    assert found[0].hint
    assert not found[0].sentence.endswith(".")


def quiet() -> Iterator[tuple[str, Outline, Target | None]]:
    for target in (None, *TARGETS):
        for lint in LINTS:
            if (lint, target) != ("target-slow", "vulkan"):
                yield lint, CLEAN, target
    yield "target-slow", model(ssm_alpha="F32"), "vulkan"
    yield "target-slow", model(), "llama.cpp"
    yield "target-slow", model(ssm_alpha="F32", token_embd="BF16"), "vulkan"
    yield "target-loads", model(attn_v="Q6_0"), "ik"
    yield "target-loads", model(attn_v="Q6_0"), None
    yield "split-qkv", model(attn_v="Q6_K"), None
    yield "low-gates", model(ssm_alpha="F32"), None
    yield "low-head", model(output="Q6_K"), None
    yield "name-promises", named("UD-Q4_K_XL"), None
    yield "name-promises", named("my model"), None


@pytest.mark.parametrize(("lint", "outline", "target"), list(quiet()), ids=lambda v: str(v)[:20])
def test_it_stays_quiet(lint: str, outline: Outline, target: Target | None) -> None:
    """It does not fire on a model that is as it should be, nor on its near miss."""
    assert lint not in {f.lint for f in findings(outline, target)}


def test_every_lint_has_both_cases() -> None:
    """A lint that is added without its two cases fails here."""
    assert {case[0] for case in CASES} == set(LINTS) == {case[0] for case in quiet()}


def test_severities() -> None:
    """Errors come first; what fails is an error, or with --strict anything."""
    found = findings(model(ffn_norm="Q8_0", ssm_alpha="Q8_0"))
    assert [f.severity for f in found] == ["error", "warning"]
    assert failed(found, strict=False)
    assert not failed(found[1:], strict=False)
    assert failed(found[1:], strict=True)
    assert not failed([], strict=True)
    [harm] = [f for f in findings(model(ssm_alpha="Q3_K")) if f.lint == "low-gates"]
    assert harm.severity == "error"


def test_a_router_in_half_precision_is_no_error() -> None:
    """llama.cpp multiplies with a BF16 router; it is said, as its converter writes F32."""
    [finding] = findings(model(ffn_gate_inp="BF16"))
    assert (finding.lint, finding.severity) == ("must-type", "warning")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Qwen3.8-Flash-Next-UD-Q4_K_XL", "Q4_K"),
        ("GLM-4.6-IQ4_KS", None),
        ("general.file_type MOSTLY_Q4_K_M", "Q4_K"),
        ("general.file_type MOSTLY_IQ2_M", "IQ2_S"),
        ("model-Q8_0-BF16-gates", "Q8_0"),
        ("Qwen3.5-35B-A3B-BF16", "BF16"),
        ("recipe hq4_k", None),
        ("llama", None),
    ],
)
def test_what_a_name_promises(name: str, kind: str | None) -> None:
    """The first quantized type in it; letters around it make it another word."""
    assert promised(name) == kind


def test_what_gates_in_f32_cost(tmp_path: Path) -> None:
    """On Vulkan the BF16 gates of a 35B model are named with the price of F32: 7.9 MB."""
    made = review.of_plan(ggufmix.plan(unfold("Qwen3.5-35B-A3B", tmp_path), "q8_0"), "x")
    [slow] = [f for f in findings(made, "vulkan") if f.lint == "target-slow"]
    assert len(slow.tensors) == 60
    assert "7.9 MB" in slow.hint


def test_biases_are_no_experts(tmp_path: Path) -> None:
    """gpt-oss has a bias for each expert, two-dimensional and F32: its matrices are alike."""
    made = ggufmix.plan(unfold("gpt-oss-20b.mxfp4", tmp_path), "q8_0")
    assert "split-experts" not in {f.lint for f in findings(review.of_plan(made, "x"))}


def lint(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggufmix", "lint", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_on_files_and_plans(example: Path, tmp_path: Path) -> None:
    """A file of ours is clean; without protection its gates are a warning; plans read alike."""
    ours, mirrored = tmp_path / "a-Q8_0.gguf", tmp_path / "b-Q8_0.gguf"
    ggufmix.convert(example, ours)
    ggufmix.convert(example, mirrored, options=Options(mirror="llama.cpp"))
    assert (lint(ours).returncode, lint(ours, "--strict").returncode) == (0, 0)
    assert "nothing found" in lint(ours).stdout
    plain = lint(mirrored)
    assert plain.returncode == 0
    assert "warning: low-gates: 6 SSM gates are Q8_0" in plain.stdout
    assert lint(mirrored, "--strict").returncode == 1
    saved = tmp_path / "plan.json"
    saved.write_text(
        json.dumps(
            review.described(ggufmix.plan(example, options=Options(mirror="llama.cpp"))),
            default=str,
        )
    )
    [finding] = json.loads(lint(saved, "--json").stdout)
    assert finding["lint"] == "low-gates"
    assert len(finding["tensors"]) == 6


def test_a_shared_recipe_file(example: Path, tmp_path: Path) -> None:
    """An entry of a recipe that this model has no tensors for is a warning, an error if strict."""
    recipe = tmp_path / "shared.toml"
    recipe.write_text(
        'schema = 1\nname = "shared"\nfile_type = "MOSTLY_Q8_0"\ndefault = "Q8_0"\nwhy = "test"\n'
        '[[tensor]]\nroles = ["ATTN_K_B"]\ntype = "Q8_0"\nwhy = "latent"\n'
        '[[tensor]]\nroles = ["ATTN_Q"]\ntype = "Q6_K"\nwhy = "queries"\n'
        '[[tensor]]\nroles = ["ATTN_Q"]\ntype = "Q4_0"\nwhy = "never"\n'
    )
    found = review.described(ggufmix.plan(example, str(recipe)))
    saved = tmp_path / "plan.json"
    saved.write_text(json.dumps(found, default=str))
    lints = {f.lint: f for f in review.check(saved)}
    assert "tensor[0] ATTN_K_B=Q8_0 matches no tensor" in lints["unmatched-rule"].sentence
    assert "tensor[2] ATTN_Q=Q4_0" in lints["shadowed-rule"].sentence
    assert lint(saved).returncode == 0
    assert lint(saved, "--strict").returncode == 1


def test_types_of_ik_in_a_file(example: Path, tmp_path: Path) -> None:
    """A file with a type that only ik_llama.cpp knows is read, and an error for llama.cpp."""
    file = tmp_path / "x.gguf"
    ggufmix.convert(example, file, options=Options("q8_0", set_roles=["ffn_gate_exps=Q6_K"]))
    raw = bytearray(file.read_bytes())
    name = b"blk.1.ffn_gate_exps.weight"
    at = raw.index(name) + len(name) + 4 + 3 * 8
    assert raw[at] == 14
    raw[at : at + 4] = (137).to_bytes(4, "little")  # IQ2_K
    file.write_bytes(raw)
    [error] = [f for f in review.check(file, "llama.cpp") if f.severity == "error"]
    assert error.lint == "target-loads"
    assert error.tensors == (name.decode(),)
    assert not [f for f in review.check(file, "ik") if f.lint == "target-loads"]


@pytest.fixture
def parts(example: Path, tmp_path: Path) -> list[Path]:
    """One model in several files."""
    ggufmix.convert(example, tmp_path / "x.gguf")
    return split(tmp_path / "x.gguf", Limits(tensors=20), tmp_path / "m")


def test_a_file_that_is_cut_short(parts: list[Path]) -> None:
    """The last part lacks its last byte of weights: an error that names part, tensor and both
    lengths, whichever part was given. Advice goes on with what the header says, with a warning.
    """
    last, tensor = parts[-1], gguf.GGUFReader(parts[-1]).tensors[-1]
    end = int(tensor.data_offset + tensor.n_bytes)
    os.truncate(last, end)
    assert review.check(parts[0]) == []
    os.truncate(last, end - 1)
    [found] = review.check(parts[0])
    assert (found.lint, found.severity, found.sentence) == (
        "damaged-file",
        "error",
        f"{last.name}: truncated: {tensor.name} ends at byte {end}, the file has {end - 1}",
    )
    done = lint(last)
    assert done.returncode == 1
    assert f"error: damaged-file: {last.name}: truncated: " in done.stdout
    advised = review.advise(parts[0], 256)
    assert advised["warnings"] == [found.sentence]
    assert advised["weights_bytes"] == sum(t.bytes for t in review.look(parts[0]).tensors)
    with pytest.raises(SourceError, match=f"{last.name}: truncated: {tensor.name} ends"):
        inspect(parts[0])


def test_parts_that_are_not_there_or_of_another_file(parts: list[Path]) -> None:
    """What is not there cannot be looked at: exit 1 with the name of the part that is missing, or
    that was put in its place.
    """
    parts[2].write_bytes(parts[1].read_bytes())
    wrong = lint(parts[0])
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert f"{parts[2].name}: expected split.no of 2, got 1" in wrong.stderr
    parts[2].unlink()
    gone = lint(parts[0])
    assert (gone.returncode, gone.stdout) == (1, "")
    assert f"{parts[2].name}: missing, one of {len(parts)} parts" in gone.stderr


def test_what_is_neither(tmp_path: Path) -> None:
    """Neither a file nor a plan: exit 2 or 1, with a hint, no traceback."""
    text = tmp_path / "x.json"
    for content, code in (("nonsense", 1), ("{}", 1), ('{"tensors": 3}', 1)):
        text.write_text(content)
        done = lint(text)
        assert done.returncode == code
        assert "x.json" in done.stderr
        assert "Traceback" not in done.stderr
    assert lint(tmp_path / "nowhere").returncode == 2
    assert lint(text, "--target", "ollama").returncode == 2


def test_a_large_file_of_another_kind_is_not_read(tmp_path: Path) -> None:
    """Weights that are no GGUF file: refused by how they begin, not after a terabyte in memory."""
    weights = tmp_path / "model.safetensors"
    with weights.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SourceError, match="neither a GGUF file nor JSON: it begins with"):
        review.check(weights)
