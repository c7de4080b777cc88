"""A strict reader of SentencePiece's tokenizer.model: the fields of its protocol buffer that decide
what a text becomes.

Source: sentencepiece 0.2.3, sentencepiece_model.proto; the wire format as protobuf.dev describes
it.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Kinds of pieces; gguf.TokenType has the same numbers."""
BPE = 2  # TrainerSpec.ModelType; 1 is Unigram, which the proto takes where nothing is said

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT = struct.Struct("<f")


class Piece(NamedTuple):
    """A token; its id is its place."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class SentencePiece:
    """A vocabulary with what its normalizer does before it is used.

    pieces     by id
    algorithm  1 Unigram, 2 BPE, 3 words, 4 characters
    charsmap   whether characters are replaced by others
    prefix     whether a space is put in front of a text
    squeeze    whether runs of spaces become one
    escape     whether spaces become U+2581
    suffix     whether spaces go with the word before them
    """

    pieces: list[Piece]
    algorithm: int
    charsmap: bool
    prefix: bool
    squeeze: bool
    escape: bool
    suffix: bool


class _DamageError(Exception):
    """What is wrong, and at which byte."""


def parse(raw: bytes, path: Path) -> SentencePiece:
    """Read a tokenizer.model. `path` is for messages.

    Raises TokenizerError for what is no SentencePiece model, naming the first byte that is wrong,
    and for pieces that are empty, no text, or without a finite score.
    """
    try:
        return _model(raw)
    except _DamageError as damage:
        raise TokenizerError(
            f"{path}: this is no SentencePiece model: {damage}",
            hint="a tokenizer.json of the same model will do, without this file",
        ) from None


def _model(raw: bytes) -> SentencePiece:
    pieces: list[Piece] = []
    trainer: dict[int, int] = {}
    normalizer: dict[int, int] = {}
    charsmap = False
    for field, wire, value, end in _fields(raw, 0, len(raw)):
        if field in (1, 2, 3) and wire != _BYTES:
            raise _DamageError(f"field {field} before byte {end} has wire type {wire}")
        if field == 1:
            pieces.append(_piece(raw, value, end))
        elif field == 2:
            trainer |= _numbers(raw, value, end)
        elif field == 3:
            normalizer |= _numbers(raw, value, end)
            charsmap = charsmap or any(
                number == 2 and kind == _BYTES and stop > start
                for number, kind, start, stop in _fields(raw, value, end)
            )
    if not pieces:
        raise _DamageError("it has no pieces")
    return SentencePiece(
        pieces,
        trainer.get(3, 1),
        charsmap,
        bool(normalizer.get(3, 1)),
        bool(normalizer.get(4, 1)),
        bool(normalizer.get(5, 1)),
        bool(trainer.get(24, 0)),
    )


def _piece(raw: bytes, start: int, stop: int) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for field, wire, value, end in _fields(raw, start, stop):
        if field == 1 and wire == _BYTES:
            try:
                text = raw[value:end].decode()
            except UnicodeDecodeError:
                raise _DamageError(f"the piece at byte {value} is no UTF-8") from None
        elif field == 2 and wire == _FIXED32:
            score = _FLOAT.unpack_from(raw, value)[0]
        elif field == 3 and wire == _VARINT:
            kind = value
        elif field in (1, 2, 3):
            raise _DamageError(f"field {field} of the piece at byte {start} has wire type {wire}")
    if not text or not math.isfinite(score) or not NORMAL <= kind <= BYTE:
        raise _DamageError(
            f"the piece at byte {start} is {text!r} with score {score} and type {kind}"
        )
    return Piece(text, score, kind)


def _numbers(raw: bytes, start: int, stop: int) -> dict[int, int]:
    """The whole numbers of a message by field; of a repeated one its last."""
    return {field: value for field, wire, value, _ in _fields(raw, start, stop) if wire == _VARINT}


def _fields(raw: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Field, wire type, the value of a varint or else where its bytes start, and where it ends."""
    while at < stop:
        begin = at
        key, at = _varint(raw, at, stop)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(raw, at, stop)
            yield field, wire, value, at
            continue
        if wire == _BYTES:
            size, at = _varint(raw, at, stop)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise _DamageError(f"byte {begin} has wire type {wire}")
        if field == 0 or size > stop - at:
            raise _DamageError(
                f"field {field} at byte {begin} has {size} bytes, {stop - at} are left"
            )
        yield field, wire, at, at + size
        at += size


def _varint(raw: bytes, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while at < stop and shift < 70:
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _DamageError(f"the number before byte {at} does not end")
