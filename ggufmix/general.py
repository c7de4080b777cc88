"""`general.*` keys: what a GGUF file says of the model beside its architecture.

They come from the model card (README.md), config.json and generation_config.json through
`gguf.Metadata`, so they are what llama.cpp's converter writes, with one exception: that one takes
names from the folder the model lies in. A folder is a matter of the machine, so here nothing comes
from it, and a model without a name gets none.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from itertools import count
from pathlib import Path
from typing import Any

from gguf import GGUFType, GGUFValueType, GGUFWriter, Keys, Metadata, size_label

from .container import Value, array, text
from .errors import SourceError, UsageError

# An id of a model hub: "organization/name", no path.
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
_PATH = re.compile(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|file:")

# generation_config.json -> field of gguf.Metadata. Source: gguf-py/gguf/metadata.py, Metadata.load.
_SAMPLING = {
    "sequence": "sampling_sequence",
    "top_k": "sampling_top_k",
    "top_p": "sampling_top_p",
    "min_p": "sampling_min_p",
    "xtc_probability": "sampling_xtc_probability",
    "xtc_threshold": "sampling_xtc_threshold",
    "temperature": "sampling_temp",
    "penalty_last_n": "sampling_penalty_last_n",
    "penalty_repeat": "sampling_penalty_repeat",
    "mirostat": "sampling_mirostat",
    "mirostat_tau": "sampling_mirostat_tau",
    "mirostat_eta": "sampling_mirostat_eta",
}
MAX_VALUES = 100_000
"""Values in a model card."""
_INTEGERS = (GGUFValueType.UINT32, GGUFValueType.INT32)


def general(
    directory: Path,
    *,
    parameters: tuple[int, int, int, int],
    model_name: str | None = None,
    kind: str = GGUFType.MODEL,
    stated: Mapping[str, Any] | None = None,
    warnings: list[str] | None = None,
) -> dict[str, Value]:
    """The keys from general.type on, in the order of llama.cpp's converter.

    parameters  numbers of weights as `gguf.size_label` takes them: all, those outside stacked
                experts, those of one expert, experts per layer
    model_name  what the user calls the model; else the card or config.json says it, or
                general.name is missing
    kind        general.type
    stated      what `stated` has read from the user's file: it beats the card
    warnings    gets what cannot be used
    general.architecture belongs before them; general.file_type and general.quantization_version
    come later and are the caller's.
    Raises SourceError for a config.json that is no JSON object.
    """
    told = [] if warnings is None else warnings
    card = _card(directory, told)
    hub_id = _hub_id(directory)
    try:
        metadata = Metadata.apply_metadata_heuristic(Metadata(), card, hub_id, None, parameters[0])
    except Exception as error:  # gguf asks nothing of what a card holds
        told.append(f"README.md: nothing is taken from the model card: {error}")
        metadata = Metadata.apply_metadata_heuristic(Metadata(), {}, hub_id, None, parameters[0])
    if isinstance(metadata.license, list):  # gguf joins it, and cards are written by hand
        metadata.license = [str(item) for item in metadata.license]
    for key, value in _generation(directory).items():
        if key in _SAMPLING:
            setattr(metadata, _SAMPLING[key], value)
    for field, value in (stated or {}).items():
        setattr(metadata, field, value)
    if model_name is not None:
        metadata.name = model_name
    if metadata.size_label is None and parameters[0] > 0:
        metadata.size_label = size_label(*parameters)
    return {Keys.General.TYPE: text(kind)} | _written(metadata, told)


def stated(path: Path) -> dict[str, Any]:
    """A file of metadata as llama.cpp's converter takes it with `--metadata`: a JSON object with
    keys such as general.author, and lists of objects as general.base_models and general.datasets.
    By fields of gguf.Metadata. Raises UsageError for a file that is not there or has other keys.
    """
    if not path.is_file():
        raise UsageError(f"--metadata {path}: no such file")
    known = _fields_by_key()
    found = {}
    for key, value in _json(path).items():
        if key not in known:
            raise UsageError(
                f"--metadata {path.name}: no key of a file of metadata: {key!r}",
                hint=f"keys are {', '.join(known)}",
            )
        kind = _LISTED.get(known[key])
        items = value if kind is not None and isinstance(value, list) else [value]
        if (kind is not None) != isinstance(value, list) or not all(
            isinstance(item, kind or (str, int, float)) for item in items
        ):
            wanted = (
                "a list of objects"
                if kind is dict
                else "a list of texts"
                if kind
                else "a text or number"
            )
            raise UsageError(
                f"--metadata {path.name}: {key}: expected {wanted}, got {json.dumps(value)}"
            )
        found[known[key]] = value
    told: list[str] = []
    _written(Metadata(**found), told)
    if told:
        raise UsageError(f"--metadata {path.name}: {told[0].removesuffix('; left out')}")
    return found


_LISTED = {"base_models": dict, "datasets": dict, "tags": str, "languages": str}


def values_of(stated: Mapping[str, Any]) -> dict[str, Value]:
    """The keys for what `stated` has read, and no others."""
    return _written(Metadata(**stated), [])


def _fields_by_key() -> dict[str, str]:
    names = [field.name for field in fields(Metadata)]
    spelled = {"base_models": "general.base_models", "datasets": "general.datasets"}
    return {spelled.get(n) or getattr(Keys.General, n.upper()): n for n in names}


def _written(metadata: Metadata, told: list[str]) -> dict[str, Value]:
    """What gguf writes for it. `told` gets what cannot be used."""
    nameless = metadata.name is None
    metadata = replace(metadata, name=metadata.name or "")
    recorder = GGUFWriter(None, "")
    metadata.set_gguf_meta_model(recorder)
    made = {}
    for key, entry in recorder.kv_data[0].items():
        if key == Keys.General.ARCHITECTURE or (nameless and key == Keys.General.NAME):
            continue
        value = _value(entry.value, entry.type)
        if value is None:
            told.append(f"{key}: cannot be {entry.value!r}; left out")
        else:
            made[key] = value
    return made


def _value(data: Any, kind: GGUFValueType) -> Value | None:
    """A value of the type the key has; cards are written by hand, so `version: 1.0` is a number.
    None: no such value.
    """
    if kind is GGUFValueType.STRING:
        return text(data if isinstance(data, str) else str(data))
    if kind is GGUFValueType.ARRAY:
        return array(GGUFValueType.STRING, ["no" if item is False else str(item) for item in data])
    if isinstance(data, bool) or not isinstance(data, (int, float)):
        return None
    try:
        return Value(kind, int(data) if kind in _INTEGERS else float(data))
    except (OverflowError, ValueError):  # too large, an infinity or a NaN
        return None


def _card(directory: Path, told: list[str]) -> dict[str, Any]:
    """The front matter of the model card, without values that are paths of some machine."""
    import yaml

    visited = count()
    try:
        card = Metadata.load_model_card(directory)
        return {
            key: kept
            for key, value in card.items()
            if (kept := _no_paths(value, visited)) is not None
        }
    except (yaml.YAMLError, UnicodeError, OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        told.append(
            f"README.md: the model card cannot be read, so nothing is taken from it: {reason}"
        )
        return {}


def _no_paths(value: Any, visited: Iterator[int]) -> Any:
    """A value without paths. Raises ValueError for too many values: with aliases a few lines of
    YAML are millions.
    """
    if next(visited) >= MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES} values")
    if isinstance(value, str):
        value.encode()
        return None if _PATH.match(value) else value
    if isinstance(value, list):
        return [kept for item in value if (kept := _no_paths(item, visited)) is not None]
    if isinstance(value, dict):
        return {k: kept for k, v in value.items() if (kept := _no_paths(v, visited)) is not None}
    return value


def _hub_id(directory: Path) -> dict[str, Any]:
    """What config.json calls the model, if that is an id of a hub: it is a folder as often."""
    name = _json(directory / "config.json").get("_name_or_path")
    return {"_name_or_path": name} if isinstance(name, str) and _HUB_ID.fullmatch(name) else {}


def _generation(directory: Path) -> Mapping[str, Any]:
    try:
        return _json(directory / "generation_config.json")
    except SourceError:
        return {}  # as in gguf: not all models have a valid one


def _json(path: Path) -> dict[str, Any]:
    try:
        made = json.loads(path.read_bytes())  # knows NaN and Infinity, which transformers writes
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: {error}") from None
    if not isinstance(made, dict):
        raise SourceError(f"{path}: expected an object at the top")
    return made
