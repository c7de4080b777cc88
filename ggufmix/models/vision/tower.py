"""A vision tower being placed: what all families share.

Source of names, keys and their order: llama.cpp, conversion/base.py, MmprojModel, and
tools/mtmd/clip.cpp, which reads them (2026-08-04).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSOR, TENSOR_NAMES, GGUFValueType, Keys

from ...container import Value, array, boolean, text, u32
from ...errors import ModelError
from ...tensor import Placed, Tensor, take_rows
from ..block import Step
from ..claims import TowerClaims
from ..config import LARGEST, Config, check_channels
from ..model import Model

ARCH = MODEL_ARCH_NAMES[MODEL_ARCH.MMPROJ]
PATCH = MODEL_TENSOR.V_ENC_EMBD_PATCH
_BLOCKS = "v.blk."
MERGED = 2
"""Patches to a side that become one: llama.cpp's graphs are written for no other number."""


@dataclass(frozen=True)
class Tower:
    """The vision tower of a checkpoint and what its files say of it.

    whole    config.json
    vision   its vision_config, over the defaults of the class
    image    preprocessor_config.json, and what processor_config.json says otherwise
    claims   the tensors of the tower and of the projector
    placed   where `put` adds to
    """

    whole: Mapping[str, Any]
    vision: Config
    image: Mapping[str, Any]
    claims: TowerClaims
    placed: list[Placed] = field(default_factory=list)

    def put(
        self,
        stored: str,
        role: MODEL_TENSOR,
        *shape: int,
        number: int | None = None,
        steps: tuple[Step, ...] = (),
    ) -> None:
        """Claim `stored`, apply `steps` in order, and place the result by its role and number, with
        the ending (.weight or .bias) that it has.
        """
        tensor = self.claims.claim(stored, shape)
        for step in steps:
            tensor = step(tensor)
        self.make(role, tensor, "." + stored.rpartition(".")[2], number)

    def make(
        self, role: MODEL_TENSOR, tensor: Tensor, ending: str, number: int | None = None
    ) -> None:
        """Place a tensor by its role and number."""
        stem = TENSOR_NAMES[role].format(bid=number)
        layer = number if stem.startswith(_BLOCKS) else None
        self.placed.append(Placed(stem + ending, role.name, layer, tensor))

    def linear(
        self,
        stored: str,
        role: MODEL_TENSOR,
        rows: int,
        cols: int,
        *,
        number: int | None = None,
        bias: bool = True,
    ) -> None:
        """Place a matrix and its bias."""
        self.put(f"{stored}.weight", role, rows, cols, number=number)
        if bias:
            self.put(f"{stored}.bias", role, rows, number=number)

    def norm(
        self,
        stored: str,
        role: MODEL_TENSOR,
        size: int,
        *,
        number: int | None = None,
        bias: bool = True,
    ) -> None:
        """Place the weights of a norm, and of a layer norm the bias."""
        self.put(f"{stored}.weight", role, size, number=number)
        if bias:
            self.put(f"{stored}.bias", role, size, number=number)

    def patches(self, stored: str, *, frames: bool) -> None:
        """Place the convolution that makes an embedding of each patch, and its bias.

        frames  it goes over two frames, (hidden, 3, 2, patch, patch), which are two tensors in
                GGUF; else (hidden, 3, patch, patch)
        """
        hidden, patch = self.vision.integer(*HIDDEN), self.vision.integer("patch_size")
        check_channels("patch_size", 2 * 3 * hidden, patch)
        flat = (hidden, 3, patch, patch)
        if frames:
            self.vision.only("temporal_patch_size", 2)
            both = self.claims.claim(f"{stored}.weight", (hidden, 3, 2, patch, patch))
            rows = np.arange(2 * 3 * hidden * patch).reshape(3 * hidden, 2, patch)
            for frame, ending in enumerate((".weight", ".weight.1")):
                self.make(PATCH, take_rows(both, rows[:, frame].ravel(), flat), ending)
        else:
            self.put(f"{stored}.weight", PATCH, *flat)
        self.put(f"{stored}.bias", PATCH, hidden)

    @property
    def text_hidden(self) -> int:
        """The width of the language model, which is that of the embeddings the projector makes."""
        return Config(self.whole, {}).integer("hidden_size", "n_embd")

    @property
    def layers(self) -> int:
        """Blocks of the tower."""
        layers = self.vision.integer(*LAYERS)
        if layers > MOST_LAYERS:
            raise ModelError(
                f"config.json: vision_config: {LAYERS[0]}: expected at most {MOST_LAYERS}, "
                f"got {layers}"
            )
        return layers

    def values(self, projector: str, image_size: int) -> dict[str, Value]:
        """The keys of every vision tower, up to the projector's type."""
        keys = Keys.ClipVision
        return {
            Keys.Clip.HAS_VISION_ENCODER: boolean(True),
            keys.PROJECTION_DIM: u32(self.text_hidden),
            keys.IMAGE_SIZE: u32(image_size),
            keys.PATCH_SIZE: u32(self.vision.integer("patch_size")),
            keys.EMBEDDING_LENGTH: u32(self.vision.integer(*HIDDEN)),
            keys.FEED_FORWARD_LENGTH: u32(self.vision.integer(*WIDTH)),
            keys.BLOCK_COUNT: u32(self.layers),
            keys.Attention.HEAD_COUNT: u32(self.vision.integer(*HEADS)),
            keys.IMAGE_MEAN: self._of_channels("image_mean"),
            keys.IMAGE_STD: self._of_channels("image_std"),
            Keys.Clip.PROJECTOR_TYPE: text(projector),
        }

    def _of_channels(self, key: str) -> Value:
        found = self.image.get(key)
        if not (isinstance(found, Sequence) and len(found) == 3 and all(map(_is_number, found))):
            told = f"got {found!r}" if key in self.image else "it says nothing of it"
            raise ModelError(
                f"preprocessor_config.json: {key}: expected three numbers, {told}",
                hint="copy preprocessor_config.json from the repository of the model",
            )
        return array(GGUFValueType.FLOAT32, [float(x) for x in found])

    def model(self, values: dict[str, Value]) -> Model:
        """What the family has placed. Raises ModelError for tensors that are missing or left."""
        self.claims.finish(f"the vision tower ({values[Keys.Clip.PROJECTOR_TYPE].data})")
        return Model(ARCH, values, self.placed, self.claims.notes, block_count=self.layers)


HIDDEN = ("hidden_size", "vt_hidden_size")
WIDTH = ("intermediate_size", "vt_intermediate_size")
HEADS = ("num_heads", "num_attention_heads", "vt_num_attention_heads")
LAYERS = ("depth", "num_hidden_layers", "vt_num_hidden_layers")
MOST_LAYERS = 512


def vision_config(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What config.json says of the vision tower; None where it says nothing."""
    found = raw.get("vision_config")
    return found if isinstance(found, Mapping) else None


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < LARGEST
