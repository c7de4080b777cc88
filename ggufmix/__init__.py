"""ggufmix: model checkpoints to quantized GGUF files, with rules that know the architecture.

plan, convert, verify    from a checkpoint to what would be written, to the file, and back
convert_each             several recipes of one reading
encode, decode           rows of weights to blocks and back, byte for byte as llama.cpp
formats, tiers           what can be stored, and which instruction sets this CPU runs
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .codecs import decode, encode, formats, tiers
    from .errors import GgufmixError
    from .options import Options
    from .pipeline import convert, convert_each, plan
    from .proof import verify

__all__ = [
    "GgufmixError",
    "Options",
    "convert",
    "convert_each",
    "decode",
    "encode",
    "formats",
    "plan",
    "tiers",
    "verify",
]

_HOMES = {
    "GgufmixError": "errors",
    "Options": "options",
    "convert": "pipeline",
    "convert_each": "pipeline",
    "decode": "codecs",
    "encode": "codecs",
    "formats": "codecs",
    "plan": "pipeline",
    "tiers": "codecs",
    "verify": "proof",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: `ggufmix --help` needs none of it. `ggufmix.formats` is the
    # function, not the module.
    if name not in _HOMES:
        raise AttributeError(f"module 'ggufmix' has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
