"""Parts, from nothing to files that are whole, on disk and named."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import WriteError
from . import places
from .jobs import F, Job, Part, Piece, Written
from .running import Progress, run


def write(
    parts: Sequence[Part[F]],
    *,
    threads: int,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Written[F]:
    """Write every part, then rename them into place.

    Returns what was found. Raises WriteError where an output exists, the disk has too little room
    or refuses, and any error of the jobs; nothing that looks finished is left behind.
    """
    for part in parts:
        places.check_place(part.path, overwrite=overwrite)
    places.check_room(parts[0].path.parent, sum(part.size for part in parts))
    found: dict[str, F] = {}
    sums: dict[str, tuple[int, ...]] = {}
    begun: dict[Path, int] = {}
    try:
        for part in parts:
            begun[part.path] = places.begin(part.path)
            found |= _write(part, begun[part.path], sums, threads, progress)
        for part in parts:
            header = part.header if part.sealed is None else part.sealed(sums)
            assert len(header) == len(part.header)
            places.put(begun[part.path], header, 0)
            os.fsync(begun[part.path])
        places.rename(list(begun))
    except BaseException as error:
        for path in begun:
            places.unfinished(path).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WriteError(
                f"{parts[0].path}: {error.strerror}", hint=places.disk_hint(error)
            ) from error
        raise
    finally:
        for out in begun.values():
            os.close(out)
    return Written(found, sums)


def _write(
    part: Part[F],
    out: int,
    sums: dict[str, tuple[int, ...]],
    threads: int,
    progress: Progress | None,
) -> dict[str, F]:
    places.reserve(out, part.size)

    def put(job: Job[F], piece: Piece) -> None:
        places.put(out, piece.data, job.extents[piece.extent].offset + piece.at)

    def ended(job: Job[F], _: F, of_job: tuple[int, ...]) -> None:
        sums[job.name] = of_job

    return run(part.jobs, put, ended, threads=threads, progress=progress)
