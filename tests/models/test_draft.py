"""The draft head (MTP) as a file of its own: what it holds, and that llama.cpp drafts with it as
with the whole model.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import CASES, noise
from drafting import drafted
from plain_gguf import write_f32

from ggufmix import models
from ggufmix.container import i32s, u32
from ggufmix.models import Model

Placing = Callable[..., Model]

WITH = [name for name, case in CASES.items() if case.mtp]


def head_of(model: Model) -> Model:
    """The draft head of a model alone."""
    layers = models.mtp_layers(model.arch, model.values, model.tensors)
    return replace(model, tensors=models.draft_head(model.tensors, layers))


@pytest.mark.parametrize("name", WITH)
def test_llama_cpp_drafts_the_same(name: str, placed: Placing, tmp_path: Path) -> None:
    """What the head proposes does not depend on the blocks that are not there, and does on the
    hidden states that it is given.
    """
    whole = placed(name)
    head, width = head_of(whole), whole.values[f"{whole.arch}.embedding_length"].data
    tokens, hidden = [int(128 * abs(u)) for u in noise("drafted", (24,))], noise("h", (24, width))
    files = [write_f32(m, tmp_path / f"{i}.gguf") for i, m in enumerate((whole, head))]
    one, two = (drafted(file, tokens, hidden) for file in files)
    assert np.isfinite(one).all()
    assert one.std() > 0.5
    np.testing.assert_array_equal(one, two)
    assert np.abs(drafted(files[1], tokens, hidden[::-1]) - two).max() > 0.1


@pytest.mark.parametrize("name", WITH)
def test_layers_by_key_and_by_tensors(name: str, placed: Placing) -> None:
    """A listing has no keys: the blocks are known by what only they have. Keys that say more than
    there is find nothing more.
    """
    model = placed(name)
    layers = models.mtp_layers(model.arch, model.values, model.tensors)
    assert layers == {model.block_count - 1}
    assert models.mtp_layers(model.arch, {}, model.tensors) == layers
    assert models.mtp_layers(model.arch, model.values, []) == frozenset()
    more = [replace(p, layer=p.layer + 1) for p in model.tensors if p.layer in layers]
    second = [*model.tensors, *(p for p in more if not p.role.startswith("NEXTN_"))]
    assert models.mtp_layers(model.arch, {}, second) == layers | {model.block_count}
    without = placed(name, mtp=False)
    assert models.mtp_layers(without.arch, without.values, without.tensors) == frozenset()


@pytest.mark.parametrize("name", WITH)
def test_keys_without_the_blocks(name: str, placed: Placing) -> None:
    """Of a file that has them, the keys without are those of a checkpoint without, in order."""
    whole, without = placed(name), placed(name, mtp=False)
    made = models.without_mtp(whole.arch, whole.values, whole.mtp_blocks)
    assert list(made.items()) == list(without.values.items())


def test_arrays_that_are_not_of_blocks() -> None:
    """Four sections of positions stay four in a model of four blocks; so do arrays of others."""
    four = i32s([11, 11, 10, 0])
    values = {
        "general.tags": i32s([1, 2, 3, 4]),
        "qwen35.block_count": u32(4),
        "qwen35.rope.dimension_sections": four,
        "qwen35.attention.head_count_kv": i32s([0, 0, 2, 2]),
        "qwen35.odd": i32s([1, 2]),
        "qwen35.nextn_predict_layers": u32(1),
    }
    made = models.without_mtp("qwen35", values, 1)
    assert made == {
        **{k: values[k] for k in ("general.tags", "qwen35.rope.dimension_sections", "qwen35.odd")},
        "qwen35.block_count": u32(3),
        "qwen35.attention.head_count_kv": i32s([0, 0, 2]),
    }
    assert models.without_mtp("qwen35", {"x": four}, 1) == {"x": four}
