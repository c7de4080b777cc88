"""What is on disk, beside what it was made from: FP8 weights measured, everything else compared."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .. import sources
from ..errors import ModelError
from ..sources import Checkpoint, Presented, StoredTensor
from ..sources.layout import INDEX
from ..sources.packed.fp8 import PackedFp8
from ..sources.packed.parts import numbers
from ..writing import Made, Progress, run, thread_count
from . import config, places
from .choosing import Choice, not_converted
from .coding import BLOCK, compare, dequantize
from .jobs import spans
from .losses import Lost, measured
from .naming import WEIGHT, Matrix, matrices
from .reviewing import Review, Reviewed

_ABOUT = {"transformers_version", "_name_or_path"}
"""What a config says of whoever wrote it."""
_VALUES = np.arange(128, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Of some rows: what FP8 cost them, how many of their values are not where rounding puts them,
    or how many bytes are not those of the source.
    """

    lost: Lost
    strayed: int = 0
    differing: int = 0

    def __add__(self, other: _Seen) -> _Seen:
        return _Seen(
            self.lost + other.lost,
            self.strayed + other.strayed,
            self.differing + other.differing,
        )


@dataclass(frozen=True, slots=True)
class _Measuring:
    """An FP8 weight of the output beside the matrix that it was.

    each  look at each value too, as what was just written need not be
    """

    name: str
    matrix: Matrix
    packed: PackedFp8
    each: bool
    extents: tuple[()] = ()

    @property
    def source_bytes(self) -> int:
        return self.matrix.tensor.n_values * self.matrix.tensor.dtype.itemsize

    @property
    def n_rows(self) -> int:
        return self.matrix.tensor.n_rows

    def bands(self) -> Iterator[tuple[int, int]]:
        return spans(self.n_rows, self.source_bytes // max(self.n_rows, 1), BLOCK)

    def make(self, start: int, stop: int) -> Made[_Seen]:
        packed = self.packed
        w = self.matrix.tensor.rows(start, stop)
        codes = packed.weight.raw(start, stop)
        if _as_ours(packed):
            scales = numbers(packed.scale, start // BLOCK, -(-stop // BLOCK)).astype(np.float32)
            seen = compare(w, codes, scales)
            lost = Lost(seen.sums, seen.saturated, seen.flushed)
            if not self.each:
                return Made((), _Seen(lost))
            return Made(
                (), _Seen(lost, _strayed(w, dequantize(codes, scales), codes, float(scales.max())))
            )
        back = packed.rows(start, stop).astype(np.float32, copy=False)
        values = np.maximum(_VALUES[codes & 0x7F], _VALUES[1])
        scale = float(np.max(np.abs(back) / values, initial=0))
        return Made((), _Seen(measured(w, back, codes), _strayed(w, back, codes, scale)))


@dataclass(frozen=True, slots=True)
class _Comparing:
    """A tensor of the output beside the one that it is a copy of."""

    name: str
    here: StoredTensor
    there: StoredTensor
    extents: tuple[()] = ()

    @property
    def source_bytes(self) -> int:
        return self.there.n_rows * self.there.row_bytes

    @property
    def n_rows(self) -> int:
        return self.there.n_rows

    def bands(self) -> Iterator[tuple[int, int]]:
        return spans(self.n_rows, self.there.row_bytes)

    def make(self, start: int, stop: int) -> Made[_Seen]:
        differ = self.here.raw(start, stop) != self.there.raw(start, stop)
        return Made((), _Seen(Lost(), differing=int(differ.sum())))


def _strayed(
    w: NDArray[Any], d: NDArray[np.float32], codes: NDArray[np.uint8], scale: float
) -> int:
    """Values that are further from their weights than rounding to E4M3 puts them: a sixteenth of
    the weight, or half of the least value there is; with some room, for scales that were rounded
    after the weights were divided. What saturates is not among them.

    scale  the largest of them
    """
    x = w.astype(np.float32)
    most = np.abs(x)
    with np.errstate(over="ignore", invalid="ignore"):
        close = np.abs(d - x) <= most * np.float32(1 / 15) + np.float32(scale * 2.0**-9)
    close |= (codes & 0x7F == 0x7E) & (most > np.abs(d))
    return int(close.size - np.count_nonzero(close))


def reread(
    source: Checkpoint,
    out: Path,
    choice: Choice,
    weights: Sequence[Reviewed] | None,
    calibration: str,
    samples: int,
    threads: int | None = None,
) -> Review:
    """Read back some of what was just written: of each file `samples` FP8 weights, which have to
    cost what they cost when they were made, and everything that was copied.

    weights  as they were found when they were made; None: all of them are read back
    """
    with sources.open_checkpoint(out) as written:
        by_name = {f"{m.module}{WEIGHT}": m for m in choice.quantized}
        eight = _eight(sources.presented(written.tensors, written.config))
        by_file: dict[str, list[PackedFp8]] = {}
        for packed in eight.values():
            by_file.setdefault(packed.weight.file, []).append(packed)
        jobs: list[Any] = [
            _Measuring(packed.name, by_name[packed.name], packed, each=False)
            for of_file in by_file.values()
            for packed in (of_file if weights is None else _spread(of_file, samples))
        ]
        n_read = len(jobs)
        copies = _copies(written, source, eight)
        seen = run([*jobs, *copies], threads=thread_count(threads))
    problems = [
        f"{name}: {found.differing} bytes on disk are not those of the source"
        for name, found in seen.items()
        if found.differing
    ]
    if weights is None:
        shapes = {name: matrix.tensor.shape for name, matrix in by_name.items()}
        weights = [Reviewed(n, s, seen[n].lost if n in seen else Lost()) for n, s in shapes.items()]
    checked = []
    for weight in weights:
        found = seen.get(weight.name)
        if found is not None and found.lost != weight.lost:
            what = "what is on disk is not what was written"
            checked.append(replace(weight, lost=found.lost, problem=what))
        else:
            checked.append(weight)
    return Review(
        calibration,
        len(written.files),
        tuple(checked),
        len(copies),
        len(copies),
        n_read,
        tuple(problems),
    )


def verify(
    directory: str | os.PathLike[str],
    against: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Review:
    """Compare an FP8 checkpoint with the one that it was made from, whoever made it.

    Every FP8 weight is measured, every other tensor compared byte by byte; then the config, its
    list of modules, the index, and what lies beside. Raises the errors of ggufmix.errors where one
    of them cannot be read, ModelError where `directory` holds no FP8 weight.
    """
    with sources.open_checkpoint(directory) as made, sources.open_checkpoint(against) as source:
        eight = _eight(sources.presented(made.tensors, made.config))
        if not eight:
            raise ModelError(f"{made.where}: expected weights in FP8, there are none")
        parts = dict(matrices(source.tensors))
        by_name = {f"{m.module}{WEIGHT}": m for found in parts.values() for m in found}
        problems: list[str] = []
        jobs: list[Any] = []
        for name, packed in eight.items():
            matrix = by_name.get(name)
            if matrix is None:
                problems.append(f"{name}: the source has no such weight")
            elif matrix.tensor.shape != packed.shape:
                got, expected = list(packed.shape), list(matrix.tensor.shape)
                problems.append(f"{name}: expected shape {expected} of the source, got {got}")
            else:
                jobs.append(_Measuring(name, matrix, packed, each=True))
        copies = _copies(made, source, eight)
        gone = _gone(made, source, parts, eight)
        problems += [f"{name}: of the source, is not there" for name in gone]
        problems += _odd(made, source, eight)
        problems += _config_problems(made, source, {n.removesuffix(WEIGHT) for n in eight})
        problems += _index_problems(made)
        problems += _side_problems(made, source)
        seen = run([*jobs, *copies], threads=thread_count(threads), progress=progress)
        problems += [
            f"{job.name}: {seen[job.name].differing} bytes are not those of the source"
            for job in copies
            if job.name in seen and seen[job.name].differing
        ]
        nothing = _Seen(Lost())
        weights = tuple(_reviewed(job, seen.get(job.name, nothing)) for job in jobs)
        n_files = len(made.files)
    n = len(copies)
    return Review(None, n_files, weights, n, n, len(weights), tuple(problems))


def _reviewed(job: _Measuring, seen: _Seen) -> Reviewed:
    problem = None
    if seen.strayed:
        problem = f"{seen.strayed} values are further from the source than rounding puts them"
    return Reviewed(job.name, job.packed.shape, seen.lost, problem)


def _eight(shown: Presented) -> dict[str, PackedFp8]:
    return {p.name: p for p in shown.packed if isinstance(p, PackedFp8)}


def _as_ours(packed: PackedFp8) -> bool:
    """Whether it is stored as `convert` stores it."""
    return (
        packed.weight.stored == "F8_E4M3"
        and packed.block == (BLOCK, BLOCK)
        and packed.scale.stored in ("BF16", "F32")
    )


def _spread(packed: Sequence[PackedFp8], samples: int) -> Sequence[PackedFp8]:
    """So many of them, from all over, the same ones every time."""
    n = len(packed)
    return [packed[i * n // samples] for i in range(samples)] if samples < n else packed


def _copies(
    made: Checkpoint, source: Checkpoint, packed: Mapping[str, PackedFp8]
) -> list[_Comparing]:
    """Tensors that both have, alike in dtype and shape."""
    return [
        _Comparing(name, tensor, there)
        for name, tensor in made.tensors.items()
        if name not in packed
        and (there := source.tensors.get(name)) is not None
        and (there.stored, there.shape) == (tensor.stored, tensor.shape)
    ]


def _gone(
    made: Checkpoint,
    source: Checkpoint,
    parts: Mapping[str, Sequence[Matrix]],
    eight: Mapping[str, PackedFp8],
) -> Iterator[str]:
    for name in source.tensors:
        if name not in made.tensors:
            for matrix in parts.get(name) or (None,):
                whole = f"{matrix.module}{WEIGHT}" if matrix is not None else name
                if whole not in eight:
                    yield whole


def _odd(made: Checkpoint, source: Checkpoint, eight: Mapping[str, PackedFp8]) -> Iterator[str]:
    """Sentences on tensors that are neither FP8, nor scales, nor copies."""
    scales = {part.name for packed in eight.values() for part in packed.parts}
    for name, tensor in made.tensors.items():
        if name in scales:
            continue
        there = source.tensors.get(name)
        got = f"{tensor.stored} {list(tensor.shape)}"
        if there is None:
            yield f"{name}: the source has no such tensor"
        elif (there.stored, there.shape) != (tensor.stored, tensor.shape):
            yield f"{name}: expected {there.stored} {list(there.shape)} of the source, got {got}"


def _config_problems(made: Checkpoint, source: Checkpoint, modules: set[str]) -> Iterator[str]:
    about = made.config.get(config.KEY)
    if not isinstance(about, dict):
        yield "config.json: expected a quantization_config, there is none: nothing reads the scales"
        return
    listed = about.get("modules_to_not_convert") or about.get("ignored_layers") or []
    expected = set(not_converted(source.tensors, modules, source.config))
    for name in sorted(expected - set(listed)):
        yield f"config.json: {name} is not FP8, but modules_to_not_convert does not name it"
    there = {name.rpartition(".")[0] for name in source.tensors}
    inside = {"lm_head", *expected, *modules}
    for name in sorted(set(map(str, listed)) - there - inside):
        if not any(module.startswith(f"{name}.") for module in there):
            yield f"config.json: modules_to_not_convert names {name}, which does not exist"
    for name in sorted(set(map(str, listed)) & modules):
        yield f"config.json: modules_to_not_convert names {name}, which is FP8"
    before, after = config.plain(source.config), config.plain(made.config)
    keys = sorted(k for k in {*before, *after} - _ABOUT if before.get(k) != after.get(k))
    if keys:
        yield f"config.json: other values than in the source: {', '.join(keys)}"


def _index_problems(made: Checkpoint) -> Iterator[str]:
    index = made.json(INDEX)
    stated = (index or {}).get("metadata", {})
    size = sum(t.n_rows * t.row_bytes for t in made.tensors.values())
    if index is not None and isinstance(stated, dict) and stated.get("total_size", size) != size:
        yield f"{INDEX}: expected a total_size of {size}, got {stated['total_size']}"


def _side_problems(made: Checkpoint, source: Checkpoint) -> Iterator[str]:
    for name in places.side_files(source).copied:
        here, there = made.directory / name, source.directory / name
        if name.endswith(".md") or name.startswith("LICENSE"):
            continue  # a card of its own is no fault
        if not here.is_file():
            yield f"{name}: lies beside the source, but not here"
        elif here.stat().st_size != there.stat().st_size or here.read_bytes() != there.read_bytes():
            yield f"{name}: is not that of the source"
