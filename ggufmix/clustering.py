"""Many machines: the tensors of a plan, each made by some worker of a Dask cluster.

A plan fixes every offset, so tensors are independent. This process makes the files, holds their
lock and alone keeps the journal; a worker opens the same source and the same unfinished file under
the same paths, plans again, is held to the plan by its digest, writes what it is asked for, syncs
it, and returns checksums and what it found. A worker that is lost has written right bytes in right
places, or none: its tensor is made again elsewhere. The bytes are those of a run on one machine.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import outputs
from .errors import UsageError, WriteError
from .outputs import Work
from .splitting import Layout
from .writing import Elsewhere, Ended, Job, Part, Piece, Progress, run
from .writing.encoding import Counts, Each, Encoding
from .writing.places import put, unfinished

if TYPE_CHECKING:
    from distributed import Client, Future

ATTEMPTS = 3
"""How often a tensor is tried when a worker's disk or network fails."""
FIRST_WORKER_SECONDS = 60.0
"""How long to wait for a cluster that has no worker yet."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker has to say of a tensor that is on disk."""

    found: Each[Counts]
    sums: tuple[int, ...]


Cluster = Callable[[Work], Elsewhere[Each[Counts]]]


def on(scheduler: str) -> Cluster:
    """Make tensors on the cluster at an address such as "tcp://host:8786".

    Raises UsageError where dask is not installed or nobody answers.
    """
    there = client(scheduler)
    return lambda work: (
        lambda parts, jobs, ended, progress: _spread(there, work, parts, jobs, ended, progress)
    )


def client(scheduler: str) -> Client:
    """A connection to a scheduler. Raises as `on`."""
    try:
        from distributed import Client
    except ModuleNotFoundError as missing:
        raise UsageError(
            "dask is not installed here", hint="pip install 'ggufmix[dask]'"
        ) from missing
    try:
        return Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(f"{scheduler}: no Dask scheduler answers: {error}") from error


def _spread(
    client: Client,
    work: Work,
    parts: Sequence[Part],
    jobs: Sequence[Job[Each[Counts]]],
    ended: Ended[Each[Counts]],
    progress: Progress,
) -> None:
    from distributed import as_completed

    try:
        client.wait_for_workers(1, timeout=FIRST_WORKER_SECONDS)
    except TimeoutError as error:
        raise WriteError(
            f"{parts[0].path}: the cluster has had no worker for {FIRST_WORKER_SECONDS:.0f} s",
            hint="start some, with the same ggufmix and the same paths",
        ) from error
    largest = sorted(jobs, key=lambda job: -job.source_bytes)  # the last to end should be small
    futures = {
        client.submit(make, work, job.name, pure=False, retries=ATTEMPTS - 1): job
        for job in largest
    }
    total, done = sum(job.source_bytes for job in jobs), 0
    try:
        with client.as_current():
            for future in as_completed(futures):
                job = futures[future]
                path = parts[job.extents[0].part].path
                made = _result(future, f"{path}: {job.name}")
                ended(job, made.found, made.sums)
                done += job.source_bytes
                progress(job.name, done, total)
    finally:
        client.cancel(list(futures))


def _result(future: Future[Done], where: str) -> Done:
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise WriteError(
            f"{where}: the workers that made it died, one after another",
            hint="their memory may not be enough: fewer threads for each",
        ) from error
    except CancelledError as error:
        raise WriteError(f"{where}: the scheduler is gone: {error}") from error
    except OSError as error:
        raise WriteError(f"{where}: on a worker: {error}") from error


@dataclass(frozen=True, slots=True)
class _Opened:
    """A plan as this worker has made it. Its files close when the last that uses it is done."""

    stack: ExitStack
    layout: Layout
    jobs: Mapping[str, Encoding]


_PLANS = 2
_lock = threading.Lock()
_opened: dict[str, _Opened] = {}


def make(work: Work, name: str) -> Done:
    """On a worker: do one job, and have it on disk.

    Raises WriteError where this worker would write another file; errors of the job; OSError.
    """
    opened = _plan(work)
    job = opened.jobs[name]
    results: list[Done] = []
    outs: dict[int, int] = {}

    def written(of: Job[Each[Counts]], piece: Piece) -> None:
        extent = of.extents[piece.extent]
        put(outs[extent.part], piece.data, extent.offset + piece.at)

    try:
        for number in {extent.part for extent in job.extents}:
            path = unfinished(opened.layout.parts[number].path)
            outs[number] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        run([job], written, lambda _, found, sums: results.append(Done(found, sums)), threads=1)
        for out in outs.values():
            os.fsync(out)
    finally:
        for out in outs.values():
            os.close(out)
    return results[0]


def _plan(work: Work) -> _Opened:
    with _lock:
        key = repr(work)
        found = _opened.pop(key, None)
        if found is None:
            with ExitStack() as stack:
                layout = stack.enter_context(outputs.worked(work))
                jobs = {job.name: job for job in layout.jobs}
                found = _Opened(stack.pop_all(), layout, jobs)
        _opened[key] = found
        while len(_opened) > _PLANS:
            del _opened[next(iter(_opened))]
        return found
