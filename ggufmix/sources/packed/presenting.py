"""The stored tensors of a checkpoint as the weights they make up."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...tensor import Tensor
from ..safetensors import StoredTensor
from . import gptq, int8, nvfp4
from .fp8 import CODES, SCALES, PackedFp8, block_of
from .int4 import OTHERS, SCALE, SHAPE, WEIGHT, PackedInt4, scheme
from .mxfp4 import BLOCKS, PackedMxfp4
from .mxfp4 import SCALES as BLOCK_SCALES
from .parts import OnInexact, Packed, failed, partner

_ACTIVATIONS = (
    ".input_scale",
    ".input_zero_point",
    ".input_global_scale",
    ".activation_scale",
    ".output_scale",
    ".k_scale",
    ".v_scale",
)
"""Endings of what scales activations: GGUF has no place for it, its runtimes take their own."""


_SCALES_OF = {
    BLOCK_SCALES: ("U8", BLOCKS),
    nvfp4.WEIGHT + nvfp4.GLOBAL: ("F32", nvfp4.PACKED),
    nvfp4.WEIGHT + nvfp4.SECOND: ("F32", nvfp4.WEIGHT),
}
"""Endings of scales that mean nothing alone, with their dtype; and of what they scale."""


@dataclass(frozen=True)
class Presented:
    """The weights of a checkpoint, each under its own name.

    tensors  by name, in the order of the files; what belongs to a packed weight is not among them
    packed   those of them that are packed
    notes    what is dequantized, and why
    """

    tensors: Mapping[str, Tensor]
    packed: Sequence[Packed]
    notes: tuple[str, ...] = ()


def presented(
    stored: Mapping[str, StoredTensor],
    config: Mapping[str, Any],
    on_inexact: OnInexact = "error",
) -> Presented:
    """Find what is packed and put it together.

    stored      the tensors of a checkpoint, by name
    config      config.json
    on_inexact  what blocks do at a scale that float16 does not hold: raise, or take the nearest
    Raises SourceError, naming file and tensor, for scales without weights, weights without scales,
    and shapes that do not fit each other.
    """
    packed: dict[str, Packed] = {}
    used: set[str] = set()
    about, block = scheme(config), block_of(config)
    said: gptq.Convention | None = None
    for name in stored:
        if name.endswith(WEIGHT) and stored[name].stored == "U8":
            stem = name.removesuffix(WEIGHT)
            scale = partner(stored, stored[name], stem + SCALE, "its scales")
            if scale.stored == "F8_E4M3":
                packed[name] = nvfp4.PackedNvfp4(name, stored, scale)
                used |= {stem + nvfp4.WEIGHT + other for other in nvfp4.OTHERS}
            else:
                packed[name] = PackedMxfp4(stem + ".weight", stored[name], scale)
            used |= {name, scale.name, stem + SHAPE}
        elif name.endswith(nvfp4.WEIGHT) and _is_nvfp4(name, stored):
            packed[name] = nvfp4.PackedNvfp4(name, stored, stored[name + nvfp4.SCALE])
            used |= {name, *(name + other for other in nvfp4.OTHERS)}
        elif name.endswith(gptq.WEIGHT):
            said = said or gptq.convention(config)
            packed[name] = gptq.PackedColumns(name, stored, said, on_inexact)
            stem = name.removesuffix(gptq.WEIGHT)
            used |= {name, *(stem + other for other in gptq.OTHERS)}
        elif name.endswith(BLOCKS):
            scales = name.removesuffix(BLOCKS) + BLOCK_SCALES
            scale = partner(stored, stored[name], scales, "its scales")
            packed[name] = PackedMxfp4(name, stored[name], scale)
            used |= {name, scale.name}
        elif name.endswith(WEIGHT):
            stem = name.removesuffix(WEIGHT)
            packed[name] = PackedInt4(name, stored, about, on_inexact)
            used |= {name, *(stem + other for other in OTHERS)}
        elif stored[name].stored == "I8" and _is_int8(name, stored):
            packed[name] = int8.PackedInt8(name, stored, about, on_inexact)
            stem = name.removesuffix(int8.WEIGHT)
            used |= {name, *(stem + other for other in int8.OTHERS)}
        elif stored[name].stored in CODES:
            for scales in (name + ending for ending in SCALES if name + ending in stored):
                packed[name] = PackedFp8(stored[name], stored[scales], block)
                used |= {name, scales}
                break
    tensors: dict[str, Tensor] = {}
    activations = 0
    zeros = gptq.zero_biases(packed.values(), stored)
    used |= zeros
    for name, tensor in stored.items():
        if name in packed:
            whole = packed[name]
            if whole.name in stored and whole.name != name:
                raise failed(tensor, f"{whole.name} is there too, so there are two weights")
            tensors[whole.name] = whole
        elif packed and name.endswith(_ACTIVATIONS):
            activations += 1
        elif name not in used:
            _check_orphan(tensor, stored)
            tensors[name] = tensor
    notes = _notes(packed.values())
    if zeros:
        notes.append(f"left out {len(zeros)} biases of zeros, which GPTQ gave to every matrix")
    if activations:
        notes.append(
            f"left out {activations} scales of activations: runtimes of GGUF have their own"
        )
    return Presented(tensors, tuple(packed.values()), tuple(notes))


def _is_nvfp4(name: str, stored: Mapping[str, StoredTensor]) -> bool:
    scale = stored.get(name + nvfp4.SCALE)
    return stored[name].stored == "U8" and scale is not None and scale.stored == "F8_E4M3"


def _is_int8(name: str, stored: Mapping[str, StoredTensor]) -> bool:
    stem = name.removesuffix(int8.WEIGHT)
    return stem != name and stem + int8.SCALE in stored


def _check_orphan(tensor: StoredTensor, stored: Mapping[str, StoredTensor]) -> None:
    for ending in OTHERS:
        if tensor.name.endswith(ending):
            stem = tensor.name.removesuffix(ending)
            if ending != SCALE or stem + ".weight" not in stored:
                raise failed(
                    tensor, f"expected {stem}{WEIGHT} beside it, no file has it: nothing to scale"
                )
    for ending in gptq.OTHERS:
        stem = tensor.name.removesuffix(ending)
        if stem != tensor.name and (ending != gptq.SCALES or stem + gptq.ZEROS in stored):
            raise failed(tensor, f"expected {stem}{gptq.WEIGHT} beside it, no file has it")
    for ending, (dtype, codes) in _SCALES_OF.items():
        if tensor.name.endswith(ending) and tensor.stored == dtype:
            whole = tensor.name.removesuffix(ending) + codes
            raise failed(tensor, f"expected {whole} beside it, no file has it: nothing to scale")
    if tensor.name.endswith("_scale_inv"):
        whole = tensor.name.removesuffix("_scale_inv")
        weight = stored.get(whole)
        got = "no file has it" if weight is None else f"which is {weight.stored}"
        raise failed(tensor, f"expected {whole} beside it in an 8-bit float, {got}")


def _notes(packed: Iterable[Packed]) -> list[str]:
    reasons = Counter(p.note for p in packed if p.note is not None)
    return [
        f"{n} packed tensors are dequantized, their codes cannot be carried over: {why}"
        for why, n in reasons.items()
    ]
