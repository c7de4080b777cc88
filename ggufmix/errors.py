"""Every error that ggufmix raises on purpose: one family, each with an optional hint.

A message says what was expected, what came, and where (file, tensor, row). The hint says what to do
about it; the command line prints it on a line of its own. `exit_code` is what the process ends
with.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from typing import Any


class GgufmixError(Exception):
    """Base of the family. `hint` is one sentence without a full stop, or None."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """From another process it comes back whole, hint and all."""
        return _again, (type(self), str(self), self.__dict__)


class UsageError(GgufmixError):
    """A request that cannot be meant: an unknown type, recipe or option, a source that is not
    there.
    """

    exit_code = 2


class SourceError(GgufmixError):
    """A file of the checkpoint is missing, damaged, or contradicts another one."""


class ModelError(GgufmixError):
    """The checkpoint is readable, but config, tensors or vocabulary do not make a known model."""


class TokenizerError(GgufmixError):
    """The vocabulary cannot be read, or its pre-tokenizer is not recognised."""


class RuleError(GgufmixError):
    """A rule or recipe file is wrong, or does not fit the model."""


class FormatError(GgufmixError):
    """A storage type cannot do what was asked of it (encode, decode)."""


class ShapeError(FormatError):
    """A shape does not fit: rows that are no multiple of a block, buffers of the wrong size."""


class ImportanceError(FormatError):
    """An importance vector is missing, of the wrong length, negative or not finite."""


class ValueAtError(FormatError):
    """A value at one place cannot be stored; `row` and `column` (0-based, rows counted over all
    matrices) say where.
    """

    def __init__(self, message: str, *, row: int, column: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.row = row
        self.column = column


class NotFiniteError(ValueAtError):
    """A NaN or an infinity in values that are to be stored in blocks."""


class OutlierError(ValueAtError):
    """A finite value so large that the scale of its block would be infinite."""


class InexactError(ValueAtError):
    """A scale of the source that the block's float16 does not hold; `column` is where its group
    begins.
    """


class WriteError(GgufmixError):
    """The output cannot be written: it exists, the disk is full, the file system refused."""


class EvaluationError(GgufmixError):
    """llama.cpp refuses to run a file, or two files cannot be compared."""


def _again(kind: type[GgufmixError], message: str, known: dict[str, Any]) -> GgufmixError:
    made = kind.__new__(kind, message)
    made.__dict__.update(known)
    return made
