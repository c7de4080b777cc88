"""Which tensor gets which importance, and what is said of what an imatrix lacks."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imatrix import made

from ggufmix import imatrix
from ggufmix.codecs import encoder
from ggufmix.errors import ImportanceError
from ggufmix.planning import Planned, lay_out
from ggufmix.tensor import Placed, held

NORM, DOWN, EXPERTS = "blk.0.attn_norm.weight", "blk.0.ffn_down.weight", "blk.0.ffn_up_exps.weight"


def planned(name: str, *shape: int, kind: str = "Q4_0", role: str = "FFN_UP") -> Planned:
    layer = int(name.split(".")[1]) if name.startswith("blk") else None
    tensor = held(name, np.zeros(shape, np.float32))
    [found] = lay_out([(Placed(name, role, layer, tensor), encoder(kind), "test", None)])
    return found


def given(folder: Path, entries: made.Entries) -> imatrix.Imatrix:
    return imatrix.read([made.write_gguf(folder / "i.gguf", entries)])


def entries(**sizes: tuple[int, list[float]]) -> dict[str, Any]:
    """Entries of block 0 by the middle of their names: columns and counts."""
    full = {f"blk.0.{name}.weight": size for name, size in sizes.items()}
    return {name: made.entry(name, cols, counts) for name, (cols, counts) in full.items()}


def importance(assigned: imatrix.Assigned, number: int = 0) -> Any:
    found = assigned.tensors[number].importance
    assert found is not None
    return found


def report(assigned: imatrix.Assigned) -> Mapping[str, Any]:
    assert assigned.report is not None
    return assigned.report


def test_each_expert_has_its_own(tmp_path: Path) -> None:
    """A stacked tensor gets one vector for each matrix; one without blocks or whose encoder ignores
    importance gets none, and is not missed.
    """
    tensors = [planned(EXPERTS, 3, 4, 64), planned(NORM, 64, kind="F32")]
    tensors.append(planned(DOWN, 4, 64, kind="Q8_0"))
    values = entries(ffn_up_exps=(64, [9, 0, 4]))
    assigned = imatrix.assign(tensors, given(tmp_path, values))
    whole = made.expected(*values[EXPERTS])
    for matrix in range(3):
        assert importance(assigned).vector(matrix).tobytes() == whole[matrix].tobytes()
    assert [t.importance is None for t in assigned.tensors] == [False, True, True]
    assert (report(assigned)["with"], report(assigned)["without"]) == (1, [])


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_a_wrong_length_names_the_tensor(tmp_path: Path, kind: str) -> None:
    """Like llama-quantize, a vector that does not fit is an error whatever the stored type makes of
    it.
    """
    found = given(tmp_path, entries(ffn_up_exps=(64, [9, 0])))
    with pytest.raises(ImportanceError, match=rf"{EXPERTS}: expected .* 3 x 64 .* 128"):
        imatrix.assign([planned(EXPERTS, 3, 4, 64, kind=kind)], found)


def test_a_wrong_length_of_an_embedding_warns(tmp_path: Path) -> None:
    """token_embd.weight goes without importance, with a warning."""
    values = {"token_embd.weight": made.entry("t", 32, [5])}
    assigned = imatrix.assign([planned("token_embd.weight", 8, 64)], given(tmp_path, values))
    assert assigned.tensors[0].importance is None
    assert "token_embd.weight: expected importance of 1 x 64" in assigned.warnings[0]


@pytest.mark.parametrize(
    ("has", "lacks"),
    [
        ("ffn_gate_exps", "ffn_up_exps"),
        ("ffn_up_exps", "ffn_gate_exps"),
        ("ffn_gate_up_exps", "ffn_up_exps"),
        ("ffn_up_exps", "ffn_gate_up_exps"),
        ("ffn_gate_shexp", "ffn_up_shexp"),
        ("ffn_up", "ffn_gate"),
    ],
)
def test_the_same_input_serves(tmp_path: Path, has: str, lacks: str) -> None:
    """Gate, up and the merged tensor take each other's vectors, which the plan says; a mirror of
    llama-quantize takes none.
    """
    values = entries(**{has: (64, [9, 4, 2])})
    found = given(tmp_path, values)
    tensors = [planned(f"blk.0.{lacks}.weight", 3, 4, 64)]
    assigned = imatrix.assign(tensors, found)
    source = f"blk.0.{has}.weight"
    assert importance(assigned).name == source
    assert importance(assigned).vector(2).tobytes() == made.expected(*values[source])[2].tobytes()
    assert report(assigned)["instead"] == {f"blk.0.{lacks}.weight": source}
    assert any(f"blk.0.{lacks}.weight (from {source})" in note for note in assigned.notes)
    exact = imatrix.assign(tensors, found, exact=True)
    assert exact.tensors[0].importance is None


def test_who_serves_nobody(tmp_path: Path) -> None:
    """The router, the down projection and k_b of MLA see other inputs: they take nobody's, though
    the columns agree; nor does an entry of another length serve.
    """
    values = entries(ffn_up=(64, [9]), attn_kv_b=(64, [3]), ffn_gate_exps=(32, [2]))
    names = ("ffn_down", "ffn_gate_inp", "attn_k_b", "ffn_up_exps")
    tensors = [planned(f"blk.0.{name}.weight", 4, 64) for name in names]
    known = [planned("blk.0.ffn_up.weight", 4, 64)]
    assigned = imatrix.assign(tensors + known, given(tmp_path, values))
    assert [t.importance is None for t in assigned.tensors] == [True] * 4 + [False]
    assert "4 tensors without importance" in assigned.warnings[0]
    assert report(assigned)["unmatched"] == ["blk.0.attn_kv_b.weight"]


def test_mla_parts(tmp_path: Path) -> None:
    """kv_b's vector serves every head of v_b; the mean over the heads of v_b serves kv_b; heads
    measured as one serve each of them.
    """
    values = entries(attn_kv_b=(64, [3]))
    assigned = imatrix.assign([planned("blk.0.attn_v_b.weight", 4, 8, 64)], given(tmp_path, values))
    whole = made.expected(*values["blk.0.attn_kv_b.weight"])
    for head in (0, 3):
        assert importance(assigned).vector(head).tobytes() == whole[0].tobytes()
    values = entries(attn_v_b=(64, [3, 3]))
    assigned = imatrix.assign([planned("blk.0.attn_kv_b.weight", 32, 64)], given(tmp_path, values))
    whole = made.expected(*values["blk.0.attn_v_b.weight"])
    np.testing.assert_array_equal(importance(assigned).vector(0), (whole[0] + whole[1]) / 2)
    values = entries(attn_k_b=(32, [3]))
    assigned = imatrix.assign([planned("blk.0.attn_k_b.weight", 4, 8, 32)], given(tmp_path, values))
    assert importance(assigned).vector(3).shape == (32,)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """Tensors without an entry are warned of; those that llama-imatrix never measures (ends of the
    model, MTP blocks) are noted; the JSON lists them all.
    """
    tensors = [
        planned("output.weight", 4, 64),
        planned("token_embd.weight", 4, 64),
        planned(DOWN, 4, 64),
        planned("blk.0.ffn_up.weight", 4, 64),
        planned("blk.7.ffn_up.weight", 4, 64),
        planned("blk.7.nextn.eh_proj.weight", 4, 64, role="NEXTN_EH_PROJ"),
        planned("blk.8.ffn_up.weight", 4, 64),  # a second block, with nothing of its own
    ]
    assigned = imatrix.assign(tensors, given(tmp_path, entries(ffn_down=(64, [9]))))
    notes, warnings = " | ".join(assigned.notes), " | ".join(assigned.warnings)
    assert "1 of 7 tensors" in notes
    assert "output.weight, token_embd.weight without importance" in notes
    assert "3 tensors of MTP blocks" in notes
    assert "1 tensor without importance: blk.0.ffn_up.weight" in warnings
    assert len(report(assigned)["without"]) == 6


def test_experts_that_no_token_reached(tmp_path: Path) -> None:
    """Uncounted experts, and matrices of zeros, are numbered; of a legacy file those that are all
    ones.
    """
    sums, counts = made.entry(EXPERTS, 64, [9, 0, 1, 5])
    sums[3] = 0
    assigned = imatrix.assign(
        [planned(EXPERTS, 4, 2, 64)], given(tmp_path, {EXPERTS: (sums, counts)})
    )
    assert report(assigned)["unrouted"] == {EXPERTS: [1]}
    assert report(assigned)["zero"] == {EXPERTS: [3]}
    assert f"1 in {EXPERTS}" in assigned.warnings[0]
    sums[2] = 7
    (tmp_path / "i.dat").write_bytes(made.legacy({EXPERTS: (sums, 7)}))
    old = imatrix.assign([planned(EXPERTS, 4, 2, 64)], imatrix.read([tmp_path / "i.dat"]))
    assert report(old)["unrouted"] == {EXPERTS: [2]}


def test_entries_of_no_tensor(tmp_path: Path) -> None:
    """An entry that matches nothing is warned of; if none matches it is another model's imatrix."""
    values = entries(ffn_down=(64, [9]), nothing=(64, [9]))
    assigned = imatrix.assign([planned(DOWN, 4, 64)], given(tmp_path, values))
    assert report(assigned)["unmatched"] == ["blk.0.nothing.weight"]
    assert "1 entries of i.gguf are of no tensor" in assigned.warnings[-1]
    with pytest.raises(ImportanceError, match=r"i\.gguf: no entry is of a tensor of this model"):
        imatrix.assign([planned("blk.0.attn_q.weight", 4, 64)], given(tmp_path, values))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1])
def test_values_that_cannot_be(tmp_path: Path, value: float) -> None:
    """NaN, infinity or a negative sum where it would be used names the tensor before anything is
    written; behind a count of zero it is never used.
    """
    sums, counts = made.entry(EXPERTS, 64, [9, 4])
    sums[1, 5] = value
    with pytest.raises(ImportanceError, match=EXPERTS):
        imatrix.assign([planned(EXPERTS, 2, 4, 64)], given(tmp_path, {EXPERTS: (sums, counts)}))
    found = given(tmp_path, {EXPERTS: (sums, [9, 0])})
    assert imatrix.assign([planned(EXPERTS, 2, 4, 64)], found).tensors[0].importance


def test_a_type_that_requires_importance(tmp_path: Path) -> None:
    """The plan refuses such a type without an imatrix, and with one that lacks the tensor."""
    tensor = planned(DOWN, 4, 64)
    tensor = replace(tensor, encoder=replace(tensor.encoder, importance="REQUIRED"))
    with pytest.raises(ImportanceError, match=rf"{DOWN}: Q4_0 needs importance") as caught:
        imatrix.assign([tensor], None)
    assert "--imatrix" in str(caught.value.hint)
    with pytest.raises(ImportanceError, match=r"i\.gguf has none"):
        imatrix.assign([tensor], given(tmp_path, entries(ffn_up=(64, [9]))))
    assert imatrix.assign([planned(DOWN, 4, 64)], None).report is None


def test_examining_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found does not depend on how much is looked at once, within a matrix or over many."""
    sums, counts = made.entry(EXPERTS, 64, [9, 0, 4, 5, 6])
    sums[3] = 0
    sums[4, 7:9] = [np.nan, -3]
    entry = given(tmp_path, {EXPERTS: (sums, counts)}).entries[EXPERTS]
    whole = imatrix.examine(entry)
    assert whole == imatrix.Health(5, 1, 1, 64, (1,), (3,))
    for part in (1, 63, 64, 65, 130):
        monkeypatch.setattr("ggufmix.imatrix.coverage.PART", part)
        assert imatrix.examine(entry) == whole
