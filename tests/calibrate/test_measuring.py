"""What is measured is what flows in: held against hooks of our own, and against llama.cpp."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from calibrate import restated
from calibrate.conftest import Loaded
from checkpoints import CASES
from imatrix import measured
from plain_gguf import write_f32

from ggufmix import models
from ggufmix.calibrating import measuring
from ggufmix.calibrating.assembling import Entry
from ggufmix.calibrating.naming import parameters
from ggufmix.errors import ModelError
from ggufmix.tensor import held

Tiny = Callable[[str], Loaded]

OTHERWISE = ".attn_k_b.weight", ".ssm_dt.weight"
"""What transformers computes by another way: keys of MLA, and time steps of Jamba's Mamba-1."""
OTHER_INPUTS = ".attn_v_b.weight"
"""Of MLA transformers has values of every token where llama.cpp has those that attention mixed."""


def same(ours: np.ndarray, theirs: np.ndarray, bound: float = 1e-4) -> bool:
    return bool(np.abs(ours - theirs).max() <= bound * np.abs(theirs).max())


def test_every_input_of_the_trained_model(trained: Loaded, ids: list[list[int]]) -> None:
    """Sums, maxima and counts of every matrix, experts included, are those of its inputs: taken
    from module hooks, and for experts from float64 products of their weights.
    """
    found = trained.collect(*ids)
    rows = restated.inputs(trained.model, ids)
    named = parameters(trained.model, trained.names)
    entries = {entry.name: entry for entry in found.entries}
    routers = [name for name in entries if name.endswith("ffn_gate_inp.weight")]
    checked = 0
    for name, entry in entries.items():
        if name in routers:
            continue
        for m, origin in enumerate(trained.origins[name]):
            place = named[origin.weight]
            key = place.name if "experts" not in place.name else f"{place.name}[{place.matrix}]"
            want = rows[key][:, origin.index]
            span = m * entry.cols, (m + 1) * entry.cols
            assert entry.tokens[m] == len(want) > 0
            assert same(entry.sums(*span), (want**2).sum(axis=0)), (name, m)
            assert same(entry.maxima(*span), np.abs(want).max(axis=0)), (name, m)
            checked += 1
    assert checked == len(entries) - len(routers) + 3 * 4 * 3
    assert len(routers) == 4
    for name in routers:  # its input is that of the shared expert
        other = entries[name.replace("gate_inp", "gate_shexp")]
        assert (entries[name].sums(0, 256) == other.sums(0, 256)).all()
    assert (found.without, found.ahead, found.tokens) == ((), (), 3 * 128)


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_measures_the_same(
    name: str, tiny: Tiny, tokens: list[int], tmp_path: Path
) -> None:
    """Of every class and layout: the entries that llama-imatrix would have, with its counts and its
    sums, from another program's float32 arithmetic on the converted model.
    """
    model = tiny(name)
    case = CASES[name].plain()
    arrays = {k: held(k, v) for k, v in case.arrays().items()}
    path = write_f32(models.place(case.raw_config(), arrays), tmp_path / "model.gguf")
    theirs = measured.measure(path, tokens, len(tokens))
    found = model.collect(tokens)
    ours = {entry.name: entry for entry in found.entries}
    otherwise = {n for n in theirs if n.endswith(OTHERWISE) and n not in ours}
    assert ours.keys() == theirs.keys() - otherwise
    assert {*found.without} == otherwise
    ahead = models.place(case.raw_config(), arrays, mtp=True).mtp_blocks
    assert bool(found.ahead) == bool(ahead)
    counted = [(ours[n].tokens, np.array(theirs[n][1])) for n in ours]
    assert all(np.abs(mine - yours).max() <= 2 for mine, yours in counted)
    # a token between two experts may fall to another one; then a little is otherwise everywhere
    bound = 1e-3 if all((mine == yours).all() for mine, yours in counted) else 0.1
    for entry_name, entry in ours.items():
        sums, _ = theirs[entry_name]
        mine, yours = entry.sums(0, entry.n_values), sums.ravel()
        if name.startswith("falcon-h1"):  # llama.cpp has multipliers in the weights: same shape
            mine, yours = mine / mine.max(), yours / yours.max()
        if not entry_name.endswith(OTHER_INPUTS):
            assert same(mine, yours, bound), entry_name


@pytest.mark.parametrize("name", ["moe-fused", "gpt-oss-plain", "granite4", "qwen3moe"])
def test_measuring_changes_nothing(name: str, tiny: Tiny, tokens: list[int]) -> None:
    """Experts are computed by our function while it measures: the model says the same, and goes
    back to its own way afterwards.
    """
    import torch

    model = tiny(name).model
    named = [n for n, p in model.named_parameters() if p.dim() > 1]
    before = model.get_experts_implementation()
    given = torch.tensor([tokens])
    with torch.no_grad():
        want = model(given).logits.numpy()
        watched = measuring.Measuring(model, named)
        with watched.attached():
            got = model(given).logits.numpy()
        assert model.get_experts_implementation() == before
        counts = {n: i.counts.copy() for n, i in watched.inputs.items()}
        model(given)
    assert same(got, want)
    assert any("experts" in n and c.sum() == 2 * len(tokens) for n, c in counts.items())
    assert all((i.counts == counts[n]).all() for n, i in watched.inputs.items())


def test_counts_add_up_over_sequences(tiny: Tiny, tokens: list[int]) -> None:
    """Sequences are added; each expert has the tokens that were routed to it, twice as many in all
    as there were tokens where two experts are chosen.
    """
    model = tiny("moe-fused")
    one, two = model.collect(tokens), model.collect(tokens, tokens)
    assert (one.tokens, two.tokens) == (256, 512)
    for a, b in zip(one.entries, two.entries, strict=True):
        assert (2 * a.tokens == b.tokens).all()
        assert same(2 * a.sums(0, a.n_values), b.sums(0, b.n_values))
        assert (a.maxima(0, a.n_values) == b.maxima(0, b.n_values)).all()
        assert a.tokens.sum() == (512 if "_exps" in a.name else 256)


@pytest.mark.parametrize("name", ["moe-wrapped-mtp", "dense-wrapped-mtp"])
def test_a_wrapper_runs_as_its_text_model(name: str, tiny: Tiny, tokens: list[int]) -> None:
    """Checkpoints with a vision tower are loaded without it, under other names of parameters: what
    is measured is the same.
    """
    import torch
    import transformers

    model = tiny(name)
    text = transformers.AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    assert type(text) is not type(model.model)
    found = replace(model, model=text.eval()).collect(tokens)
    want = model.collect(tokens)
    assert (found.ahead, found.without) == (want.ahead, want.without)
    assert len(found.entries) == len(want.entries)
    for mine, theirs in zip(found.entries, want.entries, strict=True):
        assert mine.name == theirs.name
        assert same(mine.sums(0, mine.n_values), theirs.sums(0, theirs.n_values))


def test_a_loud_channel_lands_where_ggufs_heads_are(tiny: Tiny, tokens: list[int]) -> None:
    """Value head 1 of the first key head is head 2 in GGUF. Its channel 5 made loud is column
    2 * 32 + 5 of ssm_out, not 1 * 32 + 5.
    """
    import torch

    model = tiny("dense-tied")
    weight = model.model.get_parameter("model.layers.1.linear_attn.in_proj_z.weight")
    with torch.no_grad():
        kept = weight[37].clone()
        weight[37] *= 200
        found = {e.name: e for e in model.collect(tokens).entries}["blk.1.ssm_out.weight"]
        weight[37] = kept
    assert int(found.sums(0, 128).argmax()) == int(found.maxima(0, 128).argmax()) == 69


def test_what_is_not_finite_is_said(tiny: Tiny, tokens: list[int]) -> None:
    """A model that has diverged is an error that names the place, not a file of NaN."""
    import torch

    model = tiny("qwen3")
    weight = model.model.get_parameter("model.layers.0.mlp.up_proj.weight")
    with torch.no_grad():
        kept = weight[0].clone()
        weight[0] = torch.inf
        with pytest.raises(ModelError, match=r"layers\.0\.mlp\.down_proj\.weight: .* not finite"):
            model.collect(tokens)
        weight[0] = kept


def test_experts_of_an_unknown_kind_are_refused() -> None:
    """Stacked weights in a class that is not known are named: no expert is left out unsaid."""
    import torch

    class OddExperts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up_proj = torch.nn.Parameter(torch.zeros(4, 8, 8))

    model: Any = torch.nn.Module()
    model.experts = OddExperts()
    with pytest.raises(ModelError, match=r"experts\.gate_up_proj: OddExperts keeps 3-dim") as error:
        measuring.Measuring(model, ["experts.gate_up_proj"])
    assert error.value.hint is not None


def test_experts_that_stay_with_their_own_way_are_refused(
    tiny: Tiny, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where transformers does not hand experts over, nothing is measured as if no token came."""
    model = tiny("moe-fused")
    monkeypatch.setattr(type(model.model), "set_experts_implementation", lambda *_: None)
    with pytest.raises(ModelError, match="Qwen3_5MoeExperts: transformers does not let"):
        model.collect(tokens)


def test_rows_are_no_inputs(tiny: Tiny, tokens: list[int]) -> None:
    """A GGUF tensor whose columns are outputs of a weight is not given what was seen of its inputs,
    though there be enough of them.
    """
    model = tiny("qwen3")
    name = "blk.0.attn_k.weight"
    [origin] = model.origins[name]
    turned = replace(origin, axis=-2, index=origin.index[:8])
    found = replace(model, origins={name: (turned,)}).collect(tokens)
    assert (found.entries, found.without) == ([], (name,))


def test_values_of_any_span() -> None:
    """An entry is written in pieces that begin and end inside of experts."""
    of = [SimpleNamespace(inputs=measuring.Inputs(1, 5, -1)) for _ in range(3)]
    import torch

    for i, m in enumerate(of):
        m.inputs.add(torch.arange(5.0)[None] + 10 * i)
    matrices: Any = [
        SimpleNamespace(inputs=m.inputs, expert=0, index=np.array([4, 3, 2, 1, 0]), tokens=1)
        for m in of
    ]
    entry = Entry("x", matrices)
    whole = np.concatenate([(np.arange(4.0, -1, -1) + 10 * i) for i in range(3)])
    for start in range(15):
        for stop in range(start + 1, 16):
            assert (entry.maxima(start, stop) == whole[start:stop]).all()
            assert (entry.sums(start, stop) == whole[start:stop] ** 2).all()
