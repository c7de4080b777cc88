"""Tensor by tensor and key by key what llama.cpp's converter writes (golden/make_models.py)."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufmix.models import Model

GOLDEN = {p.stem: p for p in (Path(__file__).parents[1] / "golden" / "models").glob("*.json")}
DROPPED = "-dropped"

DIFFERS = {
    "dense-irregular": {"qwen35.attention.recurrent_layers": ["ARRAY", "INT32", [0, 1, 1, 0, 1]]},
    "next-fused": {"qwen3next.full_attention_interval": ["UINT32", 2]},
}
"""Where the converter's file runs with wrong layers: it never lists irregular ones, and it writes
the interval 4 where the config states another one but no layer_types.
"""


@pytest.fixture(params=sorted(GOLDEN))
def pair(
    request: pytest.FixtureRequest, placed: Callable[..., Model]
) -> tuple[Model, dict[str, Any]]:
    """A model as we place it, and what the converter wrote for the same checkpoint."""
    name = request.param.removesuffix(DROPPED)
    golden = json.loads(GOLDEN[request.param].read_text())
    return placed(name, mtp=not request.param.endswith(DROPPED)), {"name": name, **golden}


def test_same_names_and_shapes(pair: tuple[Model, dict[str, Any]]) -> None:
    """The same tensors, each in the same shape."""
    model, golden = pair
    ours = {p.name: list(p.tensor.shape) for p in model.tensors}
    assert len(ours) == len(model.tensors)
    assert ours == {name: t["shape"] for name, t in golden["tensors"].items()}


def test_same_values(pair: tuple[Model, dict[str, Any]]) -> None:
    """Every value is the same float32; ssm_a, an exp, to one unit in the last place."""
    model, golden = pair
    for placed in model.tensors:
        values, want = placed.tensor.all().astype(np.float32), golden["tensors"][placed.name]
        if placed.role == "SSM_A":
            np.testing.assert_array_max_ulp(values, np.array(want["values"], np.float32), maxulp=1)
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
    assert {row[0]: row[1:] for row in ours if row[0] in differs} == differs
    assert golden["values"][model.n_common][0] == "general.file_type"


def test_same_size_label(pair: tuple[Model, dict[str, Any]]) -> None:
    """Parameters are counted as the converter counts them."""
    model, golden = pair
    assert (model.arch, model.size_label) == (golden["arch"], golden["size_label"])


def test_every_case_has_a_golden() -> None:
    """No tiny checkpoint goes without its comparison."""
    from checkpoints import CASES

    dropped = {name + DROPPED for name, case in CASES.items() if case.mtp}
    assert set(GOLDEN) == set(CASES) | dropped


def _as_f32(row: list[Any]) -> list[Any]:
    return [*row[:-1], float(np.float32(row[-1]))] if row[1] == "FLOAT32" else row
