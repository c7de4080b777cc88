"""The Plan: every tensor of the output with its type, the reason, its exact bytes and offset, and
the header in front of them.

A plan costs headers only. `lay_out` takes tensors with their decisions and gives a Plan; nothing
here reads a weight.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from . import checksums, int4
from .codecs import Encoder
from .container import ALIGNMENT, MAX_NAME_BYTES, TensorInfo, Value, aligned, header
from .errors import ModelError
from .tensor import DTYPE_NAMES, Placed


class Importance(Protocol):
    """How much each column of one tensor matters; read when it is asked for, by any thread."""

    @property
    def name(self) -> str:
        """Where it comes from: name of an entry of an imatrix."""

    def vector(self, matrix: int) -> NDArray[np.float32]:
        """Importance, float32, (cols,), for the rows of one matrix of a stacked tensor."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One tensor of the output.

    encoder     writes it; `encoder.format` is what is stored
    reason      why this type
    asked       what recipe or user wanted where shape or protection did not allow it, else None
    n_bytes     of its data, without padding
    offset      from the start of the tensor data, in bytes
    importance  of its columns, or None
    """

    placed: Placed
    encoder: Encoder
    reason: str
    asked: Encoder | None
    n_bytes: int
    offset: int
    importance: Importance | None = None

    @property
    def name(self) -> str:
        """GGUF name."""
        return self.placed.name

    @property
    def shape(self) -> tuple[int, ...]:
        """GGUF order: row length first."""
        return self.placed.tensor.shape[::-1] or (1,)

    @property
    def price_bytes(self) -> int:
        """Bytes more (or less) than the type asked for would take if it fitted; 0 where it is
        written.
        """
        if self.asked is None:
            return 0
        return self.n_bytes - round(self.placed.tensor.n_values * self.asked.format.bits / 8)

    @property
    def price_bits(self) -> float:
        """The same in bits per weight."""
        return 8 * self.price_bytes / self.placed.tensor.n_values

    @property
    def source_bytes(self) -> int:
        """Bytes of the rows that it is made from."""
        tensor = self.placed.tensor
        if tensor.format is not None:
            return tensor.format.row_bytes(tensor.cols) * tensor.n_rows
        return tensor.n_values * tensor.dtype.itemsize

    @property
    def copied(self) -> bool:
        """Its blocks are written as the source has them."""
        stored = self.placed.tensor.format
        return stored is not None and stored.id == self.encoder.format.id

    @property
    def widened(self) -> bool:
        """Its blocks are written as blocks of another format with the same codes and scales."""
        stored = self.placed.tensor.format
        return stored is not None and int4.holds_exactly(stored, self.encoder.format)

    @property
    def unchanged(self) -> bool:
        """Its data are those of the tensor as it is stored: blocks that are copied, or floats."""
        tensor = self.placed.tensor
        return self.copied or (
            tensor.format is None and self.encoder.format.name == DTYPE_NAMES[tensor.dtype]
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored row."""
        return self.encoder.format.row_bytes(self.placed.tensor.cols)


@dataclass(frozen=True)
class Plan:
    """What will be written, decided. `notes` are sentences the user should read; `warnings` louder
    ones. `imatrix` says, in plain values, what an imatrix covers; None where none was given. `uses`
    says what became of the user's rules. `whole`: the key-values are complete, so that the header
    is what a file will have; from a listing they are not.
    """

    recipe: str
    architecture: str
    values: Mapping[str, Value]
    tensors: tuple[Planned, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sources: Mapping[str, int] = field(default_factory=dict)
    imatrix: Mapping[str, Any] | None = None
    uses: tuple[Mapping[str, Any], ...] = ()
    whole: bool = True

    @cached_property
    def header(self) -> bytes:
        """The bytes in front of the tensor data."""
        return header(self.values, (_info(t) for t in self.tensors), self.alignment)

    def sealed(self, numbers: Mapping[str, Sequence[int]]) -> bytes:
        """The same with `numbers` of the tensors, in their order, by `checksums.ARRAYS`, and its
        own checksum.
        """
        return checksums.sealed(self.header, self.values, numbers)

    @property
    def alignment(self) -> int:
        """What offsets of tensors are multiples of, in bytes."""
        return alignment_of(self.values)

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensor data, padding included."""
        last = self.tensors[-1]
        return aligned(last.offset + last.n_bytes, self.alignment)

    @property
    def total_bytes(self) -> int:
        """Size of the file, to the byte."""
        return len(self.header) + self.data_bytes

    @property
    def keys(self) -> dict[str, Any]:
        """Key-values of the architecture, its prefix left out."""
        own = f"{self.architecture}."
        return {k.removeprefix(own): v.data for k, v in self.values.items() if k.startswith(own)}

    @property
    def n_weights(self) -> int:
        """Weights of all tensors."""
        return sum(t.placed.tensor.n_values for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data for one weight, padding not counted."""
        return 8 * sum(t.n_bytes for t in self.tensors) / self.n_weights

    def by_type(self) -> dict[str, dict[str, Any]]:
        """Type -> tensors, weights and bytes; largest first."""
        return self._grouped(lambda t: t.encoder.format.name)

    def by_role(self) -> dict[str, dict[str, Any]]:
        """Role -> tensors, weights and bytes, and its types and reasons; largest first."""
        groups = self._grouped(lambda t: t.placed.role)
        for role, group in groups.items():
            members = [t for t in self.tensors if t.placed.role == role]
            group["types"] = list(dict.fromkeys(t.encoder.name for t in members))
            group["reasons"] = list(dict.fromkeys(t.reason for t in members))
        return groups

    def _grouped(self, key: Callable[[Planned], str]) -> dict[str, dict[str, Any]]:
        groups: dict[str, dict[str, Any]] = {}
        for t in self.tensors:
            group = groups.setdefault(key(t), {"tensors": 0, "weights": 0, "bytes": 0})
            group["tensors"] += 1
            group["weights"] += t.placed.tensor.n_values
            group["bytes"] += t.n_bytes
        return dict(sorted(groups.items(), key=lambda item: -item[1]["bytes"]))

    def as_dict(self) -> dict[str, Any]:
        """For `plan --json`: plain values only."""
        return {
            "recipe": self.recipe,
            "architecture": self.architecture,
            "tensors": [
                {
                    "name": t.name,
                    "shape": list(t.shape),
                    "role": t.placed.role,
                    "layer": t.placed.layer,
                    "type": t.encoder.format.name,
                    "encoder": t.encoder.name,
                    "asked": t.asked.name if t.asked else None,
                    "reason": t.reason,
                    "importance": t.importance.name if t.importance else None,
                    "bytes": t.n_bytes,
                    "price_bytes": t.price_bytes,
                    "price_bits": t.price_bits,
                    "offset": t.offset,
                }
                for t in self.tensors
            ],
            "types": self.by_type(),
            "roles": self.by_role(),
            "weights": self.n_weights,
            "bits_per_weight": self.bits_per_weight,
            "data_bytes": self.data_bytes,
            "header_bytes": len(self.header) if self.whole else None,
            "total_bytes": self.total_bytes if self.whole else None,
            "keys": self.keys,
            "uses": [dict(u) for u in self.uses],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "imatrix": self.imatrix,
        }


def alignment_of(values: Mapping[str, Value]) -> int:
    """What key-values say that offsets of tensors are multiples of, in bytes."""
    stated = values.get("general.alignment")
    return ALIGNMENT if stated is None else int(stated.data)


def in_order(placed: Iterable[Placed]) -> list[Placed]:
    """The order that llama-quantize writes: outside the blocks first, then by layer, then by the
    bytes of the name.
    """
    return sorted(placed, key=lambda p: (-1 if p.layer is None else p.layer, p.name.encode()))


def lay_out(
    decided: Iterable[tuple[Placed, Encoder, str, Encoder | None]], alignment: int = ALIGNMENT
) -> tuple[Planned, ...]:
    """Sizes and offsets for tensors in file order, each with (encoder, reason, asked).

    Raises ModelError for a name that llama.cpp cannot hold or that appears twice.
    """
    planned = []
    offset = 0
    seen = set()
    for placed, encoder, reason, asked in decided:
        if len(placed.name.encode()) > MAX_NAME_BYTES:
            raise ModelError(f"{placed.name}: expected a name of at most {MAX_NAME_BYTES} bytes")
        if placed.name in seen:
            raise ModelError(f"{placed.name}: two tensors of the checkpoint become this one")
        seen.add(placed.name)
        n_bytes = encoder.format.row_bytes(placed.tensor.cols) * placed.tensor.n_rows
        planned.append(Planned(placed, encoder, reason, asked, n_bytes, offset))
        offset = aligned(offset + n_bytes, alignment)
    return tuple(planned)


def _info(t: Planned) -> TensorInfo:
    kind = cast(GGMLQuantizationType, t.encoder.format.id)  # gguf has no names for ik_llama.cpp's
    return TensorInfo(t.name, t.shape, kind, t.offset)
