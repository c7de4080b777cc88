"""From a checkpoint to one in block FP8."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import sources
from ..errors import ModelError, SourceError, UsageError
from ..sources import Checkpoint, StoredTensor
from ..sources.safetensors import BITS
from . import config, places, shards, stats, torch_path
from .choosing import Choice, choose
from .coding import BLOCK, Scale, Search
from .jobs import Coding, Copying, Weights
from .losses import Lost
from .naming import WEIGHT, Matrix
from .rereading import reread
from .reviewing import Review, Reviewed
from .saving import How, Jobs, Planned, copied, opened, refuse_bare, save

ScaleDtype = Literal["bf16", "f32"]
SCALES = "_scale_inv"
_CUDA = re.compile(r"cuda(:\d+)?")


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
    device           "auto", "cpu", "cuda" or "cuda:N"; see `device_of`
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
    device: str = "auto"
    max_shard_size: int | None = None
    verify_samples: int = 5
    verify: bool = True

    @property
    def scale(self) -> Scale:
        """What scales are rounded to."""
        return "pow2" if self.pow2 else self.scale_dtype

    @property
    def stored(self) -> str:
        """What scales are stored in, as safetensors calls it."""
        return self.scale_dtype.upper()

    @property
    def text(self) -> str:
        """All that the bytes of the weights depend on."""
        known = None
        if self.statistics is not None:
            known = hashlib.sha256(Path(self.statistics).read_bytes()).hexdigest()
        return repr((self.search, self.scale, self.stored, known, device_of(self.device)))

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
class Result:
    """What came out."""

    out: Path
    planned: Planned
    review: Review


def convert(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options | None = None,
    how: How | None = None,
) -> Result:
    """Write a checkpoint in block FP8.

    src  folder with config.json and safetensors, or the address of one
    out  folder, which is made; where it has files in it, `how` has to say what to do with them
    Raises the errors of ggufmix.errors. A review that says FAIL raises nothing.
    """
    options, how = options or Options(), how or How()
    folder = Path(out)
    with opened(src, folder, how) as source:
        choice, planned, weights = _planned(source, options)
        device = device_of(options.device)
        if how.announce is not None:
            how.announce(planned)
        jobs = _jobs(options, weights, device)
        found = save(source, folder, planned, jobs, how, options.text)
        names = {f"{m.module}{WEIGHT}": m.tensor.shape for m in choice.quantized}
        reviewed = None
        if found is not None:
            lost = found  # of a weight without values nothing is found
            reviewed = [Reviewed(n, shape, lost.get(n, Lost())) for n, shape in names.items()]
        if options.verify or reviewed is None:
            samples = options.verify_samples if options.verify else 0
            review = reread(
                source, folder, choice, reviewed, options.calibration, samples, how.threads
            )
        else:
            passed = sum(isinstance(p.key, StoredTensor) for s in planned.shards for p in s.pieces)
            n_files = len(planned.shards)
            review = Review(options.calibration, n_files, tuple(reviewed), passed, 0, 0)
    return Result(folder, planned, replace(review, judged=options.verify))


def plan(src: str | os.PathLike[str], options: Options | None = None) -> tuple[Choice, Planned]:
    """What `convert` would write: what becomes of each module, and the files. Costs the headers."""
    with sources.open_checkpoint(src) as source:
        choice, planned, _ = _planned(source, options or Options())
    return choice, planned


def _planned(source: Checkpoint, options: Options) -> tuple[Choice, Planned, Weights]:
    tensors = plain_tensors(source)
    choice = choose(tensors, source.config, options.preset, options.keep, options.quantize)
    weights, remarks = _statistics(source, choice, options)
    fp8 = sum(d.fp8 for d in choice.decisions)
    planned = Planned(
        shards.plan(list(_pieces(tensors, choice, options.stored)), options.max_shard_size),
        config.quantized(source.config, choice.not_converted),
        places.side_files(source),
        fp8,
        len(choice.decisions) - fp8,
        (*choice.warnings, *remarks),
    )
    return choice, planned, weights


def _jobs(options: Options, weights: Weights, device: str | None) -> Jobs:
    def job(shard: shards.Shard, piece: shards.Piece) -> Any:
        extents = [shard.extent(entry) for entry in piece.entries]
        if isinstance(piece.key, Matrix):
            return Coding(
                piece.key,
                (extents[0], extents[1]),
                options.search,
                options.scale,
                options.stored,
                weights,
                device,
            )
        return Copying(piece.key, (extents[0],))

    return lambda shard: [job(shard, piece) for piece in shard.pieces if piece.size]


def device_of(asked: str) -> str | None:
    """The device of torch that is meant; None for the CPU, which `auto` is: its kernel needs no
    torch, keeps up with a disk, and gives the same bytes on every machine. Raises UsageError.
    """
    if asked in {"auto", "cpu"}:
        return None
    if not _CUDA.fullmatch(asked):
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {asked!r}")
    torch_path.check_device(asked)
    return asked


def plain_tensors(source: Checkpoint) -> Mapping[str, StoredTensor]:
    """The tensors of a checkpoint that is not quantized. Raises SourceError where it is."""
    packed = sources.presented(source.tensors, source.config).packed
    if packed:
        raise SourceError(
            f"{source.where}: is quantized already: {packed[0].name} and {len(packed) - 1} others "
            f"are {packed[0].packing}",
            hint="`ggufmix dequantize` makes a BF16 checkpoint of it, which can then be quantized",
        )
    refuse_bare(source.tensors.values())
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
        pieces = (
            [_coded(tensor, m, stored) for m in made[name]] if name in made else [copied(tensor)]
        )
        for piece in pieces:
            for entry in piece.entries:
                if entry.name in taken:
                    raise ModelError(f"{tensor.file}: {name}: {entry.name} is there too")
                taken.add(entry.name)
            yield piece


def _coded(tensor: StoredTensor, matrix: Matrix, stored: str) -> shards.Piece:
    weight = f"{matrix.module}{WEIGHT}"
    rows, cols = matrix.tensor.shape
    entries = (
        shards.Entry(weight, "F8_E4M3", (rows, cols), 8),
        shards.Entry(weight + SCALES, stored, (-(-rows // BLOCK), -(-cols // BLOCK)), BITS[stored]),
    )
    return shards.Piece(tensor.file, entries, matrix)


def _statistics(
    source: Checkpoint, choice: Choice, options: Options
) -> tuple[Weights, Sequence[str]]:
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
