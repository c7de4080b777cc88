"""Gate and up of stacked experts in one tensor: the same model to llama.cpp, where it looks for it,
and not a bit lost on the way.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import CASES, noise
from plain_gguf import write_f32
from sources.gguf_build import blocks_of

from ggufmix import models
from ggufmix.codecs import FORMATS
from ggufmix.errors import ModelError, UsageError
from ggufmix.models import Model, fused_experts
from ggufmix.runtime import Llama, kl
from ggufmix.tensor import BF16, Placed, Tensor, held, join_rows, stack, take_rows

Placing = Callable[..., Model]
Run = Callable[[Model], np.ndarray]

STACKED = ("FFN_GATE_EXP", "FFN_UP_EXP")


def mixtures(*, fuses: bool) -> list[str]:
    """Cases that have experts with a gate, of architectures that fuse or of those that do not."""
    found = {}
    for name, case in CASES.items():
        tensors = {k: held(k, v) for k, v in case.arrays().items()}
        model = models.place(case.raw_config(), tensors)
        if {p.role for p in model.tensors} >= set(STACKED):
            found[name] = model.arch in fused_experts.FUSES
    return [name for name, does in found.items() if does is fuses]


def fused(model: Model) -> Model:
    """The same model with gates and ups in one tensor."""
    return replace(model, tensors=models.fuse_gate_up(model.arch, model.tensors))


@pytest.mark.parametrize("name", mixtures(fuses=True))
def test_llama_cpp_computes_the_same(name: str, placed: Placing, run: Run) -> None:
    """A fused file is the model it was: no logit moves by more than the order of a sum."""
    model = placed(name)
    whole, both = run(model), run(fused(model))
    assert kl(whole, both) < 1e-9
    np.testing.assert_allclose(whole, both, atol=1e-3)


@pytest.mark.parametrize("name", mixtures(fuses=True))
def test_gate_lies_in_front_of_up(name: str, placed: Placing) -> None:
    """Rows of the gate first, for every expert: the other way round would run, and say nonsense.
    All other tensors stay as they are.
    """
    model = placed(name)
    before, after = ({p.name: p for p in m.tensors} for m in (model, fused(model)))
    for n, p in before.items():
        if p.role == "FFN_GATE_EXP":
            up = before[n.replace("gate", "up")].tensor.all()
            want = np.concatenate([p.tensor.all(), up], axis=1)
            both = after.pop(n.replace("gate", "gate_up"))
            np.testing.assert_array_equal(both.tensor.all(), want)
            assert (both.role, both.layer) == ("FFN_GATE_UP_EXP", p.layer)
            assert both.tensor.dtype == p.tensor.dtype
        elif p.role != "FFN_UP_EXP":
            assert after.pop(n) is p
    assert not after


@pytest.mark.parametrize("name", mixtures(fuses=False))
def test_elsewhere_llama_cpp_misses_the_experts(
    name: str, placed: Placing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by name where llama.cpp does not load such a file, and only there."""
    model = placed(name)
    with pytest.raises(UsageError, match=r"llama\.cpp does not look for fused experts in"):
        fused(model)
    monkeypatch.setattr(fused_experts, "FUSES", (model.arch,))
    if any("_exps.bias" in p.name for p in model.tensors):
        with pytest.raises(UsageError, match=r"ffn_gate_exps\.bias: llama\.cpp has no place for"):
            fused(model)
        return
    path = write_f32(fused(model), tmp_path / "fused.gguf")
    with pytest.raises(RuntimeError, match=r"ffn_(gate|up)_exps\.weight' not found"):
        Llama(path)


def test_nothing_to_fuse(placed: Placing) -> None:
    """A model without experts, and one that has them fused already, say so."""
    model = fused(placed("moe-fused"))
    with pytest.raises(UsageError, match="apart, this model has them fused"):
        fused(model)
    dense = [p for p in model.tensors if "_EXP" not in p.role]
    with pytest.raises(UsageError, match="apart, this model has none"):
        models.fuse_gate_up("qwen35moe", dense)


class Stored(Tensor):
    """Rows of blocks of some type."""

    def __init__(self, name: str, kind: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape, self.dtype = name, shape, np.dtype(np.float32)
        self.format = FORMATS[kind]
        self.raw = blocks_of(kind, self.n_rows, self.cols, seed=len(name))

    def rows(self, start: int, stop: int) -> np.ndarray:
        raise AssertionError(f"its blocks do, not rows {start} to {stop}")

    def blocks(self, start: int, stop: int) -> np.ndarray:
        return self.raw[start:stop]


def pair(gate: Tensor, up: Tensor, *more: str) -> list[Placed]:
    """One block's experts, and further tensors beside its gate."""
    names = ("ffn_gate_exps.weight", "ffn_up_exps.weight", *more)
    tensors = (gate, up, *[held(m, np.ones(3, np.float32)) for m in more])
    return [
        Placed(f"blk.7.{name}", STACKED["up" in name], 7, tensor)
        for name, tensor in zip(names, tensors, strict=True)
    ]


@pytest.mark.parametrize("kind", ["Q4_0", "Q6_K", "MXFP4", "IQ1_M"])
def test_blocks_come_through(kind: str) -> None:
    """INT4 and quantized GGUF files are moved, never decoded."""
    shapes = (3, 5, 256), (3, 5, 256)
    gate, up = (Stored(n, kind, s) for n, s in zip(("gate", "u"), shapes, strict=True))
    [made] = models.fuse_gate_up("deepseek2", pair(gate, up))
    assert (made.name, made.tensor.format) == ("blk.7.ffn_gate_up_exps.weight", FORMATS[kind])
    want = np.concatenate([gate.raw.reshape(3, 5, -1), up.raw.reshape(3, 5, -1)], axis=1)
    for start, stop in ((0, 30), (4, 6), (9, 21), (7, 8)):
        got = made.tensor.blocks(start, stop)
        np.testing.assert_array_equal(got, want.reshape(30, -1)[start:stop])


def test_what_one_tensor_cannot_hold() -> None:
    """Two types, or a scale beside either half: refused, never decoded and never dropped."""
    shape = (3, 5, 256)
    four, six = Stored("gate", "Q4_K", shape), Stored("up", "Q6_K", shape)
    with pytest.raises(UsageError, match=r"gate_exps.* stored as Q4_K, .*up_exps.* as Q6_K: one"):
        models.fuse_gate_up("deepseek2", pair(four, six))
    plain = held("up", np.ones(shape, np.float32))
    with pytest.raises(UsageError, match=r"as Q4_K, .* as float32: one tensor"):
        models.fuse_gate_up("deepseek2", pair(four, plain))
    both = [Stored(n, "NVFP4", shape) for n in ("gate", "up")]
    for half in both:
        half.outer_scale = held("scale", np.ones(3, np.float32))
    with pytest.raises(UsageError, match="are NVFP4, each with a scale of its own"):
        models.fuse_gate_up("qwen35moe", pair(both[0], both[1]))
    scales = ("ffn_gate_exps.scale", "ffn_up_exps.scale")
    with pytest.raises(UsageError, match=r"ffn_gate_exps\.scale: llama\.cpp has no place for it"):
        models.fuse_gate_up("qwen35moe", pair(four, four, *scales))


def test_halves_of_two_float_types() -> None:
    """F16 beside BF16 becomes F32, which holds both."""
    gate = held("gate", noise("g", (2, 3, 32)).astype(BF16))
    up = held("up", noise("u", (2, 3, 32)).astype(np.float16))
    [made] = models.fuse_gate_up("qwen3next", pair(gate, up))
    want = np.concatenate([x.all().astype(np.float32) for x in (gate, up)], axis=1)
    assert made.tensor.dtype == np.float32
    np.testing.assert_array_equal(made.tensor.all(), want)


def test_joined_rows() -> None:
    """Any band, any number of parts of any height; a faulty row is named by what has it."""
    heights = (2, 5, 1)
    parts = [
        stack([held(f"{h}-{i}", noise(f"{h}-{i}", (h, 4))) for i in range(3)]) for h in heights
    ]
    made, want = join_rows(parts), np.concatenate([p.all() for p in parts], axis=1)
    assert made.shape == (3, 8, 4)
    for start in range(24):
        for stop in range(start + 1, 25):
            np.testing.assert_array_equal(made.rows(start, stop), want.reshape(-1, 4)[start:stop])
    names = [made.origin(row).name for row in range(24)]
    assert names == [f"{h}-{i}" for i in range(3) for h in heights for _ in range(h)]
    with pytest.raises(ModelError, match=r"x: expected .* but for the rows, as 2-0 is, got"):
        join_rows([parts[0], held("x", np.ones((3, 4, 5), np.float32))])


def test_units_are_those_of_both() -> None:
    """Bands that are cheap for either half: 128 rows of FP8 blocks stay together."""
    index = np.arange(512)
    gate, up = (
        take_rows(held(n, np.ones((512, 4), np.float32)), index, (2, 256, 4), unit=u)
        for n, u in (("gate", 128), ("up", 64))
    )
    assert join_rows([gate, up]).unit == 64
