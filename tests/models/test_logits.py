"""The same model on both sides: llama.cpp on what we place, transformers on the checkpoint."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from checkpoints import CASES
from plain_gguf import write_f32

from ggufmix import models
from ggufmix.models import Model, decoder, delta_net, gpt_oss, latent, qwen35
from ggufmix.runtime import Llama, kl
from ggufmix.sources import open_checkpoint
from ggufmix.tensor import Tensor, held, reshape

BOUND = 1e-6  # nats per token; llama.cpp keeps the cache of keys and values in F16
FAR = 1000 * BOUND

Placed = Callable[..., Model]
Run = Callable[[Model], np.ndarray]
Reference = Callable[[str], np.ndarray]

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-qwen35moe"


@pytest.mark.parametrize("name", CASES)
def test_same_logits(name: str, placed: Placed, run: Run, reference: Reference) -> None:
    """Whatever the class and layout, the file computes what the checkpoint computes."""
    assert kl(reference(name), run(placed(name))) < BOUND


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.mtp])
def test_same_logits_without_mtp(name: str, placed: Placed, run: Run, reference: Reference) -> None:
    """Dropping MTP blocks leaves the model as it is."""
    assert kl(reference(name), run(placed(name, mtp=False))) < BOUND


def test_same_logits_trained(tmp_path: Path) -> None:
    """And so it is for weights that are not noise."""
    import torch
    import transformers

    tokens = list(range(300, 556))
    with open_checkpoint(EXAMPLE) as checkpoint:
        model = models.place(checkpoint.config, checkpoint.tensors)
        path = write_f32(model, tmp_path / "trained.gguf")
    theirs = transformers.Qwen3_5MoeForCausalLM.from_pretrained(EXAMPLE, dtype=torch.float32)
    with torch.no_grad():
        want = theirs.eval()(torch.tensor([tokens])).logits[0].numpy()
    with Llama(path) as llama:
        assert kl(want, llama.logits(tokens)) < BOUND


def again(name: str) -> Model:
    """Place a case anew, whatever has been patched since."""
    case = CASES[name]
    return models.place(case.raw_config(), {k: held(k, v) for k, v in case.arrays().items()})


@pytest.mark.parametrize("name", ["dense-tied", "dense-irregular", "moe-fused"])
def test_order_of_value_heads_shows(
    name: str, run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value heads left grouped by key head make another model."""
    monkeypatch.setattr(delta_net.DeltaNet, "moves", delta_net.Moves())
    assert kl(reference(name), run(again(name))) > FAR


def test_ungrouped_order_shows(
    run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of Qwen3-Next's one matrix for q, k, v and z taken as they lie make another model."""
    rows = (np.arange(256), np.arange(256, 384))
    monkeypatch.setattr(delta_net.DeltaNet, "ungrouped", rows)
    assert kl(reference("next-one-by-one-mtp"), run(again("next-one-by-one-mtp"))) > FAR


@pytest.mark.parametrize("name", ["dense-tied", "moe-fused", "next-wide"])
def test_plus_one_shows(
    name: str, run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms without their one make another model."""
    monkeypatch.setattr(qwen35, "NORM", ())
    assert kl(reference(name), run(again(name))) > FAR


def test_minus_exp_shows(run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decays in another base make another model."""
    monkeypatch.setattr(delta_net, "minus_exp", lambda x: -np.exp2(x))
    assert kl(reference("dense-tied"), run(again("dense-tied"))) > FAR


@pytest.mark.parametrize("name", ["llama", "mixtral", "llama3-tied"])
def test_pairs_of_rows_show(
    name: str, run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of q and k left with half a head between what turns together make another model."""
    monkeypatch.setattr(decoder, "in_pairs", lambda heads, head, _: np.arange(heads * head))
    assert kl(reference(name), run(again(name))) > FAR


def test_pairs_of_biases_show(
    run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So do their biases."""
    monkeypatch.setattr(decoder, "take_columns", lambda tensor, _: tensor)
    assert kl(reference("llama-biases"), run(again("llama-biases"))) > FAR


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("llama3-tied", "rope_freqs."),
        ("llama-longrope", "rope_factors_long."),
        ("llama-longrope", ".attn_factor"),
        ("llama", ".scaling.factor"),
        ("qwen3-yarn", ".attn_factor"),
        ("qwen2", "attn_k.bias"),
        ("deepseek-v3", ".yarn_log_multiplier"),
        ("deepseek-v3", "exp_probs_b."),
        ("deepseek-v3", ".expert_weights_scale"),
        ("deepseek-v3-as-saved", ".expert_gating_func"),
        ("glm4moe-norms", "attn_k_norm."),
        ("glm4moe-norms", ".expert_weights_norm"),
        ("glm4moe-mtp", "attn_q.bias"),
    ],
)
def test_what_llama_cpp_would_do_without_shows(
    name: str, part: str, placed: Placed, run: Run, reference: Reference
) -> None:
    """Factors, keys and biases that llama.cpp would do without make another model without them."""
    model = placed(name)
    tensors = [p for p in model.tensors if part not in p.name]
    values = {key: value for key, value in model.values.items() if part not in key}
    assert (tensors, values) != (model.tensors, model.values)
    rest = replace(model, tensors=tensors, values=values)
    assert kl(reference(name), run(rest)) > FAR


@pytest.mark.parametrize(
    "name",
    [
        "moe-fused",
        "moe-one-by-one",
        "dense-tied",
        "llama",
        "mixtral",
        "qwen2moe",
        "qwen3moe",
        "deepseek-v3",
        "glm4moe-norms",
        "gpt-oss",
    ],
)
def test_gate_and_up_show(name: str, placed: Placed, run: Run, reference: Reference) -> None:
    """Gate and up exchanged make another model."""
    kind = "exps." if CASES[name].moe else "."
    sides = {f"ffn_gate{'_' * CASES[name].moe}{kind}": f"ffn_up{'_' * CASES[name].moe}{kind}"}
    sides |= {up: gate for gate, up in sides.items()}

    def other(path: str) -> str:
        side = next((s for s in sides if s in path), None)
        return path.replace(side, sides[side]) if side else path

    model = placed(name)
    swapped = replace(model, tensors=[replace(p, name=other(p.name)) for p in model.tensors])
    assert {p.name for p in swapped.tensors} == {p.name for p in model.tensors}
    assert kl(reference(name), run(swapped)) > FAR


def as_it_lies(tensor: Tensor) -> Tensor:
    """The values of a transposed tensor without the transposition."""
    *outer, rows, cols = tensor.shape
    return reshape(tensor, (*outer, cols, rows))


@pytest.mark.parametrize(
    ("name", "family"),
    [("deepseek-v3", latent), ("deepseek-v2", latent), ("gpt-oss", gpt_oss)],
)
def test_transposition_shows(
    name: str, family: ModuleType, run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of latent attention, and experts of gpt-oss, left as they lie make another model."""
    monkeypatch.setattr(family, "transpose", as_it_lies)
    assert kl(reference(name), run(again(name))) > FAR


def test_keys_and_values_of_each_head_show(
    run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of all heads taken before the values of all make another model."""
    halves = (np.arange(64), np.arange(64, 160))
    monkeypatch.setattr(latent, "split", lambda *_: halves)
    assert kl(reference("deepseek-v3"), run(again("deepseek-v3"))) > FAR


def test_gate_and_up_in_turn_show(
    run: Run, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gates taken as the first half of gpt-oss's columns make another model."""
    halves = (np.arange(96), np.arange(96, 192))
    monkeypatch.setattr(gpt_oss, "in_turn", lambda _: halves)
    assert kl(reference("gpt-oss"), run(again("gpt-oss"))) > FAR


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("gpt-oss", ".attn_sinks."),
        ("gpt-oss", ".attn_output.bias"),
        ("gpt-oss", ".ffn_gate_inp.bias"),
        ("gpt-oss", ".ffn_gate_exps.bias"),
        ("gpt-oss", ".ffn_up_exps.bias"),
        ("gpt-oss", ".ffn_down_exps.bias"),
        ("glm4moe-norms", ".exp_probs_b."),
    ],
)
def test_what_llama_cpp_needs_shows(
    name: str, part: str, placed: Placed, run: Run, reference: Reference
) -> None:
    """Sinks and biases without which llama.cpp loads no file make another model if they are 0."""
    model = placed(name)
    assert any(part in p.name for p in model.tensors)
    zeros = [
        replace(p, tensor=held(p.name, np.zeros(p.tensor.shape, np.float32)))
        if part in p.name
        else p
        for p in model.tensors
    ]
    assert kl(reference(name), run(replace(model, tensors=zeros))) > FAR


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("deepseek-v3-plain", "deepseek2.attention.q_lora_rank"),
        ("gpt-oss", "gpt-oss.attention.sliding_window"),
    ],
)
def test_llama_cpp_needs_the_key(name: str, key: str, placed: Placed, run: Run) -> None:
    """llama.cpp loads no file without it; the rank of latent queries its converter leaves out."""
    model = placed(name)
    values = {k: v for k, v in model.values.items() if k != key}
    with pytest.raises(RuntimeError, match=f"key not found in model: {key}"):
        run(replace(model, values=values))


def test_llama_cpp_needs_the_list_of_irregular_layers(placed: Placed, run: Run) -> None:
    """Without our list of layer kinds llama.cpp looks for tensors that are not there."""
    model = placed("dense-irregular")
    values = {k: v for k, v in model.values.items() if "recurrent_layers" not in k}
    with pytest.raises(RuntimeError, match=r"blk\.0\.ssm_conv1d\.weight' not found"):
        run(replace(model, values=values))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.mtp])
def test_llama_cpp_loads_mtp_blocks(name: str, placed: Placed, tmp_path: Path) -> None:
    """The blocks for multi-token prediction are whole: llama.cpp loads them, and checks."""
    model = placed(name)
    Llama(write_f32(model, tmp_path / "whole.gguf"), mtp=True).close()
    last = CASES[name].config["num_hidden_layers"]
    lost = next(p for p in model.tensors if p.layer == last and p.role == "ATTN_OUT")
    rest = replace(model, tensors=[p for p in model.tensors if p is not lost])
    with pytest.raises(RuntimeError, match=lost.name):
        Llama(write_f32(rest, tmp_path / "lost.gguf"), mtp=True)


def test_mtp_tensors_need_their_key(placed: Placed, run: Run) -> None:
    """llama.cpp refuses blocks that no key announces."""
    kept, dropped = placed("dense-wrapped-mtp"), placed("dense-wrapped-mtp", mtp=False)
    with pytest.raises(RuntimeError, match="wrong number of tensors"):
        run(replace(kept, values=dropped.values))
