"""Tiny checkpoints with a vision tower: those classes whose projector `--mmproj` writes. Of the
language model they have two tensors, which are none of the tower's business.

Names and shapes are those of the published checkpoints, written down a second time apart from
ggufmix/models/vision. The embeddings are as wide as those of examples/tiny-qwen35moe, so that
llama.cpp takes the two together.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny import Arrays, Case, Shapes, weights, write

TEXT_HIDDEN = 256
_LOUD = ("qkv.weight", "gate_proj.weight")  # attention that is not flat, gates that are not even


@dataclass(frozen=True)
class Vision(Case):
    """A checkpoint with a tower. `config`: vision_config; `text`: more of text_config."""

    model_type: str = ""
    preprocessor: dict[str, Any] | None = None
    text_class: str | None = None

    def raw_config(self) -> dict[str, Any]:
        """config.json."""
        text = {"hidden_size": TEXT_HIDDEN, "vocab_size": 64}
        text |= {"architectures": [self.text_class]} if self.text_class else {}
        return {
            "architectures": [self.hf_class],
            "model_type": self.model_type,
            "text_config": text,
            "vision_config": dict(self.config),
        }

    def preprocessor_config(self) -> dict[str, Any]:
        """preprocessor_config.json."""
        half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
        return half if self.preprocessor is None else self.preprocessor

    def of_images(self) -> dict[str, Any]:
        """What it says of preparing images, as llama.cpp's converter reads it."""
        said = self.preprocessor_config()
        return {**said, **said.get("media_proc_cfg", {})}

    def arrays(self) -> Arrays:
        """Every tensor under its stored name."""
        shapes = {"qwen": _qwen, "glm": _glm, "kimi": _kimi}[self.name.split("-")[0]]
        made = {
            name: weights(name, shape, self.dtype, norm=1.0)
            * self.dtype.type(8 if name.endswith(_LOUD) else 1)
            for name, shape in shapes(self.config)
        }
        where = "language_model.model." if self.name.startswith("kimi") else "model.language_model."
        made[where + "embed_tokens.weight"] = weights("embed", (64, TEXT_HIDDEN), self.dtype)
        made[where + "norm.weight"] = weights("norm.weight", (TEXT_HIDDEN,), self.dtype)
        return made

    def write(self, directory: Path) -> Path:
        """The checkpoint as a folder."""
        write(directory, self.raw_config(), self.arrays())
        path = directory / "preprocessor_config.json"
        path.write_text(json.dumps(self.preprocessor_config()))
        return directory


def _biased(name: str, rows: int, *cols: int) -> Shapes:
    yield name + ".weight", (rows, *cols)
    yield name + ".bias", (rows,)


def _qwen(c: dict[str, Any]) -> Shapes:
    hidden, width, patch = c["hidden_size"], c["intermediate_size"], c["patch_size"]
    v = "model.visual."
    yield from _biased(v + "patch_embed.proj", hidden, 3, 2, patch, patch)
    yield v + "pos_embed.weight", (c["num_position_embeddings"], hidden)
    for i in range(c["depth"]):
        b = f"{v}blocks.{i}."
        yield from _biased(b + "norm1", hidden)
        yield from _biased(b + "norm2", hidden)
        yield from _biased(b + "attn.qkv", 3 * hidden, hidden)
        yield from _biased(b + "attn.proj", hidden, hidden)
        yield from _biased(b + "mlp.linear_fc1", width, hidden)
        yield from _biased(b + "mlp.linear_fc2", hidden, width)
    yield from _biased(v + "merger.norm", hidden)
    yield from _biased(v + "merger.linear_fc1", 4 * hidden, 4 * hidden)
    yield from _biased(v + "merger.linear_fc2", TEXT_HIDDEN, 4 * hidden)


def _glm(c: dict[str, Any]) -> Shapes:
    hidden, width, patch = c["hidden_size"], c["intermediate_size"], c["patch_size"]
    v, out = "model.visual.", c["out_hidden_size"]
    yield from _biased(v + "patch_embed.proj", hidden, 3, 2, patch, patch)
    yield v + "embeddings.position_embedding.weight", ((c["image_size"] // patch) ** 2, hidden)
    yield v + "post_conv_layernorm.weight", (hidden,)
    yield v + "post_layernorm.weight", (hidden,)
    for i in range(c["depth"]):
        b = f"{v}blocks.{i}."
        yield b + "norm1.weight", (hidden,)
        yield b + "norm2.weight", (hidden,)
        yield b + "attn.qkv.weight", (3 * hidden, hidden)
        if c.get("attention_bias"):
            yield b + "attn.qkv.bias", (3 * hidden,)
        yield b + "attn.proj.weight", (hidden, hidden)
        yield b + "mlp.gate_proj.weight", (out, hidden)
        yield b + "mlp.up_proj.weight", (out, hidden)
        yield b + "mlp.down_proj.weight", (hidden, out)
    yield from _biased(v + "downsample", out, hidden, 2, 2)
    yield v + "merger.proj.weight", (out, out)
    yield from _biased(v + "merger.post_projection_norm", out)
    yield v + "merger.gate_proj.weight", (width, out)
    yield v + "merger.up_proj.weight", (width, out)
    yield v + "merger.down_proj.weight", (out, width)


def _kimi(c: dict[str, Any]) -> Shapes:
    hidden, width, patch = c["vt_hidden_size"], c["vt_intermediate_size"], c["patch_size"]
    v = "vision_tower."
    yield from _biased(v + "patch_embed.proj", hidden, 3, patch, patch)
    sides = (c["init_pos_emb_height"], c["init_pos_emb_width"])
    yield v + "patch_embed.pos_emb.weight", (*sides, hidden)
    for i in range(c["vt_num_hidden_layers"]):
        b = f"{v}encoder.blocks.{i}."
        yield from _biased(b + "norm0", hidden)
        yield from _biased(b + "norm1", hidden)
        yield from _biased(b + "wqkv", 3 * hidden, hidden)
        yield from _biased(b + "wo", hidden, hidden)
        yield from _biased(b + "mlp.fc0", width, hidden)
        yield from _biased(b + "mlp.fc1", hidden, width)
    yield from _biased(v + "encoder.final_layernorm", hidden)
    yield from _biased("mm_projector.pre_norm", hidden)
    yield from _biased("mm_projector.proj.0", 4 * hidden, 4 * hidden)
    yield from _biased("mm_projector.proj.2", TEXT_HIDDEN, 4 * hidden)


_QWEN = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 80,  # as 4304, no multiple of 32
    "num_heads": 2,
    "patch_size": 16,
    "num_position_embeddings": 36,
    "out_hidden_size": TEXT_HIDDEN,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "deepstack_visual_indexes": [],
    "hidden_act": "gelu_pytorch_tanh",
}
_GLM = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 2,
    "patch_size": 14,
    "image_size": 84,
    "out_hidden_size": TEXT_HIDDEN,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
}
_KIMI = {  # the converter wants as many blocks as the highest number in mm_projector
    "vt_num_hidden_layers": 3,
    "vt_hidden_size": 64,
    "vt_intermediate_size": 80,
    "vt_num_attention_heads": 2,
    # transformers' own spelling beside the checkpoint's: without it that takes the defaults of the
    # published model, and so does llama.cpp's converter, which asks it
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_attention_heads": 2,
    "patch_size": 14,
    "init_pos_emb_height": 6,
    "init_pos_emb_width": 6,
    "init_pos_emb_time": 4,
    "merge_kernel_size": [2, 2],
    "projector_hidden_act": "gelu",
    "projector_ln_eps": 1e-5,
}
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_MEDIA = {
    "media_proc_cfg": {
        "in_patch_limit": 1024,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
}

VISIONS = {
    case.name: case
    for case in (
        Vision("qwen-dense", "Qwen3_5ForConditionalGeneration", _QWEN, model_type="qwen3_5"),
        Vision(
            "qwen-moe",
            "Qwen3_5MoeForConditionalGeneration",
            {**_QWEN, "depth": 1, "num_position_embeddings": 64},
            model_type="qwen3_5_moe",
        ),
        Vision(
            "glm-moe",
            "Glm4vMoeForConditionalGeneration",
            _GLM,
            model_type="glm4v_moe",
            preprocessor=_CLIP,
        ),
        Vision(
            "glm-dense",
            "Glm4vForConditionalGeneration",
            {**_GLM, "depth": 1, "num_heads": 4, "image_size": 112},
            model_type="glm4v",
            preprocessor=_CLIP,
        ),
        Vision(
            "glm-biased",
            "Glm4vMoeForConditionalGeneration",
            {**_GLM, "attention_bias": True, "depth": 1},
            model_type="glm4v_moe",
            preprocessor=_CLIP,
        ),
        Vision(
            "kimi",
            "KimiK25ForConditionalGeneration",
            _KIMI,
            model_type="kimi_k25",
            preprocessor=_MEDIA,
            text_class="DeepseekV3ForCausalLM",
        ),
    )
}
"""By name: `qwen`, `glm` and `kimi` in front say whose layout it is."""
