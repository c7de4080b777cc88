"""Tensor by tensor and key by key what llama.cpp's converter writes with --mmproj
(golden/make_visions.py).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import BF16
from visions import VISIONS

from ggufmix.models import Model

GOLDEN = Path(__file__).parents[1] / "golden" / "visions"


@pytest.fixture(params=VISIONS)
def pair(
    request: pytest.FixtureRequest, placed: Callable[[str], Model]
) -> tuple[Model, dict[str, Any]]:
    """A tower as we place it, and what the converter wrote for the same checkpoint."""
    golden = json.loads((GOLDEN / f"{request.param}.json").read_text())
    return placed(request.param), golden


def test_same_tensors(pair: tuple[Model, dict[str, Any]]) -> None:
    """The same names, shapes and values: a tensor that is called otherwise is not loaded."""
    model, golden = pair
    ours = {p.name: list(p.tensor.shape) for p in model.tensors}
    assert ours == {name: t["shape"] for name, t in golden["tensors"].items()}
    assert len(ours) == len(model.tensors)
    for placed in model.tensors:
        values = placed.tensor.all()
        assert values.dtype == BF16, placed.name  # nothing is computed: it could be exact
        sha256 = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
        assert sha256 == golden["tensors"][placed.name]["f32"][1], placed.name


def test_same_keys(pair: tuple[Model, dict[str, Any]]) -> None:
    """The same keys, types and values in the same order."""
    model, golden = pair
    ours = [
        [key, *(k.name for k in (value.type, value.item) if k is not None), _as_f32(value.data)]
        for key, value in model.values.items()
    ]
    assert ours == [row for row in golden["values"] if row[0] != "general.type"]
    assert (model.arch, model.size_label) == ("clip", golden["size_label"])


def _as_f32(data: Any) -> Any:
    if isinstance(data, list):
        return [_as_f32(item) for item in data]
    return float(np.float32(data)) if isinstance(data, float) else data


def test_every_case_has_a_golden() -> None:
    """No tiny checkpoint goes without its comparison."""
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(VISIONS)
