"""Every rule file against the tensors of real models: all are known, and no rule is idle."""

# SPDX-License-Identifier: MIT

from collections import Counter
from functools import cache

import gguf
import pytest
from listings import ARCHITECTURES, SHAPES, facts_of, listing, roles_of

from ggufmix import rules
from ggufmix.rules import Choices, decide
from ggufmix.rules.files import shipped
from ggufmix.rules.places import Positions

ALIKE = [{"FFN_NORM", "FFN_PRE_NORM"}]
"""Roles that gguf gives one name, of two architectures."""


@cache
def winners(model: str) -> tuple[tuple[str, str, str], ...]:
    """(name, role, reason) of each tensor under a recipe that every protection raises."""
    tensors = listing(model)
    made = decide(tensors, facts_of(model), Choices(rules.recipe("q2_k")))
    return tuple((p.name, p.role, d.reason) for p, d in zip(tensors, made, strict=True))


def test_every_listing_has_an_architecture() -> None:
    """No listing lies about unused."""
    assert {f.name.removesuffix(".tsv") for f in SHAPES.glob("*.tsv")} == set(ARCHITECTURES)
    assert set(ARCHITECTURES.values()) <= set(gguf.MODEL_ARCH_NAMES.values())


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_every_tensor_has_one_role(model: str) -> None:
    """Each name is the name of exactly one role, and the shapes of a model have no gaps."""
    for tensor in listing(model):
        roles = roles_of(tensor.name)
        assert len(roles) == 1 or set(roles) in ALIKE, tensor.name
    blocks = {p.layer for p in listing(model) if p.layer is not None}
    assert blocks == set(range(len(blocks)))


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_what_the_converter_keeps_f32_is_f32(model: str) -> None:
    """A must rule speaks for a tensor if and only if the file of the listing has it in F32 (or, for
    matrices that llama-quantize never touches, in the type of the checkpoint).
    """
    kept = {p.name for p in listing(model) if p.tensor.listed == "F32"}
    for name, role, reason in winners(model):
        if reason != "must: kept as it is":
            assert reason.startswith("must") == (name in kept), (name, role, reason)


@pytest.mark.parametrize("where", sorted(shipped().books))
def test_no_rule_is_idle(where: str) -> None:
    """Every entry of a rule file decides a tensor of a listing, but for the one on names that no
    listing has; in a file for certain architectures every role it names occurs.
    """
    book = shipped().books[where]
    models = [m for m, a in ARCHITECTURES.items() if a in book.architectures]
    if "*" in book.architectures:
        models = list(ARCHITECTURES)
    assert models
    reasons: Counter[str] = Counter()
    seen = set()
    for model in models:
        for _, role, reason in winners(model):
            reasons[reason.split(";")[0]] += 1
            seen.add(role)
    for kind, entries in (("must", book.must), ("protect", book.protect)):
        for entry in entries:
            assert reasons[f"{kind}: {entry.name}"] or entry.name == "no weight", entry.name
            if "*" not in book.architectures:
                assert set(entry.roles) <= seen, set(entry.roles) - seen


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_no_two_rules_for_one_tensor(model: str) -> None:
    """A tensor is protected by one entry at most."""
    _, protects = rules.rules_for(ARCHITECTURES[model])
    for tensor in listing(model):
        speaking = [p.name for p in protects if tensor.role in p.roles]
        assert len(speaking) <= 1, tensor.name


@pytest.mark.parametrize("name", sorted(rules.recipes()))
def test_no_entry_of_a_recipe_is_idle(name: str) -> None:
    """Every entry of a recipe speaks for a tensor of some model, its conditions taken as met."""
    entries = (*rules.recipe(name).tensor, *rules.recipe(name).ik)
    idle = set(range(len(entries)))
    for model in ARCHITECTURES:
        if not idle:
            break
        tensors = listing(model)
        tied = rules.roles.is_tied(tensors)
        positions = Positions.of(tensors, facts_of(model))
        for number in sorted(idle):
            applied = rules.deciding._Applied.of(entries[number], tied)
            if any(applied.holds(p, positions) for p in tensors):
                idle.discard(number)
    assert not idle, [entries[i] for i in idle]


def test_groups_are_what_llama_quantize_sorts_by_name() -> None:
    """The groups hold every role whose name contains what tensor_get_category looks for."""
    contained = {
        "any attn_v": ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight"),
        "any attn_k": ("attn_k.weight",),
        "any attn_output": ("attn_output.weight",),
        "any ffn_up": ("ffn_up",),
        "any ffn_gate": ("ffn_gate",),
        "any ffn_down": ("ffn_down",),
    }
    for group, parts in contained.items():
        wanted = {
            role.name
            for role, name in gguf.TENSOR_NAMES.items()
            if any(part in f"{name}.weight" for part in parts)
        }
        assert set(shipped().groups[group].roles) == wanted, group


def test_every_entry_says_why_and_from_where() -> None:
    """Reasons and sources stand in the files, not in somebody's head."""
    for book in shipped().books.values():
        for entry in (*book.must, *book.protect):
            assert len(entry.why) > 10
            assert len(entry.source) > 10
    for made in rules.recipes().values():
        assert len(made.why) > 20
        assert len(made.source) > 10
        assert all(entry.why for entry in (*made.tensor, *made.ik))
    for policy in shipped().fallbacks.values():
        assert policy.why
        assert policy.source
