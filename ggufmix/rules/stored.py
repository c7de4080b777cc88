"""Tensors that the source has in blocks already: copied, kept, decoded, or quantized again."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .. import int4
from ..codecs import Encoder, Format, encoder
from ..errors import FormatError, UsageError
from ..tensor import Placed, decoded
from .deciding import Decision

INTEGERS = frozenset({"I8", "I16", "I32", "I64"})
_RAISED = ("protect:", "edges ")


@dataclass(frozen=True, slots=True)
class Carried:
    """Tensors and decisions with what follows from blocks in the source, and what there is to say
    of it. Tensors that could hand out blocks and shall not are without them; outer scales of those
    that are copied are tensors of their own.
    """

    placed: list[Placed]
    decisions: list[Decision]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    again: int = 0
    decoded: int = 0
    kept: Counter[str] = field(default_factory=Counter)


def carry(
    placed: Sequence[Placed],
    decisions: Sequence[Decision],
    *,
    again: bool = False,
    widen: bool = True,
) -> Carried:
    """Say of every tensor that is stored in blocks what becomes of them.

    again   blocks of one type may be decoded and quantized to another one: `--allow-requantize`
    widen   Q8_0 takes the codes and scales of Q4_0 and MXFP4, which llama-quantize quantizes again

    Of the same type they are copied. What would only
    be raised by a protection or an edge stays as it is: the source has no more. F32 takes every
    value as it is. Integers are no weights and stay.
    Raises UsageError for a tensor that would be quantized a second time and may not be,
    FormatError for a type that cannot be decoded.
    """
    found = _Found()
    made = [
        decision
        if tensor.tensor.format is None
        else _carried(tensor, tensor.tensor.format, decision, found, again, widen)
        for tensor, decision in zip(placed, decisions, strict=True)
    ]
    notes = [
        f"{_tensors(n)} kept as in the source, {what}: more bits win nothing"
        for what, n in found.kept.items()
    ]
    if found.decoded:
        notes.append(f"{_tensors(found.decoded)} decoded to F32: what quantizing lost stays lost")
    if found.again:
        notes.append(f"{_tensors(found.again)} quantized a second time: that adds to the error")
    kept = [
        p if widen or not _widens(p, d) else replace(p, tensor=decoded(p.tensor))
        for p, d in zip(placed, made, strict=True)
    ]
    return Carried(*_with_outer_scales(kept, made), tuple(notes))


def _with_outer_scales(
    placed: Sequence[Placed], decisions: Sequence[Decision]
) -> tuple[list[Placed], list[Decision]]:
    """With each outer scale of copied blocks as a tensor in front of theirs, as names sort."""
    tensors: list[Placed] = []
    decided: list[Decision] = []
    for p, d in zip(placed, decisions, strict=True):
        stored, outer = p.tensor.format, p.tensor.outer_scale
        if outer is not None and stored is not None and stored.id == d.encoder.format.id:
            name = p.name.removesuffix(".weight") + ".scale"
            tensors.append(Placed(name, p.role, p.layer, outer))
            decided.append(Decision(encoder("F32"), f"must: what {p.name} is multiplied by"))
        tensors.append(p)
        decided.append(d)
    return tensors, decided


def _tensors(n: int) -> str:
    return f"{n} tensor" if n == 1 else f"{n} tensors"


def _widens(tensor: Placed, decision: Decision) -> bool:
    stored = tensor.tensor.format
    return stored is not None and int4.holds_exactly(stored, decision.encoder.format)


def _carried(
    tensor: Placed,
    stored: Format,
    decision: Decision,
    found: _Found,
    again: bool,
    widen: bool,
) -> Decision:
    wanted = decision.encoder
    as_stored = Encoder(stored.name, stored)
    if wanted.format.id == stored.id:
        return replace(decision, encoder=as_stored, reason=f"{decision.reason}; copied")
    if stored.name in INTEGERS:
        return Decision(as_stored, "integers are no weights; copied")
    if decision.reason.startswith(_RAISED) and wanted.format.bits > stored.bits:
        found.kept[f"{stored} instead of {wanted}"] += 1
        reason = f"the source has no more ({decision.reason}); copied"
        return Decision(as_stored, reason, decision.asked or wanted)
    if widen and int4.holds_exactly(stored, wanted.format):
        return replace(decision, reason=f"{decision.reason}; the codes and scales of {stored}")
    if not stored.decodes:
        raise FormatError(
            f"{tensor.name}: {stored} in the source cannot be decoded, {wanted} was asked "
            f"({decision.reason})",
            hint=f"--tensor-type copies it: {tensor.name}={stored}",
        )
    if wanted.format.name == "F32":
        found.decoded += 1
        return decision
    if not again:
        raise UsageError(
            f"{tensor.name}: {stored} in the source would be decoded and written as {wanted} "
            f"({decision.reason}), which adds to its error",
            hint="--allow-requantize does it; better is to start from the unquantized model",
        )
    found.again += 1
    return decision
