"""DeepSeek, Kimi, GLM-4.5 and gpt-oss: their true scale, and what is decided about them."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import CASES, write
from listings import Listed, listing
from mixtures import Glm, GlmDsa, GptOss, Latent, Mixture
from plain_gguf import write_f32

from ggufmix import models, runtime
from ggufmix.errors import ModelError
from ggufmix.models import Model
from ggufmix.runtime import Llama, kl
from ggufmix.sources import open_checkpoint
from ggufmix.tensor import Tensor, held

Placed = Callable[..., Model]


@pytest.mark.parametrize(
    ("model", "kind", "hf_class", "config"),
    [
        (
            "DeepSeek-V3.1-Terminus",
            Latent,
            "DeepseekV3ForCausalLM",
            {"num_nextn_predict_layers": 1},
        ),
        (
            "Kimi-K2-Thinking",
            Latent,
            "DeepseekV3ForCausalLM",
            {
                "vocab_size": 163840, "num_attention_heads": 64, "n_routed_experts": 384,
                "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
            },
        ),
        ("GLM-4.7-Flash", Latent, "Glm4MoeLiteForCausalLM", {"first_k_dense_replace": 1}),
        (
            "GLM-4.5-Air",
            Glm,
            "Glm4MoeForCausalLM",
            {"attention_bias": True, "head_dim": 128, "num_nextn_predict_layers": 1},
        ),
        (
            "GLM-4.6",
            Glm,
            "Glm4MoeForCausalLM",
            {
                "attention_bias": True, "head_dim": 128, "num_nextn_predict_layers": 1,
                "use_qk_norm": True, "hidden_size": 5120, "intermediate_size": 12288,
                "moe_intermediate_size": 1536, "n_routed_experts": 160, "num_hidden_layers": 92,
                "first_k_dense_replace": 3,
            },
        ),
        (
            "GLM-5.2",
            partial(GlmDsa, pattern="FFF" + 18 * "SSSF" + "SSSF"),
            "GlmMoeDsaForCausalLM",
            {
                "index_topk_freq": 4, "index_skip_topk_offset": 3, "num_nextn_predict_layers": 1,
            },
        ),
        (
            "gpt-oss-20b.mxfp4",
            GptOss,
            "GptOssForCausalLM",
            {"num_hidden_layers": 24, "num_local_experts": 32},
        ),
    ],
)  # fmt: skip
def test_true_scale_of_mixtures(
    model: str, kind: Callable[..., Mixture], hf_class: str, config: dict[str, Any]
) -> None:
    """Published models at their true size: every name and shape of the GGUF files there are."""
    case = kind("full", hf_class, dict(models.CLASSES[hf_class][1]) | config)
    listed = {p.name: p.tensor.shape for p in listing(model)}
    tensors: dict[str, Tensor] = {n: Listed(n, shape, "BF16") for n, shape in case._shapes()}
    if (last := {"GLM-4.6": 92, "GLM-5.2": 78}.get(model)) is not None:
        for name in ("embed_tokens", "shared_head.head"):  # their MTP blocks have neither
            del tensors[f"model.layers.{last}.{name}.weight"]
    made = models.place(case.raw_config(), tensors).tensors
    assert {p.name: p.tensor.shape for p in made} == listed


def test_notes_of_mixtures(placed: Placed) -> None:
    """What llama.cpp does not have, or does otherwise, is said."""
    left = "left out 44 tensors of MTP blocks, which llama.cpp does not have for this model"
    assert placed("deepseek-v3").notes == [left]
    assert placed("glm4moe-mtp").notes == ["kept 1 MTP block behind the last layer"]
    assert placed("glm4moe-mtp", mtp=False).notes == [
        "left out 44 tensors of 1 MTP block, as asked"
    ]
    case = CASES["deepseek-v2"]
    groups = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}
    (note,) = models.place(case.raw_config() | groups, _held(case.arrays())).notes
    assert note.startswith("topk_method group_limited_greedy: llama.cpp chooses")
    case = CASES["gpt-oss"]
    config = case.raw_config()
    config["rope_scaling"] = {**config["rope_scaling"], "truncate": False}
    (note,) = models.place(config, _held(case.arrays())).notes
    assert note.startswith("rope_scaling truncate: llama.cpp rounds")


@pytest.mark.parametrize("name", ["kimi-wrapped", "gpt-oss", "qwen3-yarn", "glm4moe-norms"])
def test_llama_cpp_takes_no_notice_of_betas(name: str, run: Callable[[Model], np.ndarray]) -> None:
    """Whatever the file says of beta_fast and beta_slow, it computes the same: so that is said."""
    case = CASES[name]
    arrays, config = _held(case.arrays()), case.raw_config()
    text = config.get("text_config", config)
    stated = text.pop("rope_scaling", None) or text.pop("rope_parameters", None) or {}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    logits = []
    for betas in ({}, {"beta_fast": 1.0, "beta_slow": 0.5}):
        text["rope_scaling"] = {**stated, **yarn, **betas}
        model = models.place(config, arrays)
        logits.append(run(model))
    assert (
        "beta_fast 1.0: llama.cpp takes 32 whatever the file says; run it with" in model.notes[-2]
    )
    assert model.notes[-1].endswith("run it with --yarn-beta-slow 0.5")
    np.testing.assert_array_equal(*logits)


def test_further_layers_that_are_no_mtp_block() -> None:
    """Layers beyond those stated are missed by name where nothing joins them as an MTP block is."""
    for name in ("deepseek-v3", "glm4moe-mtp"):
        case = CASES[name]
        arrays = {n: v for n, v in case.arrays().items() if "eh_proj" not in n}
        with pytest.raises(ModelError, match=r"that nothing in .* claims \(model\.layers\.3\."):
            models.place(case.raw_config(), _held(arrays))


def test_queries_that_are_not_latent(placed: Placed) -> None:
    """Null is a value of q_lora_rank, which an absent key is not: that means the class default."""
    case = CASES["deepseek-v3-plain"]
    config = case.raw_config()
    assert config["q_lora_rank"] is None
    assert "blk.0.attn_q.weight" in {p.name for p in placed("deepseek-v3-plain").tensors}
    del config["q_lora_rank"]
    with pytest.raises(ModelError, match="q_a_proj"):
        models.place(config, _held(case.arrays()))


def test_mtp_blocks_that_share_the_embedding(tmp_path: Path) -> None:
    """An MTP block without an embedding and an output matrix of its own uses the model's."""
    case = CASES["glm4moe-mtp"]
    own = ("layers.3.embed_tokens.", "layers.3.shared_head.head.")
    arrays = {n: v for n, v in case.arrays().items() if not any(o in n for o in own)}
    model = models.place(case.raw_config(), _held(arrays))
    assert len(case.arrays()) - len(arrays) == 2
    Llama(write_f32(model, tmp_path / "shared.gguf"), mtp=True).close()


def test_the_option_that_a_note_names(
    run: Callable[[Model], np.ndarray],
    tokens: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With beta_fast 1, as in Kimi-K2, llama.cpp computes another model, unless it is told so."""
    import torch
    import transformers

    case = CASES["deepseek-v3"]
    config = case.raw_config()
    config["rope_scaling"] = {**config["rope_scaling"], "beta_fast": 1.0}
    stored = write(tmp_path / "stored", config, case.arrays())
    theirs = transformers.DeepseekV3ForCausalLM.from_pretrained(stored, dtype=torch.float32)
    with torch.no_grad():
        want = theirs.eval()(torch.tensor([tokens])).logits[0].numpy()
    model = models.place(config, _held(case.arrays()))
    assert model.notes[-1].endswith("run it with --yarn-beta-fast 1.0")
    assert kl(want, run(model)) > 1e-2

    defaults = runtime._context_defaults

    def told() -> runtime._Opaque:
        params = defaults()
        raw = (ctypes.c_ubyte * ctypes.sizeof(params)).from_buffer(params)
        unset = struct.pack("<6f", 0, 0, -1, -1, -1, -1)  # rope base and scale, four of YaRN
        assert bytes(raw).count(unset) == 1
        at = bytes(raw).index(unset) + 16
        raw[at : at + 4] = struct.pack("<f", 1)
        return params

    monkeypatch.setattr(runtime, "_context_defaults", told)
    assert kl(want, run(model)) < 1e-6


@pytest.mark.parametrize("name", ["glm-dsa", "glm-dsa-shared-mtp"])
def test_the_indexer_chooses(
    name: str, tokens: list[int], tmp_path: Path, run: Callable[[Model], np.ndarray]
) -> None:
    """Where 64 tokens are attended to, llama.cpp chooses what transformers does, but for choices
    that rounding decides: it keeps keys in F16. A wrong indexer chooses others.
    """
    import torch
    import transformers

    case = CASES[name]
    config = case.raw_config() | {"index_topk": 64}
    stored = write(tmp_path / "stored", config, case.arrays())
    theirs = transformers.GlmMoeDsaForCausalLM.from_pretrained(stored, dtype=torch.float32)
    with torch.no_grad():
        want = theirs.eval()(torch.tensor([tokens])).logits[0].numpy()
    model = models.place(config, _held(case.arrays()))
    assert kl(want, run(model)) < 0.02
    for part in ("indexer.attn_k.", "indexer.attn_q_b.", "indexer.proj.", "indexer.k_norm.weight"):
        turned = [
            replace(p, tensor=held(p.name, p.tensor.all()[::-1].copy())) if part in p.name else p
            for p in model.tensors
        ]
        assert kl(want, run(replace(model, tensors=turned))) > 0.04, part


@pytest.mark.parametrize(
    ("changed", "chooses"),
    [
        ({}, [True, True, True]),
        ({"index_topk_freq": 2}, [True, True, False]),
        ({"index_topk_freq": 4, "index_skip_topk_offset": 1}, [True, False, False]),
        ({"index_topk_pattern": "FSF"}, [True, False, True]),
        ({"index_topk_pattern": ["full", "shared", "full"]}, [True, False, True]),
        ({"index_topk_pattern": "FSF", "indexer_types": ["full"] * 3}, [True, True, True]),
    ],
)
def test_layers_that_choose(changed: dict[str, Any], chooses: list[bool]) -> None:
    """The ways to say which layers have an indexer, as transformers understands them."""
    import transformers

    case = CASES["glm-dsa"]
    config = case.raw_config() | changed
    theirs = transformers.GlmMoeDsaConfig(**config).indexer_types
    assert [kind == "full" for kind in theirs] == chooses
    arrays = {
        name: values
        for name, values in case.arrays().items()
        if ".indexer." not in name or chooses[int(name.split(".")[2])]
    }
    values = models.place(config, _held(arrays)).values
    assert values["glm-dsa.attention.indexer.types"].data == chooses


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"indexer_types": ["full"] * 2}, "indexer_types: expected 3 of full and shared"),
        ({"indexer_types": ["shared"] * 3}, "the first full, got"),
        ({"index_topk_pattern": "FSX"}, "expected 3 of F and S, the first F, got 'FSX'"),
        ({"index_topk_freq": 2}, "that nothing in glm-dsa claims"),
        ({"index_topk_freq": "2"}, "index_topk_freq: expected a whole number"),
        ({"index_n_heads": 5}, r"indexer.wq_b.weight: expected shape \[320, 48\]"),
    ],
)
def test_indexers_that_make_no_sense(changed: dict[str, Any], message: str) -> None:
    """Lists of layers that do not fit, and sizes that do not."""
    case = CASES["glm-dsa"]
    with pytest.raises(ModelError, match=message):
        models.place(case.raw_config() | changed, _held(case.arrays()))


@pytest.mark.parametrize(
    "name", ["deepseek-v3", "kimi-wrapped", "glm4moe-mtp", "glm4moe-lite-mtp", "glm-dsa", "gpt-oss"]
)
def test_what_transformers_saves(name: str, placed: Placed, tmp_path: Path) -> None:
    """A checkpoint that went through transformers, as fine-tunes do, is the same model, without
    its MTP blocks.
    """
    import torch
    import transformers

    case = CASES[name].plain()
    stored = write(tmp_path / "stored", case.raw_config(), case.arrays())
    kind = getattr(transformers, case.hf_class)
    kind.from_pretrained(stored, dtype=torch.bfloat16).save_pretrained(tmp_path / "saved")
    want = placed(name, mtp=False)
    with open_checkpoint(tmp_path / "saved") as checkpoint:
        model = models.place(checkpoint.config, checkpoint.tensors)
        assert model.values == want.values
        assert {p.name for p in model.tensors} == {p.name for p in want.tensors}
        theirs = {p.name: p.tensor.all() for p in model.tensors}
    for p in want.tensors:
        np.testing.assert_array_equal(theirs[p.name], p.tensor.all(), p.name)


def test_the_wrapper_alone_names_its_class() -> None:
    """Kimi-K2.5's text model need not name a class of its own."""
    case = CASES["kimi-wrapped"]
    config = case.raw_config()
    del config["text_config"]["architectures"]
    assert models.place(config, _held(case.arrays())).arch == "deepseek2"


def _held(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: held(name, values) for name, values in arrays.items()}
