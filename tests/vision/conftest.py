"""Towers as placed, and a language model to load their projectors with."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from visions import VISIONS

import ggufmix
from ggufmix.models import Model, place_vision
from ggufmix.runtime import Llama
from ggufmix.tensor import held

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-qwen35moe"

Placed = Callable[[str], Model]


@pytest.fixture(scope="session")
def placed() -> Placed:
    """A case's tower by its name."""

    def placed(name: str) -> Model:
        case = VISIONS[name]
        tensors = {key: held(key, values) for key, values in case.arrays().items()}
        return place_vision(case.raw_config(), tensors, case.of_images())

    return placed


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """The trained example, whose embeddings are as wide as those of all cases."""
    path = tmp_path_factory.mktemp("language") / "model.gguf"
    ggufmix.convert(EXAMPLE, path, "q8_0")
    with Llama(path) as llama:
        yield llama
