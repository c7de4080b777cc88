"""Writing an imatrix in llama-imatrix's GGUF format, byte for byte as llama-imatrix orders it."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from ..container import ALIGNMENT, MAX_NAME_BYTES, TensorInfo, aligned, header, text, texts, u32
from ..errors import ImportanceError, WriteError
from .entries import Entry, Imatrix
from .files import COUNTS, SUMS

PART = 1 << 20
"""Values written at once."""


def save(made: Imatrix, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write `made` to `path`, first as `path.part`, streamed.

    Raises WriteError where the output exists or the disk refuses, ImportanceError for a name that
    ggml cannot hold, SourceError where a file it was read from has changed.
    """
    out = Path(path)
    if out.exists() and not overwrite:
        raise WriteError(f"{out} exists", hint="--overwrite replaces it")
    part = out.with_name(out.name + ".part")
    head = header(
        {
            "general.type": text("imatrix"),
            "imatrix.datasets": texts(made.datasets),
            "imatrix.chunk_count": u32(made.last_chunk & 0xFFFFFFFF),
            "imatrix.chunk_size": u32(made.chunk_size),
        },
        _infos(made),
    )
    try:
        with part.open("wb") as file:
            file.write(head)
            for entry in made.entries.values():
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


def _infos(made: Imatrix) -> Iterator[TensorInfo]:
    at = 0
    for entry in made.entries.values():
        n = len(entry.counts)
        for name, shape in ((SUMS, (entry.n_values // n, n)), (COUNTS, (1, n))):
            if len((entry.name + name).encode()) > MAX_NAME_BYTES:
                raise ImportanceError(
                    f"{entry.name}{name}: GGUF holds names of at most {MAX_NAME_BYTES} bytes"
                )
            trimmed = shape if n > 1 else shape[:1]  # ggml drops ones at the end
            yield TensorInfo(entry.name + name, trimmed, GGMLQuantizationType.F32, at)
            at = aligned(at + 4 * shape[0] * shape[1])


def _data(entry: Entry) -> Iterator[NDArray[np.float32]]:
    """The two tensors of an entry; only the last piece of each may need padding."""
    for start in range(0, entry.n_values, PART):
        yield entry.sums(start, min(start + PART, entry.n_values))
    yield entry.tokens.astype(np.float32)
