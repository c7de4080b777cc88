"""config.json as the truth about a model: raw values over the defaults of the class, read with
errors that name the key.

Raw, because transformers' own config objects rename types and overwrite values that the checkpoint
states; the defaults are needed because a config may leave out whatever equals the default of its
class.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from ..errors import ModelError

MOST = (1 << 32) - 1
"""The largest whole number that GGUF keeps of a config."""
LARGEST = 3.4e38
"""About the largest float32."""
MOST_CHANNELS = 1 << 22
"""Of all heads of a layer; the largest models have a hundredth. Their order is a table."""
_LIMITS = {
    "num_hidden_layers": 512,
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 1024),
}
"""The most that llama.cpp loads: src/llama-hparams.h (2026-08-04)."""

TEXT_CONFIGS = ("text_config", "llm_config", "lm_config", "language_config", "lfm")
"""Where a multimodal wrapper keeps the config of its text model."""


def text_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the text model inside a wrapper; empty if there is no wrapper."""
    thinker = raw.get("thinker_config")
    nested = [thinker.get("text_config")] if isinstance(thinker, Mapping) else []
    for inner in [*(raw.get(key) for key in TEXT_CONFIGS), *nested]:
        if isinstance(inner, Mapping):
            return inner
    return {}


def architecture(raw: Mapping[str, Any]) -> str:
    """The Hugging Face class that decides the family: the text model's own if it is stated, else
    the wrapper's.

    Raises ModelError if config.json names none.
    """
    for where in (text_config(raw), raw):
        classes = where.get("architectures")
        if isinstance(classes, list) and classes and isinstance(classes[0], str):
            return classes[0]
    raise ModelError(
        'config.json: expected "architectures" with the name of a class, got none',
        hint="this may be no model of transformers, or a config written without its model",
    )


class Config:
    """Typed reading of a config: the text model's values over the wrapper's, both over the defaults
    of the class.

    A key whose value is null counts as absent.
    """

    def __init__(self, raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._values = {**_stated(raw), **_stated(text_config(raw))}
        self._nulls = {*raw, *text_config(raw)} - self._values.keys()
        self.defaults = defaults
        self.tie_word_embeddings = _tied(raw, defaults)

    def filled(self, **derived: Any) -> Config:
        """The same config with values that its class derives from others, where nothing is said of
        them.
        """
        made = copy(self)
        made.defaults = {**derived, **self.defaults}
        return made

    def find(self, *keys: str) -> Any:
        """The value of the first of `keys` that is stated, else that has a default, else None."""
        for where in (self._values, self.defaults):
            for key in keys:
                if key in where:
                    return where[key]
        return None

    def null(self, key: str) -> bool:
        """Whether `key` is stated as null, where that means something."""
        return key in self._nulls

    def integer(self, *keys: str, least: int = 1) -> int:
        """A whole number under one of `keys`. Raises ModelError if it is absent, no whole number,
        below `least`, or more than a u32 of GGUF holds or llama.cpp loads.
        """
        value = self.find(*keys)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ModelError(
                f"config.json: {keys[0]}: expected a whole number from {least} up, got {value!r}"
            )
        most = next((_LIMITS[key] for key in keys if key in _LIMITS), MOST)
        if value > most:
            raise ModelError(
                f"config.json: {keys[0]}: expected at most {most}, got {value!r}",
                hint="llama.cpp loads no more" if most < MOST else None,
            )
        return value

    def number(self, *keys: str) -> float:
        """A number under one of `keys`. Raises ModelError if it is absent, no number, or none that
        float32 holds.
        """
        value = self.find(*keys)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"config.json: {keys[0]}: expected a number, got {value!r}")
        if not abs(value) < LARGEST:  # NaN is not either
            raise ModelError(f"config.json: {keys[0]}: expected a finite number, got {value!r}")
        return float(value)

    def only(self, key: str, expected: object) -> None:
        """Refuse every value of `key` but the one that llama.cpp computes with. An absent key is
        fine.
        """
        value = self.find(key)
        if value is not None and value != expected:
            raise ModelError(
                f"config.json: {key}: expected {expected!r}, got {value!r}",
                hint="llama.cpp would load the file and compute something else",
            )

    @property
    def rope(self) -> dict[str, Any]:
        """`rope_parameters` (once `rope_scaling`) with what older configs keep at the root filled
        in.
        """
        stated = self.find("rope_parameters", "rope_scaling")
        rope = dict(stated) if isinstance(stated, Mapping) else {}
        if "full_attention" in rope or "sliding_attention" in rope:
            return rope
        mirrored = {
            "rope_theta": self.find("global_rope_theta", "rope_theta", "rotary_emb_base"),
            "rope_type": rope.get("type"),
            "partial_rotary_factor": self.find("partial_rotary_factor", "rope_pct", "rope_percent"),
            "original_max_position_embeddings": self.find("original_max_position_embeddings"),
        }
        return {key: value for key, value in mirrored.items() if value is not None} | rope


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _tied(raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Whether the embedding serves as output matrix. `tie_embedding` is how LFM2 spells it."""
    for key in ("tie_embedding", "tie_word_embeddings"):
        stated = [where[key] for where in (raw, text_config(raw)) if where.get(key) is not None]
        if stated:
            return any(value is True for value in stated)
    return defaults.get("tie_word_embeddings") is True


def check_channels(key: str, heads: int, head: int, most: int = MOST_CHANNELS) -> None:
    """Refuse heads that no model has before a table of them is made. Raises ModelError."""
    if heads * head > most:
        raise ModelError(
            f"config.json: {key}: {heads} of {head} are no real sizes, "
            f"expected at most {most} channels"
        )
