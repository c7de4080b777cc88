"""Dynamic rope, which llama.cpp does not have."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import CASES, write

from ggufmix import models
from ggufmix.models import Model
from ggufmix.runtime import kl
from ggufmix.tensor import held

DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}


@pytest.mark.parametrize("name", ["llama", "qwen3", "glm4moe-norms"])
@pytest.mark.parametrize(("context", "same"), [(512, True), (128, False)])
def test_dynamic_rope_is_told(
    name: str,
    context: int,
    same: bool,
    tokens: list[int],
    tmp_path: Path,
    run: Callable[[Model], np.ndarray],
) -> None:
    """Up to the model's context nothing differs; that longer texts differ is said."""
    import torch
    import transformers

    case = CASES[name]
    rope = {**DYNAMIC, "partial_rotary_factor": case.config.get("partial_rotary_factor", 1.0)}
    config = {**case.raw_config(), "max_position_embeddings": context}
    config.pop("rope_scaling", None)
    config["rope_parameters"] = rope
    stored = write(tmp_path / "stored", config, case.arrays())
    theirs = getattr(transformers, case.hf_class).from_pretrained(stored, dtype=torch.float32)
    with torch.no_grad():
        want = theirs.eval()(torch.tensor([tokens])).logits[0].numpy()
    model = models.place(config, {k: held(k, v) for k, v in case.arrays().items()})
    (note,) = model.notes
    assert note == (
        f"rope_scaling dynamic: llama.cpp has none, texts longer than {context} "
        "(max_position_embeddings) get other results"
    )
    far = kl(want, run(model))
    assert far < 1e-6 if same else far > 1e-3
