"""What calibration says of the inputs of a weight: one mean square for each of its columns.

`read` opens what there is: the file of `ggufmix calibrate` and llama.cpp's importance matrices
(GGUF and legacy, under GGUF names, value heads in GGUF's order), and the JSON of the toolkit that
came before (`input_channel_max`, under the names of the checkpoint). `Stats.vector` gives it for a
weight as the checkpoint has it: names and columns are taken back through the model family.

    stats = read(path, checkpoint.config, tensors, wanted=names_to_quantize)
    for sentence in stats.warnings: ...
    weights = stats.vector("model.layers.0.mlp.experts.gate_up_proj", 3, 2048)
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import imatrix
from ..errors import ImportanceError, SourceError, UsageError
from ..tensor import Tensor
from ..tracing import Origin, trace

Vector = NDArray[np.float32]

_SHOWN = 3


class Stats(Protocol):
    """Statistics of one model.

    name      base name of the file, for people
    maxima    they are squared maxima, not mean squares: all that the file holds
    warnings  sentences on weights that it says nothing of
    """

    name: str
    maxima: bool
    warnings: tuple[str, ...]

    def vector(self, weight: str, expert: int | None, cols: int) -> Vector | None:
        """Mean squared input, float32 (cols,), of the columns of a weight; None where nothing is
        known (not measured, an expert that no token reached, inputs that were always zero): it is
        then quantized as without statistics.

        weight  name in the checkpoint, such as "model.layers.0.mlp.down_proj.weight" or, of fused
                experts, "model.layers.0.mlp.experts.down_proj"
        expert  number of the expert where the stored tensor has three dimensions, else None
        cols    input channels
        Raises ImportanceError where the file has another number of columns or experts, or values
        that are not finite or negative.
        """
        ...


def read(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    wanted: Iterable[str] = (),
) -> Stats:
    """Open statistics for a checkpoint; values are read when they are asked for.

    config   config.json of the checkpoint
    tensors  its weights under their stored names; shapes alone are looked at
    wanted   names of weights that will be asked for: those without statistics are named in
             `warnings`
    Raises UsageError where there is no such file, SourceError for one that is damaged,
    ImportanceError for one of another model (no name in common, other widths).
    """
    at = Path(path)
    if not at.is_file():
        raise UsageError(f"no such file of statistics: {at}")
    if _is_json(at):
        return _Maxima(at, tensors, list(wanted))
    return _Means(at, config, tensors, list(wanted))


def _is_json(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(64)
    return b"\0" not in head and head.lstrip()[:1] == b"{"


class _Place(NamedTuple):
    entry: imatrix.Entry
    matrix: int
    origin: Origin

    @property
    def seen(self) -> bool:
        """Whether a token reached it; legacy files do not say so of single experts."""
        entry = self.entry
        return entry.as_is or bool(entry.counts[min(self.matrix, len(entry.counts) - 1)])

    def values(self) -> Vector:
        """Mean squares, float32, in the order of the checkpoint's columns."""
        cols = len(self.origin.index)
        start = self.matrix * cols if self.entry.n_values > cols else 0
        made = np.empty(cols, np.float32)
        made[self.origin.index] = self.entry.values(start, start + cols)
        return made


class _Means:
    """An importance matrix: mean squares under the names of GGUF tensors."""

    maxima = False

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        wanted: Sequence[str],
    ) -> None:
        self.name = path.name
        given = imatrix.read([path])
        self._places: dict[tuple[str, int], list[_Place]] = {}
        for name, origins in trace(config, tensors).items():
            names = (name, *imatrix.alternatives(name))
            entry = next((given.entries[n] for n in names if n in given.entries), None)
            if entry is None:
                continue
            _check_size(entry, name, origins, path)
            found: dict[tuple[str, int], list[_Place]] = {}
            for matrix, origin in enumerate(origins):
                # rows of a matrix that llama.cpp multiplies from the other side are no inputs
                if origin.axis == -1 or len(tensors[origin.weight].shape) > 2:
                    key = (origin.weight, origin.matrix)
                    found.setdefault(key, []).append(_Place(entry, matrix, origin))
            self._places = found | self._places
        if not self._places:
            raise ImportanceError(
                f"{path}: no entry is of a tensor of this model; the first is "
                f"{next(iter(given.entries))}",
                hint="it was computed from another model",
            )
        self.warnings = (
            *without_statistics(self.name, self._without(wanted)),
            *self._unseen(wanted),
        )

    def vector(self, weight: str, expert: int | None, cols: int) -> Vector | None:
        places = self._places.get((weight, expert or 0), [])
        seen = [place for place in places if place.seen]
        if not seen:
            return None
        if len(seen[0].origin.index) != cols:
            raise ImportanceError(
                f"{weight}: expected statistics of {cols} input channels, {self.name} has "
                f"{len(seen[0].origin.index)} in {seen[0].entry.name}"
            )
        every = np.stack([place.values() for place in seen])  # of MLA each head has its own
        return usable(every.mean(axis=0, dtype=np.float32), self.name, weight)

    def _without(self, wanted: Sequence[str]) -> list[str]:
        known = {weight for weight, _ in self._places}
        return [name for name in wanted if name not in known]

    def _unseen(self, wanted: Sequence[str]) -> Iterable[str]:
        names = {*wanted}
        stacked = {weight for weight, expert in self._places if expert}
        unseen = sorted(
            f"{weight}, expert {expert}" if weight in stacked else weight
            for (weight, expert), places in self._places.items()
            if weight in names and not any(place.seen for place in places)
        )
        if unseen:
            more = f" and {len(unseen) - _SHOWN} more" if len(unseen) > _SHOWN else ""
            yield (
                f"{self.name}: no token reached {len(unseen)} weights, which are quantized without "
                f"it: {'; '.join(unseen[:_SHOWN])}{more}"
            )


def _check_size(entry: imatrix.Entry, name: str, origins: Sequence[Origin], path: Path) -> None:
    """Raise ImportanceError unless an entry has a vector for each matrix; of MLA one for all heads
    will do.
    """
    cols, n = len(origins[0].index), len(origins)
    heads = origins[0].axis == -1 and len({o.weight for o in origins}) == 1 and ".attn_" in name
    if entry.n_values != n * cols and not (heads and entry.n_values == cols):
        raise ImportanceError(
            f"{path}: {entry.name}: expected {n} x {cols} values for {name}, got {entry.n_values}",
            hint="it was computed from another model, or another layout of it",
        )


class _Record(msgspec.Struct):
    input_channel_max: list[float]


_WRAPPED = re.compile(r"^(model\.)?(language_model\.)?(model\.)?")
_FUSED = re.compile(r"(.*\.experts\.)(gate_up|gate|up|down)_proj(?:\.weight)?")


class _Maxima:
    """The JSON of the seed: maxima, which are squared here."""

    maxima = True

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], wanted: Sequence[str]) -> None:
        self.name = path.name
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=dict[str, _Record])
        except msgspec.MsgspecError as error:
            raise SourceError(
                f"{path}: expected statistics of collect_activation_stats.py, one "
                f"input_channel_max for each weight: {error}"
            ) from error
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from error
        self._vectors = {
            _plain(name): np.array(record.input_channel_max, np.float32)
            for name, record in stored.items()
        }
        self._names = {_plain(name): name for name in stored}
        names = {key for name, t in tensors.items() for key in _keys(name, t)}
        if names.isdisjoint(self._vectors):
            first = next(iter(stored), "nothing at all")
            raise ImportanceError(
                f"{path}: no entry is of a weight of this checkpoint; the first is {first}",
                hint="it was collected from another model",
            )
        for name, tensor in tensors.items():
            for key in _keys(name, tensor):
                if key in self._vectors:
                    self._checked(key, name, tensor.cols)
        without = [
            name
            for name in wanted
            if name not in tensors or not self._vectors.keys() & {*_keys(name, tensors[name])}
        ]
        self.warnings = tuple(without_statistics(self.name, without))

    def vector(self, weight: str, expert: int | None, cols: int) -> Vector | None:
        keys = [_plain(weight)] if expert is None else _of_expert(_plain(weight), expert)
        key = next((k for k in keys if k in self._vectors), None)
        if key is None:
            return None
        maxima = usable(self._checked(key, weight, cols), self.name, weight)
        if maxima is None:
            return None
        with np.errstate(over="ignore"):  # `usable` says what became of it
            return usable(np.square(maxima), self.name, weight)

    def _checked(self, key: str, weight: str, cols: int) -> Vector:
        found = self._vectors[key]
        if len(found) != cols:
            raise ImportanceError(
                f"{weight}: expected statistics of {cols} input channels, {self.name} has "
                f"{len(found)} for {self._names[key]}",
                hint="it was collected from another model",
            )
        return found


def _plain(name: str) -> str:
    """A name without the prefixes by which wrappers of one text model differ."""
    return _WRAPPED.sub("", name)


def _of_expert(plain: str, expert: int) -> list[str]:
    """The names that one expert of a fused weight has where experts are kept one by one."""
    if match := _FUSED.fullmatch(plain):
        parts = ("gate", "up") if match[2] == "gate_up" else (match[2],)
        return [f"{match[1]}{expert}.{part}_proj.weight" for part in parts]
    return []


def _keys(name: str, tensor: Tensor) -> list[str]:
    plain = _plain(name)
    if len(tensor.shape) != 3:
        return [plain]
    return [key for expert in range(tensor.shape[0]) for key in _of_expert(plain, expert)]


def without_statistics(name: str, weights: list[str]) -> Iterable[str]:
    """The sentence on weights that the file `name` says nothing of, if there are any."""
    if weights:
        more = f" and {len(weights) - _SHOWN} more" if len(weights) > _SHOWN else ""
        yield (
            f"{name} says nothing of {len(weights)} weights, which are quantized without it: "
            f"{', '.join(weights[:_SHOWN])}{more}"
        )


def usable(values: Vector, name: str, weight: str) -> Vector | None:
    """`values`, or None where all are zero. Raises ImportanceError where one cannot be meant."""
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        raise ImportanceError(
            f"{weight}: {name} has {int(wrong.sum())} values that are not finite or below zero",
            hint="the file is damaged, or the model that it was computed from had diverged",
        )
    return values if values.any() else None
