"""The same image on both sides: llama.cpp's libmtmd on what we place, transformers on the
checkpoint.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mtmd import embeddings
from plain_gguf import write_f32
from seen import seen
from visions import TEXT_HIDDEN, VISIONS

from ggufmix.models import Model
from ggufmix.models.vision import kimi_k25
from ggufmix.runtime import Llama
from ggufmix.tensor import Tensor, take_rows

BOUND = 1e-3
"""Relative error; llama.cpp looks GELU up in a table of float16, and for the projector it is not
quite transformers' GELU.
"""
FAR = 20 * BOUND

Placed = Callable[[str], Model]
Off = Callable[[str, Model, tuple[int, int]], float]


@pytest.fixture
def off(tmp_path: Path, language_model: Llama) -> Off:
    """How far embeddings of an image, so many patches high and wide, are off."""

    def off(name: str, model: Model, patches: tuple[int, int]) -> float:
        side = VISIONS[name].config["patch_size"]
        shape = (side * patches[0], side * patches[1], 3)
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        path = write_f32(model, tmp_path / "mmproj.gguf")
        ours = embeddings(path, language_model, image, TEXT_HIDDEN)
        theirs = seen(name, image, tmp_path / "checkpoint")
        assert ours.shape == theirs.shape == (patches[0] * patches[1] // 4, TEXT_HIDDEN)
        return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))

    return off


@pytest.mark.parametrize("patches", [(6, 6), (8, 6), (4, 10)])
@pytest.mark.parametrize("name", VISIONS)
def test_same_embeddings(name: str, patches: tuple[int, int], placed: Placed, off: Off) -> None:
    """The language model sees what it was trained to see, in an image of any size."""
    assert off(name, placed(name), patches) < BOUND


@pytest.mark.parametrize("name", ["qwen-dense", "glm-moe"])
def test_order_of_frames_shows(name: str, placed: Placed, off: Off) -> None:
    """Half of the convolution twice makes another model: both halves are where they belong.

    An image is two equal frames, so that their order alone would not show; values are compared with
    the converter's.
    """
    model = placed(name)
    first, second = (p for p in model.tensors if p.name.startswith("v.patch_embd.weight"))
    tensors = [p for p in model.tensors if p is not second]
    twice = type(second)(second.name, second.role, second.layer, first.tensor)
    changed = Model("clip", model.values, [*tensors, twice], [])
    assert off(name, changed, (6, 6)) > FAR


def test_order_of_rotated_rows_shows(
    placed: Placed, off: Off, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries and keys of Kimi left in pairs make another model."""

    def as_they_are(of: Tensor, index: np.ndarray) -> Tensor:
        return take_rows(of, np.sort(index))

    monkeypatch.setattr(kimi_k25, "take_rows", as_they_are)
    assert off("kimi", placed("kimi"), (6, 6)) > FAR


def test_a_projector_of_another_model_is_refused(
    tmp_path: Path, placed: Placed, language_model: Llama
) -> None:
    """llama.cpp says so when embeddings are too wide for the language model."""
    model = placed("qwen-dense")
    tensors = [p for p in model.tensors if not p.name.startswith("mm.2.")]
    path = write_f32(Model("clip", model.values, tensors, []), tmp_path / "mmproj.gguf")
    image = np.zeros((96, 96, 3), np.uint8)
    with pytest.raises(RuntimeError, match=r"mm\.2\.weight"):
        embeddings(path, language_model, image, TEXT_HIDDEN)
