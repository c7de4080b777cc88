"""`ggufmix split` and `merge`."""

# SPDX-License-Identifier: MIT

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Threads

if TYPE_CHECKING:
    from ..splitting import Limits

SplitMaxSize = Annotated[
    str | None,
    typer.Option(
        "--split-max-size",
        metavar="N(M|G)",
        help="Write parts of at most so many bytes of tensors.",
    ),
]
SplitMaxTensors = Annotated[
    int | None,
    typer.Option("--split-max-tensors", metavar="N", help="Write parts of at most N tensors."),
]
NoTensorFirst = Annotated[
    bool,
    typer.Option(
        "--no-tensor-first-split", help="Key-values alone in the first part: small to mend."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]


def limits(size: str | None, tensors: int | None, *, bare_first: bool) -> "Limits":
    """What the options say of parts. Raises UsageError."""
    from ..splitting import Limits

    return Limits.of(size, tensors, bare_first=bare_first)


def shown_paths(paths: Sequence[Path]) -> str:
    """One file, or the first of several and how many there are."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def split(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="The file to split.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="NAME", help="Parts are NAME-00001-of-00003.gguf and so on."
        ),
    ] = None,
    *,
    split_max_size: SplitMaxSize = None,
    split_max_tensors: SplitMaxTensors = None,
    no_tensor_first_split: NoTensorFirst = False,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a GGUF file as several; no tensor is encoded again."""
    from .. import progress, splitting

    wanted = limits(split_max_size, split_max_tensors, bare_first=no_tensor_first_split)
    with progress.shown() as bar:
        paths = splitting.split(
            file, wanted, out, threads=threads, overwrite=overwrite, progress=bar.step
        )
    for path in paths:
        _said(path)


def merge(
    first: Annotated[
        Path, typer.Argument(metavar="PART.gguf", help="Any of the parts; the others lie beside.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.gguf", help="File to write.")],
    *,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the parts of a GGUF file as one; no tensor is encoded again."""
    from .. import progress, splitting

    with progress.shown() as bar:
        _said(splitting.merge(first, out, threads=threads, overwrite=overwrite, progress=bar.step))


def _said(path: Path) -> None:
    from .. import report

    print(f"{path}: {report.size(path.stat().st_size)}")
