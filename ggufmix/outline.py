"""Outline: what a plan or a GGUF file holds, in plain values that lint, advice, comparison and
exports share.

A plan saved as JSON, a plan in memory and the header of a file give the same Outline.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .codecs import FORMATS
from .errors import SourceError

STACKED = "_EXP"
LOOKED_UP = ("TOKEN_EMBD", "PER_LAYER_TOKEN_EMBD", "POS_EMBD", "TOKEN_TYPES")
"""Roles of which a token needs one row."""


PROJECTOR = "clip"
"""general.architecture of vision projectors: they read images, and generate no token."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor.

    shape    GGUF order: row length first
    role     member name of gguf.MODEL_TENSOR
    layer    block number, or None outside the blocks
    type     storage type as `gguf.GGMLQuantizationType` spells it, or one of ik_llama.cpp's
    bytes    of its data, without padding
    encoder  what writes it, where a plan says so, else the type
    reason   why, where a plan says so
    """

    name: str
    shape: tuple[int, ...]
    role: str
    layer: int | None
    type: str
    bytes: int
    encoder: str = ""
    reason: str = ""

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def dims(self) -> int:
        """Dimensions as ggml counts them: trailing ones do not count."""
        return max((i + 1 for i, n in enumerate(self.shape) if n != 1), default=1)

    @property
    def bits(self) -> float:
        """Bits per weight, a row's own header included."""
        return 8 * self.bytes / self.weights if self.weights else 0.0


@dataclass(frozen=True, slots=True)
class Use:
    """What became of one rule: how many tensors it speaks for and how many it decided.

    text    as the user spelled it
    origin  where it stands, such as "--custom-q" or "my.toml"
    before  the rule that took what this one speaks for, or "" if none did
    cut     names that the pattern hits in the middle of a word beside whole ones: `attn_q` in
            `attn_qkv`; one of each role
    """

    text: str
    origin: str
    matches: int
    decides: int
    before: str = ""
    cut: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outline:
    """Tensors and what is known besides.

    title       what to call it in a message
    promises    names that say what is inside: of the recipe, the file, the file type
    keys        key-values of the architecture without its prefix, such as "expert_used_count"
    file_bytes  of the whole file, None where its header is not known or it is damaged
    uses        what became of the user's rules, where a plan says so
    damage      of a file: what its header says that cannot be, one sentence each without a full
                stop
    """

    title: str
    architecture: str
    tensors: tuple[Entry, ...]
    promises: tuple[str, ...] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)
    file_bytes: int | None = None
    uses: tuple[Use, ...] = ()
    damage: tuple[str, ...] = ()

    @property
    def weights(self) -> int:
        """Weights of all tensors."""
        return sum(t.weights for t in self.tensors)

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors, padding not counted."""
        return sum(t.bytes for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data for one weight."""
        return 8 * self.data_bytes / self.weights if self.weights else 0.0

    @property
    def tied(self) -> bool:
        """There is no output.weight: the embedding serves as output matrix."""
        return not any(t.role == "OUTPUT" for t in self.tensors)

    @property
    def mtp_layers(self) -> frozenset[int]:
        """Blocks of multi-token prediction, behind the last block that every token passes."""
        layers = {t.layer for t in self.tensors if t.layer is not None}
        named = [t.layer for t in self.tensors if t.role.startswith("NEXTN_")]
        count, blocks = self.keys.get("nextn_predict_layers"), self.keys.get("block_count")
        first = min((layer for layer in named if layer is not None), default=None)
        if isinstance(count, int) and isinstance(blocks, int) and count > 0:
            first = blocks - count
        return frozenset(layer for layer in layers if first is not None and layer >= first)

    @property
    def is_draft(self) -> bool:
        """A draft head alone: every block is one of multi-token prediction."""
        layers = {t.layer for t in self.tensors if t.layer is not None}
        return bool(layers) and layers <= self.mtp_layers

    @property
    def passed_over(self) -> frozenset[int]:
        """Blocks that the file has beside those that every token passes."""
        return frozenset() if self.is_draft else self.mtp_layers


def of_plan(document: Mapping[str, Any], title: str) -> Outline:
    """From `plan --json`, as a value or read back. Raises SourceError where it is none."""
    try:
        tensors = tuple(
            Entry(
                t["name"],
                tuple(t["shape"]),
                t["role"],
                t["layer"],
                t["type"],
                t["bytes"],
                t["encoder"],
                t["reason"],
            )
            for t in document["tensors"]
        )
        uses = tuple(Use(**{**u, "cut": tuple(u["cut"])}) for u in document.get("uses", ()))
        recipe, architecture = str(document["recipe"]), str(document["architecture"])
    except (KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{title}: expected what `ggufmix plan --json` prints, got something else ({error!r})"
        ) from error
    return Outline(
        title,
        architecture,
        tensors,
        promises=(f"recipe {recipe}",),
        keys=document.get("keys", {}),
        file_bytes=document.get("total_bytes"),
        uses=uses,
    )


def active(outline: Outline) -> dict[str, Any]:
    """Bytes of weights that one generated token reads, in total and by type.

    Of stacked experts the share that is used (`expert_used_count` / experts), of embeddings one
    row, all else whole; a tied embedding counts as the output matrix too. Blocks of multi-token
    prediction do not count beside others; of a draft head alone the token is a drafted one. Keys:
    bytes, weights, types (name -> bytes), experts_used, experts; bytes is None where nobody says
    how many experts are used, and then `least` counts all but them.
    """
    used, passed_over = outline.keys.get("expert_used_count"), outline.passed_over
    types: dict[str, float] = {}
    weights, least, unknown, experts = 0.0, 0.0, False, 0
    for t in outline.tensors:
        if t.layer in passed_over:
            continue
        share = 1.0
        if t.role.endswith(STACKED) and len(t.shape) >= 2:
            experts = t.shape[-1]
            unknown |= not isinstance(used, int)
            share = used / experts if isinstance(used, int) else 0.0
        elif t.role in LOOKED_UP and not (outline.tied and t.role == "TOKEN_EMBD"):
            share = 1 / math.prod(t.shape[1:]) if len(t.shape) > 1 else 1.0
        types[t.type] = types.get(t.type, 0.0) + share * t.bytes
        weights += share * t.weights
        least += share * t.bytes
    found = {name: round(n) for name, n in types.items() if n}
    return {
        "bytes": None if unknown else round(least),
        "least": round(least),
        "weights": None if unknown else round(weights),
        "types": dict(sorted(found.items(), key=lambda item: -item[1])),
        "experts_used": used,
        "experts": experts,
    }


def histogram(tensors: Sequence[Entry]) -> dict[str, tuple[int, int]]:
    """Type -> (tensors, weights), most weights first."""
    counts: dict[str, tuple[int, int]] = {}
    for t in tensors:
        n, weights = counts.get(t.type, (0, 0))
        counts[t.type] = (n + 1, weights + t.weights)
    return dict(sorted(counts.items(), key=lambda item: -item[1][1]))


def types(tensors: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Type -> tensors, weights and bytes, most bytes first."""
    found: dict[str, dict[str, int]] = {}
    for t in tensors:
        entry = found.setdefault(t.type, {"tensors": 0, "weights": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["weights"] += t.weights
        entry["bytes"] += t.bytes
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def bits_of(kind: str) -> float | None:
    """Bits per weight of a type by its name, None for one that is not known here."""
    found = FORMATS.get(kind)
    return found.bits if found is not None else None
