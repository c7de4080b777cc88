"""What a plan's reader should know at once: what did not fit, and what a target runs slowly."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ..errors import UsageError
from ..planning import Planned
from .deciding import GATES, NEEDS_IMPORTANCE, rules_for
from .files import nearest, shipped
from .types import type_named

_GATE = f"protect: {GATES}"


def remarks(tensors: Iterable[Planned], target: str | None = None) -> Iterator[str]:
    """Sentences for `Plan.notes`.

    target  a name of rules/targets.toml, or None
    Raises UsageError for a target that is not there.
    """
    tensors = list(tensors)
    yield from _misfits(tensors)
    yield from _unmeasured(tensors)
    if target is not None:
        yield from _slow(tensors, target)


def forgone(tensors: Iterable[Planned], architecture: str) -> Iterator[str]:
    """What another tool's behaviour costs that is mirrored: gates that would be protected."""
    _, protects = rules_for(architecture)
    gates = {role for p in protects if p.name == GATES for role in p.roles}
    least = type_named("BF16").format
    lost = [
        t
        for t in tensors
        if t.placed.role in gates
        and t.encoder.format.bits < least.bits
        and t.placed.tensor.format is None
    ]
    if lost:
        kinds = ", ".join(dict.fromkeys(t.encoder.name for t in lost))
        roles = " and ".join(sorted({t.placed.role.lower() for t in lost}))
        more = sum(round(t.placed.tensor.n_values * least.bits / 8) - t.n_bytes for t in lost)
        yield (
            f"{len(lost)} SSM gates ({roles}) become {kinds}, as in the tool that is mirrored; "
            f"ggufmix convert without --mirror keeps them in {least}, {_size(more)} more"
        )


def targets() -> list[str]:
    """Names of the targets that something is known of."""
    return list(shipped().targets)


def _misfits(tensors: list[Planned]) -> Iterator[str]:
    found: Counter[str] = Counter()
    price = 0
    for t in tensors:
        if t.asked is not None and t.placed.tensor.cols % t.asked.format.values:
            found[f"{t.asked} -> {t.encoder}"] += 1
            price += t.price_bytes
    if found:
        swaps = ", ".join(f"{swap} ({n})" for swap, n in found.items())
        yield (
            f"{found.total()} tensors have rows that do not fit the type asked for: {swaps}; "
            f"{_size(abs(price))} {'more' if price >= 0 else 'less'}"
        )


def _unmeasured(tensors: list[Planned]) -> Iterator[str]:
    found = Counter(
        f"{t.asked} -> {t.encoder}" for t in tensors if t.reason.endswith(NEEDS_IMPORTANCE)
    )
    if found:
        swaps = ", ".join(f"{swap} ({n})" for swap, n in found.items())
        yield (
            f"{found.total()} tensors of MTP blocks get a type that needs no importance, an "
            f"imatrix does not cover them: {swaps}"
        )


def _slow(tensors: list[Planned], target: str) -> Iterator[str]:
    known = shipped().targets
    if target.lower() not in known:
        raise UsageError(
            f"--target: expected one of {', '.join(known)}, got {target!r}",
            hint=nearest(target.lower(), known),
        )
    for slow in known[target.lower()].slow:
        hit = [
            t
            for t in tensors
            if t.encoder.format.name == slow.type and len(t.placed.tensor.shape) > 1
        ]
        if not hit:
            continue
        kinds = ", ".join(dict.fromkeys(t.placed.role.lower() for t in hit))
        yield (
            f"{target.lower()}: {len(hit)} matrices in {slow.type} "
            f"({_size(sum(t.n_bytes for t in hit))}: {kinds}): {slow.why}"
        )
        gates = [t for t in hit if t.reason.startswith(_GATE)]
        if gates:
            wide = type_named("F32").format
            more = sum(4 * t.placed.tensor.n_values - t.n_bytes for t in gates)
            yield (
                f"{target.lower()}: --gates f32 writes {len(gates)} of them in {wide}, "
                f"the same values, {_size(more)} more"
            )


def _size(n_bytes: int) -> str:
    """Decimal units, as file sizes are advertised."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{n_bytes} bytes"
