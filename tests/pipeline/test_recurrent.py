"""Nemotron-H, Bamba and Kimi Linear from a checkpoint's folder to a file that llama.cpp runs."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import pytest
from checkpoints import CASES, noise, write
from tokenizer import cases, ranks

import ggufmix
from ggufmix.pipeline import Options
from ggufmix.runtime import Llama, kl

BYTE_LEVEL = cases.Case(cases.tokenizer(), {"eos_token": "<|endoftext|>"})
VOCABULARIES = {"kimi-linear": ranks.cases()["ranks-named-end"]}
F32 = (".ssm_a", ".ssm_d", ".ssm_dt.bias", ".ssm_norm.weight", ".ssm_conv1d")
GATES = (".ssm_f_a.weight", ".ssm_f_b.weight", ".ssm_beta.weight")
NEAR = {"q8_0": 0.1, "q4_k_m": 1.0}  # nats per token; these are weights of noise


@pytest.mark.parametrize("name", ["nemotron-h", "nemotron-h-latent", "bamba", "kimi-linear"])
def test_from_folder_to_file(name: str, tmp_path: Path) -> None:
    """What the recurrent state is made with stays F32, Kimi's gates BF16, and it runs."""
    vocabulary = VOCABULARIES.get(name, BYTE_LEVEL)
    case = CASES[name]
    case = replace(case, config={**case.config, "vocab_size": vocabulary.rows})
    folder = vocabulary.write(tmp_path / "m")
    write(folder, case.raw_config() | vocabulary.config, case.arrays())
    tokens = [int(300 * abs(u)) for u in noise("text", (128,))]
    logits = {}
    for recipe in ("f32", "q8_0", "q4_k_m"):
        path = tmp_path / f"{recipe}.gguf"
        ggufmix.convert(folder, path, options=Options(recipe=recipe))
        for tensor in gguf.GGUFReader(path).tensors:
            if any(part in tensor.name for part in F32):
                assert tensor.tensor_type.name == "F32", tensor.name
            if recipe != "f32" and tensor.name.endswith(GATES):
                assert tensor.tensor_type.name == "BF16", tensor.name
        with Llama(path) as llama:
            logits[recipe] = llama.logits(tokens)
    for recipe, near in NEAR.items():
        assert 0 < kl(logits["f32"], logits[recipe]) < near
