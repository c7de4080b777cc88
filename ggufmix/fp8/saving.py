"""A checkpoint in a new folder: shards first, each as a `.part` until all are whole, then what lies
beside them, the index, and config.json at the very end. Before that no loader takes the folder for
a model.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import SourceError, UsageError, WriteError
from ..sources import Checkpoint, StoredTensor, open_checkpoint
from ..sources.layout import INDEX
from ..sources.safetensors import BITS
from ..tensor import Tensor
from ..writing import Part, Progress, Resumable, left, thread_count, write
from ..writing.places import unfinished
from . import places, shards
from .losses import Lost

Jobs = Callable[[shards.Shard], Sequence[Any]]

_PROBES = 8
"""Tensors of each file that are made again, in part, to know a file that is whole."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What is going to be written.

    shards    files of weights, in the order in which they are written
    config    the new config.json
    side      what is copied and what is left
    fp8       weights that become FP8, or were
    kept      weights of two or more dimensions that stay as they are
    warnings  sentences
    """

    shards: Sequence[shards.Shard]
    config: Mapping[str, Any]
    side: places.SideFiles
    fp8: int
    kept: int
    warnings: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files of weights."""
        return sum(shard.size for shard in self.shards)


@dataclass(frozen=True, slots=True)
class How:
    """How a folder is written.

    threads    all cores by default; the bytes are the same for any number
    overwrite  there may be files in it; those of the output are replaced, other weights removed
    resume     go on with what a run that was stopped has left
    progress   called after each band with the tensor's name, the source bytes done, and all of them
    announce   called with what is planned before anything is written
    """

    threads: int | None = None
    overwrite: bool = False
    resume: bool = False
    progress: Progress | None = None
    announce: Callable[[Planned], None] | None = None


@contextmanager
def opened(src: str | os.PathLike[str], folder: Path, how: How) -> Iterator[Checkpoint]:
    """A checkpoint whose output may go into `folder`, open as long as the block
    lasts. Raises UsageError and WriteError where it may not, and what `open_checkpoint` raises.
    """
    with open_checkpoint(src) as source:
        places.check_folder(
            folder,
            source.directory,
            [f.name for f in source.files],
            may_exist=how.overwrite or how.resume,
        )
        yield source


def save(
    source: Checkpoint, folder: Path, planned: Planned, jobs: Jobs, how: How, options: str
) -> Mapping[str, Lost] | None:
    """Write what is planned. Returns what was found, by the names of the jobs; None where the
    shards of an earlier run were whole already.

    options  all that the bytes depend on besides the source
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    found: Mapping[str, Lost] | None = None
    if not (how.resume and _whole(folder, planned, jobs)):
        try:
            found = write(
                [Part(folder / shard.name, shard.header, shard.size) for shard in planned.shards],
                [job for shard in planned.shards for job in jobs(shard)],
                threads=thread_count(how.threads),
                overwrite=how.overwrite,
                progress=how.progress,
                resumable=Resumable(Lost, _bound(source, options), how.resume),
                abandon=source.abandon,
            ).found
        except BaseException:
            if made and not any(folder.iterdir()):
                folder.rmdir()
            raise
    (folder / "config.json").unlink(missing_ok=True)  # of an earlier output: it lists other modules
    for path in places.stale(folder, [shard.name for shard in planned.shards]):
        path.unlink()
    for name in planned.side.copied:
        places.copy(source.directory, folder, name)
    index = shards.index(planned.shards)
    if index is not None:
        places.put_json(folder / INDEX, index)
    places.put_json(folder / "config.json", planned.config)
    return found


def stopped(folder: Path) -> bool:
    """Whether a run has left something in it that can be continued."""
    return any(left(part.with_suffix("")) for part in folder.glob("*.safetensors.part"))


def _whole(folder: Path, planned: Planned, jobs: Jobs) -> bool:
    """Whether all files of weights are there under their names: they get these when all are on
    disk. Raises WriteError where they are, but were written with other options.
    """
    paths = [folder / shard.name for shard in planned.shards]
    if not all(path.is_file() and not unfinished(path).exists() for path in paths):
        return False
    for path, shard in zip(paths, planned.shards, strict=True):
        with path.open("rb") as file:
            same = (
                path.stat().st_size == shard.size and file.read(len(shard.header)) == shard.header
            )
            for job in _some(jobs(shard)) if same else ():
                for piece in job.make(*next(job.bands())).pieces:
                    file.seek(job.extents[piece.extent].offset + piece.at)
                    same = same and file.read(piece.data.nbytes) == piece.data
        if not same:
            raise WriteError(
                f"{path}: is whole, but not what would be written: the source or the options are "
                "others",
                hint="--overwrite writes it anew",
            )
    return True


def _some(jobs: Sequence[Any]) -> Sequence[Any]:
    """A few from all over: other options change all of them."""
    return jobs[:: max(1, len(jobs) // _PROBES)]


def _bound(source: Checkpoint, options: str) -> dict[str, str]:
    """What an unfinished output is good for."""
    digest = hashlib.sha256()
    for file in source.files:
        digest.update(f"{file.name} {file.fingerprint}\n".encode("utf-8", "surrogatepass"))
    return {"source": digest.hexdigest(), "options": options, "version": version("ggufmix")}


def copied(tensor: StoredTensor) -> shards.Piece:
    """A tensor that stays as it is."""
    entry = shards.Entry(tensor.name, tensor.stored, tensor.shape, BITS[tensor.stored])
    return shards.Piece(tensor.file, (entry,), tensor)


def refuse_bare(tensors: Iterable[Tensor]) -> None:
    """Raise SourceError at the first matrix in 8-bit floats that is no packed weight."""
    for tensor in tensors:
        if (
            isinstance(tensor, StoredTensor)
            and tensor.stored.startswith(("F8_E4M3", "F8_E5M2"))
            and len(tensor.shape) >= 2
        ):
            raise SourceError(
                f"{tensor.file}: {tensor.name} is {tensor.stored}, and there are no scales for it",
                hint="its values mean nothing without them: get the checkpoint it was made from",
            )


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
