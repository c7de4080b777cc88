"""A model checkpoint as Hugging Face lays it out: config.json, side files, safetensors files."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import SourceError, UsageError
from . import remote
from .layout import INDEX, Layout, find_file, find_files, refuse_bitsandbytes, refuse_other_files
from .safetensors import StoredTensor, read_header, read_tensors
from .storage import Bytes, Folder, LocalFolder, OfFolder, shown

N_SAMPLES = 64
SAMPLE_BYTES = 4096


class SourceFile:
    """One file of weights.

    name      inside the checkpoint's folder
    size      in bytes
    head      bytes in front of its data; by default those that a safetensors file says it has
    revision  what names its state where it lies, of a remote file; None of a local one
    path      of a local file, not for messages; None of a remote one
    """

    def __init__(self, data: Bytes, head: int | None = None) -> None:
        self.name = data.name
        self.size = data.size
        self.revision = data.revision
        self.path = data.path
        self._data = data
        self._head = head

    @cached_property
    def fingerprint(self) -> str:
        """What tells this file from another: a SHA-256 in hexadecimal over header and samples.

        Hashed are, in this order: the size of the file (u64, little-endian); its first 8 + N
        bytes, which are the length N and the header (of a GGUF file: all in front of the data);
        then, of the D bytes of data that follow, all if D <= 64 * 4096, else 64 samples of 4096
        bytes, sample i (0..63) beginning at byte i * (D - 4096) // 63 of the data. So it costs the
        header and 256 KiB for a file of any size, and sees any change of names, shapes or lengths,
        but not every change of a weight.
        """
        start = 8 + len(read_header(self._data)) if self._head is None else self._head
        n_data = self.size - start
        digest = hashlib.sha256(self.size.to_bytes(8, "little"))
        digest.update(self._data.read(0, start))
        if n_data <= N_SAMPLES * SAMPLE_BYTES:
            digest.update(self._data.read(start, n_data))
        else:
            step = n_data - SAMPLE_BYTES
            places = [start + i * step // (N_SAMPLES - 1) for i in range(N_SAMPLES)]
            self._data.expect([(at, SAMPLE_BYTES) for at in places])
            for at in places:
                digest.update(self._data.read(at, SAMPLE_BYTES))
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"SourceFile({self.name!r}, {self.size})"


class Checkpoint(OfFolder):
    """An open checkpoint. Close it, best by `with`: its Tensors cannot be read after that.

    where      name of its folder, for messages
    config     config.json
    tensors    by name, in the order of the files and of their data; nothing of them is read yet
    files      the files that hold them, in order of their names
    """

    where: str
    config: dict[str, Any]
    tensors: Mapping[str, StoredTensor]
    files: tuple[SourceFile, ...]

    def __init__(self, folder: Folder, layout: Layout) -> None:
        self._folder = folder
        self.where = folder.where
        held: dict[str, dict[str, StoredTensor]] = {}
        files: list[SourceFile] = []
        folder.expect(layout.files)
        for name in layout.files:
            data = folder.open(name, listed_in=INDEX)
            held[name] = read_tensors(data)
            files.append(SourceFile(data))
        self.files = tuple(files)
        if layout.index is not None:
            _check_index(layout.index, held)
        self.tensors = _merged(held)
        if not self.tensors:
            raise SourceError(f"{self.where}: expected tensors, {layout.files[0]} holds none")
        config = folder.json("config.json")
        if config is None:
            hint = "copy it from the repository of the model"
            raise SourceError(f"{self.where}: expected a config.json beside the weights", hint=hint)
        refuse_bitsandbytes(config, self.tensors, self.where)
        self.config = config

    @property
    def directory(self) -> Path:
        """Its folder, to open side files in; not for messages."""
        return self._folder.directory

    def gather(self, unwanted: Callable[[str], str | None]) -> list[tuple[str, str]]:
        """Have all that lies beside the weights in `directory`: see `storage.Folder.gather`."""
        return self._folder.gather(unwanted)

    def json(self, name: str) -> dict[str, Any] | None:
        """A side file such as generation_config.json, or None where there is none.

        Raises SourceError with line and column where it is not JSON, or is not an object.
        """
        return self._folder.json(name)

    def path(self, name: str) -> Path | None:
        """Where a side file such as tokenizer.json lies, or None where there is none."""
        return self._folder.path(name)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.where}: {len(self.tensors)} tensors in {len(self.files)} files>"


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint: its folder, or the one safetensors file in it that is meant; a path, or an
    address such as hf://owner/name.

    Reads config.json, the index and the headers; no weights. Raises UsageError where nothing is
    there or one shard of several is named, SourceError where the files are damaged, incomplete,
    contradict each other, or are of a kind that cannot be read.
    """
    if remote.is_remote(path):
        folder, name = remote.open_folder(os.fspath(path))
        return _checkpoint(folder, name)
    at = Path(path)
    try:
        is_folder = stat.S_ISDIR(at.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        hint = "download the checkpoint first, then give its folder"
        raise UsageError(f"{shown(str(at))}: no such file or folder", hint=hint) from error
    except OSError as error:
        raise SourceError(f"{shown(str(at))}: cannot be read: {error.strerror}") from error
    if not is_folder:
        refuse_other_files(at.name)
    if is_folder:
        return _checkpoint(LocalFolder(at), None)
    return _checkpoint(LocalFolder(at.parent), at.name)


def _checkpoint(folder: Folder, name: str | None) -> Checkpoint:
    try:
        return Checkpoint(folder, find_files(folder) if name is None else find_file(folder, name))
    except BaseException:
        folder.close()
        raise


def _merged(held: Mapping[str, Mapping[str, StoredTensor]]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file, of_file in held.items():
        for name, tensor in of_file.items():
            other = tensors.setdefault(name, tensor)
            if other is not tensor:
                message = f"is in {other.file} too, so there are two models to choose from"
                hint = "give the path of the file that is meant, or move the other away"
                raise SourceError(f"{shown(file)}: {shown(name)}: {message}", hint=hint)
    return tensors


def _check_index(index: Mapping[str, str], held: Mapping[str, Mapping[str, StoredTensor]]) -> None:
    """Raise SourceError unless the index and the files tell the same."""
    hint = "index and files are not of one checkpoint: download it again"
    for name, file in index.items():
        if name not in held[file]:
            there = next((other for other in held if name in held[other]), None)
            truth = "no file has it" if there is None else f"it is in {shown(there)}"
            message = f"{shown(name)}: expected in {shown(file)}, {truth}"
            raise SourceError(f"{INDEX}: {message}", hint=hint)
    for file, tensors in held.items():
        for name in tensors:
            if index.get(name) != file:
                message = f"{shown(name)}: {INDEX} does not list it"
                if name in index:
                    message = f"{shown(name)}: {INDEX} lists it in {shown(index[name])} instead"
                raise SourceError(f"{shown(file)}: {message}", hint=hint)
