"""What ik_llama.cpp wrote for two models whose rows do not fit, against --mirror ik: types by class
of tensors, and the bytes of a row.
"""

# SPDX-License-Identifier: MIT

import re
from collections import Counter
from dataclasses import replace

import pytest
from listings import GOLDEN, facts_of, listing

from ggufmix import rules
from ggufmix.rules import Choices, decide

LINES = [
    line.split("\t")
    for line in (GOLDEN / "plans" / "ik.tsv").read_text().splitlines()
    if not line.startswith("#")
]
WRITTEN = [line for line in LINES if line[0] not in ("row", "mix")]
ROWS = [line[1:] for line in LINES if line[0] == "row"]
MIXED = [line[1:] for line in LINES if line[0] == "mix"]
RECIPES = {
    "Q2_K": "q2_k",
    "Q3_K": "q3_k_m",
    "Q4_0": "q4_0",
    "Q4_1": "q4_1",
    "Q4_K": "q4_k_m",
    "Q5_0": "q5_0",
    "Q5_1": "q5_1",
    "Q5_K": "q5_k_m",
    "Q6_K": "q6_k",
    "Q8_0": "q8_0",
    "IQ4_NL": "iq4_nl",
    "IQ4_XS": "iq4_xs",
}
"""The mixture behind a type that was asked for by its short name."""

MAKERS_OWN = {
    ("Q8_0", "blk.*.ffn_down_exps.weight"): "Q4_0",
    ("Q8_0", "blk.*.ffn_gate_exps.weight"): "Q4_0",
    ("Q8_0", "blk.*.ffn_up_exps.weight"): "Q4_0",
    ("IQ1_S", "token_embd.weight"): "IQ2_KS",
    ("IQ2_S", "token_embd.weight"): "IQ2_KS",
    ("IQ2_XS", "token_embd.weight"): "IQ2_KS",
    ("IQ2_XXS", "token_embd.weight"): "IQ2_KS",
}
"""Where the maker of the Kimi files asked for something else: INT4 experts as Q4_0, and embeddings
in a type that needs no importance.
"""


@pytest.mark.parametrize(
    ("model", "asked", "most", "classes", "odd"), WRITTEN, ids=[f"{w[0]}-{w[1]}" for w in WRITTEN]
)
def test_each_class_as_ik_wrote_it(
    model: str, asked: str, most: str, classes: str, odd: str
) -> None:
    """A whole model asked for in one type gets that type, and where the rows do not fit, ik's."""
    expected = dict(pair.split("=") for pair in odd.split())
    for (kind, name), own in MAKERS_OWN.items():
        if kind == asked and model.startswith("Kimi"):
            assert expected.pop(name) == own
    tensors = listing(model)
    choices = Choices(rules.recipe(f"pure:{asked}"), mirror="ik")
    made = {}
    for p, d in zip(tensors, decide(tensors, facts_of(model), choices), strict=True):
        if p.tensor.listed != "F32":
            made.setdefault(re.sub(r"blk\.\d+\.", "blk.*.", p.name), set()).add(d.encoder.name)
    assert len(made) == int(classes)
    assert made == {name: {expected.get(name, most)} for name in made}
    assert expected.keys() <= made.keys()


@pytest.mark.parametrize(("kind", "cols", "size"), ROWS, ids=[f"{r[0]}-{r[1]}" for r in ROWS])
def test_a_row_has_the_bytes_of_the_maps(kind: str, cols: str, size: str) -> None:
    """Blocks of a row take what the published maps count; they leave the row's own header out."""
    kind_of = rules.type_named(kind).format
    assert kind_of.row_bytes(int(cols)) - kind_of.row_header == int(size)


@pytest.mark.parametrize(
    ("model", "asked", "got"),
    [line for line in MIXED if line[1] in RECIPES],
    ids=[line[1] for line in MIXED if line[1] in RECIPES],
)
def test_each_class_as_ik_mixes_it(model: str, asked: str, got: str) -> None:
    """ik_llama.cpp's own mixtures: how many tensors of each class of Qwen3.6-35B-A3B have which
    type. The files were made with an importance matrix and tensor by tensor, so that the embeddings
    were taken for the head.
    """
    expected: Counter[tuple[str, str]] = Counter()
    for pair in got.split():
        name, _, kind = pair.partition("=")
        expected[name, kind.partition("*")[0]] += int(kind.partition("*")[2])
    tensors = [p for p in listing(model) if p.tensor.listed != "F32"]
    facts = replace(facts_of(model), imatrix=True)
    choices = Choices(rules.recipe(RECIPES[asked]), mirror="ik")
    alone = [p for p in tensors if p.role != "OUTPUT"]
    made = {
        p.name: d.encoder.name
        for some in (tensors, alone)
        for p, d in zip(some, decide(some, facts, choices), strict=True)
    }
    counted = Counter((re.sub(r"blk\.\d+\.", "blk.*.", name), kind) for name, kind in made.items())
    assert counted == expected
