"""GGUF files as a source: the key-values of one file or of all parts of a split one, and Tensors
over its rows.

Tensors of quantized types hand out their blocks as they lie, and values decoded to float32. Layout:
see container; split files: llama.cpp's gguf-split (`-00001-of-00003.gguf`, keys `split.no`,
`split.count`, `split.tensors.count`; the first part has the model's key-values).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from gguf import GGUFValueType
from numpy.typing import NDArray

from .. import checksums
from ..codecs import FORMATS, Format, decode
from ..container import Header, TensorInfo, Value, read_header
from ..errors import SourceError, UsageError
from ..profiling import phase
from ..tensor import BF16, F16, F32, Array, Blocks, Tensor
from . import remote
from .checkpoint import SourceFile
from .scales import first_bad
from .storage import Bytes, Folder, LocalFolder, OfFolder, shown

T = TypeVar("T")
MAX_TENSOR_BYTES = 1 << 62

_FLOATS: dict[str, np.dtype[np.generic]] = {"F32": F32, "F16": F16, "BF16": BF16, "F64": F32}
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.gguf", re.ASCII)
_AGAIN = "the file may be damaged or cut short: download it again"
_PARTS = "give a file whose parts all lie beside it, as gguf-split or the hub wrote them"


class GgufTensor(Tensor):
    """A tensor as it lies in a GGUF file.

    kind        what it is stored as; `format` is the same but for F32, F16, BF16 and F64
    file        name of the file, for messages
    row_bytes   bytes of one row
    """

    def __init__(self, data: Bytes, info: TensorInfo, data_at: int) -> None:
        self.name = info.name
        self.shape = info.shape[::-1]
        self.kind: Format = FORMATS[info.type.name]
        self.dtype = _FLOATS.get(self.kind.name, F32)
        self.format = None if self.kind.name in _FLOATS else self.kind
        self.file = data.name
        self.row_bytes = self.kind.row_bytes(self.cols)
        self._bytes = data
        self._at = data_at + info.offset

    def raw(self, start: int, stop: int) -> Blocks:
        """Rows start..stop as stored, not looked at: uint8 (stop - start, row_bytes), the caller's
        own. Raises SourceError where they cannot be read.
        """
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"{self.name}: rows {start}..{stop} of {self.n_rows}")
        buffer = np.empty((stop - start) * self.row_bytes, np.uint8)
        with phase("reading"):
            self._bytes.readinto(self._at + start * self.row_bytes, buffer)
        return buffer.reshape(stop - start, self.row_bytes)

    def blocks(self, start: int, stop: int) -> Blocks:
        """Rows start..stop as stored: uint8 (stop - start, row_bytes).

        Raises SourceError where they cannot be read, and with row and block for a scale that is no
        finite number.
        """
        found = self.raw(start, stop)
        bad = first_bad(found, self.kind)
        if bad is not None:
            row, block = bad
            raise SourceError(
                f"{self.file}: {shown(self.name)}: row {start + row}, block {block}: expected a "
                f"finite scale in {self.kind}, got NaN or infinity",
                hint="the file is damaged, or was made of a model that had diverged",
            )
        return found

    def rows(self, start: int, stop: int) -> Array:
        """Rows start..stop as an array (stop - start, cols) of `dtype`, the caller's own. Raises
        as `blocks`, and FormatError for a type that cannot be decoded.
        """
        if self.format is not None:
            return decode(self.blocks(start, stop), self.format)
        raw = self.raw(start, stop)
        if self.kind.name != "F64":
            return raw.view(self.dtype)
        with np.errstate(over="ignore"):  # an infinity then, which the encoder refuses by place
            return raw.view(np.float64).astype(np.float32)

    def __repr__(self) -> str:
        return f"GgufTensor({self.name!r}, {self.shape}, {self.kind})"


class GgufFile(OfFolder):
    """An open GGUF file, all parts of it. Close it, best by `with`.

    where    name of the file, of the first part of several; for messages
    values   key-values in their order, those of the first part
    tensors  by name, in the order of the files and their headers; nothing of them is read yet
    files    what it lies in
    """

    where: str
    values: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]
    files: tuple[SourceFile, ...]

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder = folder
        data, header = _read(folder, name)
        count = number_of(header.values, "split.count", data.name, 1)
        parts = _parts(folder, name, count) if count > 1 else [(data, header)]
        self.where = parts[0][0].name
        self.values = parts[0][1].values
        self.tensors = join(
            (
                (part.name, ((i.name, GgufTensor(part, i, head.data_at)) for i in head.tensors))
                for part, head in parts
            ),
            self.values,
        )
        self.files = tuple(SourceFile(part, min(head.data_at, part.size)) for part, head in parts)
        self._parts = parts

    def numbers(self, key: str) -> dict[str, int] | None:
        """What an array of `checksums.ARRAYS` says of each tensor, by name; None where it is not
        there, or is none of as many numbers as there are tensors.
        """
        stated = self.values.get(key)
        if stated is None or stated.item is not GGUFValueType.UINT64:
            return None
        if len(stated.data) != len(self.tensors):
            return None
        return dict(zip(self.tensors, stated.data, strict=True))

    def tell_checksums(self) -> None:
        """Let the tensors know the checksums that the file has of them. For a file whose headers
        are whole: other programs copy the numbers into files with other data.
        """
        for name, stated in (self.numbers(checksums.TENSORS) or {}).items():
            tensor = self.tensors[name]
            if tensor.kind.name != "F64":  # of which `rows` gives float32
                tensor.checksum = stated

    def unsealed(self) -> list[str]:
        """Names of the files whose header has no checksum."""
        return [part.name for part, head in self._parts if checksums.HEADER not in head.values]

    def broken_seals(self) -> list[str]:
        """Names of the files whose header is not what its own checksum says."""
        return [
            part.name
            for part, head in self._parts
            if (seal := head.values.get(checksums.HEADER)) is not None
            and checksums.of_header(part.read(0, head.data_at), head.values) != seal.data
        ]


def open_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Open a GGUF file; of a split one any part, the others are looked for beside it. A path, or an
    address such as hf://owner/name/file.gguf.

    Reads headers, no weights. Raises UsageError where nothing is there; SourceError for a wrong
    magic or version, a header that is truncated or contradicts itself, tensors that overlap, are
    misaligned or end outside the file, and parts that are missing or of another file.
    """
    folder: Folder
    if remote.is_remote(path):
        folder, name = remote.open_folder(os.fspath(path))
    else:
        at = Path(path)
        if not at.is_file():
            raise UsageError(f"{shown(str(at))} is no file")
        folder, name = LocalFolder(at.parent), at.name
    try:
        if name is None:
            raise UsageError(f"{folder.where}: expected the address of a .gguf file")
        return GgufFile(folder, name)
    except BaseException:
        folder.close()
        raise


def check_extents(
    header: Header, size: int, where: str, foreign: Mapping[str, Format] = MappingProxyType({})
) -> None:
    """Check that every tensor of a header lies in a file of `size` bytes, aligned and alone.

    foreign  types that gguf does not know, by name
    Raises SourceError naming file and tensor. Costs no more than sorting the tensors.
    """
    spans = []
    for info in header.tensors:
        kind = foreign.get(info.type.name) or FORMATS[info.type.name]
        name = f"{where}: {shown(info.name)}"
        if "\ufffd" in info.name or not info.name:
            raise SourceError(f"{name}: expected a name in UTF-8", hint=_AGAIN)
        if not all(info.shape):
            raise SourceError(f"{name}: a shape of {list(info.shape)} holds nothing", hint=_AGAIN)
        if math.prod(info.shape) * kind.bytes > MAX_TENSOR_BYTES:
            raise SourceError(
                f"{name}: a shape of {list(info.shape)} is too large to be meant", hint=_AGAIN
            )
        cols = info.shape[0] if info.shape else 1
        if cols % kind.values:
            raise SourceError(
                f"{name}: rows of {cols} do not fill {kind}, which stores {kind.values} values "
                "per block",
                hint=_AGAIN,
            )
        if info.offset % header.alignment:
            raise SourceError(
                f"{name}: misaligned: offset {info.offset} is no multiple of {header.alignment}",
                hint="llama-quantize writes such files from a source with general.alignment: "
                "convert that source instead"
                if header.alignment > 32 and info.offset % 32 == 0
                else _AGAIN,
            )
        n_bytes = math.prod(info.shape[1:]) * kind.row_bytes(cols)
        spans.append((info.offset, info.offset + n_bytes, info.name))
    spans.sort()
    at, before = 0, ""
    for start, stop, tensor in spans:
        if start < at:
            raise SourceError(
                f"{where}: {shown(tensor)}: data begins at {start} and overlaps with "
                f"{shown(before)}, which ends at {at}",
                hint=_AGAIN,
            )
        if header.data_at + stop > size:
            raise SourceError(
                f"{where}: truncated: {shown(tensor)} ends at byte {header.data_at + stop}, "
                f"the file has {size}",
                hint=_AGAIN,
            )
        at, before = stop, tensor


class _Stream(io.RawIOBase):
    """Bytes as a file that is read from the start."""

    def __init__(self, data: Bytes) -> None:
        super().__init__()
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view: NDArray[np.uint8] = np.frombuffer(buffer, np.uint8)
        n = min(len(view), self._data.size - self._at)
        self._data.readinto(self._at, view[:n])
        self._at += n
        return n


def read_checked(data: Bytes) -> Header:
    """The header of one file, its tensors' places checked. Raises SourceError."""
    stream = cast(BinaryIO, io.BufferedReader(_Stream(data), 1 << 20))
    header = read_header(stream, data.size, data.name)
    for key in header.values:
        if "\ufffd" in key:
            raise SourceError(f"{data.name}: {shown(key)}: expected a key in UTF-8", hint=_AGAIN)
    check_extents(header, data.size, data.name)
    return header


def _read(folder: Folder, name: str) -> tuple[Bytes, Header]:
    data = folder.open(name)
    header = read_checked(data)
    starts = sorted(header.data_at + info.offset for info in header.tensors)
    data.divided([*starts, data.size])
    return data, header


def part_names(name: str, count: int) -> list[str]:
    """Names of all `count` parts of a split file, of which `name` is one. Raises SourceError for a
    name that is no part's.
    """
    named = _PART.fullmatch(name)
    if named is None or int(named["total"]) != count:
        raise SourceError(
            f"{shown(name)}: one of {count} parts of a split file, expected a name that ends in "
            f"-00001-of-{count:05}.gguf",
            hint="give the parts the names they had",
        )
    return [f"{named['stem']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1)]


def first_part(name: str) -> str:
    """Name of the first part where `name` is that of any part of a split file, else `name`."""
    named = _PART.fullmatch(name)
    return f"{named['stem']}-00001-of-{named['total']}.gguf" if named is not None else name


def part_missing(name: str, count: int) -> SourceError:
    """What there is to say of a part that is not there."""
    return SourceError(f"{shown(name)}: missing, one of {count} parts of the file", hint=_PARTS)


def _parts(folder: Folder, name: str, count: int) -> Sequence[tuple[Bytes, Header]]:
    found: list[tuple[Bytes, Header]] = []
    folder.expect(part_names(name, count))
    for number, part in enumerate(part_names(name, count)):
        if not folder.has(part):
            raise part_missing(part, count)
        data, header = _read(folder, part)
        found.append((data, header))
        check_part(header, number, count, found[0][1], data.name)
    return found


def check_part(header: Header, number: int, count: int, first: Header, where: str) -> None:
    """Raise SourceError unless a header is that of part `number` (from 0) of `count`, of the file
    whose first part has the header `first`.
    """
    for key, expected in (("split.count", count), ("split.no", number)):
        stated = number_of(header.values, key, where, -1)
        if stated != expected:
            what = stated if stated != -1 else "none"
            raise SourceError(f"{where}: expected {key} of {expected}, got {what}", hint=_PARTS)
    for key in ("general.architecture", "split.tensors.count"):
        own, its = header.values.get(key), first.values.get(key)
        if own is not None and its is not None and own.data != its.data:
            raise SourceError(
                f"{where}: {key} is {_short(own.data)}, in the first part {_short(its.data)}",
                hint=_PARTS,
            )


def join(
    parts: Iterable[tuple[str, Iterable[tuple[str, T]]]], values: Mapping[str, Value]
) -> dict[str, T]:
    """Tensors of all parts by name: of each part its file and its tensors with their names.

    values  key-values of the first part
    Raises SourceError where a tensor is in two parts, or where they are not as many as is stated.
    """
    held: dict[str, str] = {}
    tensors: dict[str, T] = {}
    files = []
    for file, of_part in parts:
        files.append(file)
        for name, tensor in of_part:
            if name in held:
                raise SourceError(f"{file}: {shown(name)}: is in {held[name]} too", hint=_PARTS)
            held[name], tensors[name] = file, tensor
    stated = number_of(values, "split.tensors.count", files[0], len(tensors))
    if len(files) > 1 and stated != len(tensors):
        raise SourceError(
            f"{files[0]}: split.tensors.count is {stated}, the {len(files)} parts have "
            f"{len(tensors)} tensors",
            hint=_PARTS,
        )
    return tensors


def number_of(values: Mapping[str, Value], key: str, where: str, default: int) -> int:
    """A key-value that is a count. Raises SourceError for anything else."""
    stated = values.get(key)
    if stated is None:
        return default
    if not isinstance(stated.data, int) or stated.data < 0:
        raise SourceError(f"{where}: {key}: expected a number, got {_short(stated.data)}")
    return stated.data


def _short(data: object) -> str:
    return shown(str(data))
