"""Vision towers: the half of a multimodal checkpoint that goes into a file of its own (mmproj). One
file per family.

llama.cpp loads it beside the language model; its architecture is "clip" for all of them, and its
projector's type says which it is.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import ModelError, UsageError
from ...tensor import Tensor
from ..claims import TowerClaims
from ..config import Config
from ..model import Model
from . import glm4v, kimi_k25, qwen3vl
from .tower import Tower, vision_config

__all__ = ["VISION_CLASSES", "place_vision", "wrapper"]


class Family(NamedTuple):
    """What there is to know of a family.

    projector  clip.projector_type
    defaults   of its vision config
    roots      what names of its tensors begin with
    """

    projector: str
    defaults: Mapping[str, Any]
    roots: Sequence[str]
    place: Callable[[Tower], Model]


VISION_CLASSES: dict[str, Family] = {
    hf_class: Family(family.PROJECTOR, family.DEFAULTS, family.ROOTS, family.place)
    for hf_class, family in (
        ("Qwen3_5ForConditionalGeneration", qwen3vl),
        ("Qwen3_5MoeForConditionalGeneration", qwen3vl),
        ("KimiK25ForConditionalGeneration", kimi_k25),
        ("Glm4vForConditionalGeneration", glm4v),
        ("Glm4vMoeForConditionalGeneration", glm4v),
    )
}
"""By the Hugging Face class of the whole model."""


def wrapper(config: Mapping[str, Any]) -> str | None:
    """The Hugging Face class of the whole model, language and vision."""
    found = config.get("architectures")
    return found[0] if isinstance(found, list) and found and isinstance(found[0], str) else None


def place_vision(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], image: Mapping[str, Any]
) -> Model:
    """Place the vision tower of a checkpoint and its projector.

    config   config.json as it is stored
    tensors  every weight of the checkpoint under its stored name; those of the language model are
             passed over
    image    what preprocessor_config.json says, and over it what processor_config.json does
    Raises UsageError for a checkpoint without a vision tower, ModelError as `place`.
    """
    name = wrapper(config)
    vision = vision_config(config)
    if name not in VISION_CLASSES:
        known = f"known are {', '.join(VISION_CLASSES)}"
        if vision is None:
            raise UsageError(
                f"--mmproj: config.json: {name!r} says nothing of a vision tower (vision_config)",
                hint=f"this is a language model alone, without --mmproj it is converted; {known}",
            )
        raise ModelError(f"config.json: the vision tower of {name!r} is not known here; {known}")
    family = VISION_CLASSES[name]
    claims = TowerClaims(tensors, family.roots)
    if vision is None or not claims:
        what = "no tensor" if vision is not None else "no vision_config in config.json"
        raise UsageError(
            f"--mmproj: this checkpoint has no vision tower: {what}"
            + (f" under {' or '.join(family.roots)}" if vision is not None else ""),
            hint="it may have been taken out: convert the original",
        )
    return family.place(Tower(config, Config(vision, family.defaults), image, claims))
