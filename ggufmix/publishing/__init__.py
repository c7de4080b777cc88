"""What goes with files that are published: a report to look at, and a model card.

`gather` reads the headers and joins what was measured, `publish` writes index.html and README.md.
Nothing is computed that another command computes; nothing is said that nobody has measured.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UsageError, WriteError
from ..writing import places
from . import facts, measurements
from .facts import File
from .measurements import Scored, Verified, identity, of_report, read_eval, read_verify
from .words import clean, repository

__all__ = [
    "CARD",
    "PAGE",
    "File",
    "Scored",
    "Verified",
    "check_place",
    "gather",
    "identity",
    "of_report",
    "publish",
    "read_eval",
    "read_verify",
    "repository",
]

PAGE, CARD = "index.html", "README.md"


def gather(
    paths: Sequence[Path],
    *,
    scores: Iterable[Scored] = (),
    verified: Sequence[Verified] = (),
    made_from: str | None = None,
    quantized_by: str | None = None,
    coverage: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[list[File], list[str]]:
    """What there is to say of GGUF files, each a path of any part, and sentences on measurements
    of other files, which are left out, and on files that are not of one model.

    made_from     the hub's name of the checkpoint that was quantized, "owner/name"
    quantized_by  who did it
    coverage      `Plan.imatrix` of the runs that wrote files, by file name
    Raises UsageError where two files have one name or no such repository can be; SourceError for a
    damaged file, and for measurements of other data or types than the file has now; WriteError for
    a name that no page can hold.
    """
    if made_from is not None and repository(made_from) is None:
        raise UsageError(f"expected OWNER/NAME as the hub has it, got {clean(made_from, 80)!r}")
    home = repository(made_from) if made_from is not None else None
    found: list[File] = []
    for path in paths:
        places.check_name(path)
        file = facts.of_file(path, made_from=home, coverage=(coverage or {}).get(path.name))
        if any(file.names & other.names for other in found):
            raise UsageError(f"{path}: two files of that name, or the same one twice")
        found.append(file)
    if quantized_by is not None:
        by = clean(quantized_by, 80)
        found = [replace(f, model=replace(f.model, quantized_by=by)) for f in found]
    names = [file.names for file in found]
    rows, others = measurements.matched(scores, names)
    joined = []
    for file, own in zip(found, rows, strict=True):
        tests = [v for v in verified if v.name in file.names]
        every: list[Scored | Verified] = [*own, *tests]
        for measured in every:
            measurements.check_data(measured, file.data)
        for test in tests:
            measurements.check_types(test, {t.name: t.type for t in file.outline.tensors})
        joined.append(facts.with_measurements(file, own, tests[-1] if tests else None))
    others += [v.file for v in verified if not any(v.name in those for those in names)]
    notes = [f"{clean(o)}: measured, but none of these files; left out" for o in others]
    return joined, notes + _strangers(joined)


def _strangers(files: Sequence[File]) -> list[str]:
    """A sentence on a file of another model than the first, if there is one."""

    def called(file: File) -> str:
        width = clean(file.outline.keys.get("embedding_length", "unknown"), 20)
        return f"{clean(file.outline.architecture, 60)} of width {width}"

    those = [f for f in files if f.kind == "model"]
    other = next((f for f in those if called(f) != called(those[0])), None)
    if other is None:
        return []
    both = f"{those[0].title} is {called(those[0])}, {other.title} {called(other)}"
    return [f"{both}: page and card are meant for files of one model"]


def check_place(folder: Path, *, overwrite: bool) -> None:
    """Raise WriteError where `publish` would refuse to write into a folder, which need not be
    there yet.
    """
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        raise WriteError(f"{there} is no directory", hint="give another name with -o")
    if not folder.exists():
        return
    for name in (PAGE, CARD):
        places.check_place(folder / name, overwrite=overwrite)


def publish(files: Sequence[File], folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write the report and the card into a folder, which is made where it is not there; and return
    their paths. Both are whole, or neither is there, and no folder for them. Raises WriteError.
    """
    from . import card, page

    check_place(folder, overwrite=overwrite)
    fresh = not folder.exists()
    texts = {folder / PAGE: page.made(files), folder / CARD: card.made(files)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            _write(path, text.encode())
        places.rename([*texts])
    except OSError as error:
        for path in texts:
            places.unfinished(path).unlink(missing_ok=True)
        if fresh:
            with suppress(OSError):
                folder.rmdir()
        raise WriteError(f"{folder}: {error.strerror}") from error
    return [*texts]


def _write(path: Path, data: bytes) -> None:
    out = places.begin(path)
    try:
        places.put(out, data, 0)
        os.fsync(out)
    finally:
        os.close(out)
