"""Blocks for multi-token prediction: their tensors decide, whatever config.json says of them."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import CASES
from plain_gguf import write_f32

from ggufmix import models
from ggufmix.models import Model
from ggufmix.runtime import Llama
from ggufmix.tensor import held

Placed = Callable[..., Model]

WITH = [name for name, case in CASES.items() if case.mtp]
KEYS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")


def stating(name: str, n: int | None) -> dict[str, Any]:
    """A case's config.json that says there are `n` MTP blocks, or nothing of them."""
    config = CASES[name].raw_config()
    text = config.get("text_config", config)
    (key,) = [key for key in KEYS if key in text] or ["mtp_num_hidden_layers"]
    text[key] = n
    if n is None:
        del text[key]
    return config


def place(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Model:
    """Place arrays that are in memory."""
    return models.place(config, {k: held(k, v) for k, v in arrays.items()})


@pytest.mark.parametrize("name", WITH)
@pytest.mark.parametrize("stated", [None, 0, 2])
def test_blocks_that_are_there_are_kept(
    name: str, stated: int | None, placed: Placed, tmp_path: Path
) -> None:
    """Fine-tunes lose the number, and other tools count otherwise; llama.cpp loads the block."""
    want, model = placed(name), place(stating(name, stated), CASES[name].arrays())
    assert model.values == want.values
    assert [p.name for p in model.tensors] == [p.name for p in want.tensors]
    told = f"config.json states {stated} MTP blocks" if stated else "kept 1 MTP block"
    assert model.notes[-1].startswith(told)
    Llama(write_f32(model, tmp_path / "kept.gguf"), mtp=True).close()


@pytest.mark.parametrize("name", WITH)
@pytest.mark.parametrize("stated", [None, 0, 1])
def test_blocks_that_are_not_there_are_not_announced(
    name: str, stated: int | None, placed: Placed, tmp_path: Path
) -> None:
    """A checkpoint without them is the model without them, and llama.cpp loads it."""
    case, want = CASES[name], placed(name, mtp=False)
    n = case.config.get("num_hidden_layers", 4)
    further = ("mtp.", f"model.layers.{n}.")
    arrays = {k: v for k, v in case.arrays().items() if not k.startswith(further)}
    assert len(arrays) < len(case.arrays())
    model = place(stating(name, stated), arrays)
    assert (model.values, model.mtp_blocks) == (want.values, 0)
    assert [p.name for p in model.tensors] == [p.name for p in want.tensors]
    told = "config.json states 1 MTP blocks, the checkpoint has 0: 0 written"
    assert (told in model.notes) == bool(stated)
    Llama(write_f32(model, tmp_path / "without.gguf"), mtp=True).close()
