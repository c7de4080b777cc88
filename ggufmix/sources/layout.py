"""Which files of a folder hold the weights, and what to say of a folder without any."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from ..errors import SourceError, UsageError
from .storage import Folder, shown

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SUFFIX = ".safetensors"

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_FETCH = "the download is not complete: fetch the checkpoint again"
_MERGE = "merge it into its base model first (`merge_and_unload()` of peft), then save that"
_RESAVE = (
    "load it with transformers and save it with `save_pretrained`, which writes safetensors, "
    "or look for a safetensors revision of the repository"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The files that hold the weights.

    files   names, sorted, each one there
    index   tensor -> file, as the index tells it, or None without one
    """

    files: list[str]
    index: dict[str, str] | None = None


def find_files(folder: Folder) -> Layout:
    """The weight files of a checkpoint's folder.

    An index decides; without one all `model*.safetensors` are taken, as llama.cpp's converter
    does; without these the only other safetensors file. Raises SourceError where there is nothing
    to take, a part is missing, or two answers are possible.
    """
    names = folder.names()
    models = [n for n in names if n.startswith("model") and n.endswith(SUFFIX)]
    if INDEX in names:
        return _indexed(folder, models)
    if models:
        return Layout(_complete(models))
    if "adapter_config.json" in names or any(_is_adapter(n) for n in names):
        raise SourceError(f"{folder.where}: holds a LoRA adapter, not a model", hint=_MERGE)
    others = [n for n in names if n.endswith(SUFFIX)]
    if len(others) == 1:
        return Layout(_complete(others))
    if others:
        message = f"expected model*.safetensors, got {len(others)} others: {_few(others)}"
        raise SourceError(f"{folder.where}: {message}", hint="give the one that holds the model")
    raise _no_weights(folder.where, names)


def find_file(folder: Folder, name: str) -> Layout:
    """One named safetensors file of a folder. Raises UsageError for one shard of several."""
    refuse_other_files(name)
    index = folder.json(INDEX)
    listed = set(_weight_map(index).values()) if index is not None else set()
    parts = _SHARD.fullmatch(name)
    if (len(listed) > 1 and name in listed) or (parts and int(parts["total"]) > 1):
        hint = "give the folder, so that all of them are read"
        raise UsageError(f"{shown(name)}: holds a part of a checkpoint only", hint=hint)
    return Layout([name])


def refuse_other_files(name: str) -> None:
    """Raise what there is to say of a file that is not a model's safetensors."""
    if name.endswith(".gguf"):
        raise SourceError(f"{shown(name)}: expected safetensors, got a GGUF file", hint=_GGUF)
    if name.endswith(_PICKLES):
        message = (
            "expected safetensors, got a pickle of PyTorch, which can run code when it is read"
        )
        raise SourceError(f"{shown(name)}: {message}", hint=_RESAVE)
    if _is_adapter(name):
        raise SourceError(f"{shown(name)}: holds a LoRA adapter, not a model", hint=_MERGE)
    if not name.endswith(SUFFIX):
        hint = "give the folder of the checkpoint, or a safetensors file in it"
        raise UsageError(f"{shown(name)}: expected a folder or a safetensors file", hint=hint)


def refuse_bitsandbytes(config: dict[str, Any], names: Iterable[str], where: str) -> None:
    """Raise SourceError for weights packed by bitsandbytes, as the config or their names tell."""
    for part in (config, config.get("text_config")):
        about = part.get("quantization_config") if isinstance(part, dict) else None
        if isinstance(about, dict) and about.get("quant_method", "bitsandbytes") == "bitsandbytes":
            loads = about.get("load_in_4bit") or about.get("load_in_8bit")
            if "quant_method" in about or loads:
                message = "quantization_config in config.json is of weights packed by bitsandbytes"
                raise SourceError(f"{where}: {message}, not supported", hint=_UNPACKED)
    for name in names:
        if name.endswith(".SCB") or ".quant_state.bitsandbytes__" in name:
            message = f"{shown(name)} is of weights packed by bitsandbytes"
            raise SourceError(f"{where}: {message}, not supported", hint=_UNPACKED)


_GGUF = "`convert` and `plan` take the path of a .gguf file"
_UNPACKED = (
    "use the checkpoint it was made from, or load it with transformers, call `dequantize()`, "
    "and save it with `save_pretrained`"
)


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


def _weight_map(index: dict[str, Any]) -> dict[str, str]:
    try:
        return msgspec.convert(index, _Index).weight_map
    except msgspec.ValidationError as error:
        raise SourceError(f"{INDEX}: {error}", hint=_FETCH) from error


def _indexed(folder: Folder, models: list[str]) -> Layout:
    weight_map = _weight_map(folder.json(INDEX) or {})
    files = sorted(set(weight_map.values()))
    if not files:
        raise SourceError(f"{INDEX}: expected tensors, the index lists none", hint=_FETCH)
    folder.expect(files)
    missing = [name for name in files if not folder.has(name, listed_in=INDEX)]
    if missing:
        count = f"{len(missing)} of {len(files)} files are not there"
        raise SourceError(f"{INDEX}: {count}: {_few(missing)}", hint=_FETCH)
    for name in files:
        if not name.endswith(SUFFIX):
            refuse_other_files(name)
    if SINGLE in models and SINGLE not in files:
        message = f"holds {SINGLE} and an index of other files, two models to choose from"
        hint = f"give the path of {SINGLE} if you mean that, else move it away"
        raise SourceError(f"{folder.where}: {message}", hint=hint)
    return Layout(files, weight_map)


def _complete(names: list[str]) -> list[str]:
    """The names, once none is missing of those that are numbered "00001-of-00003"."""
    for part in filter(None, map(_SHARD.fullmatch, names)):
        total = int(part["total"])
        there = {
            int(other["number"])
            for other in filter(None, map(_SHARD.fullmatch, names))
            if (other["stem"], other["total"]) == (part["stem"], part["total"])
        }
        gone = next((i for i in range(1, total + 1) if i not in there), None)
        if gone is not None:
            name = f"{part['stem']}-{gone:05}-of-{total:05}{SUFFIX}"
            raise SourceError(
                f"{name}: missing, one of {total} files of the checkpoint", hint=_FETCH
            )
    return names


def _no_weights(where: str, names: list[str]) -> SourceError:
    if any(n.endswith(".gguf") for n in names):
        return SourceError(f"{where}: expected safetensors, got GGUF files", hint=_GGUF)
    pickles = [n for n in names if n.endswith(_PICKLES)]
    if pickles:
        message = f"expected model*.safetensors, got pickles of PyTorch: {_few(pickles)}"
        return SourceError(f"{where}: {message}", hint=_RESAVE)
    if not names:
        return SourceError(f"{where}: expected a checkpoint, the folder holds no file", hint=_FETCH)
    message = f"expected model*.safetensors, got {len(names)} other files: {_few(names)}"
    return SourceError(
        f"{where}: {message}", hint="give the folder that holds config.json and the weights"
    )


def _is_adapter(name: str) -> bool:
    return name.startswith("adapter_model") and name.endswith((SUFFIX, *_PICKLES))


def _few(names: list[str]) -> str:
    return ", ".join(map(shown, names[:3])) + (", ..." if len(names) > 3 else "")
