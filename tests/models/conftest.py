"""Placed models, our logits and those of transformers for the tiny checkpoints, each made once."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import CASES, noise, write
from plain_gguf import write_f32

from ggufmix import models
from ggufmix.models import Model
from ggufmix.runtime import Llama
from ggufmix.tensor import held

N_TOKENS = 256

Run = Callable[[Model], np.ndarray]


def place(
    config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, mtp: bool = True
) -> Model:
    """Place arrays that are in memory."""
    return models.place(config, {k: held(k, v) for k, v in arrays.items()}, mtp=mtp)


@pytest.fixture(scope="session")
def placed() -> Callable[..., Model]:
    """A case's model by its name; `mtp=False` drops its MTP blocks."""

    @cache
    def placed(name: str, mtp: bool = True) -> Model:
        case = CASES[name]
        return place(case.raw_config(), case.arrays(), mtp=mtp)

    return placed


@pytest.fixture(scope="session")
def tokens() -> list[int]:
    """256 tokens below 128."""
    return [int(128 * abs(u)) for u in noise("tokens", (N_TOKENS,))]


@pytest.fixture
def run(tmp_path: Path, tokens: list[int]) -> Run:
    """Logits of a placed model, computed by llama.cpp."""

    def run(model: Model) -> np.ndarray:
        with Llama(write_f32(model, tmp_path / "model.gguf"), N_TOKENS) as llama:
            return llama.logits(tokens)

    return run


@pytest.fixture(scope="session")
def reference(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[int]
) -> Callable[[str], np.ndarray]:
    """Logits of a case's checkpoint by its name, computed by transformers in float32.

    It takes every tensor of the text model and misses none: checkpoints.py spells them right.
    """
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    @cache
    def reference(name: str) -> np.ndarray:
        case = CASES[name].plain()
        stored = write(tmp_path_factory.mktemp(name), case.raw_config(), case.arrays())
        model, said = getattr(transformers, case.hf_class).from_pretrained(
            stored, dtype=torch.float32, output_loading_info=True
        )
        assert not [key for key in said["missing_keys"] if ".visual." not in key]
        mtp = ("mtp.", f"model.layers.{model.config.get_text_config().num_hidden_layers}.")
        assert not [key for key in said["unexpected_keys"] if not key.startswith(mtp)]
        assert not said["mismatched_keys"]
        with torch.no_grad():
            return model.eval()(torch.tensor([tokens])).logits[0].numpy()

    return reference
