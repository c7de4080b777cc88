"""What a placed model says of itself, and what placing costs."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import BF16, CASES, Case, Hybrid
from decoders import Decoder
from plain_gguf import write_f32

from ggufmix import models
from ggufmix.models import Model
from ggufmix.models.config import Config
from ggufmix.models.keys import common_values
from ggufmix.runtime import Llama
from ggufmix.tensor import F32, Array, Tensor, held

Placed = Callable[..., Model]


class Unread(Tensor):
    """A tensor of which nothing but the header may be asked."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape, self.dtype = name, shape, np.dtype(BF16)

    def rows(self, start: int, stop: int) -> Array:
        raise AssertionError(f"{self.name}: rows {start} to {stop} were read")


def unread(case: Hybrid | Decoder) -> dict[str, Tensor]:
    """The tensors of a case as headers only."""
    return {name: Unread(name, shape) for name, shape in case._shapes()}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_read(name: str) -> None:
    """Placing asks for no row."""
    case = CASES[name]
    tensors = {n: Unread(n, v.shape) for n, v in case.arrays().items()}
    assert models.place(case.raw_config(), tensors).tensors


def test_true_scale() -> None:
    """Qwen3.5-35B-A3B at its true size: the label and the tensors that its published GGUF has."""
    config = {
        "vocab_size": 248320, "hidden_size": 2048, "num_hidden_layers": 40, "head_dim": 256,
        "num_attention_heads": 16, "num_key_value_heads": 2, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
        "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
    }  # fmt: skip
    case = Hybrid("35B", "Qwen3_5MoeForCausalLM", config)
    model = models.place(case.raw_config(), unread(case))
    assert (len(model.tensors), model.size_label) == (733, "256x2.6B")
    assert sum(p.tensor.n_values for p in model.tensors) == 34_660_610_688
    shapes = {p.name: p.tensor.shape for p in model.tensors}
    assert shapes["blk.0.ffn_gate_exps.weight"] == (256, 512, 2048)
    assert shapes["blk.0.ffn_down_exps.weight"] == (256, 2048, 512)
    assert shapes["blk.0.ssm_conv1d.weight"] == (8192, 4)
    assert shapes["blk.3.attn_q.weight"] == (8192, 2048)


@pytest.mark.parametrize(
    ("hf_class", "config", "n_tensors", "n_values"),
    [
        (
            "LlamaForCausalLM",  # Llama 3.1 8B
            {
                "vocab_size": 128256, "intermediate_size": 14336, "num_key_value_heads": 8,
                "rope_theta": 5e5, "rope_scaling": {
                    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
                },
            },
            292, 8_030_261_248 + 64,
        ),
        ("MistralForCausalLM", {}, 291, 7_241_732_096),
        ("MixtralForCausalLM", {}, 323, 46_702_792_704),
        (
            "Qwen3ForCausalLM",  # Qwen3-4B-Instruct-2507
            {
                "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
                "num_key_value_heads": 8, "tie_word_embeddings": True,
            },
            398, 4_022_468_096,
        ),
    ],
)  # fmt: skip
def test_true_scale_of_decoders(
    hf_class: str, config: dict[str, Any], n_tensors: int, n_values: int
) -> None:
    """Published models at their true size: the tensors and weights that they are known to have."""
    config = dict(models.CLASSES[hf_class][1]) | config
    case = Decoder("full", hf_class, config)
    model = models.place(case.raw_config(), unread(case))
    assert len(model.tensors) == n_tensors
    assert sum(p.tensor.n_values for p in model.tensors) == n_values


def test_moved_rows_and_columns_keep_their_dtype(placed: Placed) -> None:
    """What is only moved stays BF16, what is computed is float32."""
    dtypes = {p.role: p.tensor.dtype for p in placed("moe-fused").tensors if p.layer in {0, None}}
    computed = {role for role, dtype in dtypes.items() if dtype == F32}
    assert computed == {"ATTN_NORM", "ATTN_POST_NORM", "OUTPUT_NORM", "SSM_A", "SSM_NORM"}


@pytest.mark.parametrize(
    "name",
    [
        "moe-fused",
        "dense-irregular",
        "next-wide",
        "moe-one-by-one",
        "mixtral",
        "llama-biases",
        "deepseek-v3",
        "gpt-oss",
    ],
)
def test_any_band_is_that_part_of_the_whole(name: str, placed: Placed) -> None:
    """Rows asked for in bands are the rows of the whole, across experts and moved heads."""
    for p in placed(name).tensors:
        whole = p.tensor.all().reshape(p.tensor.n_rows, p.tensor.cols)
        step = max(1, p.tensor.n_rows // 3 - 1)
        for start in range(0, p.tensor.n_rows, step):
            stop = min(start + step, p.tensor.n_rows)
            np.testing.assert_array_equal(p.tensor.rows(start, stop), whole[start:stop], p.name)


def test_notes(placed: Placed) -> None:
    """What is left out and what is kept is said."""
    vision = (
        "left out 3 tensors of the vision tower: this file is the text model, "
        "--mmproj writes the vision projector"
    )
    kept = "kept 1 MTP block behind the last layer"
    assert placed("dense-wrapped-mtp").notes == [vision, kept]
    assert placed("dense-wrapped-mtp", mtp=False).notes == [
        vision,
        "left out 15 tensors of 1 MTP block, as asked",
    ]
    assert placed("dense-tied").notes == []


def test_a_sliding_window_is_told() -> None:
    """llama.cpp has none here: what differs is said, unless no text is longer than the window."""
    case = CASES["mistral"]
    for window, notes in ((None, 0), (512, 0), (128, 1)):
        model = models.place({**case.raw_config(), "sliding_window": window}, _held(case.arrays()))
        assert len(model.notes) == notes
    assert model.notes[0].startswith("sliding_window 128: llama.cpp has none")
    case = CASES["qwen2"]
    config = {**case.raw_config(), "sliding_window": 128}
    assert not models.place(config, _held(case.arrays())).notes


def test_mtp_blocks_are_counted_by_their_tensors() -> None:
    """A config that promises blocks which the checkpoint lacks does not reach the file."""
    case = CASES["dense-wrapped-mtp"]
    tensors = {n: held(n, v) for n, v in case.arrays().items() if not n.startswith("mtp.")}
    model = models.place(case.raw_config(), tensors)
    assert (model.block_count, model.mtp_blocks) == (5, 0)
    assert "qwen35.nextn_predict_layers" not in model.values
    assert model.notes[-1] == "config.json states 1 MTP blocks, the checkpoint has 0: 0 written"


def test_mtp_blocks_that_the_config_does_not_state() -> None:
    """Blocks of a checkpoint whose config does not mention them are kept."""
    case = CASES["dense-wrapped-mtp"]
    config = case.raw_config()
    del config["text_config"]["mtp_num_hidden_layers"]
    model = models.place(config, {n: held(n, v) for n, v in case.arrays().items()})
    assert (model.block_count, model.mtp_blocks) == (6, 1)
    assert "blk.5.nextn.eh_proj.weight" in {p.name for p in model.tensors}


def test_mtp_blocks_with_an_embedding_of_their_own(tmp_path: Path) -> None:
    """An embedding that only MTP blocks use is kept, and llama.cpp loads it."""
    case = CASES["next-one-by-one-mtp"]
    arrays = case.arrays()
    arrays["mtp.embed_tokens.weight"] = arrays["lm_head.weight"]
    model = models.place(case.raw_config(), _held(arrays))
    assert "blk.5.nextn.embed_tokens.weight" in {p.name for p in model.tensors}
    Llama(write_f32(model, tmp_path / "own.gguf"), mtp=True).close()


def test_irregular_layers_in_front_of_mtp_blocks() -> None:
    """The list of layer kinds covers MTP blocks, which are full attention."""
    case = CASES["dense-wrapped-mtp"]
    kinds = ["full_attention", "linear_attention", "linear_attention", "full_attention"]
    config = {**case.config, "num_hidden_layers": 4, "layer_types": kinds}
    model = models.place(*_parts(replace(case, config=config)))
    assert model.values["qwen35.attention.recurrent_layers"].data == [0, 1, 1, 0, 0]


def test_names_of_wrappers() -> None:
    """The three ways to spell a text model inside a wrapper, and of its MTP blocks, are one."""
    case = CASES["dense-wrapped-mtp"]
    arrays = case.arrays()
    want = [p.name for p in models.place(case.raw_config(), _held(arrays)).tensors]
    for spelled in ("language_model.model.", "model."):
        other = {n.replace("model.language_model.", spelled): v for n, v in arrays.items()}
        other = {n.replace("mtp.", "model.mtp.", 1): v for n, v in other.items()}
        assert [p.name for p in models.place(case.raw_config(), _held(other)).tensors] == want


def test_class_of_the_text_config_decides() -> None:
    """A wrapper that is not known will do if its text model is."""
    case = CASES["dense-wrapped-mtp"]
    config = case.raw_config() | {"architectures": ["OddForConditionalGeneration"]}
    config["text_config"]["architectures"] = ["Qwen3_5ForCausalLM"]
    assert models.place(config, _held(case.arrays())).arch == "qwen35"


def test_tied_but_stored(placed: Placed) -> None:
    """An output matrix that is stored is kept, tied or not, as llama.cpp's converter does."""
    case = CASES["dense-tied"]
    arrays = case.arrays()
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"]
    model = models.place(case.raw_config(), _held(arrays))
    assert placed("dense-tied").tied
    assert not model.tied
    assert "output.weight" in {p.name for p in model.tensors}


@pytest.mark.parametrize("hf_class", models.CLASSES)
def test_every_class_is_documented_and_tested(hf_class: str) -> None:
    """The README names it, and a tiny checkpoint is of it."""
    assert f"`{hf_class}`" in (Path(__file__).parents[2] / "README.md").read_text()
    assert hf_class in {case.hf_class for case in CASES.values()}


@pytest.mark.parametrize("hf_class", models.CLASSES)
def test_defaults_are_those_of_the_class(hf_class: str) -> None:
    """What we take for an absent key is what transformers takes."""
    import transformers

    spelled = hf_class.replace("KimiK25", "Kimi_K25")
    theirs = getattr(transformers, spelled).config_class().get_text_config()
    rope = getattr(theirs, "rope_parameters", None) or {}
    ours = dict(models.CLASSES[hf_class][1])
    ours.pop("scoring_func", None)  # transformers has it in code
    assert {k: rope[k] if k in rope else getattr(theirs, k) for k in ours} == ours


@pytest.mark.parametrize("name", CASES)
def test_an_empty_config_means_the_defaults(name: str) -> None:
    """A config without a single size is that of the class: its keys are those of a full one."""
    case = CASES[name]
    defaults = models.CLASSES[case.hf_class][1]
    empty, full = Config({}, defaults), Config(dict(defaults), {})
    assert common_values(empty, "x", 1) == common_values(full, "x", 1)


def test_regular_layers_get_their_interval() -> None:
    """Layer types that follow an interval are written as it, whatever the config calls it."""
    case = CASES["next-fused"]
    kinds = ["linear_attention", "full_attention"] * 2 + ["linear_attention"]
    config: dict[str, Any] = {**case.config, "layer_types": kinds}
    del config["full_attention_interval"]
    model = models.place(*_parts(replace(case, config=config)))
    assert model.values["qwen3next.full_attention_interval"].data == 2
    assert "qwen3next.attention.recurrent_layers" not in model.values


def test_yarn() -> None:
    """A YaRN config becomes its keys, in llama.cpp's order."""
    rope = {
        "rope_type": "yarn", "factor": 4.0, "rope_theta": 1e7, "mrope_section": [2, 1, 1],
        "original_max_position_embeddings": 128, "beta_fast": 32, "beta_slow": 1,
    }  # fmt: skip
    values = common_values(Config({"rope_scaling": rope}, {}), "x", 1)
    assert [(key.removeprefix("x.rope."), value.data) for key, value in values.items()][1:] == [
        ("scaling.type", "yarn"),
        ("scaling.factor", 4.0),
        ("scaling.original_context_length", 128),
        ("scaling.yarn_beta_fast", 32.0),
        ("scaling.yarn_beta_slow", 1.0),
        ("dimension_sections", [2, 1, 1, 0]),
        ("freq_base", 1e7),
    ]


def _held(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: held(name, values) for name, values in arrays.items()}


def _parts(case: Case) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return case.raw_config(), _held(case.arrays())
