"""Plans of five real models, one line a tensor, as they were read before they were committed."""

# SPDX-License-Identifier: MIT

import importlib.util
import time

import pytest
from listings import GOLDEN, facts_of, listing

from ggufmix import rules
from ggufmix.rules import Choices, decide

SPEC = importlib.util.spec_from_file_location("make_plans", GOLDEN / "plans" / "make_plans.py")
assert SPEC is not None
assert SPEC.loader is not None
MADE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MADE)


@pytest.mark.parametrize(("model", "recipe"), MADE.PLANS)
def test_the_plan_is_the_one_that_was_read(model: str, recipe: str) -> None:
    """Every tensor's type, bytes, price and reason, and the notes for the whole."""
    expected = (GOLDEN / "plans" / f"{model}.{recipe}.txt").read_text().splitlines()
    assert MADE.lines(model, recipe) == expected


def size_of(model: str, recipe: str, **choices: object) -> int:
    tensors = listing(model)
    made = decide(tensors, facts_of(model), Choices(rules.recipe(recipe), **choices))  # type: ignore[arg-type]
    return sum(
        d.encoder.format.row_bytes(p.tensor.cols) * p.tensor.n_rows
        for p, d in zip(tensors, made, strict=True)
    )


def test_published_sizes() -> None:
    """Files that others published with the same choices: ubergarm's Kimi Q4_X (543.6 GiB, 4.549
    bits per weight), and gpt-oss-120b as converted (59.02 GiB).
    """
    kimi = size_of("Kimi-K2-Thinking", "q4_x")
    weights = sum(p.tensor.n_values for p in listing("Kimi-K2-Thinking"))
    assert round(kimi / 2**30, 1) == 543.6
    assert round(8 * kimi / weights, 3) == 4.549
    assert round(size_of("gpt-oss-120b.mxfp4", "mxfp4_moe") / 2**30, 2) == 59.02


def test_a_trillion_weights_are_decided_at_once() -> None:
    """Deciding about Kimi-K2 takes a fraction of a second."""
    tensors, facts = listing("Kimi-K2-Thinking"), facts_of("Kimi-K2-Thinking")
    start = time.perf_counter()
    decide(tensors, facts, Choices(rules.recipe("q4_k_m")))
    assert time.perf_counter() - start < 1
