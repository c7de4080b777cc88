"""What becomes FP8, what the config says of it, and what engines make of that."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checkpoints import CASES
from fp8.engines import FUSED, SplitError, layers, sglang_skips, vllm_name, vllm_skips

from ggufmix.errors import ModelError, UsageError
from ggufmix.fp8.choosing import Choice, choose
from ggufmix.fp8.naming import matrices
from ggufmix.fp8.rulebook import groups, presets
from ggufmix.tensor import Array, Tensor, held

FAMILIES = (
    *("dense-tied", "dense-wrapped-mtp", "dense-irregular", "moe-fused", "moe-wrapped-mtp"),
    *("moe-one-by-one", "next-one-by-one-mtp", "next-fused", "qwen3", "qwen3-yarn", "qwen3moe"),
    *("qwen3moe-fused", "deepseek-v3", "deepseek-v3-plain", "deepseek-v3-as-saved", "deepseek-v2"),
    *("glm4moe-mtp", "glm4moe-norms"),
)


class Shape(Tensor):
    """A tensor that has a shape and no values."""

    def __init__(self, name: str, *shape: int) -> None:
        self.name, self.shape, self.dtype = name, shape, np.dtype(np.float32)

    def rows(self, start: int, stop: int) -> Array:  # noqa: ARG002
        raise AssertionError("decisions cost headers only")


def chosen(name: str, preset: str = "conservative", **more: Any) -> Choice:
    case = CASES[name]
    tensors = {k: held(k, v) for k, v in case.arrays().items()}
    return choose(tensors, case.raw_config(), preset, **more)


def qwen35_dense() -> dict[str, Tensor]:
    """Names of a Qwen3.5 dense model of 64 layers, with a vision tower of 27 blocks and MTP."""
    shapes: dict[str, tuple[int, ...]] = {"lm_head.weight": (512, 256)}
    inner = "model.language_model."
    shapes[inner + "embed_tokens.weight"] = 512, 256
    shapes[inner + "norm.weight"] = (256,)
    blocks = [(f"{inner}layers.{i}.", (i + 1) % 4 == 0) for i in range(64)]
    for p, full in [*blocks, ("mtp.layers.0.", True)]:
        for part in ("gate_proj", "up_proj"):
            shapes[f"{p}mlp.{part}.weight"] = 512, 256
        shapes[f"{p}mlp.down_proj.weight"] = 256, 512
        shapes[f"{p}input_layernorm.weight"] = (256,)
        if full:
            for part in "qkvo":
                shapes[f"{p}self_attn.{part}_proj.weight"] = 256, 256
            shapes[f"{p}self_attn.q_norm.weight"] = (64,)
        else:
            for part in ("in_proj_qkv", "in_proj_z", "out_proj"):
                shapes[f"{p}linear_attn.{part}.weight"] = 256, 256
            for part in ("in_proj_a", "in_proj_b"):
                shapes[f"{p}linear_attn.{part}.weight"] = 4, 256
            shapes[f"{p}linear_attn.conv1d.weight"] = 512, 1, 4
            shapes[f"{p}linear_attn.A_log"] = (4,)
    shapes["mtp.fc.weight"] = 256, 512
    for i in range(27):
        for part in ("attn.proj", "attn.qkv", "mlp.linear_fc1", "mlp.linear_fc2"):
            shapes[f"model.visual.blocks.{i}.{part}.weight"] = 128, 128
            shapes[f"model.visual.blocks.{i}.{part}.bias"] = (128,)
    for part in ("merger.linear_fc1", "merger.linear_fc2", "pos_embed"):
        shapes[f"model.visual.{part}.weight"] = 128, 128
    shapes["model.visual.patch_embed.proj.weight"] = 128, 3, 2, 16, 16
    return {name: Shape(name, *shape) for name, shape in shapes.items()}


DENSE = {"architectures": ["Qwen3_5ForConditionalGeneration"]}


def test_official_is_qwens_own_list() -> None:
    """The 259 names of Qwen's 64-layer FP8 checkpoint: lm_head and embeddings, conv1d and both
    gates of 48 layers, 4 modules of 27 vision blocks, 4 others of vision, mtp.fc; no norms, no
    out_proj. Source: the list as ms-swift's quantization code has it.
    """
    tensors = qwen35_dense()
    listed = set(choose(tensors, DENSE, "official").not_converted)
    assert len(listed) == 259
    assert {"lm_head", "model.language_model.embed_tokens", "mtp.fc"} < listed
    assert "model.visual.pos_embed" in listed
    assert "model.visual.patch_embed.proj" in listed
    assert not any("norm" in name or "out_proj" in name for name in listed)
    careful = set(choose(tensors, DENSE).not_converted)
    assert {name.rpartition(".")[2] for name in careful - listed} == {"out_proj"}
    assert len(careful - listed) == 48
    assert listed < careful


def test_shared_experts() -> None:
    """Qwen quantizes the shared expert, QuixiAI's toolkit leaves it: the presets differ in it."""
    careful, official = chosen("moe-fused"), chosen("moe-fused", "official")
    gone = set(careful.not_converted) - set(official.not_converted)
    assert {name.split(".", 3)[3] for name in gone} == {
        "linear_attn.out_proj",
        *(f"mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")),
    }


@pytest.mark.parametrize("preset", ["conservative", "official"])
@pytest.mark.parametrize("name", FAMILIES)
def test_engines_read_the_list_as_it_is_meant(name: str, preset: str) -> None:
    """Of every layer that vLLM and SGLang build, the list tells them what is in the file. What
    they would take for FP8 without scales, or BF16 where there are scales, is garbage or a crash.
    """
    case = CASES[name]
    choice = chosen(name, preset)
    fp8 = {d.module: d.fp8 for d in choice.decisions if d.matrix is not None}
    wrapped = case.hf_class.endswith("ForConditionalGeneration")
    listed = choice.not_converted
    for_vllm = [vllm_name(n, wrapped=wrapped) for n in listed]
    next_one = case.hf_class.startswith("Qwen3Next")  # stores these two fused
    fused = {k: v for k, v in FUSED.items() if not (next_one and k.startswith("in_proj"))}
    assert layers(fp8)
    for layer, modules in layers(fp8).items():
        there = {fp8[module] for module in modules}
        assert len(there) == 1
        assert vllm_skips(vllm_name(layer, wrapped=wrapped), for_vllm) is not there.pop(), layer
        assert sglang_skips(layer, listed, fused) is not fp8[modules[0]], layer


@pytest.mark.parametrize("name", ["moe-fused", "moe-one-by-one", "moe-wrapped-mtp", "qwen3moe"])
def test_experts_that_are_kept(name: str) -> None:
    """A layer whose experts stay in BF16 is named by what holds them, in whichever layout."""
    choice = chosen(name, keep=["*.layers.1.mlp.experts"])
    fp8 = {d.module: d.fp8 for d in choice.decisions if d.matrix is not None}
    case = CASES[name]
    wrapped = case.hf_class.endswith("ForConditionalGeneration")
    prefix = "model.language_model." if wrapped else "model."
    layer = f"{prefix}layers.1.mlp.experts"
    assert layer in choice.not_converted
    assert not any(n.startswith(f"{layer}.") for n in choice.not_converted)
    for_vllm = [vllm_name(n, wrapped=wrapped) for n in choice.not_converted]
    assert vllm_skips(vllm_name(layer, wrapped=wrapped), for_vllm)
    assert sglang_skips(layer, choice.not_converted)
    other = f"{prefix}layers.2.mlp.experts"
    assert not vllm_skips(vllm_name(other, wrapped=wrapped), for_vllm)
    assert not sglang_skips(other, choice.not_converted)
    assert not any(fp8[m] for m in layers(fp8)[layer])


def test_the_restated_rules_have_teeth() -> None:
    """A half-named fused layer stops both engines, and names that are prefixes of others do not
    match: SGLang issue 23687, where mlp.gate was found in mlp.gate_proj.
    """
    half = ["model.layers.0.self_attn.q_proj"]
    for skips in (vllm_skips, sglang_skips):
        with pytest.raises(SplitError):
            skips("model.layers.0.self_attn.qkv_proj", half)
        assert not skips("model.layers.0.mlp.gate_up_proj", ["model.layers.0.mlp.gate"])
        assert not skips("model.layers.1.mlp.experts", ["model.layers.10.mlp.experts"])


@pytest.mark.parametrize(
    ("name", "keep"),
    [
        ("qwen3", "*.k_proj"),
        ("qwen3", "*.gate_proj"),
        ("dense-tied", "*.in_proj_z"),
        ("moe-fused", "*.experts.0.*"),
        ("moe-one-by-one", "*.experts.*.down_proj"),
        ("deepseek-v3", "*.kv_a_proj_with_mqa"),
        ("deepseek-v3", "*.shared_experts.up_proj"),
        ("moe-wrapped-mtp", "mtp.layers.0.self_attn.v_proj"),
        ("dense-tied", "*.in_proj_a"),
    ],
)
def test_what_runs_as_one_is_not_split(name: str, keep: str) -> None:
    """A pattern that splits what engines fuse would make a checkpoint that they refuse."""
    asked = {"quantize": [keep]} if keep.endswith("in_proj_a") else {"keep": [keep]}
    with pytest.raises(UsageError, match="run as one: all in FP8 or none"):
        chosen(name, **asked)


def test_patterns_speak_for_what_lies_inside() -> None:
    """--keep with the name of a layer keeps all of it; the config lists its modules."""
    choice = chosen("qwen3", keep=["model.layers.0"])
    kept = {d.module for d in choice.decisions if not d.fp8}
    inside = {d.module for d in choice.decisions if d.module.startswith("model.layers.0.")}
    assert len(inside) == 7
    assert inside <= kept
    assert inside <= set(choice.not_converted)
    assert not any(n.startswith("model.layers.1.") for n in choice.not_converted)
    assert next(d.reason for d in choice.decisions if d.module in inside) == "--keep model.layers.0"


def test_quantize_overrides_a_preset() -> None:
    """--quantize makes FP8 of what the conservative preset leaves."""
    choice = chosen("dense-tied", quantize=["*.out_proj"])
    assert all(d.fp8 for d in choice.decisions if d.module.endswith(".out_proj"))


BAD = {
    "matches nothing": ({"keep": ["*.q_prj"]}, "no module has such a name"),
    "both": ({"keep": ["*.mlp"], "quantize": ["*.mlp.*"]}, "contradict each other"),
    "head": ({"quantize": ["lm_head"]}, "cannot be FP8"),
    "embedding": ({"quantize": ["*"]}, "cannot be FP8"),
    "convolution": ({"quantize": ["*.conv1d"]}, "cannot be FP8"),
    "no preset": ({"preset": "offical"}, "expected one of"),
}


@pytest.mark.parametrize("case", BAD)
def test_patterns_that_cannot_be_meant(case: str) -> None:
    """Each is refused, and says why."""
    asked, message = BAD[case]
    with pytest.raises(UsageError, match=message) as error:
        chosen("dense-irregular", **asked)
    assert error.value.hint


def test_a_typing_error_is_guessed() -> None:
    """The hint names what is there."""
    with pytest.raises(UsageError) as error:
        chosen("qwen3", keep=["model.layers.*.self_attn.q_prj"])
    assert "model.layers.*.self_attn.q_proj" in str(error.value.hint)


def test_a_weight_that_no_rule_knows() -> None:
    """It is neither left in BF16 in silence, as 91 % of a model once were, nor quantized."""
    tensors = {"a.weight": Shape("a.weight", 4, 4), "model.x.weight": Shape("model.x.weight", 4)}
    with pytest.raises(ModelError, match=r"no rule knows a, of shape \[4, 4\]") as error:
        choose(tensors, {})
    assert "--keep or --quantize 'a'" in str(error.value.hint)
    assert choose(tensors, {}, keep=["a"]).not_converted == ("a",)
    assert [m.module for m in choose(tensors, {}, quantize=["a"]).quantized] == ["a"]
    stack = {"x": Shape("x", 2, 4, 4)}
    with pytest.raises(ModelError, match="no rule knows x"):
        choose(stack, {})
    with pytest.raises(UsageError, match="no matrix that FP8 could hold"):
        choose(stack, {}, quantize=["x"])


def experts(n: int, *parts: str) -> dict[str, Tensor]:
    at = "model.layers.0.mlp.experts."
    names = [f"{at}{i}.{part}_proj.weight" for i in range(n) for part in parts]
    return {name: Shape(name, 128, 128) for name in names}


def test_modules_that_are_there_in_part() -> None:
    """A download that is not complete is found before anything is written."""
    whole = experts(4, "gate", "up", "down")
    choose(whole, {"num_experts": 4})
    with pytest.raises(ModelError, match=r"expected 8 experts .*experts\.4\.down_proj is not"):
        choose(whole, {"text_config": {"num_experts": 8}})
    del whole["model.layers.0.mlp.experts.2.up_proj.weight"]
    with pytest.raises(ModelError, match=r"experts\.2\.up_proj is not there"):
        choose(whole, {})
    q = {"model.layers.0.self_attn.q_proj.weight": Shape("q", 128, 128)}
    with pytest.raises(ModelError, match="has q_proj, but no k_proj, v_proj"):
        choose(q, {})
    assert choose(q, {}, keep=["model.layers.0.self_attn"]).not_converted


def test_stacks_that_do_not_fit() -> None:
    """Experts are told apart by their shapes; transposed ones (Qwen3-VL-MoE) are refused, not
    cut along the wrong side.
    """
    at = "model.layers.0.mlp.experts."

    def stack(up: tuple[int, ...], down: tuple[int, ...] | None) -> None:
        made = {f"{at}gate_up_proj": Shape(f"{at}gate_up_proj", *up)}
        if down is not None:
            made[f"{at}down_proj"] = Shape(f"{at}down_proj", *down)
        choose(made, {})

    stack((2, 256, 64), (2, 64, 128))
    with pytest.raises(ModelError, match="got them transposed"):
        stack((2, 64, 256), (2, 128, 64))
    with pytest.raises(ModelError, match="expected experts of shape"):
        stack((2, 256, 64), (3, 64, 128))
    with pytest.raises(ModelError, match="expected experts of shape"):
        stack((2, 256, 64), (2, 32, 128))
    with pytest.raises(ModelError, match=r"expected .*down_proj beside it"):
        stack((2, 256, 64), None)


def test_fused_experts_are_cut_as_transformers_cuts_them() -> None:
    """Gate is the first half of an expert's rows, up the second."""
    case = CASES["moe-fused"]
    arrays = case.arrays()
    name = "model.layers.0.mlp.experts.gate_up_proj"
    found = dict(matrices({k: held(k, v) for k, v in arrays.items()}))[name]
    assert [m.module for m in found[:3]] == [
        "model.layers.0.mlp.experts.0.gate_proj",
        "model.layers.0.mlp.experts.0.up_proj",
        "model.layers.0.mlp.experts.1.gate_proj",
    ]
    gate, up = np.split(arrays[name][1], 2)
    np.testing.assert_array_equal(found[2].tensor.all(), gate)
    np.testing.assert_array_equal(found[3].tensor.all(), up)
    assert (found[3].first, found[3].expert) == (96, 1)


def test_shapes_off_128() -> None:
    """They are written right; who cannot read them is named."""

    def warned(q: int, v: int) -> str:
        shapes = {"q_proj": q, "k_proj": 128, "v_proj": v, "o_proj": 256}
        tensors = {
            f"model.layers.0.self_attn.{part}.weight": Shape(part, rows, 256)
            for part, rows in shapes.items()
        }
        return "\n".join(choose(tensors, {}).warnings)

    assert not warned(256, 128)
    assert "transformers" in warned(200, 128)
    assert "vLLM and SGLang refuse" in warned(200, 128)
    assert "vLLM" not in warned(256, 200)  # the last part of a fused layer may end inside a block
    assert "transformers" not in warned(64, 128)  # one block, however small


def test_rule_files_say_why() -> None:
    """Every entry has a reason and a source; groups name at least two modules."""
    for preset in presets().values():
        assert preset.why
        for entry in (*preset.keep, *preset.quantize):
            assert entry.why
            assert entry.source
            assert entry.modules
    assert {"conservative", "official"} == presets().keys()
    assert all(len(group.members) > 1 and group.why and group.source for group in groups())
