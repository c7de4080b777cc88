"""Nemotron-H, Bamba and Kimi Linear: what is decided about them, mutants that fail, and what is
refused.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from checkpoints import BF16, CASES, write
from listings import Listed, listing
from recurrent import KimiLinear, NemotronH, OneByOne

from ggufmix import models
from ggufmix.errors import ModelError
from ggufmix.models import Model, decoder, kimi_linear, latent, mamba
from ggufmix.runtime import kl
from ggufmix.sources import open_checkpoint
from ggufmix.tensor import held

FAR = 1e-3  # nats per token, a thousand times what test_logits.py allows
GOLDEN = Path(__file__).parents[1] / "golden" / "models"

Placed = Callable[..., Model]
Run = Callable[[Model], np.ndarray]
Reference = Callable[[str], np.ndarray]


def again(name: str, **changed: Any) -> Model:
    """Place a case anew, with other values in its config."""
    case = CASES[name]
    tensors = {k: held(k, v) for k, v in case.arrays().items()}
    return models.place(case.raw_config() | changed, tensors)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ssm_f_a.weight", "ssm_g_a.weight"),
        ("ssm_f_b.weight", "ssm_g_b.weight"),
        ("ssm_conv1d_q.weight", "ssm_conv1d_k.weight"),
        ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
        ("ffn_gate_shexp.weight", "ffn_up_shexp.weight"),
    ],
)
def test_each_in_the_place_of_another_shows(
    one: str, other: str, placed: Placed, run: Run, reference: Reference
) -> None:
    """Gates, convolutions and matrices of Kimi Linear in each other's place make another model."""
    model, places = placed("kimi-linear"), {one: other, other: one}

    def exchanged(name: str) -> str:
        found = next((place for place in places if name.endswith(place)), None)
        return name.replace(found, places[found]) if found else name

    tensors = [replace(p, name=exchanged(p.name)) for p in model.tensors]
    assert [p.name for p in tensors] != [p.name for p in model.tensors]
    assert kl(reference("kimi-linear"), run(replace(model, tensors=tensors))) > FAR


@pytest.mark.parametrize(
    ("name", "family"),
    [("nemotron-h", mamba), ("nemotron-h-latent", mamba), ("kimi-linear", kimi_linear)],
)
def test_decay_shows(
    name: str,
    family: ModuleType,
    run: Run,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decays in another base make another model."""
    monkeypatch.setattr(family, "minus_exp", lambda x: -np.exp2(x))
    assert kl(reference(name), run(again(name))) > FAR


def test_keys_of_latent_attention_show(
    run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of all heads taken before the values of all make another model."""
    halves = (np.arange(64), np.arange(64, 160))
    monkeypatch.setattr(latent, "split", lambda *_: halves)
    assert kl(reference("kimi-linear"), run(again("kimi-linear"))) > FAR


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("nemotron-h-moe", "expert_weights_scale"),
        ("nemotron-h-moe", "expert_weights_norm"),
        ("nemotron-h-latent", "expert_group_count"),
        ("bamba", "rope.dimension_count"),
        ("kimi-linear", "expert_weights_scale"),
    ],
)
def test_keys_that_llama_cpp_would_do_without(
    name: str, key: str, placed: Placed, run: Run, reference: Reference
) -> None:
    """Without one of these keys llama.cpp loads another model."""
    model = placed(name)
    values = {k: v for k, v in model.values.items() if not k.endswith(key)}
    assert len(values) == len(model.values) - 1
    assert kl(reference(name), run(replace(model, values=values))) > FAR


def test_what_turns_together(
    placed: Placed, run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bamba's heads turn in part. The converter of llama.cpp reorders them as if they turned whole:
    its file has other values turn together, and is another model.
    """
    whole = decoder.in_pairs
    monkeypatch.setattr(decoder, "in_pairs", lambda heads, head, _: whole(heads, head, head))
    theirs = again("bamba")
    golden = json.loads((GOLDEN / "bamba.json").read_text())["tensors"]
    for p in theirs.tensors:
        if p.role in ("ATTN_Q", "ATTN_K"):
            values = p.tensor.all().astype("<f4")
            assert hashlib.sha256(values.tobytes()).hexdigest() == golden[p.name]["sha256"]
    assert kl(reference("bamba"), run(theirs)) > FAR


@pytest.mark.parametrize("name", ["nemotron-h", "nemotron-h-moe-mtp", "bamba", "kimi-linear"])
def test_what_transformers_saves(name: str, placed: Placed, tmp_path: Path) -> None:
    """A checkpoint that went through transformers, as fine-tunes do, is the same model, without
    its MTP block. Kinds of layers, limits of time steps and Kimi's dense networks are spelled
    otherwise then.
    """
    import torch
    import transformers

    case = CASES[name]
    stored = write(tmp_path / "stored", case.raw_config(), case.arrays())
    kind = getattr(transformers, case.hf_class)
    kind.from_pretrained(stored, dtype=torch.float32).save_pretrained(tmp_path / "saved")
    want = placed(name, mtp=False)
    with open_checkpoint(tmp_path / "saved") as checkpoint:
        model = models.place(checkpoint.config, checkpoint.tensors)
        assert model.values == want.values
        theirs = {p.name: p.tensor.all() for p in model.tensors}
    assert theirs.keys() == {p.name for p in want.tensors}
    for p in want.tensors:
        want_values = p.tensor.all().astype(np.float32)
        np.testing.assert_array_equal(theirs[p.name], want_values, p.name)


def test_a_config_of_transformers_own() -> None:
    """Kimi Linear's sizes and kinds of layers, without the table that its own config has."""
    ours = {
        "linear_attn_config": None,
        "linear_head_dim": 32,
        "linear_num_heads": 4,
        "layer_types": ["full_attention" if i in (1, 4) else "linear_attention" for i in range(5)],
        "mlp_layer_types": ["dense"] + ["sparse"] * 4,
        "first_k_dense_replace": None,
        "moe_router_activation_func": None,
    }
    case, want = CASES["kimi-linear"], again("kimi-linear")
    config = {k: v for k, v in (case.raw_config() | ours).items() if v is not None}
    model = models.place(config, {k: held(k, v) for k, v in case.arrays().items()})
    assert "q_lora_rank" not in config
    assert model.values == want.values
    assert [p.name for p in model.tensors] == [p.name for p in want.tensors]


@pytest.mark.parametrize(
    ("listed", "case"),
    [
        (
            "Nemotron-Nano-3-30B-A3B",
            NemotronH(
                "full",
                "NemotronHForCausalLM",
                {
                    "hybrid_override_pattern": 5 * "MEMEM*E" + "MEMEMEM*EMEMEMEME",
                    "num_hidden_layers": 52, "hidden_size": 2688, "mamba_num_heads": 64,
                    "num_key_value_heads": 2, "n_routed_experts": 128,
                    "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712,
                },
            ),
        ),
        (
            "kimi-linear",
            KimiLinear(
                "full",
                "KimiLinearForCausalLM",
                {
                    "num_hidden_layers": 4, "first_k_dense_replace": 1, "num_experts": 256,
                    "num_shared_experts": 1, "linear_attn_config": {
                        "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4,
                        "full_attn_layers": [4],
                    },
                },
            ),
        ),
    ],
    ids=str,
)  # fmt: skip
def test_shapes_that_llama_cpp_loads(listed: str, case: OneByOne) -> None:
    """Names and shapes at a usual size are those read off llama.cpp's loader, which takes Kimi
    Linear's convolutions and decays with and without dimensions of 1.
    """
    full = replace(case, config=dict(models.CLASSES[case.hf_class][1]) | case.config)
    zero = np.zeros((), BF16)
    tensors = {
        name: Listed(name, values.shape, "BF16")
        for stacked, shape in full._shapes()
        for name, values in full.stored(stacked, np.broadcast_to(zero, shape)).items()
    }
    made = models.place(full.raw_config(), tensors).tensors
    want = {p.name: _wide(p.tensor.shape) for p in listing(listed)}
    assert {p.name: _wide(p.tensor.shape) for p in made} == want


def _wide(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n > 1)


def test_the_text_model_of_a_vision_model(placed: Placed) -> None:
    """Nemotron Nano VL keeps its text model in llm_config; the rest is left out and said."""
    case, want = CASES["nemotron-h-moe"], placed("nemotron-h-moe")
    arrays = {f"language_model.{name}": values for name, values in case.arrays().items()}
    for name in ("vision_model.radio_model.model.norm.weight", "mlp1.0.weight", "mlp1.1.weight"):
        arrays[name] = np.ones(16, np.float32)
    config = {"architectures": ["NemotronH_Nano_VL_V2"], "llm_config": case.raw_config()}
    model = models.place(config, {k: held(k, v) for k, v in arrays.items()})
    assert model.values == want.values
    assert [p.name for p in model.tensors] == [p.name for p in want.tensors]
    assert model.notes == ["left out 3 tensors of the vision tower: this file is the text model"]


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("nemotron-h", {"hybrid_override_pattern": "M-M*E"}, r"networks .* or experts .* got both"),
        ("nemotron-h", {"hybrid_override_pattern": "M-M*x"}, "block 4: expected one of M, .* 'x'"),
        ("nemotron-h", {"hybrid_override_pattern": None}, "expected a letter for each block"),
        (
            "nemotron-h",
            {"hybrid_override_pattern": 7},
            "expected a letter for each block, .* got 7",
        ),
        ("nemotron-h", {"layers_block_type": ["mamba", "conv"]}, "block 1: expected .* got 'conv'"),
        ("nemotron-h", {"layers_block_type": [["mamba"]]}, "block 0: expected one of mamba"),
        ("nemotron-h", {"num_hidden_layers": 4}, "num_hidden_layers: expected the 5 blocks"),
        ("nemotron-h", {"hybrid_override_pattern": "M-M**"}, "missing .*claims"),
        ("nemotron-h", {"mlp_hidden_act": "silu"}, "mlp_hidden_act: expected 'relu2'"),
        ("nemotron-h", {"mlp_bias": True}, "mlp_bias: expected False"),
        ("nemotron-h", {"time_step_limit": [0.0, 9.0]}, "time_step_limit: expected"),
        ("nemotron-h", {"n_groups": 5}, "192 channels cannot have 5 groups"),
        ("nemotron-h-moe", {"num_experts_per_tok": 9}, "num_experts_per_tok: expected at most"),
        ("nemotron-h-moe", {"n_group": 3, "topk_group": 1}, "n_group: expected groups"),
        ("nemotron-h-latent", {"moe_latent_size": None}, "ups?_proj.weight: expected shape"),
        ("bamba", {"attn_rotary_emb": 16}, "attn_rotary_emb: expected 8, got 16"),
        ("bamba", {"attn_layer_indices": [3]}, "attn_layer_indices: expected numbers of the 3"),
        ("bamba", {"attn_layer_indices": None}, "attn_layer_indices: expected numbers"),
        ("bamba", {"mamba_expand": 1}, "mamba_expand: expected 2"),
        ("bamba", {"rope_scaling": {"rope_type": "yarn"}}, "rope_type: expected one of"),
        ("kimi-linear", {"mla_use_nope": False}, "mla_use_nope: expected True"),
        ("kimi-linear", {"q_lora_rank": 48}, "q_lora_rank: expected None, got 48"),
        ("kimi-linear", {"moe_renormalize": False}, "moe_renormalize: expected True"),
        ("kimi-linear", {"num_expert_group": 2}, "num_expert_group: expected 1"),
        ("kimi-linear", {"tie_word_embeddings": True}, "tie_word_embeddings: expected False"),
        ("kimi-linear", {"num_attention_heads": 2}, "num_heads: expected the 2"),
        ("kimi-linear", {"linear_attn_config": {"num_heads": 4}}, "full_attn_layers: expected"),
        ("kimi-linear", {"layer_types": ["full_attention"] * 4}, "layer_types: expected 5 entries"),
        ("kimi-linear", {"mlp_layer_types": ["sparse"] * 5}, "mlp_layer_types: expected 1 dense"),
        ("kimi-linear", {"first_k_dense_replace": 2}, "missing .*claims"),
        ("kimi-linear", {"num_experts": 7}, r"gate.weight: expected shape \[7, 64\]"),
    ],
)
def test_refused(name: str, changed: dict[str, Any], message: str) -> None:
    """What llama.cpp would compute otherwise, and what does not fit the tensors, is said."""
    with pytest.raises(ModelError, match=message):
        again(name, **changed)
