"""What was measured, as `eval --json` and `verify --json` have written it down."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .. import checksums, rules
from ..errors import GgufmixError, SourceError
from ..sources import read_gguf
from ..sources.gguf_file import first_part
from ..verifying import Grade

T = TypeVar("T")
_MOST_BYTES = 1 << 28
"""Of a file of measurements; a trillion weights make some two thousand lines."""


class Point(msgspec.Struct, frozen=True):
    """Mean KL divergence around a position, of `Scores.by_position`."""

    position: int
    kld: float


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `eval --json`. Names as in `evaluating.Scores.summary`; `text` and `base` name the
    files that were used, `data_xxh64` the data that were measured (see `identity`).
    """

    file: str
    data_xxh64: str | None = None
    ctx: int | None = None
    windows: int | None = None
    ppl: float | None = None
    ppl_spread: float | None = None
    base_ppl: float | None = None
    kld: float | None = None
    kld_spread: float | None = None
    kld_999: float | None = None
    same_top: float | None = None
    same_top_spread: float | None = None
    p_change_rms: float | None = None
    kld_by_position: tuple[Point, ...] = ()
    text: str | None = None
    base: str | None = None

    @property
    def name(self) -> str:
        """Of the file, without folders."""
        return _bare(self.file)


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of `verify --json`."""

    name: str
    type: str
    verdict: Grade
    why: str = ""
    rrmse: float | None = None


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """Of one type, all its tensors together."""

    tensors: int
    rrmse: float | None = None
    worst_rrmse: float | None = None
    max_abs_error: float | None = None


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """`verify --json`, or what `convert --verify` has measured while it wrote."""

    verdict: Grade
    tensors: tuple[Tested, ...]
    types: dict[str, Errors]
    file: str = ""
    data_xxh64: str | None = None
    tensors_in_file: int = 0
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the file, without folders."""
        return _bare(self.file)

    @property
    def by_name(self) -> dict[str, Tested]:
        """Tensors by their names."""
        return {t.name: t for t in self.tensors}


def _bare(path: str) -> str:
    """Without folders of either kind of system."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def read_eval(path: Path) -> tuple[Scored, ...]:
    """Lines of `eval --json`. Raises SourceError for anything else."""
    return tuple(_read(path, list[Scored], "ggufmix eval --json"))


def read_verify(path: Path) -> Verified:
    """What `verify --json` has printed of a GGUF file. Raises SourceError for anything else."""
    return _read(path, Verified, "ggufmix verify --json")


def of_report(document: Mapping[str, Any]) -> Verified:
    """Of `verifying.Report.as_dict()`."""
    return msgspec.convert(document, Verified)


def _read(path: Path, kind: type[T], command: str) -> T:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        return msgspec.convert(json.loads(path.read_bytes()), kind)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise SourceError(
            f"{path}: expected what `{command}` prints: {error}",
            hint=f"save it with: {command} ... > {path.name}",
        ) from error


def identity(path: Path) -> dict[str, str]:
    """What measurements of a GGUF file say of it besides its name: `data_xxh64`, which stands for
    its tensors' data; nothing where the file has no checksums of them.
    """
    try:
        first = path.with_name(first_part(path.name))
        found = checksums.of_data(read_gguf(first, rules.foreign_formats()).values)
    except GgufmixError:  # what llama.cpp has run is no failure here
        return {}
    return {"data_xxh64": found} if found is not None else {}


def check_data(row: Scored | Verified, data: str | None) -> None:
    """Raise SourceError where this was measured on other data than a file of that name has."""
    if row.data_xxh64 is not None and row.data_xxh64 != data:
        raise SourceError(
            f"{row.file}: has been written anew since it was measured",
            hint="measure it again, or leave the measurement out",
        )


def check_types(found: Verified, types: Mapping[str, str]) -> None:
    """Raise SourceError where this is no verify of a file of these tensors, name -> type."""
    for t in found.tensors:
        if types.get(t.name) != t.type:
            here = types.get(t.name, "no such tensor")
            raise SourceError(
                f"{found.file}: {t.name} was {t.type} when it was verified, the file has {here}",
                hint="verify it again: the file has changed since",
            )


def matched(
    rows: Iterable[Scored], names: Sequence[frozenset[str]]
) -> tuple[list[list[Scored]], list[str]]:
    """Lines by file, whose names (a split one has several) these are; and names of the rest."""
    found: list[list[Scored]] = [[] for _ in names]
    others: dict[str, None] = {}
    for row in rows:
        places = [i for i, those in enumerate(names) if row.name in those]
        if places:
            found[places[0]].append(row)
        else:
            others[row.file] = None
    return found, list(others)
