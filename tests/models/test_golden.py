"""Tensor by tensor and key by key what llama.cpp's converter writes (golden/make_models.py)."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufmix import models
from ggufmix.models import Model

GOLDEN = {p.stem: p for p in (Path(__file__).parents[1] / "golden" / "models").glob("*.json")}
DROPPED, DRAFT, GATE_UP = VARIANTS = ("-dropped", "-draft", "-gate-up")

DIFFERS = {
    "dense-irregular": {"qwen35.attention.recurrent_layers": ["ARRAY", "INT32", [0, 1, 1, 0, 1]]},
    "next-fused": {"qwen3next.full_attention_interval": ["UINT32", 2]},
    "llama-longrope": {
        "llama.rope.scaling.original_context_length": ["UINT32", 128],
        "llama.rope.scaling.attn_factor": ["FLOAT32", float(np.float32((1 + 2 / 7) ** 0.5))],
    },
    "qwen3-yarn": {
        "qwen3.rope.scaling.attn_factor": ["FLOAT32", float(np.float32(1.3 / 1.1386294))],
    },
    "deepseek-v3-as-saved": {"deepseek2.expert_gating_func": ["UINT32", 2]},
    "deepseek-v3-plain": {"deepseek2.attention.q_lora_rank": ["UINT32", 0]},
    "deepseek-v2": {"deepseek2.attention.q_lora_rank": ["UINT32", 0]},
    "glm-dsa": {"glm-dsa.expert_gating_func": ["UINT32", 2]},
    "glm-dsa-shared-mtp": {"glm-dsa.expert_gating_func": ["UINT32", 2]},
    "glm4moe-lite-mtp": {"deepseek2.expert_gating_func": ["UINT32", 2]},
    "granite4-dense-rope": {
        "granitehybrid.rope.scaling.finetuned": ["BOOL", True],
        "granitehybrid.context_length": ["UINT32", 512],
    },
}
"""Where the converter's file is another model: it never lists irregular layers, it writes the
interval 4 where the config states another one but no layer_types, it leaves out LongRoPE's factors
outside of Phi, llama.cpp overrules the key that it writes YaRN's attention factor to, it leaves out
how the router scores where only the class of the model says it, and without a rank of latent
queries llama.cpp loads a file only if it has as many layers as a published model, and it takes
every hybrid Granite for one without positions.
"""
OURS = {"llama-longrope": {"rope_factors_long.weight": [8], "rope_factors_short.weight": [8]}}
"""Tensors that the converter leaves out, with the same effect."""
MOVED = {"bamba": ("attn_q.weight", "attn_k.weight")}
"""Tensors whose rows the converter puts in an order that makes another model: see
test_recurrent.py.
"""
POWERS = {"SSM_A": 1, "ROPE_FREQS": 2}
"""Roles whose values are powers, and the units in the last place that they may differ by."""


@pytest.fixture(params=sorted(GOLDEN))
def pair(
    request: pytest.FixtureRequest, placed: Callable[..., Model]
) -> tuple[Model, dict[str, Any]]:
    """A model as we place it, and what the converter wrote for the same checkpoint."""
    variant = next((v for v in VARIANTS if request.param.endswith(v)), "")
    name = request.param.removesuffix(variant)
    golden = json.loads(GOLDEN[request.param].read_text())
    model = placed(name, mtp=variant != DROPPED)
    if variant == DRAFT:
        layers = models.mtp_layers(model.arch, model.values, model.tensors)
        model = replace(model, tensors=models.draft_head(model.tensors, layers))
    elif variant == GATE_UP:
        model = replace(model, tensors=models.fuse_gate_up(model.arch, model.tensors))
    return model, {"name": name, **golden}


def test_same_names_and_shapes(pair: tuple[Model, dict[str, Any]]) -> None:
    """The same tensors, each in the same shape."""
    model, golden = pair
    ours = {p.name: list(p.tensor.shape) for p in model.tensors}
    assert len(ours) == len(model.tensors)
    want = {name: t["shape"] for name, t in golden["tensors"].items()}
    assert ours == want | OURS.get(golden["name"], {})


def test_same_values(pair: tuple[Model, dict[str, Any]]) -> None:
    """Every value is the same float32, powers but for the last places."""
    model, golden = pair
    for placed in model.tensors:
        if placed.name in OURS.get(golden["name"], {}):
            continue
        if placed.name.endswith(MOVED.get(golden["name"], ())):
            continue
        values, want = placed.tensor.all().astype(np.float32), golden["tensors"][placed.name]
        if ulps := POWERS.get(placed.role):
            other = np.array(want["values"], np.float32)
            np.testing.assert_array_max_ulp(values, other, maxulp=ulps)
        else:
            sha256 = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
            assert sha256 == want["sha256"], placed.name


def test_same_keys(pair: tuple[Model, dict[str, Any]]) -> None:
    """The same keys, types and values in the same order, but where the converter errs."""
    model, golden = pair
    ours = [
        [key, *(kind.name for kind in (value.type, value.item) if kind is not None), value.data]
        for key, value in model.values.items()
    ]
    differs = DIFFERS.get(golden["name"], {})
    want = [row for row in golden["values"] if row[0] not in differs and "file_type" not in row[0]]
    assert [_as_f32(row) for row in ours if row[0] not in differs] == want
    assert {row[0]: _as_f32(row)[1:] for row in ours if row[0] in differs} == differs


def test_same_size_label(pair: tuple[Model, dict[str, Any]]) -> None:
    """Parameters are counted as the converter counts them."""
    model, golden = pair
    assert (model.arch, model.size_label) == (golden["arch"], golden["size_label"])


def test_every_case_has_a_golden() -> None:
    """No tiny checkpoint goes without its comparison."""
    from checkpoints import CASES

    apart = {name + v for name, case in CASES.items() if case.mtp for v in (DROPPED, DRAFT)}
    fused = {
        name + GATE_UP
        for name, case in CASES.items()
        if case.hf_class.startswith(("Qwen3Next", "Qwen3_5Moe"))
    }
    assert set(GOLDEN) == set(CASES) | apart | fused


def _as_f32(row: list[Any]) -> list[Any]:
    return [*row[:-1], float(np.float32(row[-1]))] if row[1] == "FLOAT32" else row
