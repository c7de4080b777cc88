"""`--override-kv KEY=TYPE:VALUE`: key-values that the user sets in the output.

TYPE is one of llama-quantize's, int, float, bool and str, or any of GGUF's. Of an int that tool
writes the magnitude as 32 bits without a sign: here a number keeps the type that the key has, or
gets the first of uint32, int32, uint64 and int64 that holds it.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .container import Value
from .errors import UsageError
from .mending import FIXED, parse, type_name

_GUESSES = {"int": ("uint32", "int32", "uint64", "int64"), "float": ("float32", "float64")}
_OURS = "ggufmix."
_ARCHITECTURE = "general.architecture"


def overridden(texts: Sequence[str], known: Mapping[str, Value]) -> dict[str, Value]:
    """Values by key, out of KEY=TYPE:VALUE.

    known  what the keys are without it
    Raises UsageError for a value that its type does not hold, for a key that is given twice, and
    for one that must be what it is.
    """
    made: dict[str, Value] = {}
    for text in texts:
        key, value = _parsed(text, known)
        if key in FIXED or key == _ARCHITECTURE or key.startswith(_OURS):
            raise UsageError(
                f"--override-kv {text}: {key} says how the file is made, it cannot be another"
            )
        if key in made:
            raise UsageError(f"--override-kv: {key} is given twice")
        made[key] = value
    return made


def _parsed(text: str, known: Mapping[str, Value]) -> tuple[str, Value]:
    key, _, rest = text.partition("=")
    kind, _, written = rest.partition(":")
    tried = [f"{key}={name}:{written}" for name in _types(kind, known.get(key))] or [text]
    for spelled in tried:
        try:
            return parse(spelled)
        except UsageError as error:
            refused = error
    types = f"types are {', '.join(_GUESSES)}, bool, str and those of GGUF, such as uint8"
    raise UsageError(f"--override-kv: {refused}", hint=refused.hint and types)


def _types(kind: str, known: Value | None) -> Iterator[str]:
    """Names of GGUF's types to try in turn, where the user's is none of them."""
    if kind in _GUESSES and known is not None and known.item is None and kind in type_name(known):
        yield type_name(known)
    yield from _GUESSES.get(kind, ())
