"""Writing an imatrix in llama-imatrix's GGUF format, byte for byte as llama-imatrix orders it; the
largest magnitudes, where there are any, stand behind each entry.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from ..container import ALIGNMENT, MAX_NAME_BYTES, TensorInfo, aligned, header, text, texts, u32
from ..errors import ImportanceError, WriteError
from .entries import Imatrix
from .files import COUNTS, MAXIMA, SUMS

PART = 1 << 20
"""Values written at once."""


class Measured(Protocol):
    """What was measured for one tensor: an Entry, or what is about to become one."""

    @property
    def name(self) -> str:
        """Name of the tensor in a GGUF file."""

    @property
    def n_values(self) -> int:
        """Values over all matrices."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens, int64, (matrices,)."""

    def sums(self, start: int, stop: int) -> NDArray[np.float32]:
        """Sums of squared inputs, float32, of the values start..stop."""

    @property
    def has_maxima(self) -> bool:
        """Whether there are largest magnitudes."""

    def maxima(self, start: int, stop: int) -> NDArray[np.float32]:
        """Largest magnitudes of inputs, float32, of the values start..stop."""


def save(made: Imatrix, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write `made` to `path`, first as `path.part`, streamed.

    Raises WriteError where the output exists or the disk refuses, ImportanceError for a name that
    ggml cannot hold, SourceError where a file it was read from has changed.
    """
    write(
        path,
        made.entries.values(),
        datasets=made.datasets,
        chunk_count=made.last_chunk & 0xFFFFFFFF,
        chunk_size=made.chunk_size,
        overwrite=overwrite,
    )


def write(
    path: str | os.PathLike[str],
    entries: Iterable[Measured],
    *,
    datasets: Sequence[str],
    chunk_count: int,
    chunk_size: int,
    overwrite: bool = False,
) -> None:
    """Write entries, which are given in the order of the bytes of their names, as `save` does.

    datasets     what they were measured on
    chunk_count  how many chunks that was, of `chunk_size` tokens
    """
    out = Path(path)
    if out.exists() and not overwrite:
        raise WriteError(f"{out} exists", hint="--overwrite replaces it")
    part = out.with_name(out.name + ".part")
    entries = list(entries)
    head = header(
        {
            "general.type": text("imatrix"),
            "imatrix.datasets": texts(datasets),
            "imatrix.chunk_count": u32(chunk_count),
            "imatrix.chunk_size": u32(chunk_size),
        },
        _infos(entries),
    )
    try:
        with part.open("wb") as file:
            file.write(head)
            for entry in entries:
                for values in _data(entry):
                    file.write(values.astype("<f4", copy=False).data)
                    file.write(bytes(-values.nbytes % ALIGNMENT))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, out)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WriteError(f"{out}: {error.strerror}") from error
        raise


def _infos(entries: Iterable[Measured]) -> Iterator[TensorInfo]:
    at = 0
    for entry in entries:
        n = len(entry.tokens)
        shapes = [(SUMS, (entry.n_values // n, n)), (COUNTS, (1, n))]
        shapes += [(MAXIMA, (entry.n_values // n, n))] if entry.has_maxima else []
        for name, shape in shapes:
            if len((entry.name + name).encode()) > MAX_NAME_BYTES:
                raise ImportanceError(
                    f"{entry.name}{name}: GGUF holds names of at most {MAX_NAME_BYTES} bytes"
                )
            trimmed = shape if n > 1 else shape[:1]  # ggml drops ones at the end
            yield TensorInfo(entry.name + name, trimmed, GGMLQuantizationType.F32, at)
            at = aligned(at + 4 * shape[0] * shape[1])


def _data(entry: Measured) -> Iterator[NDArray[np.float32]]:
    """The tensors of an entry; only the last piece of each may need padding."""
    spans = [(s, min(s + PART, entry.n_values)) for s in range(0, entry.n_values, PART)]
    for start, stop in spans:
        yield entry.sums(start, stop)
    yield entry.tokens.astype(np.float32)
    if entry.has_maxima:
        for start, stop in spans:
            yield entry.maxima(start, stop)
