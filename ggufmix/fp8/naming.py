"""The weights of a checkpoint as matrices, each under the name of the module that it is the weight
of, whether experts are stored one by one or fused.

X.weight                     (rows, cols)                            module X
X.experts.gate_up_proj       (experts, 2 * ffn, hidden), gate first  X.experts.N.gate_proj, .up_proj
X.experts.down_proj          (experts, hidden, ffn)                  X.experts.N.down_proj

Engines load FP8 experts one by one only. Source of the fused layout: transformers 5.23,
Qwen3_5MoeExperts; vLLM 0.33, RoutedExperts.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import ModelError
from ..tensor import Array, Tensor

WEIGHT = ".weight"

_FUSED = re.compile(r"(?P<container>.*\.experts)\.(?P<part>gate_up_proj|down_proj)(\.weight)?")
_EXPERT = re.compile(r"(?P<container>.*\.experts)\.(?P<number>\d+)\.(?P<part>.*)")


class Rows(Tensor):
    """Some of another Tensor's rows, one after the other, as a matrix."""

    def __init__(self, of: Tensor, name: str, first: int, n_rows: int) -> None:
        self.of = of
        self.name = name
        self.file = of.file
        self.shape = n_rows, of.cols
        self.dtype = of.dtype
        self.first = first

    def rows(self, start: int, stop: int) -> Array:
        """Rows start..stop of these."""
        return self.of.rows(self.first + start, self.first + stop)

    def origin(self, row: int) -> Tensor:
        """What holds a row."""
        return self.of.origin(self.first + row)


@dataclass(frozen=True, slots=True)
class Matrix:
    """The weight of one module.

    module  its name, without ".weight"
    tensor  (rows, cols)
    stored  name of the stored tensor that it is, or is a part of
    first   its first row there
    expert  its number in a fused stack, else None
    """

    module: str
    tensor: Tensor
    stored: str
    first: int = 0
    expert: int | None = None


def matrices(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, list[Matrix]]]:
    """Each stored tensor of two or more dimensions with the matrices it consists of: one, those of
    a fused stack in the order of their rows, or none where it is no weight that FP8 could hold.

    Raises ModelError for stacks whose shapes do not fit each other, or that are transposed.
    """
    for name, tensor in tensors.items():
        if len(tensor.shape) < 2:
            continue
        fused = _FUSED.fullmatch(name) if len(tensor.shape) == 3 else None
        if fused is not None:
            _check_stack(tensors, fused["container"], name)
            yield name, list(_experts(name, tensor, fused["container"], fused["part"]))
        elif len(tensor.shape) == 2 and name.endswith(WEIGHT):
            yield name, [Matrix(name.removesuffix(WEIGHT), tensor, name)]
        else:
            yield name, []


def module_of(name: str) -> str:
    """The module that a stored tensor belongs to: "a.experts" of "a.experts.down_proj"."""
    fused = _FUSED.fullmatch(name)
    return fused["container"] if fused is not None else name.removesuffix(WEIGHT)


def expert_of(module: str) -> tuple[str, int, str] | None:
    """Container, number and part of an expert's module: "a.experts", 3, "up_proj"; else None."""
    found = _EXPERT.fullmatch(module)
    return (found["container"], int(found["number"]), found["part"]) if found else None


def _experts(name: str, tensor: Tensor, container: str, part: str) -> Iterator[Matrix]:
    parts = ("gate_proj", "up_proj") if part == "gate_up_proj" else (part,)
    each = tensor.matrix_rows // len(parts)
    for expert in range(tensor.shape[0]):
        for i, called in enumerate(parts):
            module = f"{container}.{expert}.{called}"
            first = expert * tensor.matrix_rows + i * each
            yield Matrix(module, Rows(tensor, module + WEIGHT, first, each), name, first, expert)


def _check_stack(tensors: Mapping[str, Tensor], container: str, name: str) -> None:
    both = {}
    for part in ("gate_up_proj", "down_proj"):
        found = tensors.get(f"{container}.{part}", tensors.get(f"{container}.{part}{WEIGHT}"))
        if found is None:
            raise ModelError(
                f"{name}: expected {container}.{part} beside it, no file has it",
                hint="the checkpoint is not complete: download it again",
            )
        both[part] = found.shape
    up, down = both["gate_up_proj"], both["down_proj"]
    if len(up) == len(down) == 3 and up[0] == down[0]:
        if (up[1], up[2]) == (2 * down[2], down[1]):
            return
        if (up[2], up[1]) == (2 * down[1], down[2]):
            raise ModelError(
                f"{name}: expected experts of shape (experts, 2 * ffn, hidden) and (experts, "
                f"hidden, ffn), got them transposed: {list(up)} and {list(down)}",
                hint="store them one by one, as experts.N.gate_proj.weight, .up_proj, .down_proj",
            )
    raise ModelError(
        f"{name}: expected experts of shape (experts, 2 * ffn, hidden) and (experts, hidden, ffn), "
        f"got {list(up)} and {list(down)}"
    )
