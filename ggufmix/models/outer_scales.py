"""Where llama.cpp multiplies by a scale that lies beside a weight, NAME.scale for NAME.weight.

It loads such tensors for most architectures, but only some of their graphs use them: elsewhere a
file would run and compute another model. Source: llama.cpp, src/models/*.cpp and `build_qkv`, which
arguments end in `_s` (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..tensor import decoded
from .model import Model

_ATTENTION = frozenset({"ATTN_Q", "ATTN_K", "ATTN_V", "ATTN_OUT", "OUTPUT"})
_DENSE = frozenset({"FFN_GATE", "FFN_UP", "FFN_DOWN"})
_EXPERTS = frozenset({"FFN_GATE_EXP", "FFN_UP_EXP", "FFN_DOWN_EXP"})
_SHARED = frozenset({"FFN_GATE_SHEXP", "FFN_UP_SHEXP", "FFN_DOWN_SHEXP"})
_LINEAR = frozenset({"ATTN_QKV", "ATTN_GATE", "SSM_ALPHA", "SSM_BETA", "SSM_OUT"})

_USED: Mapping[str, frozenset[str]] = {
    "llama": _ATTENTION | _DENSE | _EXPERTS,
    "qwen3": _ATTENTION | _DENSE,
    "qwen3moe": _ATTENTION | _EXPERTS,
    "qwen35": _ATTENTION | _DENSE | _LINEAR,
    "qwen35moe": _ATTENTION | _EXPERTS | _SHARED | _LINEAR,
}
"""Architecture -> roles."""


def with_outer_scales(model: Model) -> Model:
    """The model, blocks with a scale beside them handed out only where llama.cpp uses it."""
    used = _USED.get(model.arch, frozenset())
    made, lost = [], 0
    for placed in model.tensors:
        tensor = placed.tensor
        keeps = tensor.outer_scale is None or placed.role in used
        lost += not keeps
        made.append(placed if keeps else replace(placed, tensor=decoded(tensor)))
    if not lost:
        return model
    note = (
        f"{lost} tensors of NVFP4 are dequantized: llama.cpp uses no scale beside them in "
        f"{model.arch}"
    )
    return replace(model, tensors=made, notes=[*model.notes, note])
