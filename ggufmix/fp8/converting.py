"""From a checkpoint to a block-FP8 checkpoint, and back to one in BF16.

The order of the work is that of trust: shards first, each as a `.part` until all are whole, then
what lies beside them, the index, and config.json at the very end; before that no loader takes the
folder for a model.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import sources
from ..errors import ModelError, SourceError, UsageError
from ..sources import Checkpoint, StoredTensor
from ..sources.layout import INDEX
from ..sources.safetensors import BITS
from ..writing import Extent, Part, Progress, thread_count, write
from . import config, places, shards, stats
from .choosing import Choice, choose
from .coding import BLOCK, Scale, Search
from .jobs import Coding, Copying
from .losses import Lost
from .naming import WEIGHT, Matrix
from .rereading import reread
from .reviewing import Review, Reviewed

ScaleDtype = Literal["bf16", "f32"]
SCALES = "_scale_inv"


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asks for, apart from where it comes from and goes to.

    preset           "conservative" or "official"
    keep, quantize   globs on names of modules
    search           how scales are found
    scale_dtype      what scales are stored in: "bf16" or "f32"
    pow2             scales are powers of two
    statistics       a file that weighs columns: of `ggufmix calibrate`, a GGUF imatrix, or the JSON
                     of collect_activation_stats.py
    max_shard_size   bytes that a file of the output may have; None: the files of the source
    verify_samples   FP8 weights of each file that are read back and measured once more; what is
                     copied is compared whole
    verify           False: nothing is read back, and no tensor can fail
    """

    preset: str = "conservative"
    keep: Sequence[str] = ()
    quantize: Sequence[str] = ()
    search: Search = field(default_factory=Search)
    scale_dtype: ScaleDtype = "bf16"
    pow2: bool = False
    statistics: str | os.PathLike[str] | None = None
    max_shard_size: int | None = None
    verify_samples: int = 5
    verify: bool = True

    @property
    def calibration(self) -> str:
        """Mode and what it was given, in a few words."""
        search = self.search
        detail = {
            "rms": f"(k={search.factor:g})",
            "percentile": f"({search.percentile:g})",
            "mse": f"(grid={search.grid})",
        }.get(search.mode, "")
        weighed = self.statistics is not None and search.mode in ("rms", "mse")
        scales = "powers of two" if self.pow2 else self.scale_dtype
        return (
            f"{search.mode}{detail}{' weighed by activations' if weighed else ''}, scales {scales}"
        )


@dataclass(frozen=True, slots=True)
class Planned:
    """What is going to be written.

    shards    files of weights, in the order in which they are written
    config    the new config.json
    side      what is copied and what is left
    warnings  sentences
    """

    shards: Sequence[shards.Shard]
    config: Mapping[str, Any]
    side: places.SideFiles
    choice: Choice | None
    warnings: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files of weights."""
        return sum(shard.size for shard in self.shards)


@dataclass(frozen=True, slots=True)
class Result:
    """What came out."""

    out: Path
    planned: Planned
    review: Review


def convert(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options | None = None,
    *,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    announce: Callable[[Planned], None] | None = None,
) -> Result:
    """Write a checkpoint in block FP8.

    src        folder with config.json and safetensors
    out        folder, which is made; where it has files in it, `overwrite` is needed
    announce   called with what is planned before anything is written
    Raises the errors of ggufmix.errors. A review that says FAIL raises nothing.
    """
    options = options or Options()
    folder = Path(out)
    with sources.open_checkpoint(src) as source:
        places.check_folder(
            folder, source.directory, [f.name for f in source.files], may_exist=overwrite
        )
        planned, jobs = _planned(source, options)
        if announce is not None:
            announce(planned)
        found = save(
            source, folder, planned, jobs, threads=threads, overwrite=overwrite, progress=progress
        )
        assert planned.choice is not None
        weights = tuple(
            Reviewed(
                f"{m.module}{WEIGHT}", m.tensor.shape, found.get(f"{m.module}{WEIGHT}", Lost())
            )
            for m in planned.choice.quantized
        )
        if options.verify:
            review = reread(
                source, folder, planned.choice, weights, options.calibration, options.verify_samples
            )
        else:
            passed = sum(isinstance(p.key, StoredTensor) for s in planned.shards for p in s.pieces)
            review = Review(options.calibration, len(planned.shards), weights, passed, 0, 0)
    return Result(folder, planned, review)


def _planned(
    source: Checkpoint, options: Options
) -> tuple[Planned, Callable[[shards.Shard], list[Any]]]:
    tensors = plain_tensors(source)
    choice = choose(tensors, source.config, options.preset, options.keep, options.quantize)
    weights, remarks = _statistics(source, choice, options)
    stored = options.scale_dtype.upper()
    scale: Scale = "pow2" if options.pow2 else options.scale_dtype
    pieces = list(_pieces(tensors, choice, stored))

    def jobs(shard: shards.Shard) -> list[Any]:
        made: list[Any] = []
        for piece in shard.pieces:
            extents = tuple(Extent(shard.offsets[e.name], e.size) for e in piece.entries)
            if isinstance(piece.key, Matrix):
                made.append(
                    Coding(
                        piece.key,
                        (extents[0], extents[1]),
                        options.search,
                        scale,
                        stored,
                        weights,
                    )
                )
            else:
                made.append(Copying(piece.key, (extents[0],)))
        return made

    planned = Planned(
        shards.plan(pieces, options.max_shard_size),
        config.quantized(source.config, choice.not_converted),
        places.side_files(source.directory, [f.name for f in source.files]),
        choice,
        (*choice.warnings, *remarks),
    )
    return planned, jobs


def save(
    source: Checkpoint,
    folder: Path,
    planned: Planned,
    jobs: Callable[[shards.Shard], list[Any]],
    *,
    threads: int | None,
    overwrite: bool,
    progress: Progress | None,
) -> Mapping[str, Lost]:
    """Write what is planned. Returns what was found, by the names of the jobs."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        written = write(
            [
                Part(folder / shard.name, shard.header, jobs(shard), shard.size)
                for shard in planned.shards
            ],
            threads=thread_count(threads),
            overwrite=overwrite,
            progress=progress,
        )
    except BaseException:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise
    for path in places.stale(folder, [shard.name for shard in planned.shards]):
        path.unlink()
    for name in planned.side.copied:
        places.copy(source.directory, folder, name)
    index = shards.index(planned.shards)
    if index is not None:
        places.put_json(folder / INDEX, index)
    places.put_json(folder / "config.json", planned.config)
    return written.found


def plain_tensors(source: Checkpoint) -> Mapping[str, StoredTensor]:
    """The tensors of a checkpoint that is not quantized. Raises SourceError where it is."""
    packed = sources.presented(source.tensors, source.config).packed
    if packed:
        raise SourceError(
            f"{source.where}: is quantized already: {packed[0].name} and {len(packed) - 1} others "
            f"are {packed[0].packing}",
            hint="`ggufmix dequantize` makes a BF16 checkpoint of it, which can then be quantized",
        )
    for tensor in source.tensors.values():
        if tensor.stored.startswith("F8_") and len(tensor.shape) >= 2:
            raise SourceError(
                f"{tensor.file}: {tensor.name} is {tensor.stored}, and there are no scales for it",
                hint="its values mean nothing without them: get the checkpoint it was made from",
            )
    method = config.says_quantized(source.config)
    if method is not None:
        raise ModelError(
            f"{source.where}: quantization_config of config.json speaks of {method}, but no weight "
            "is quantized",
            hint="take quantization_config out of config.json if the weights are what they seem",
        )
    return source.tensors


def _pieces(
    tensors: Mapping[str, StoredTensor], choice: Choice, stored: str
) -> Iterator[shards.Piece]:
    """What the output consists of, in stored order."""
    made: dict[str, list[Matrix]] = {}
    for matrix in choice.quantized:
        made.setdefault(matrix.stored, []).append(matrix)
    taken: set[str] = set()
    for name, tensor in tensors.items():
        if name not in made:
            yield copied(tensor)
            taken.add(name)
            continue
        for matrix in made[name]:
            weight = f"{matrix.module}{WEIGHT}"
            rows, cols = matrix.tensor.shape
            blocks = -(-rows // BLOCK), -(-cols // BLOCK)
            entries = (
                shards.Entry(weight, "F8_E4M3", (rows, cols), 8),
                shards.Entry(weight + SCALES, stored, blocks, BITS[stored]),
            )
            if not taken.isdisjoint(e.name for e in entries) or (
                weight != name and weight in tensors
            ):
                raise ModelError(f"{tensor.file}: {name}: {weight} is there too")
            taken.update(e.name for e in entries)
            yield shards.Piece(tensor.file, entries, matrix)


def copied(tensor: StoredTensor) -> shards.Piece:
    """A tensor that stays as it is."""
    entry = shards.Entry(tensor.name, tensor.stored, tensor.shape, BITS[tensor.stored])
    return shards.Piece(tensor.file, (entry,), tensor)


def _statistics(
    source: Checkpoint, choice: Choice, options: Options
) -> tuple[Callable[[Matrix], NDArray[np.float32] | None], Sequence[str]]:
    if options.statistics is None:
        return lambda _: None, ()
    if options.search.mode not in ("rms", "mse"):
        note = f"mode {options.search.mode} has no use for activation statistics: not read"
        return lambda _: None, (note,)
    wanted = dict.fromkeys(m.stored for m in choice.quantized)
    read = stats.read(options.statistics, source.config, source.tensors, wanted=wanted)

    @lru_cache(maxsize=64)
    def vector(stored: str, expert: int | None, cols: int) -> NDArray[np.float32] | None:
        return read.vector(stored, expert, cols)

    remarks = list(read.warnings)
    if read.maxima:
        remarks.append(
            f"{read.name} holds maxima of activations; their squares stand in for mean squares"
        )
    return lambda m: vector(m.stored, m.expert, m.tensor.cols), remarks


def bytes_of(size: str) -> int:
    """Bytes of "5GB", "500MB" or "2GiB". Raises UsageError."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
    text = size.strip().upper()
    for unit, factor in units.items():
        number = text.removesuffix(unit)
        if number != text:
            try:
                value = float(number) * factor
            except ValueError:
                break
            if 1 <= value < 1 << 62:
                return int(value)
    raise UsageError(f"expected a size such as 5GB or 500MiB, got {size!r}")
