"""A model with blocks left out: those behind move up, and the key-values that count or list blocks
follow.

llama-quantize's `--prune-layers` numbers tensors anew and sets block_count; lists by block it
leaves as they are, and then llama.cpp refuses the file. What a model computes without some of its
blocks is another question.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFValueType

from . import models
from .container import Value, array
from .errors import SourceError, UsageError
from .placing import Placement
from .rules import layer_set

_PROJECTOR = MODEL_ARCH_NAMES[MODEL_ARCH.MMPROJ]
_NUMBER = re.compile(r"(?<=blk\.)\d+(?=\.)")
_ELSEWHERE = "xielu."
"""Arrays by block that have no architecture in front."""
_INTERVAL = "full_attention_interval"
_RECURRENT = "attention.recurrent_layers"
_DEFAULT_INTERVAL = 4
_INTERVALLED = frozenset({"qwen3next", "qwen35", "qwen35moe", "minimax-01"})
"""Architectures in which every n-th block has attention and the others recur, unless the key
`attention.recurrent_layers` lists them. Source: llama.cpp, src/models (August 2026).
"""
_RECURS = "SSM_", "SHORTCONV_"
_ATTENDS = "ATTN_K", "ATTN_V"
"""Beginnings of roles by which a block of a hybrid shows what it is; ATTN_QKV recurs too."""
_STEPS = {"interleave_moe_layer_step": 0, "moe_every_n_layers": 1}
"""Keys by which every n-th block has experts, and which one is the first: counted from 1, or 0."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What is left of a model.

    numbers  old number of each block that is left -> new one
    blocks   how many there were; None where nothing was left out
    """

    model: Placement
    numbers: Mapping[int, int] = field(default_factory=dict)
    blocks: int | None = None

    def name(self, old: str) -> str | None:
        """The new name of a tensor, or of an entry of an imatrix; None for one of a block that is
        left out.
        """
        found = _NUMBER.search(old) if self.blocks is not None else None
        if found is None:
            return old
        number = self.numbers.get(int(found[0]))
        return None if number is None else _NUMBER.sub(str(number), old, count=1)


def prune(model: Placement, layers: str | None) -> Pruned:
    """Leave blocks out.

    layers  their numbers, such as "3,7,20-25", or None
    Raises UsageError for numbers that are none, for blocks that are not there, where nothing would
    be left or a hybrid would be none, and where the architecture says by its number what a block is
    made of; SourceError for keys that are no numbers.
    """
    if layers is None:
        return Pruned(model)
    try:
        gone = layer_set(layers.split(","))
    except ValueError as error:
        raise UsageError(f"--prune-layers {layers}: {error}") from None
    if model.arch == _PROJECTOR:
        raise UsageError("--prune-layers: is for language models, this is a vision projector")
    there = {p.layer for p in model.tensors if p.layer is not None}
    blocks = max(there, default=-1) + 1
    if beyond := sorted(gone - there):
        raise UsageError(
            f"--prune-layers {layers}: expected blocks of this model, which has 0 to {blocks - 1}; "
            f"got {', '.join(map(str, beyond))}"
        )
    if len(there) < blocks:
        raise UsageError(
            f"--prune-layers {layers}: is for whole models, this one lacks blocks before "
            f"{blocks - 1}"
        )
    kept = sorted(there - gone)
    ahead = models.mtp_layers(model.arch, model.values, model.tensors)
    if not set(kept) - ahead:
        raise UsageError(f"--prune-layers {layers}: leaves no block")
    _check_kinds(model, set(kept) - ahead, ahead, layers)
    pruned = Pruned(model, {old: new for new, old in enumerate(kept)}, blocks)
    tensors = [
        replace(p, name=name, layer=None if p.layer is None else pruned.numbers[p.layer])
        for p in model.tensors
        if (name := pruned.name(p.name)) is not None
    ]
    values = dict(_values(model, kept, ahead, blocks, layers))
    warnings = [*model.warnings, *_warnings(model)]
    left = replace(model, tensors=tensors, values=values, warnings=tuple(warnings))
    return replace(pruned, model=left)


def _check_kinds(model: Placement, kept: Set[int], ahead: Set[int], layers: str) -> None:
    """Raise UsageError if a hybrid would no longer be one: llama.cpp loads such a file and dies."""
    for kind, roles in (("recurs", _RECURS), ("has attention", _ATTENDS)):
        having = {p.layer for p in model.tensors if p.role.startswith(roles)} - {None, *ahead}
        if having and not having & kept and any(p.role.startswith(_RECURS) for p in model.tensors):
            raise UsageError(
                f"--prune-layers {layers}: leaves no block that {kind}: llama.cpp cannot run a "
                "hybrid without"
            )


def _values(
    model: Placement, kept: Sequence[int], ahead: Set[int], blocks: int, layers: str
) -> Iterator[tuple[str, Value]]:
    own = f"{model.arch}."
    trunk = [n for n in range(blocks) if n not in ahead]
    for key, value in model.values.items():
        short = key.removeprefix(own)
        if short == "block_count":
            yield key, replace(value, data=len(kept))
        elif short == "leading_dense_block_count":
            yield key, replace(value, data=sum(n < _number(key, value, least=0) for n in kept))
        elif short == "nextn_predict_layers":
            yield key, replace(value, data=sum(n in ahead for n in kept))
        elif value.item is not None and key.startswith((own, _ELSEWHERE)):
            per = list(range(blocks)) if len(value.data) == blocks else trunk
            by_block = len(value.data) == len(per) and short not in models.NOT_BY_BLOCK
            items = [x for n, x in zip(per, value.data, strict=False) if n in kept]
            yield key, array(value.item, items) if by_block else value
        else:
            yield key, value
        if short in _STEPS and value.item is None:
            _check_step(short, _number(key, value), kept, layers)
    yield from _recurrent(model, kept, trunk)


def _number(key: str, value: Value, least: int = 1) -> int:
    found = value.data
    if isinstance(found, bool) or not isinstance(found, int) or found < least:
        raise SourceError(f"{key}: expected a number of blocks, got {found!r}")
    return found


def _check_step(short: str, step: int, kept: Sequence[int], layers: str) -> None:
    shift = 1 - _STEPS[short]
    odd = [
        n
        for new, n in enumerate(kept)
        if step > 1 and ((n + shift) % step == 0) != ((new + shift) % step == 0)
    ]
    if odd:
        raise UsageError(
            f"--prune-layers {layers}: {short} is {step}: what block {odd[0]} is made of follows "
            "from its number, which would be another",
            hint=f"leave {step} blocks out at a time",
        )


def _recurrent(
    model: Placement, kept: Sequence[int], trunk: Sequence[int]
) -> Iterator[tuple[str, Value]]:
    """Which blocks recur, as a list, where an interval no longer says it."""
    key = f"{model.arch}.{_RECURRENT}"
    if model.arch not in _INTERVALLED or key in model.values:
        return
    stated = model.values.get(f"{model.arch}.{_INTERVAL}")
    every = _number(_INTERVAL, stated) if stated is not None else _DEFAULT_INTERVAL
    there = [n in trunk and (n + 1) % every != 0 for n in kept]
    n_trunk = sum(n in trunk for n in kept)
    said = [new < n_trunk and (new + 1) % every != 0 for new in range(len(kept))]
    if there != said:
        yield key, array(GGUFValueType.UINT32, [int(recurs) for recurs in there])


def _warnings(model: Placement) -> Iterator[str]:
    window = model.values.get(f"{model.arch}.attention.sliding_window")
    pattern = model.values.get(f"{model.arch}.attention.sliding_window_pattern")
    if window is not None and window.data and (pattern is None or pattern.item is None):
        yield (
            f"{model.arch} decides by the number of a block whether its attention slides: of those "
            "behind the blocks left out some may do what others were trained for"
        )
