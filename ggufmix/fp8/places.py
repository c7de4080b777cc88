"""The folder of an output: where it may be, what is copied into it besides weights, and how.

Nothing of the source is ever written to: not through links, not by a folder that is meant twice.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError, WriteError
from ..sources import Checkpoint
from ..sources.layout import INDEX
from ..sources.storage import shown

WEIGHTS = frozenset(
    (
        *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"),
        *(".npz", ".ot", ".tflite", ".mlmodel", ".nemo", ".part", ".journal"),
    )
)
"""Endings of files that hold weights, ours while they are written included."""


@dataclass(frozen=True, slots=True)
class SideFiles:
    """What lies beside the weights, relative to the folder.

    copied  files: tokenizer, processor, templates, code, cards
    left    other files, each with the reason
    """

    copied: tuple[str, ...]
    left: tuple[tuple[str, str], ...]


def side_files(source: Checkpoint) -> SideFiles:
    """Look through a checkpoint's folder. What lies elsewhere is fetched."""
    written = {*(file.name for file in source.files), INDEX, "config.json"}
    far = source.gather(lambda name: "written anew" if name in written else _unwanted(name))
    copied: list[str] = []
    left = [(name, why) for name, why in far if name not in written]
    for name, entry in _entries(source.directory, ""):
        if name in written:
            continue
        if (why := _unwanted(name)) is not None:
            left.append((name, why))
        elif entry.is_dir(follow_symlinks=True):  # `_entries` goes into real folders
            left.append((name, "a link to a folder"))
        elif not entry.is_file():
            left.append((name, "no regular file"))
        else:
            copied.append(name)
    return SideFiles(tuple(copied), tuple(left))


def _unwanted(name: str) -> str | None:
    """Why a file is not copied, by its name alone; None where it is."""
    if Path(name).suffix.lower() in WEIGHTS or name.endswith(".index.json"):
        return "weights in another form"
    return "hidden" if any(part.startswith(".") for part in Path(name).parts) else None


def _entries(folder: Path, under: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = under + entry.name
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _entries(folder / entry.name, name + "/")
        else:
            yield name, entry


def check_folder(out: Path, source: Path, files: Iterable[str], *, may_exist: bool) -> None:
    """Raise UsageError where output and source are one folder, or one lies in the other, or a file
    of the source lies in the output; WriteError where something is there already.

    files      names of the source's files of weights
    may_exist  whether there may be files in it
    """
    into, of = out.resolve(), source.resolve()
    if into == of or (out.exists() and out.samefile(source)):
        raise UsageError(f"{out}: is the source itself", hint="give another folder with -o")
    if _inside(into, of):
        raise UsageError(f"{out}: lies in the source", hint="give a folder outside of it with -o")
    if _inside(of, into):
        raise UsageError(f"{out}: the source lies in it", hint="give another folder with -o")
    for name in files:
        if _inside((source / name).resolve(), into):
            raise UsageError(
                f"{out}: {shown(name)} of the source is a link into it",
                hint="give another folder with -o",
            )
    if out.is_symlink() or out.exists():
        if not out.is_dir():
            raise WriteError(f"{out}: expected a folder, there is a file of that name")
        if not may_exist and any(out.iterdir()):
            raise WriteError(
                f"{out}: there are files in it already",
                hint="--resume goes on with a run that was stopped, --overwrite replaces them",
            )


def _inside(path: Path, folder: Path) -> bool:
    """Whether a path, or a folder around it, is the folder, by name or by what it really is."""
    return any(
        p == folder or (folder.exists() and p.exists() and p.samefile(folder)) for p in path.parents
    )


def copy(source: Path, out: Path, name: str) -> None:
    """Copy a side file; links become what they point to."""
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    with (source / name).open("rb") as file:
        put(out / name, file.read())


def put_json(path: Path, value: Any) -> None:
    """Write a JSON file as Hugging Face writes them."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    put(path, text.encode("utf-8", "surrogatepass") + b"\n")


def put(path: Path, data: bytes) -> None:
    """Write a small file as a whole: the old one, or a link of that name, is replaced at the end.

    Raises WriteError.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(part, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise WriteError(f"{path}: {error.strerror}") from error


def stale(out: Path, written: Iterable[str]) -> list[Path]:
    """Files of weights of an earlier output that the new one does not have: loaders would take
    them for parts of it.
    """
    keep = set(written)
    return [
        path
        for path in sorted(out.iterdir())
        if (path.name.endswith(".safetensors") or path.name == INDEX) and path.name not in keep
    ]
