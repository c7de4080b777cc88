"""How the plans beside this file were made; run by hand, never by the tests, and read before they
are committed:

    python tests/golden/plans/make_plans.py

A line is a tensor: name, type, bytes, price in bytes where another type was asked for (with that
type), and a letter for the reason, which stands in the head of the file.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1])]

from listings import facts_of, listing  # noqa: E402

from ggufmix import planning, rules  # noqa: E402
from ggufmix.rules import Choices, decide  # noqa: E402

PLANS = [
    ("GLM-4.5-Air", "hq4_k"),
    ("GLM-4.5-Air", "q4_k_m"),
    ("Kimi-K2-Thinking", "q4_x"),
    ("Qwen3-Next-80B-A3B", "q4_k_m"),
    ("Qwen3.5-35B-A3B", "q8_0"),
    ("Qwen3.8-27B", "q5_k_m"),
]


def lines(model: str, recipe: str) -> list[str]:
    """A plan as text."""
    tensors = listing(model)
    decisions = decide(tensors, facts_of(model), Choices(rules.recipe(recipe)))
    laid_out = planning.lay_out(
        (p, d.encoder, d.reason, d.asked) for p, d in zip(tensors, decisions, strict=True)
    )
    reasons = {
        r: chr(ord("a") + i) for i, r in enumerate(dict.fromkeys(t.reason for t in laid_out))
    }
    size = sum(t.n_bytes for t in laid_out)
    weights = sum(t.placed.tensor.n_values for t in laid_out)
    out = [f"# {model}, recipe {recipe}: {size:,} bytes, {8 * size / weights:.3f} bits per weight"]
    out += [f"# {note}" for note in rules.remarks(laid_out, "vulkan")]
    out += [f"# {letter} = {reason}" for reason, letter in reasons.items()]
    for t in laid_out:
        price = f" {t.price_bytes:+d} (asked {t.asked})" if t.asked is not None else ""
        out.append(f"{t.name} {t.encoder} {t.n_bytes}{price} {reasons[t.reason]}")
    return out


if __name__ == "__main__":
    for model, recipe in PLANS:
        (HERE / f"{model}.{recipe}.txt").write_text("\n".join(lines(model, recipe)) + "\n")
