"""Model families: a checkpoint's config and tensors to GGUF's keys, names and values. One file per
family.

`place` costs header work only: what it returns are views, and weights are read when their rows are
asked for.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gguf import MODEL_ARCH

from ..errors import ModelError
from ..tensor import Tensor
from . import (
    bamba,
    deepseek2,
    falcon_h1,
    glm4_moe_lite,
    glm4moe,
    glm_moe_dsa,
    gpt_oss,
    granite,
    jamba,
    kimi_linear,
    lfm2,
    llama,
    mamba2,
    nemotron_h,
    qwen2,
    qwen3,
    qwen35,
)
from .claims import Claims
from .config import Config, architecture
from .fused_experts import fuse_gate_up
from .model import Component, Model, Parameters
from .mtp import NOT_BY_BLOCK, draft_head, mtp_layers, without_mtp
from .outer_scales import with_outer_scales
from .vision import VISION_CLASSES, place_vision, wrapper

__all__ = [
    "CLASSES",
    "NOT_BY_BLOCK",
    "VISION_CLASSES",
    "Component",
    "Model",
    "Parameters",
    "draft_head",
    "fuse_gate_up",
    "mtp_layers",
    "place",
    "place_vision",
    "without_mtp",
]

Place = Callable[[MODEL_ARCH, Config, Claims, bool], Model]

CLASSES: dict[str, tuple[MODEL_ARCH, Mapping[str, Any], Place]] = {
    "LlamaForCausalLM": (MODEL_ARCH.LLAMA, llama.LLAMA, llama.place),
    "MistralForCausalLM": (MODEL_ARCH.LLAMA, llama.MISTRAL, llama.place),
    "MixtralForCausalLM": (MODEL_ARCH.LLAMA, llama.MIXTRAL, llama.place),
    "BambaForCausalLM": (MODEL_ARCH.GRANITE_HYBRID, bamba.DEFAULTS, bamba.place),
    "DeepseekV2ForCausalLM": (MODEL_ARCH.DEEPSEEK2, deepseek2.V2, deepseek2.place),
    "DeepseekV3ForCausalLM": (MODEL_ARCH.DEEPSEEK2, deepseek2.V3, deepseek2.place),
    "KimiK25ForConditionalGeneration": (MODEL_ARCH.DEEPSEEK2, deepseek2.V3, deepseek2.place),
    "Glm4MoeLiteForCausalLM": (
        MODEL_ARCH.DEEPSEEK2,
        glm4_moe_lite.DEFAULTS,
        glm4_moe_lite.place,
    ),
    "GlmMoeDsaForCausalLM": (MODEL_ARCH.GLM_DSA, glm_moe_dsa.DEFAULTS, glm_moe_dsa.place),
    "Glm4MoeForCausalLM": (MODEL_ARCH.GLM4_MOE, glm4moe.DEFAULTS, glm4moe.place),
    "GptOssForCausalLM": (MODEL_ARCH.GPT_OSS, gpt_oss.DEFAULTS, gpt_oss.place),
} | {
    hf_class: (arch, family.DEFAULTS[arch], family.place)
    for hf_class, arch, family in (
        ("Mamba2ForCausalLM", MODEL_ARCH.MAMBA2, mamba2),
        ("NemotronHForCausalLM", MODEL_ARCH.NEMOTRON_H, nemotron_h),
        ("Qwen2ForCausalLM", MODEL_ARCH.QWEN2, qwen2),
        ("Qwen2MoeForCausalLM", MODEL_ARCH.QWEN2MOE, qwen2),
        ("Qwen3ForCausalLM", MODEL_ARCH.QWEN3, qwen3),
        ("Qwen3MoeForCausalLM", MODEL_ARCH.QWEN3MOE, qwen3),
        ("FalconH1ForCausalLM", MODEL_ARCH.FALCON_H1, falcon_h1),
        ("GraniteMoeHybridForCausalLM", MODEL_ARCH.GRANITE_HYBRID, granite),
        ("JambaForCausalLM", MODEL_ARCH.JAMBA, jamba),
        ("KimiLinearForCausalLM", MODEL_ARCH.KIMI_LINEAR, kimi_linear),
        ("Lfm2ForCausalLM", MODEL_ARCH.LFM2, lfm2),
        ("Lfm2MoeForCausalLM", MODEL_ARCH.LFM2MOE, lfm2),
        ("Qwen3NextForCausalLM", MODEL_ARCH.QWEN3NEXT, qwen35),
        ("Qwen3_5ForCausalLM", MODEL_ARCH.QWEN35, qwen35),
        ("Qwen3_5ForConditionalGeneration", MODEL_ARCH.QWEN35, qwen35),
        ("Qwen3_5MoeForCausalLM", MODEL_ARCH.QWEN35MOE, qwen35),
        ("Qwen3_5MoeForConditionalGeneration", MODEL_ARCH.QWEN35MOE, qwen35),
    )
}
"""Hugging Face class: its GGUF architecture, the defaults of its config class, and the family that
places it.
"""


def place(config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, mtp: bool = True) -> Model:
    """Place a checkpoint in its GGUF architecture.

    config   config.json as it is stored
    tensors  every weight of the checkpoint under its stored name; packed weights count as the one
             they stand for
    mtp      keep multi-token prediction blocks where the checkpoint has them
    Raises ModelError for an unknown class, a config that is incomplete or that llama.cpp would
    compute otherwise, a tensor whose shape does not follow from the config, and tensors that are
    missing or that nothing claims.
    """
    name = architecture(config)
    if name not in CLASSES:
        raise ModelError(
            f"config.json: architecture {name!r} is not known here; known are {', '.join(CLASSES)}",
            hint="a GGUF of it that another tool made will do: give its path as SRC",
        )
    arch, defaults, family = CLASSES[name]
    claims = Claims(tensors, mmproj=wrapper(config) in VISION_CLASSES)
    return with_outer_scales(family(arch, Config(config, defaults), claims, mtp))
