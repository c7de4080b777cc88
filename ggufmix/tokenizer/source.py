"""The tokenizer's files of a checkpoint, parsed and checked for shape; nothing is interpreted
here.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from ..errors import TokenizerError
from . import sentencepiece
from .sentencepiece import SentencePiece

# What a checkpoint has instead of tokenizer.json, and what that is called.
OTHERS = {
    "tokenizer.model.v3": "a SentencePiece vocabulary of another name",
    "tekken.json": "a tekken vocabulary",
    "spiece.model": "a SentencePiece vocabulary of another name",
    "vocab.json": "a slow tokenizer's vocab.json and merges.txt",
    "vocab.txt": "a WordPiece vocabulary",
}

# msgspec's errors; and that of nesting deeper than Python's stack.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Added(msgspec.Struct):
    """An entry of `added_tokens`."""

    id: int
    content: str
    special: bool = False
    normalized: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False


class Model(msgspec.Struct):
    """`model` of a BPE vocabulary."""

    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]
    type: str | None = None
    dropout: float | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False


class TokenizerJson(msgspec.Struct):
    """tokenizer.json, as far as it is looked at."""

    model: Model
    added_tokens: list[Added] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


class Frame(msgspec.Struct):
    """tokenizer.json beside a tokenizer.model, which has the vocabulary."""

    added_tokens: list[Added] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


class Kind(msgspec.Struct):
    """`model` of a vocabulary of any kind."""

    type: str | None = None


class Head(msgspec.Struct):
    """tokenizer.json of any kind."""

    model: Kind


@dataclass(frozen=True, slots=True)
class Files:
    """The files that describe a tokenizer.

    path           of the vocabulary, tokenizer.json or another file, for messages
    raw            the bytes of tokenizer.json
    tokenizer      its content; without vocabulary if that is in tokenizer.model
    config         tokenizer_config.json, or None if there is none
    templates      chat templates that lie in files of their own: name -> Jinja text, "default"
                   first
    sentencepiece  tokenizer.model, where it and not tokenizer.json says what a text becomes
    added          added_tokens.json
    tiktoken       tiktoken.model, where there is no other vocabulary
    """

    path: Path
    raw: bytes
    tokenizer: TokenizerJson
    config: dict[str, Any] | None
    templates: dict[str, str]
    sentencepiece: SentencePiece | None = None
    added: dict[str, int] = field(default_factory=dict)
    tiktoken: bytes | None = None

    @property
    def byte_level(self) -> bool:
        """Whether tokens are written in the 256 characters that stand for bytes."""
        decoder = self.tokenizer.decoder or {}
        steps = decoder.get("decoders") or [decoder]
        return any(isinstance(step, dict) and step.get("type") == "ByteLevel" for step in steps)


def read(directory: Path) -> Files:
    """Read and parse what describes the tokenizer. Raises TokenizerError with the file and the
    reason.
    """
    path, model = directory / "tokenizer.json", directory / "tokenizer.model"
    raw, pieces = _bytes(path), _bytes(model)
    config = _json(directory / "tokenizer_config.json")
    if config is not None and not isinstance(config, dict):
        raise TokenizerError(
            f"{directory / 'tokenizer_config.json'}: expected an object at the top"
        )
    templates = _templates(directory)
    if pieces is not None:
        frame = _frame(path, raw)
        files = Files(model, b"", frame, config, templates)
        if raw is None or not files.byte_level:
            return replace(
                files,
                sentencepiece=sentencepiece.parse(pieces, model),
                added=_added(directory / "added_tokens.json"),
            )
    if raw is None:
        path = directory / "tiktoken.model"
        ranks = _bytes(path)
        if ranks is None:
            raise _missing(directory)
        empty = TokenizerJson(Model({}, []))
        return Files(path, b"", empty, config, templates, tiktoken=ranks)
    return Files(path, raw, _tokenizer(path, raw), config, templates)


def _frame(path: Path, raw: bytes | None) -> TokenizerJson:
    if raw is None:
        return TokenizerJson(Model({}, []))
    try:
        made = msgspec.json.decode(raw, type=Frame)
    except _UNREADABLE as error:
        raise TokenizerError(f"{path}: {error}") from None
    return TokenizerJson(Model({}, []), **msgspec.structs.asdict(made))


def _added(path: Path) -> dict[str, int]:
    raw = _bytes(path)
    try:
        return {} if raw is None else msgspec.json.decode(raw, type=dict[str, int])
    except _UNREADABLE as error:
        raise TokenizerError(f"{path}: {error}") from None


def _tokenizer(path: Path, raw: bytes) -> TokenizerJson:
    try:
        made = msgspec.json.decode(raw, type=TokenizerJson)
    except _UNREADABLE as error:
        _known_model(path, raw)
        raise TokenizerError(f"{path}: {error}") from None
    if made.model.type not in ("BPE", None):
        raise _unsupported(path, made.model.type)
    return made


def _known_model(path: Path, raw: bytes) -> None:
    """Say that a model type is not supported, rather than what its fields lack."""
    try:
        kind = msgspec.json.decode(raw, type=Head).model.type
    except _UNREADABLE:
        return
    if kind not in ("BPE", None):
        raise _unsupported(path, kind)


def _unsupported(path: Path, kind: str | None) -> TokenizerError:
    return TokenizerError(
        f"{path}: expected a BPE vocabulary, got {kind}, which is not supported yet"
    )


def _missing(directory: Path) -> TokenizerError:
    found = [name for name in OTHERS if (directory / name).is_file()]
    told = f"{directory}: expected tokenizer.json, tokenizer.model or tiktoken.model, found"
    if found:
        return TokenizerError(
            f"{told} {found[0]}: {OTHERS[found[0]]} is not supported yet",
            hint="`save_pretrained` of a fast tokenizer of transformers writes a tokenizer.json",
        )
    return TokenizerError(f"{told} no tokenizer")


def _templates(directory: Path) -> dict[str, str]:
    single = _text(directory / "chat_template.jinja")
    if single is not None:
        more = sorted((directory / "additional_chat_templates").glob("*.jinja"))
        named = {path.stem: _text(path) or "" for path in more}
        return {"default": single, **named}
    other = _json(directory / "chat_template.json")
    template = other.get("chat_template") if isinstance(other, dict) else None
    return {"default": template} if isinstance(template, str) else {}


def _json(path: Path) -> Any:
    raw = _bytes(path)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except _UNREADABLE as error:
        raise TokenizerError(f"{path}: {error}") from None


def _text(path: Path) -> str | None:
    raw = _bytes(path)
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: {error}") from None


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}") from None
