"""What a run depends on, in short: two fingerprints differ where the run would."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .sources import SourceFile


def of_source(files: Sequence[SourceFile]) -> str:
    """SHA-256 over the files of a source: names, sizes, samples of their data (weights that were
    trained on have the same header), and when they were last written; of remote ones the revision.
    """
    digest = hashlib.sha256()
    for file in files:
        state = file.path.stat().st_mtime_ns if file.path is not None else file.revision
        digest.update(f"{file.name}\0{file.size}\0{file.fingerprint}\0{state}\0".encode())
    return digest.hexdigest()


def of_contents(paths: Iterable[str | os.PathLike[str]]) -> str:
    """SHA-256 over everything in some files."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def of_words(words: Iterable[str]) -> str:
    """SHA-256 over words in their order."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()
