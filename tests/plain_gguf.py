"""A placed model as a GGUF with every value in float32 and no vocabulary: enough for llama.cpp to
compute with.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from ggufmix.container import TensorInfo, aligned, header, text, u32
from ggufmix.models import Model


def write_f32(model: Model, path: Path) -> Path:
    """Write `model` to `path`; tokens are bare numbers below `model.vocab_rows`."""
    values = {"general.architecture": text(model.arch), **model.values}
    values |= {
        f"{model.arch}.vocab_size": u32(model.vocab_rows),
        "tokenizer.ggml.model": text("none"),
    }
    infos, at = [], 0
    for placed in model.tensors:
        shape = tuple(reversed(placed.tensor.shape))
        infos.append(TensorInfo(placed.name, shape, GGMLQuantizationType.F32, at))
        at = aligned(at + 4 * placed.tensor.n_values)
    with path.open("wb") as file:
        file.write(header(values, infos))
        for placed in model.tensors:
            data = placed.tensor.all().astype(np.float32).tobytes()
            file.write(data + bytes(-len(data) % 32))
    return path
