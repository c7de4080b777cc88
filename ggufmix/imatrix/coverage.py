"""Which tensor of a plan gets which importance, and what an imatrix leaves uncovered.

Lookup is by tensor name. Where a tensor has no entry, one of a tensor that sees the same input
serves: of `ffn_gate`, `ffn_up` and the merged `ffn_gate_up` (with `_exps`, `_shexp`, ...) any for
any other; of MLA's `attn_kv_b` and `attn_v_b` each for the other, as in ik_llama.cpp (pull request
250). Columns of `attn_k_b` are those of another space: it takes nobody's.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ImportanceError
from ..planning import Planned
from .entries import Entry, Imatrix

PART = 1 << 20
"""Values looked at at once."""

Fit = Literal["each", "same", "mean"]

_FFN = re.compile(r"(.*\bffn_)(gate_up|gate|up)((?:_exps|_shexp|_chexps)?\.weight)")
_MLA = re.compile(r"(.*\.attn_)(kv_b|v_b|k_b)(\.weight)")
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True, slots=True)
class Health:
    """What is odd about the values of an entry.

    matrices   how many there are
    nonfinite  values that are NaN or infinite
    negative   values below zero
    zeros      values that are zero
    unrouted   matrices (experts) that no token reached: their importance is ones; of a legacy file,
               which does not count tokens, those that are all ones
    zero       matrices whose every value is zero
    """

    matrices: int
    nonfinite: int
    negative: int
    zeros: int
    unrouted: tuple[int, ...]
    zero: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Vectors:
    """The importance of one planned tensor: a planning.Importance, read when asked for.

    fit  "each": a vector for each matrix; "same": one for all; "mean": over the entry's matrices
    """

    entry: Entry
    cols: int
    fit: Fit

    @property
    def name(self) -> str:
        """Name of the entry."""
        return self.entry.name

    def vector(self, matrix: int) -> NDArray[np.float32]:
        """Importance, float32, (cols,), of the columns of one matrix."""
        if self.fit == "mean":
            every = self.entry.values(0, self.entry.n_values).reshape(-1, self.cols)
            mean: NDArray[np.float32] = every.mean(axis=0, dtype=np.float32)
            return mean
        start = matrix * self.cols if self.fit == "each" else 0
        return self.entry.values(start, start + self.cols)


@dataclass(frozen=True, slots=True)
class Assigned:
    """Planned tensors with their importance, and what is to be said about it.

    report  for `plan --json`; None where no imatrix was given
    """

    tensors: tuple[Planned, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    report: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Found:
    served: int = 0
    without: list[Planned] = field(default_factory=list)
    left_out: list[Planned] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    instead: dict[str, str] = field(default_factory=dict)
    unrouted: dict[str, tuple[int, ...]] = field(default_factory=dict)
    zero: dict[str, tuple[int, ...]] = field(default_factory=dict)


def assign(tensors: Sequence[Planned], given: Imatrix | None, *, exact: bool = False) -> Assigned:
    """Give every tensor whose encoder uses importance the vectors that `given` has for it.

    exact   as llama-quantize: nothing stands in for an entry that is missing
    Raises ImportanceError with the tensor's name where a vector has the wrong length (token
    embeddings only warn, as in llama-quantize), where values are not finite or negative, and where
    a type that requires importance has none; and if nothing in `given` is of this model.
    Reads all values that will be used.
    """
    found = _Found()
    made = tuple(_served(t, given, found, exact) for t in tensors)
    for t in (*found.without, *found.left_out):
        if t.encoder.importance == "REQUIRED":
            raise ImportanceError(
                f"{t.name}: {t.encoder} needs importance"
                + (f", {given.name} has none for it" if given else ""),
                hint="choose another type for it" if given else "--imatrix FILE gives it",
            )
    if given is None:
        return Assigned(made)
    names = {t.name for t in tensors}
    unmatched = [
        name for name in given.entries if name not in names and names.isdisjoint(alternatives(name))
    ]
    if len(unmatched) == len(given.entries):
        raise ImportanceError(
            f"{given.name}: no entry is of a tensor of this model; the first is {unmatched[0]}",
            hint="it was computed from another model",
        )
    return Assigned(
        made,
        tuple(_notes(given, found, made)),
        tuple(_warnings(given, found, made, unmatched)),
        {
            **described(given),
            "with": found.served,
            "without": [t.name for t in found.without],
            "left_out": [t.name for t in found.left_out],
            "instead": found.instead,
            "unrouted": {name: list(experts) for name, experts in found.unrouted.items()},
            "zero": {name: list(experts) for name, experts in found.zero.items()},
            "unmatched": unmatched,
        },
    )


def described(given: Imatrix) -> dict[str, Any]:
    """What an imatrix says of itself, as plain values."""
    return {
        "files": [file.path.name for file in given.files],
        "entries": len(given.entries),
        "datasets": list(given.datasets),
        "chunks": given.chunk_count,
        "chunk_size": given.chunk_size,
    }


def _served(t: Planned, given: Imatrix | None, found: _Found, exact: bool) -> Planned:
    if t.encoder.format.values == 1:
        return t
    vectors = _vectors(t, given, found, exact) if given is not None else None
    if t.encoder.importance == "NONE":
        return t
    if vectors is None and given is not None and given.leaves_out(t.name):
        found.left_out.append(t)
        return t
    if vectors is None:
        found.without.append(t)
        return t
    health = examine(vectors.entry, t.placed.tensor.cols)
    if health.nonfinite or health.negative:
        raise ImportanceError(
            f"{t.name}: importance {vectors.name} has {health.nonfinite} values that are not "
            f"finite and {health.negative} below zero",
            hint="the imatrix is damaged, or the model that computed it had diverged",
        )
    found.served += 1
    if vectors.name != t.name:
        found.instead[t.name] = vectors.name
    if health.unrouted:
        found.unrouted[t.name] = health.unrouted
    if health.zero:
        found.zero[t.name] = health.zero
    return replace(t, importance=vectors)


def _vectors(t: Planned, given: Imatrix, found: _Found, exact: bool) -> Vectors | None:
    own = given.entries.get(t.name)
    if own is not None:
        fit = _fit(own, t, exact)
        if fit is not None:
            return Vectors(own, t.placed.tensor.cols, fit)
        cols, matrices = t.placed.tensor.cols, _matrices(t)
        sentence = (
            f"{t.name}: expected importance of {matrices} x {cols} values, "
            f"{given.name} has {own.n_values}"
        )
        if t.name not in _EMBEDDINGS:
            raise ImportanceError(
                sentence, hint="it was computed from another model, or another layout of it"
            )
        found.misfits.append(sentence)
        return None
    for name in () if exact or given.leaves_out(t.name) else alternatives(t.name):
        entry = given.entries.get(name)
        if entry is not None and (fit := _fit(entry, t, exact)) is not None:
            return Vectors(entry, t.placed.tensor.cols, fit)
    return None


def _matrices(t: Planned) -> int:
    tensor = t.placed.tensor
    return tensor.n_rows // tensor.matrix_rows


def _fit(entry: Entry, t: Planned, exact: bool) -> Fit | None:
    cols, matrices = t.placed.tensor.cols, _matrices(t)
    if entry.n_values == cols * matrices:
        return "each"
    if not exact and _MLA.fullmatch(t.name):  # some tools keep the heads of MLA apart, some do not
        if entry.n_values == cols:
            return "same"
        if matrices == 1 and entry.n_values % cols == 0:
            return "mean"
    return None


def alternatives(name: str) -> tuple[str, ...]:
    """Names of GGUF tensors that see the same input as one of this name, best first."""
    if match := _FFN.fullmatch(name):
        others = [part for part in ("gate", "up", "gate_up") if part != match[2]]
        return tuple(match[1] + part + match[3] for part in others)
    if (match := _MLA.fullmatch(name)) and match[2] != "k_b":
        return (match[1] + ("v_b" if match[2] == "kv_b" else "kv_b") + match[3],)
    return ()


def examine(entry: Entry, cols: int | None = None) -> Health:
    """Read every value of an entry and say what is odd. `cols` is the length of a matrix's row; by
    default as the entry's counts divide it (a legacy file does not say how many matrices it has).
    """
    each = entry.n_values // len(entry.counts)
    cols = cols or each
    matrices = entry.n_values // cols
    zero, ones = np.ones(matrices, bool), np.ones(matrices, bool)
    nonfinite = negative = zeros = 0
    for start, stop in _spans(entry.n_values, cols):
        x = entry.values(start, stop)
        first, last = start // cols, -(-stop // cols)
        nonfinite += x.size - int(np.count_nonzero(np.isfinite(x)))
        negative += int(np.count_nonzero(x < 0))
        zeros += int(np.count_nonzero(x == 0))
        rows = x.reshape(last - first, -1)
        zero[first:last] &= (rows == 0).all(axis=1)
        ones[first:last] &= (rows == 1).all(axis=1)
    unrouted = ones if entry.as_is else entry.counts[np.arange(matrices) * cols // each] == 0
    return Health(
        matrices,
        nonfinite,
        negative,
        zeros,
        tuple(np.flatnonzero(unrouted).tolist()),
        tuple(np.flatnonzero(zero).tolist()),
    )


def _spans(n_values: int, cols: int) -> Iterator[tuple[int, int]]:
    """Whole matrices, as many as fit, or parts of one."""
    if cols <= PART:
        step = PART // cols * cols
        for start in range(0, n_values, step):
            yield start, min(start + step, n_values)
        return
    for matrix in range(0, n_values, cols):
        for start in range(matrix, matrix + cols, PART):
            yield start, min(start + PART, matrix + cols)


def _notes(given: Imatrix, found: _Found, tensors: Sequence[Planned]) -> Iterator[str]:
    chunks = f", {given.chunk_count} chunks" if given.chunk_count > 0 else ""
    able = found.served + len(found.without) + len(found.left_out)
    served = f"{found.served} of {able} tensors whose type uses importance have it"
    yield (
        f"importance from {given.name}: {len(given.entries)} entries{chunks}; "
        + (served if able else "no type of this plan uses it")
    )
    if found.left_out:
        asked = "--include-weights" if given.include else "--exclude-weights"
        names = [t.name for t in found.left_out]
        yield f"{_tensors(names)} without importance, as {asked} says: {_some(names)}"
    if found.instead:
        pairs = [f"{name} (from {other})" for name, other in found.instead.items()]
        yield (
            f"{_tensors(pairs)} without an entry take that of a tensor with the same input: "
            f"{_some(pairs)}"
        )
    ahead = _ahead(tensors)
    if extra := [t.name for t in found.without if t.placed.layer in ahead]:
        yield (
            f"{_tensors(extra)} of MTP blocks, which llama-imatrix does not run, without importance"
        )
    if heads := [t.name for t in found.without if _is_end(t)]:
        yield (
            f"{_some(heads)} without importance: llama-imatrix never measures embeddings, and the "
            "output only with --process-output"
        )


def _warnings(
    given: Imatrix, found: _Found, tensors: Sequence[Planned], unmatched: Sequence[str]
) -> Iterator[str]:
    ahead = _ahead(tensors)
    for sentence in found.misfits:
        yield f"{sentence}: quantized without importance"
    if missing := [t.name for t in found.without if t.placed.layer not in ahead and not _is_end(t)]:
        yield f"{_tensors(missing)} without importance: {_some(missing)}"
    for odd, what in (
        (found.unrouted, "experts that no token was routed to (their importance is ones)"),
        (found.zero, "matrices whose importance is all zero"),
    ):
        if odd:
            worst = sorted(odd, key=lambda name: -len(odd[name]))
            yield f"{_tensors(worst)} with {what}: " + _some(
                [f"{len(odd[name])} in {name}" for name in worst]
            )
    if given.idle:
        flag = "--include-weights" if given.include else "--exclude-weights"
        yield f"{flag} {', '.join(given.idle)}: in no name of an entry of {given.name}"
    if unmatched:
        yield (
            f"{len(unmatched)} entries of {given.name} are of no tensor of this model: "
            f"{_some(unmatched)}"
        )


def _ahead(tensors: Sequence[Planned]) -> set[int | None]:
    """Layers that are MTP blocks: from the first that has tensors of such on."""
    layers = {t.placed.layer for t in tensors if t.placed.layer is not None}
    named = [t.placed.layer for t in tensors if t.placed.role.startswith("NEXTN_")]
    first = min((layer for layer in named if layer is not None), default=None)
    return {layer for layer in layers if first is not None and layer >= first}


def _is_end(t: Planned) -> bool:
    return t.name in (*_EMBEDDINGS, "output.weight")


def _tensors(names: Sequence[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
