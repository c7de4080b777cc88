"""A checkpoint as Kimi-K2.5 comes: wrapper class, config of the packing under text_config, ranks in
tiktoken.model, experts packed by compressed-tensors with BF16 scales; from folder to file.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import packings
import pytest
import torch
from checkpoints import CASES, noise
from packed_models import PACKINGS, write
from sources import build
from tokenizer import ranks

import ggufmix
from ggufmix.inspection import inspect
from ggufmix.runtime import Llama, kl

CASE = CASES["kimi-wrapped"]
ROWS = ranks.N + 256
RECIPES = {"q4_x": "Q4_0", "q4_x-lossless": "Q4_0", "q8_0": "Q8_0"}
N_TOKENS = 128

Kimi = tuple[Path, packings.Arrays, packings.Arrays]


@pytest.fixture(scope="module")
def kimi(tmp_path_factory: pytest.TempPathFactory) -> Kimi:
    """The checkpoint's folder, of three shards; its tensors; and its values in float32."""
    case = replace(CASE, config={**CASE.config, "vocab_size": ROWS, "eos_token_id": ranks.N + 2})
    config, arrays, plain = PACKINGS["kimi-k25"].checkpoint(case)
    folder = ranks.cases()["ranks-wrapped"].write(tmp_path_factory.mktemp("kimi"))
    build.write_json(folder / "config.json", config)
    names, listed = list(arrays), {}
    for i in range(3):
        file = f"model-{i + 1:05}-of-00003.safetensors"
        part = names[i::3]  # a weight, its scales and its shape in three files
        build.weights(folder / file, {name: arrays[name] for name in part})
        listed |= dict.fromkeys(part, file)
    build.write_json(folder / "model.safetensors.index.json", {"weight_map": listed})
    return folder, arrays, plain


@pytest.fixture(scope="module")
def twin(kimi: Kimi, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Logits of the dequantized text model, by transformers in float32."""
    import transformers

    own = "language_model."
    plain = {n.removeprefix(own): v for n, v in kimi[2].items() if n.startswith(own)}
    config = CASE.plain().raw_config() | {"vocab_size": ROWS}
    stored = write(tmp_path_factory.mktemp("twin"), config, plain)
    theirs, said = transformers.DeepseekV3ForCausalLM.from_pretrained(
        stored, dtype=torch.float32, output_loading_info=True
    )
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        return theirs.eval()(torch.tensor([tokens()])).logits[0].numpy()


def tokens() -> list[int]:
    return [int(ranks.N * abs(u)) for u in noise("kimi", (N_TOKENS,))]


def codes_and_scales(data: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """What blocks of Q4_0 or Q8_0 hold, by their layout: codes, int8, and scales, float16."""
    blocks = data.reshape(*data.shape[:-1], -1, 18 if kind == "Q4_0" else 34)
    scales = blocks[..., :2].copy().view(np.float16)[..., 0]
    if kind == "Q8_0":
        return blocks[..., 2:].view(np.int8), scales
    both = blocks[..., 2:]
    return np.concatenate([both & 15, both >> 4], axis=-1).astype(np.int8) - 8, scales


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_group_is_the_checkpoints(
    kimi: Kimi, twin: np.ndarray, tmp_path: Path, recipe: str
) -> None:
    """Every code and every scale in the file is bit by bit what compressed-tensors unpacks; and
    llama.cpp computes from it what transformers computes of the dequantized model.
    """
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    folder, arrays, _ = kimi
    out = tmp_path / "x.gguf"
    result = ggufmix.convert(folder, out, recipe)
    assert not result.inexact
    found = {t.name: t for t in gguf.GGUFReader(out).tensors}
    checked = 0
    for name, packed in arrays.items():
        if not name.endswith(".weight_packed"):
            continue
        stem = name.removesuffix(".weight_packed")
        layer, expert, part = (stem.split(".")[k] for k in (-5, -2, -1))
        tensor = found[f"blk.{layer}.ffn_{part.removesuffix('_proj')}_exps.weight"]
        assert tensor.tensor_type.name == RECIPES[recipe]
        codes, scales = codes_and_scales(tensor.data[int(expert)], RECIPES[recipe])
        shape = torch.Size(arrays[f"{stem}.weight_shape"].tolist())
        want = unpack_from_int32(torch.from_numpy(packed.copy()), 4, shape).numpy()
        np.testing.assert_array_equal(codes.reshape(want.shape), want)
        stated = arrays[f"{stem}.weight_scale"].astype(np.float32)
        np.testing.assert_array_equal(scales.astype(np.float32), stated)
        checked += want.size
    assert checked == sum(int(t.n_elements) for name, t in found.items() if "_exps.weight" in name)
    rest = {t.tensor_type.name for n, t in found.items() if "_exps.weight" not in n}
    assert rest == ({"BF16", "F32"} if recipe == "q4_x-lossless" else {"Q8_0", "BF16", "F32"})
    with Llama(out, N_TOKENS) as llama:
        assert llama.n_vocab == ROWS
        assert llama.tokenize("Hello there") == ranks.ids(ranks.ranks(), {}, "Hello there")
        bound = 5e-4 if recipe == "q4_x-lossless" else 3e-3  # llama.cpp rounds activations
        assert kl(twin, llama.logits(tokens())) < bound


def test_the_lossless_file_loses_nothing(kimi: Kimi, tmp_path: Path) -> None:
    """q4_x-lossless: the values of the whole file are those of the recipe f32."""
    values = []
    for recipe in ("q4_x-lossless", "f32"):
        out = tmp_path / f"{recipe}.gguf"
        ggufmix.convert(kimi[0], out, recipe)
        values.append(
            {
                t.name: gguf.quants.dequantize(t.data, t.tensor_type)
                for t in gguf.GGUFReader(out).tensors
            }
        )
    ours, wide = values
    assert ours.keys() == wide.keys()
    for name, want in wide.items():
        np.testing.assert_array_equal(ours[name], want, name)


def test_what_inspect_says_of_it(kimi: Kimi) -> None:
    """How many weights are packed, how, and that all groups are exact."""
    folder, arrays, _ = kimi
    found = inspect(folder, scan=True)
    scales = [v for n, v in arrays.items() if n.endswith("weight_scale")]
    assert found["packed"] == f"{len(scales)} INT4: codes and scales carried over as Q4_0"
    assert (found["exact_groups"], found["inexact_groups"]) == (sum(v.size for v in scales), 0)
    assert scales[0].dtype == ml_dtypes.bfloat16
