"""Weighing: must before override before protection before recipe, and the shape before all."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

from ..codecs import Encoder
from ..errors import RuleError, ShapeError, UsageError
from ..tensor import Placed
from . import roles
from .facts import Facts
from .files import (
    SOURCE,
    Condition,
    Fallback,
    MirrorName,
    Must,
    Protect,
    Recipe,
    RecipeEntry,
    shipped,
)
from .overrides import Edge, Override, without_effect
from .places import Positions, layer_set, where_test
from .types import plain, stored_type, type_named

Gates = Literal["bf16", "f32", "recipe"]
FallbackName = Literal["quality", "llama.cpp", "ik", "error"]
GATES = "gates"
NEEDS_IMPORTANCE = "needs importance, which no imatrix has of MTP blocks"


@dataclass(frozen=True, slots=True)
class Decision:
    """What one tensor is stored as, and why. `asked` is what the recipe or the user wanted where
    protection or the shape did not let it be.
    """

    encoder: Encoder
    reason: str
    asked: Encoder | None = None


@dataclass(frozen=True, slots=True)
class Choices:
    """All that decides besides the rules.

    gates      "bf16", "f32", or "recipe" for no protection of the gates
    mirror     "llama.cpp" or "ik": that tool's whole behaviour: its mixture, its fallbacks, no
               protection
    fallback   what becomes of rows that do not fit; by default the mirror's, else "quality"
    overrides  in order of precedence
    edges      lower bounds for the first and last blocks
    forced     tensor name -> (encoder, reason): found out from the data, beats all but must
    """

    recipe: Recipe
    gates: Gates = "bf16"
    mirror: MirrorName | None = None
    fallback: FallbackName | None = None
    overrides: tuple[Override, ...] = ()
    edges: tuple[Edge, ...] = ()
    forced: Mapping[str, tuple[Encoder, str]] = field(default_factory=dict)


@cache
def rules_for(architecture: str) -> tuple[tuple[Must, ...], tuple[Protect, ...]]:
    """The entries for a general.architecture: its own files first, then the generic ones. Raises
    RuleError for a role or type that does not exist.
    """
    books = shipped().books
    ours = [w for w, b in books.items() if architecture in b.architectures]
    ours += [w for w, b in books.items() if "*" in b.architectures]
    for where in ours:
        _check_book(where)
    return (
        tuple(m for where in ours for m in books[where].must),
        tuple(p for where in ours for p in books[where].protect),
    )


def decide(placed: Sequence[Placed], facts: Facts, choices: Choices) -> list[Decision]:
    """One decision for each tensor, in the same order.

    Raises UsageError for an override that matches nothing, or only tensors that a must rule holds;
    ShapeError where rows do not fit and the fallback is "error".
    """
    if choices.mirror and choices.fallback not in (None, choices.mirror):
        raise UsageError(f"--mirror {choices.mirror} has its own fallback, not {choices.fallback}")
    musts, protects = rules_for(facts.architecture)
    if choices.mirror is not None:
        protects = ()
    if choices.gates == "recipe":
        protects = tuple(p for p in protects if p.name != GATES)
    policy = choices.fallback or choices.mirror or "quality"
    fallback = shipped().fallbacks[policy]
    tied = roles.is_tied(placed)
    wishes = [o.resolved(tied=tied) for o in choices.overrides]
    must_of = {p.name: next((m for m in musts if _must_holds(m, p)), None) for p in placed}
    wish_of = {p.name: next((o for o in wishes if o.holds(p)), None) for p in placed}
    mixture = _Mixture(placed, facts, choices, must_of, wish_of)
    held: dict[Override, Must] = {}
    effective: set[Override] = set()
    ahead = _ahead(placed, facts)

    def decided(tensor: Placed) -> Decision:
        must, wish = must_of[tensor.name], wish_of[tensor.name]
        if must is not None and must.also:
            wanted = mixture.wish(tensor).encoder if wish is None else wish.of(tensor)
            must = None if wanted.name in must.also else must
        if must is not None:
            decision = Decision(_must_type(must, tensor), f"must: {must.name}")
            if wish is not None:
                held.setdefault(wish, must)
                decision = replace(decision, reason=f"must: {must.name} (not {wish.text})")
        elif tensor.name in choices.forced:
            decision = Decision(*choices.forced[tensor.name])
        elif wish is not None:
            decision = Decision(wish.of(tensor), f"override {wish.text}")
        else:
            decision = mixture.wish(tensor)
            decision = _raised(tensor, decision, facts, choices.edges)
            decision = _protected(tensor, decision, protects, least)
            if tensor.layer in ahead and choices.mirror is None:
                decision = _unmeasured(decision)
        if wish is not None and must is None:
            effective.add(wish)
        return _fitted(tensor, decision, fallback)

    def least(protect: Protect) -> Encoder | None:
        """The lower bound of a protection; None where the model has nothing to be like."""
        if not protect.like:
            return type_named(choices.gates if protect.name == GATES else protect.type)
        model = roles.members([protect.like], tied=tied)
        like = next((p for p in placed if p.role in model), None)
        return None if like is None else decided(like).encoder

    decisions = [decided(tensor) for tensor in placed]
    for wish, must in held.items():
        if wish not in effective:
            raise UsageError(
                f"{wish.text} matches only tensors that must be {must.type}",
                hint=f"{must.name}: {must.why}",
            )
    useless = without_effect(wishes, effective, placed)
    if useless is not None:
        raise useless
    return decisions


class _Mixture:
    """What a recipe would like for each tensor of one model."""

    def __init__(
        self,
        placed: Sequence[Placed],
        facts: Facts,
        choices: Choices,
        must_of: Mapping[str, Must | None],
        wish_of: Mapping[str, Override | None],
    ) -> None:
        recipe = choices.recipe
        tied = roles.is_tied(placed)
        free = [p for p in placed if (must := must_of[p.name]) is None or must.also]
        overridden = frozenset(p.name for p in free if wish_of[p.name] is not None)
        self.recipe = recipe
        self.positions = Positions.of(
            free, facts, overridden if choices.mirror == "llama.cpp" else frozenset()
        )
        self.entries = [
            _Applied.of(entry, tied)
            for entry in (recipe.ik if choices.mirror == "ik" and recipe.ik else recipe.tensor)
            if _met(entry.condition, facts, tied)
        ]
        self.default = None if recipe.default == SOURCE else type_named(recipe.default)

    def wish(self, tensor: Placed) -> Decision:
        """By the first entry that speaks for the tensor, else the default."""
        for applied in self.entries:
            if applied.holds(tensor, self.positions):
                reason = f"recipe {self.recipe.name}: {applied.entry.why}"
                return Decision(type_named(applied.entry.type), reason)
        return Decision(self.default or stored_type(tensor), f"recipe {self.recipe.name}")


@dataclass(frozen=True, slots=True)
class _Applied:
    """An entry of a recipe, ready to ask of one model's tensors."""

    entry: RecipeEntry
    roles: frozenset[str]
    among: frozenset[str]
    layers: frozenset[int]
    test: Callable[[int, int], bool] | None

    @classmethod
    def of(cls, entry: RecipeEntry, tied: bool) -> _Applied:
        return cls(
            entry,
            roles.members(entry.roles, tied=tied),
            roles.members(entry.among, tied=tied),
            layer_set(entry.layers),
            where_test(entry.where) if entry.where is not None else None,
        )

    def holds(self, tensor: Placed, positions: Positions) -> bool:
        entry = self.entry
        if entry.roles and tensor.role not in self.roles:
            return False
        if entry.layers and tensor.layer not in self.layers:
            return False
        if entry.dims is not None and len(tensor.tensor.shape) != entry.dims:
            return False
        if self.test is None:
            return True
        return self.test(*positions.find(tensor.name, self.roles, entry.counted, self.among))


def _met(condition: Condition, facts: Facts, tied: bool) -> bool:
    return (
        (condition.architecture is None or facts.architecture in condition.architecture)
        and condition.experts in (None, facts.experts)
        and (condition.experts_at_least is None or facts.experts >= condition.experts_at_least)
        and (condition.gqa_at_least is None or facts.gqa >= condition.gqa_at_least)
        and condition.imatrix in (None, facts.imatrix)
        and condition.size in (None, facts.size)
        and condition.tied in (None, tied)
    )


def _must_holds(must: Must, placed: Placed) -> bool:
    return (
        placed.role in must.roles
        or len(placed.tensor.shape) in must.dims
        or (bool(must.endings) and placed.name.endswith(must.endings))
        or (bool(must.but_endings) and not placed.name.endswith(must.but_endings))
    )


def _must_type(must: Must, tensor: Placed) -> Encoder:
    return stored_type(tensor) if must.type == SOURCE else type_named(must.type)


def _raised(tensor: Placed, decision: Decision, facts: Facts, edges: Iterable[Edge]) -> Decision:
    for edge in edges:
        if edge.holds(tensor, facts) and edge.encoder.format.bits > decision.encoder.format.bits:
            decision = Decision(edge.encoder, f"edges {edge.text}")
    return decision


def _protected(
    tensor: Placed,
    decision: Decision,
    protects: Iterable[Protect],
    bound: Callable[[Protect], Encoder | None],
) -> Decision:
    for protect in protects:
        if tensor.role in protect.roles:
            least = bound(protect)
            if least is not None and least.format.bits > decision.encoder.format.bits:
                return Decision(
                    least, f"protect: {protect.name}", decision.asked or decision.encoder
                )
    return decision


def _ahead(placed: Iterable[Placed], facts: Facts) -> frozenset[int]:
    """Blocks of multi-token prediction."""
    trunk = facts.blocks - facts.mtp_blocks
    return frozenset(
        p.layer
        for p in placed
        if p.layer is not None and (p.role.startswith("NEXTN_") or trunk <= p.layer < facts.blocks)
    )


def _unmeasured(decision: Decision) -> Decision:
    """The same without a type that needs importance."""
    wanted = decision.encoder
    instead = shipped().unmeasured.instead.get(wanted.format.name)
    if instead is None:
        return decision
    reason = f"{decision.reason}; {wanted} {NEEDS_IMPORTANCE}"
    return Decision(type_named(instead), reason, decision.asked or wanted)


def _fitted(tensor: Placed, decision: Decision, fallback: Fallback) -> Decision:
    cols, wanted = tensor.tensor.cols, decision.encoder
    single = plain(wanted) if tensor.role in roles.EMBEDDINGS else None
    chosen = single or wanted
    while cols % chosen.format.values:
        instead = fallback.instead.get(chosen.format.name, fallback.last)
        if instead is None:
            raise ShapeError(
                f"{tensor.name}: {wanted} stores {wanted.format.values} values per block and does "
                f"not fit a row of {cols} ({decision.reason})",
                hint="another --fallback, or a type for it with --tensor-type",
            )
        chosen = type_named(instead)
    if chosen is wanted:
        return decision
    why = (
        f"{wanted.name} interleaves rows, and an embedding is read by single rows"
        if chosen is single
        else f"{wanted.name} does not fit a row of {cols}"
    )
    return Decision(chosen, f"{decision.reason}; {why}", decision.asked or wanted)


@cache
def _check_book(where: str) -> None:
    book = shipped().books[where]
    kinds: dict[str, Sequence[Must | Protect]] = {"must": book.must, "protect": book.protect}
    for kind, entries in kinds.items():
        for number, entry in enumerate(entries):
            _check_entry(entry, f"{where}: {kind}[{number}]")


def _check_entry(entry: Must | Protect, place: str) -> None:
    roles.check(entry.roles, f"{place}.roles")
    if isinstance(entry, Protect) and entry.like:
        if entry.type:
            raise RuleError(f"{place}: expected type or like, got both")
        roles.check([entry.like], f"{place}.like", grouped=True)
    elif isinstance(entry, Protect) or entry.type != SOURCE:
        _check_type(entry.type, f"{place}.type")
    for kind in entry.also if isinstance(entry, Must) else ():
        _check_type(kind, f"{place}.also")


def _check_type(kind: str, place: str) -> None:
    try:
        type_named(kind)
    except UsageError as error:
        raise RuleError(f"{place}: {error}", hint=error.hint) from error
