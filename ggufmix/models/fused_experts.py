"""Gate and up of stacked experts in one tensor, `ffn_gate_up_exps`: the rows of an expert's gate in
front of those of its up. llama.cpp multiplies with both at once then.

Source: llama.cpp, conversion/base.py (`--fuse-gate-up-exps`) and src/llama-graph.cpp, build_moe_ffn
(2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Sequence

from gguf import MODEL_TENSOR, TENSOR_NAMES

from ..errors import UsageError
from ..tensor import Placed, join_rows, mapped

FUSES = (
    "cohere2moe",
    "deepseek2",
    "deepseek2-ocr",
    "gemma4",
    "granite_swa",
    "hy_v3",
    "mistral4",
    "qwen35moe",
    "qwen3next",
)
"""Architectures whose graph looks for the tensor: src/models/*.cpp, create_tensor_gate_up_exps and
LLM_TENSOR_FFN_GATE_UP_EXPS (2026-08-04). In a file of another one llama.cpp misses the experts.
"""

_OPTION = "--fuse-gate-up-exps"
_ROLE = MODEL_TENSOR.FFN_GATE_UP_EXP.name
_GATE, _UP, _BOTH = (
    TENSOR_NAMES[role].removeprefix("blk.{bid}.")
    for role in (
        MODEL_TENSOR.FFN_GATE_EXP,
        MODEL_TENSOR.FFN_UP_EXP,
        MODEL_TENSOR.FFN_GATE_UP_EXP,
    )
)


def fuse_gate_up(arch: str, tensors: Sequence[Placed]) -> list[Placed]:
    """The tensors of a model with gates and ups, each (experts, width, hidden), as one tensor of
    each block, (experts, 2 * width, hidden).

    arch  general.architecture
    Raises UsageError for an architecture in which llama.cpp does not look for it, for a model that
    has no such pair, and for a pair that one tensor cannot hold as it is: of two formats, or with
    scales or biases beside it.
    """
    if arch not in FUSES:
        raise UsageError(
            f"{_OPTION}: llama.cpp does not look for fused experts in {arch}",
            hint=f"it does in {', '.join(FUSES)}",
        )
    by_name = {p.name: p for p in tensors}
    made: list[Placed] = []
    for p in tensors:
        at, dot, end = p.name.rpartition(".")
        block, part = at.rpartition(".")[::2]
        other = by_name.get(f"{block}.{_UP if part == _GATE else _GATE}{dot}{end}")
        if part not in (_GATE, _UP) or other is None:
            made.append(p)
        elif end != "weight":
            raise UsageError(f"{_OPTION}: {p.name}: llama.cpp has no place for it beside both")
        elif part == _GATE:
            made.append(_both(f"{block}.{_BOTH}.weight", p, other))
    if len(made) == len(tensors):
        has = "has them fused" if any(p.role == _ROLE for p in tensors) else "has none"
        raise UsageError(f"{_OPTION}: expected experts with gate and up apart, this model {has}")
    return made


def _both(name: str, gate: Placed, up: Placed) -> Placed:
    first, second = gate.tensor, up.tensor
    if first.outer_scale is not None or second.outer_scale is not None:
        raise UsageError(
            f"{_OPTION}: {gate.name} and {up.name} are NVFP4, each with a scale of its own: "
            "llama.cpp has one for both"
        )
    if first.format != second.format:
        raise UsageError(
            f"{_OPTION}: {gate.name} is stored as {first.format or first.dtype}, {up.name} as "
            f"{second.format or second.dtype}: one tensor has one type"
        )
    if first.dtype != second.dtype:
        first, second = (mapped(tensor, lambda x: x) for tensor in (first, second))
    return Placed(name, _ROLE, gate.layer, join_rows([first, second]))
