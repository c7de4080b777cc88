"""What follows from a pass over the data: types that it forces, and sentences about it."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .codecs import Encoder, encoder
from .errors import InexactError, OutlierError
from .sources import Packed
from .writing.encoding import BAND_BYTES, Counts
from .writing.scans import Scanned


def forced(
    found: Mapping[str, Scanned], *, outliers: bool, inexact: bool
) -> dict[str, tuple[Encoder, str]]:
    """Encoder and reason, by name, of tensors that no block can hold.

    outliers  tensors with a value too large for its scale are to be BF16
    inexact   packed tensors with a scale that is no float16 may be F32; else raises InexactError
    """
    types = {}
    for name, outlier in _outliers(found).items() if outliers else ():
        where = f"row {outlier.row}, column {outlier.column}"
        reason = f"outlier at {where}: no scale of a block can hold it"
        types[name] = (encoder("BF16"), reason)
    all_inexact = {name: s.inexact for name, s in found.items() if s.inexact is not None}
    for name, error in all_inexact.items():
        if not inexact:
            n = len(all_inexact)
            raise InexactError(
                f"{error} and {n} tensors in all, of which {name} is the first"
                if n > 1
                else f"{name}: {error}",
                row=error.row,
                column=error.column,
                hint=error.hint,
            )
        where = f"row {error.row}, column {error.column}"
        reason = f"the scale at {where} is no float16: no block can hold it exactly"
        types[name] = (encoder("F32"), reason)
    return types


def lattice_notes(counts: Mapping[str, Counts]) -> Iterator[str]:
    """How much of what Q4_X writes is exact."""
    written = [c for c in counts.values() if c.groups]
    if written:
        groups, recovered = (sum(c.groups for c in written), sum(c.recovered for c in written))
        yield (
            f"Q4_X writes {len(written)} tensors: {recovered} of {groups} groups lie on an INT4 "
            "lattice and stay exact, the rest is rounded with max/-7"
        )


def count_inexact(packed: Sequence[Packed]) -> None:
    """Read the packed weights that are carried over, so that each can say what is not exact."""
    for weight in packed:
        if weight.format is not None:
            step = max(1, BAND_BYTES // weight.cols // weight.unit) * weight.unit
            for start in range(0, weight.n_rows, step):
                weight.blocks(start, min(start + step, weight.n_rows))


def inexact_warnings(packed: Sequence[Packed]) -> Iterator[str]:
    """Packed weights with groups that are not exact."""
    for weight in packed:
        if n := weight.inexact():
            yield f"{weight.name}: {n} groups get the nearest float16 of their scale"


def outlier_warnings(found: Mapping[str, Scanned], *, kept: bool) -> Iterator[str]:
    """Tensors with a value too large for its scale; `kept`: in the type that was planned."""
    for name, error in _outliers(found).items():
        where = (
            f"{name}: row {error.row}, column {error.column} is too large for the scale of a block"
        )
        yield where + (
            "; --on-outlier bf16 writes the tensor in BF16" if kept else ": written in BF16"
        )


def _outliers(found: Mapping[str, Scanned]) -> dict[str, OutlierError]:
    return {name: s.outlier for name, s in found.items() if s.outlier is not None}
