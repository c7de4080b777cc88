"""Parts, from nothing to files that are whole, on disk and named."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import WriteError
from . import places
from .jobs import F, Part
from .running import Progress, run


def write(
    parts: Sequence[Part[F]],
    *,
    threads: int,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, F]:
    """Write every part, then rename them into place.

    Returns what was found, by the names of the jobs. Raises WriteError where an output exists, the
    disk has too little room or refuses, and any error of the jobs; nothing that looks finished is
    left behind.
    """
    for part in parts:
        places.check_place(part.path, overwrite=overwrite)
    places.check_room(parts[0].path.parent, sum(part.size for part in parts))
    found: dict[str, F] = {}
    begun: dict[Path, int] = {}
    try:
        for part in parts:
            begun[part.path] = places.begin(part.path)
            found |= _write(part, begun[part.path], threads, progress)
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
    return found


def _write(part: Part[F], out: int, threads: int, progress: Progress | None) -> dict[str, F]:
    places.reserve(out, part.size)
    places.put(out, part.header, 0)
    found = run(
        part.jobs,
        lambda job, piece: places.put(out, piece.data, job.extents[piece.extent].offset + piece.at),
        threads=threads,
        progress=progress,
    )
    os.fsync(out)
    return found
