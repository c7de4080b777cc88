"""What jobs have in common that read what another one would, and write nothing."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .encoding import Encoding


@dataclass(frozen=True, slots=True)
class Reading:
    """A job that reads what another one would, in the same bands, and writes nothing.

    of  the job that would write it
    """

    of: Encoding

    @property
    def name(self) -> str:
        """That of the job."""
        return self.of.name

    @property
    def source_bytes(self) -> int:
        """Bytes of the rows that are read."""
        return self.of.source_bytes

    @property
    def n_rows(self) -> int:
        """Rows of all matrices."""
        return self.of.n_rows

    def bands(self) -> Iterator[tuple[int, int]]:
        """Those of the job."""
        return self.of.bands()
