"""Other tools' ways to say which tensor gets which type, read as those tools read them.

    custom-q         ik_llama.cpp: regex=type,regex=type
    tensor-type      llama-quantize: regex=type, on the command line or in a file
    thireus          recipe files of Thireus' GGUF-Tool-Suite
    file types       llama-quantize: what a whole file is to be, by name or number

The first three search a regular expression anywhere in the tensor's name and let the first that is
found decide. Each has its own traps; those that a text falls into come back as notes. What a text
means for a model is decided elsewhere. Sources: llama.cpp tools/quantize/quantize.cpp (August
2026); ik_llama.cpp examples/quantize/quantize.cpp, parse_custom_quants; GGUF-Tool-Suite
quant_downloader.sh.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError

_FILE_TYPES = (
    "Q1_0 40, Q2_0 41, Q4_0 2, Q4_1 3, MXFP4_MOE 38, Q5_0 8, Q5_1 9, IQ2_XXS 19, IQ2_XS 20, "
    "IQ2_S 28, IQ2_M 29, IQ1_S 24, IQ1_M 31, TQ1_0 36, TQ2_0 37, Q2_K 10, Q2_K_S 21, IQ3_XXS 23, "
    "IQ3_S 26, IQ3_M 27, Q3_K 12, IQ3_XS 22, Q3_K_S 11, Q3_K_M 12, Q3_K_L 13, IQ4_NL 25, "
    "IQ4_XS 30, Q4_K 15, Q4_K_S 14, Q4_K_M 15, Q5_K 17, Q5_K_S 16, Q5_K_M 17, Q6_K 18, Q8_0 7, "
    "F16 1, BF16 32, F32 0, COPY 0"
)
FILE_TYPES = {name: int(n) for name, n in map(str.split, _FILE_TYPES.split(", "))}
"""llama-quantize's names and numbers of file types; of a number the first name counts."""
_FILE_ALIASES = {"Q3_K": "q3_k_m", "Q4_K": "q4_k_m", "Q5_K": "q5_k_m", "COPY": "pure:source"}


def file_type(text: str) -> str | None:
    """A file type as llama-quantize spells it, from its name in any case or its number; None for
    anything else. That tool takes "8-bit.gguf" for the number 8 too.
    """
    if text.upper() in FILE_TYPES:
        return text.upper()
    if text.isascii() and text.isdigit():
        return next((name for name, number in FILE_TYPES.items() if number == int(text)), None)
    return None


def recipe_of(name: str) -> str:
    """The recipe of a file type, if there is one."""
    return _FILE_ALIASES.get(name, name.lower())


@dataclass(frozen=True, slots=True)
class Line:
    """One rule: tensors whose name `pattern` is found in get `type`.

    text    as it was spelled
    pattern what that tool searches for, as a Python expression of the same meaning
    type    as it was spelled
    where   for messages, such as "mix.recipe:12" or "--custom-q[3]"
    """

    text: str
    pattern: re.Pattern[str]
    type: str
    where: str


@dataclass(frozen=True, slots=True)
class Reading:
    """Rules in order of precedence, and sentences on what that tool made of them."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


def custom_q(text: str) -> Reading:
    """ik_llama.cpp's `--custom-q`: split at every comma, then at the first `=`; types as ggml
    spells them.

    Line breaks divide too and lines that begin with `#` are left out, so that the scripts people
    keep such rules in can be given as they are. Raises UsageError with the number of the rule.
    """
    pieces: list[str] = []
    for row in text.splitlines():
        if not row.lstrip().startswith("#"):
            pieces += [piece.strip() for piece in row.split(",") if piece.strip()]
    lines, notes = [], []
    for number, piece in enumerate(pieces, 1):
        where = f"--custom-q[{number}]"
        pattern, kind = _halves(
            piece,
            where,
            "commas divide rules, so no regular expression can hold one: write {1,3} another way",
        )
        if "=" in kind:
            raise UsageError(
                f"{where}: expected a type after the first `=` of {piece!r}, got {kind!r}",
                hint="the first `=` divides: no regular expression can hold one",
            )
        if kind != ik_name(kind):
            notes.append(
                f"{where}: ik_llama.cpp tells capitals apart: it spells {ik_name(kind)} and would "
                f"refuse {kind}"
            )
        lines.append(Line(piece, _ecmascript(pattern, where), kind, where))
    if not lines:
        raise UsageError("--custom-q: expected regex=type,regex=type, got no rule")
    return Reading(tuple(lines), tuple(notes))


def tensor_types(texts: Sequence[str], where: str = "--tensor-type") -> Reading:
    """llama-quantize's `--tensor-type`: split at the first `=`; the pattern is lower-cased.

    Raises UsageError with the number of the rule.
    """
    lines, notes = [], []
    for number, text in enumerate(texts, 1):
        place = f"{where}[{number}]"
        pattern, kind = _halves(text, place, "llama-quantize calls this a malformed tensor type")
        lowered = pattern.lower()
        if lowered != pattern:
            notes.append(f"{place}: llama-quantize reads {pattern} as {lowered}{_lost(pattern)}")
        lines.append(Line(text, _ecmascript(lowered, place), kind, place))
    return Reading(tuple(lines), tuple(notes))


def tensor_type_file(path: Path) -> Reading:
    """llama-quantize's `--tensor-type-file`: the same, whitespace between; no comments.

    Raises UsageError.
    """
    texts = _text(path).split()
    if not texts:
        raise UsageError(f"{path.name}: expected regex=type with whitespace between, got nothing")
    comment = next((t for t in texts if t.startswith("#")), None)
    if comment is not None:
        raise UsageError(
            f"{path.name}: {comment!r}: llama-quantize knows no comments in these files",
            hint="take the comment out, or give the file as --thireus, which allows lines of them",
        )
    return tensor_types(texts, path.name)


def thireus(path: Path) -> Reading:
    """A recipe file of Thireus' suite: one regex=type a line, `#` lines are comments, a third
    field (`=locked`) is for its own tools; types in any case. Raises UsageError with the line.
    """
    lines = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        row = line.strip()
        where = f"{path.name}:{number}"
        if row and not row.startswith("#"):
            pattern, rest = _halves(row, where, "one rule a line; comments are lines of their own")
            if "(?" in pattern:
                raise UsageError(
                    f"{where}: {pattern}: expected a regular expression of bash, which has no `(?`"
                )
            lines.append(Line(row, _ecmascript(pattern, where), rest.split("=")[0], where))
    if not lines:
        raise UsageError(f"{path.name}: expected lines of regex=type, got none")
    return Reading(tuple(lines))


def ik_name(kind: str) -> str:
    """How ik_llama.cpp spells a type: lower case, but q4_K and q8_KV."""
    lower = kind.lower()
    if re.fullmatch(r"q[2-8]_k", lower):
        return lower[:-1] + "K"
    return lower.replace("q8_kv", "q8_KV")


def _halves(text: str, where: str, hint: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (left and equals and right):
        raise UsageError(f"{where}: expected regex=type, got {text!r}", hint=hint)
    return left, right


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name}: expected text in UTF-8: {error}") from error


def _lost(pattern: str) -> str:
    """What lower-casing did to an escape that means its opposite in capitals."""
    found = re.findall(r"(?<!\\)(?:\\\\)*\\([DSWB])", pattern)
    return "".join(f": \\{c} became \\{c.lower()}, its opposite" for c in dict.fromkeys(found))


_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "lower": "a-z",
    "space": r"\s",
    "upper": "A-Z",
    "word": r"\w",
    "xdigit": "0-9a-fA-F",
}
_FOREIGN = re.compile(r"\(\?(?![:=!])|(?<!\\)\{,|\\[AZ]")
_STACKED = re.compile(r"(?<!\\)[*+?}]\+")


def _ecmascript(pattern: str, where: str) -> re.Pattern[str]:
    """A Python expression of the same meaning on names of tensors (ASCII, no line breaks)."""
    foreign = _FOREIGN.search(pattern)
    if foreign is not None:
        raise UsageError(
            f"{where}: {pattern}: that tool's regular expressions have no {foreign[0]}",
            hint="it would stop at this rule; only (?:, (?= and (?! may follow a bracket",
        )
    if _STACKED.search(pattern):
        raise UsageError(
            f"{where}: {pattern}: a quantifier on a quantifier means something else in Python",
            hint="write it with one",
        )
    made = re.sub(r"\[:(\w+):\]", lambda m: _CLASSES.get(m[1], m[0]), pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return re.compile(made, re.ASCII)
    except (re.error, Warning) as error:
        raise UsageError(f"{where}: {pattern}: bad regular expression: {error}") from None
