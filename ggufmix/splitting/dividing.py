"""Which tensor goes into which part, and the header of each part."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self, cast

from gguf import GGMLQuantizationType, GGUFValueType

from .. import checksums
from ..container import ALIGNMENT, TensorInfo, Value, aligned, header
from ..errors import UsageError

MAX_PARTS = (1 << 16) - 1
_UNITS = {"M": 10**6, "G": 10**9}
_NO, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"


@dataclass(frozen=True, slots=True)
class Item:
    """A tensor that is to be placed.

    shape    GGUF order: row length first
    type     its number in a GGUF file
    n_bytes  of its data, without padding
    """

    name: str
    shape: tuple[int, ...]
    type: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a part may be.

    size        bytes of its tensors, padding included; None: any
    tensors     number of its tensors; None: any
    bare_first  the first part has no tensors: key-values can be mended without moving data
    """

    size: int | None = None
    tensors: int | None = None
    bare_first: bool = False

    @classmethod
    def of(
        cls, size: str | None = None, tensors: int | None = None, *, bare_first: bool = False
    ) -> Self:
        """From what a user writes: "45G" or "500M", powers of ten as gguf-split takes them.

        Raises UsageError for another size, for both limits, or for none.
        """
        if (size is None) == (tensors is None):
            raise UsageError(
                "expected either --split-max-size or --split-max-tensors"
                + (", got both" if size is not None else ", got neither"),
                hint="such as --split-max-size 45G",
            )
        if tensors is not None and tensors < 1:
            raise UsageError(f"--split-max-tensors: expected at least 1, got {tensors}")
        if size is None:
            return cls(None, tensors, bare_first)
        match = re.fullmatch(r"([1-9]\d{0,9})([MG])", size)
        if match is None:
            raise UsageError(
                f'--split-max-size: expected a number and M or G, such as 45G, got "{size}"'
            )
        return cls(int(match[1]) * _UNITS[match[2]], None, bare_first)


@dataclass(frozen=True, slots=True)
class Division:
    """One file of the output.

    values   its key-values
    header   its first bytes, checksums as zeros
    items    its tensors
    offsets  where each begins, from the start of the file
    size     of the file
    """

    path: Path
    values: Mapping[str, Value]
    header: bytes
    items: Sequence[Item]
    offsets: Sequence[int]
    size: int


def whole(out: Path, values: Mapping[str, Value], items: Sequence[Item]) -> Division:
    """All in one file."""
    stated = values.get("general.alignment")
    alignment = ALIGNMENT if stated is None else int(stated.data)
    infos, at = [], 0
    for item in items:
        kind = cast(GGMLQuantizationType, item.type)  # gguf has no names for ik_llama.cpp's
        infos.append(TensorInfo(item.name, item.shape, kind, at))
        at = aligned(at + item.n_bytes, alignment)
    made = header(values, infos, alignment)
    offsets = [len(made) + info.offset for info in infos]
    return Division(out, values, made, items, offsets, len(made) + at)


def divide(
    out: Path,
    values: Mapping[str, Value],
    items: Sequence[Item],
    limits: Limits | None = None,
    homes: Sequence[int] | None = None,
    n_homes: int = 0,
) -> list[Division]:
    """Lay out the parts of a file.

    out     a path whose name, without ".gguf", begins those of the parts
    values  its key-values; `split.` ones are set anew
    items   its tensors, in order
    limits  of a part; or None, and then
    homes   the number of the part that each tensor goes to, in rising order, of `n_homes` parts
    Raises UsageError where there would be more parts than can be numbered.
    """
    if homes is None:
        assert limits is not None
        groups = list(_filled(items, limits))
    else:
        paired = groupby(zip(homes, items, strict=True), key=lambda pair: pair[0])
        by_home = {home: [item for _, item in group] for home, group in paired}
        groups = [by_home.get(home, []) for home in range(n_homes)]
    if len(groups) > MAX_PARTS:
        raise UsageError(
            f"{out}: {len(groups)} parts: expected at most {MAX_PARTS}",
            hint="give a larger limit",
        )
    return [
        whole(
            part_path(out, number, len(groups)),
            _values(values, number, len(groups), len(items)),
            group,
        )
        for number, group in enumerate(groups)
    ]


def part_path(out: Path, number: int, count: int) -> Path:
    """Where part `number`, from 0, of a file is to lie."""
    return out.with_name(f"{out.name.removesuffix('.gguf')}-{number + 1:05}-of-{count:05}.gguf")


def joined(values: Mapping[str, Value]) -> dict[str, Value]:
    """Key-values of a first part without those that say that it is one."""
    return {key: value for key, value in values.items() if not key.startswith("split.")}


def _values(values: Mapping[str, Value], number: int, count: int, n: int) -> dict[str, Value]:
    own = {
        _NO: Value(GGUFValueType.UINT16, number),
        _TENSORS: Value(GGUFValueType.INT32, n),
        _COUNT: Value(GGUFValueType.UINT16, count),
    }
    if number == 0:
        return joined(values) | own
    checked = {checksums.HEADER: values[checksums.HEADER]} if checksums.HEADER in values else {}
    return own | checked


def _filled(items: Sequence[Item], limits: Limits) -> Iterable[list[Item]]:
    if limits.bare_first:
        yield []
    part: list[Item] = []
    size = 0
    for i, item in enumerate(items):
        padded = aligned(item.n_bytes)
        full = (
            i % limits.tensors == 0
            if limits.tensors is not None
            else limits.size is not None and size + padded > limits.size
        )
        if part and full:
            yield part
            part, size = [], 0
        part.append(item)
        size += padded
    yield part
