"""Special ids, what the tokenizer adds by itself, and chat templates.

The reading is that of llama.cpp's SpecialVocab (gguf-py/gguf/vocab.py of 2026-08-04), from files
that are parsed already: that one parses the vocabulary again, with its merges, which takes longer
than all the rest of a plan.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_letters, digits
from typing import Any

from gguf import Keys

from ..container import Value, boolean, text, texts, u32
from ..errors import TokenizerError
from .source import Files
from .table import Special, table
from .vocab import SPECIAL_KINDS, Entry

_ID_KEYS = {
    "bos": Keys.Tokenizer.BOS_ID,
    "eos": Keys.Tokenizer.EOS_ID,
    "unk": Keys.Tokenizer.UNK_ID,
    "sep": Keys.Tokenizer.SEP_ID,
    "pad": Keys.Tokenizer.PAD_ID,
    "mask": Keys.Tokenizer.MASK_ID,
    "eot": Keys.Tokenizer.EOT_ID,
    "eom": Keys.Tokenizer.EOM_ID,
}
_ADD_KEYS = {
    "bos": Keys.Tokenizer.ADD_BOS,
    "eos": Keys.Tokenizer.ADD_EOS,
    "sep": Keys.Tokenizer.ADD_SEP,
}


def values(
    files: Files,
    added: Mapping[str, Entry],
    config: Mapping[str, Any],
    *,
    rules: Sequence[Special],
    rows: int,
    warnings: list[str],
    tolerant: bool = False,
) -> dict[str, Value]:
    """The keys for special ids, add_bos and the like, and chat templates, in that order.

    An id is taken from, in this order: the token's text in tokenizer_config.json, `X_token_id` in
    config.json or its text_config, and the `rules` of the table. Beyond llama.cpp's converter, the
    end of text is also taken from a list of ids in config.json (its first) where nothing else says
    it: llama.cpp would assume id 11.
    An id that is no row of the embedding raises TokenizerError; or if `tolerant`, as for
    SentencePiece, is left out with a warning, as llama.cpp's converter does: fine-tunes of
    Llama 2 name a padding token that the embedding has no row for.
    """
    named, adds = _from_tokenizer(files, warnings)
    ids: dict[str, int] = {}
    for kind, content in named.items():
        if content in added:
            ids[kind] = added[content].id
    nested = config.get("text_config")
    inner = nested if isinstance(nested, Mapping) else {}
    for kind in (*SPECIAL_KINDS, *(kind for kind in ("eot", "eom") if kind in named)):
        at = config.get(f"{kind}_token_id")
        at = inner.get(f"{kind}_token_id") if at is None else at
        if kind == "eos" and kind not in ids and isinstance(at, list) and at:
            warnings.append(
                f"config.json: eos_token_id is a list and no eos token is named: took {at[0]}"
            )
            at = at[0]
        if isinstance(at, int) and not isinstance(at, bool):
            ids.setdefault(kind, at)
    behind: dict[str, Value] = {}
    for rule in rules:
        for kind, content in rule.ids.items():
            if content in added and rule.behind:
                behind[_ID_KEYS[kind]] = u32(added[content].id)
            elif content in added:
                ids.setdefault(kind, added[content].id)
        if rule.add_bos is not None:
            adds["bos"] = rule.add_bos
    if "eos" not in ids:
        assumed = 2 if tolerant else 11
        warnings.append(f"no end-of-text token is known: llama.cpp will assume id {assumed}")
    for kind, at in list(ids.items()):
        if not 0 <= at < rows:
            told = f"{kind}_token_id: expected a row of the embedding (0 to {rows - 1}), got {at}"
            if not tolerant:
                raise TokenizerError(told)
            warnings.append(f"{told}; left out")
            del ids[kind]
    made = {_ID_KEYS[kind]: u32(at) for kind, at in ids.items() if kind in _ID_KEYS}
    made |= {_ADD_KEYS[kind]: boolean(flag) for kind, flag in adds.items() if kind in _ADD_KEYS}
    return made | _chat_templates(files, warnings) | behind


def space_prefix(config: Mapping[str, Any] | None, arch: str) -> dict[str, Value]:
    """`tokenizer.ggml.add_space_prefix`, for the architectures whose converter copies it."""
    flag = (config or {}).get("add_prefix_space")
    if arch in table().space_prefix and isinstance(flag, bool):
        return {Keys.Tokenizer.ADD_PREFIX: boolean(flag)}
    return {}


def _from_tokenizer(files: Files, warnings: list[str]) -> tuple[dict[str, str], dict[str, bool]]:
    """The text of each special token that tokenizer_config.json names, and what the tokenizer adds
    by itself.
    """
    given = files.config or None
    named = {
        kind: content
        for kind in SPECIAL_KINDS
        if (content := _content((given or {}).get(f"{kind}_token")))
    }
    if "bos" not in named and "cls" in named:
        named["bos"] = named["cls"]
    if "eos" not in named and "sep" in named:
        named["eos"] = named["sep"]
    adds: dict[str, bool] = {}
    processor = files.tokenizer.post_processor or {}
    for step in processor.get("processors") or [processor]:
        if step.get("type") == "RobertaProcessing":
            adds |= {"bos": True, "eos": True, "sep": True}
            for kind in ("cls", "sep"):
                pair = step.get(kind)
                if kind not in named and isinstance(pair, list) and pair:
                    named[kind] = str(pair[0])
        elif step.get("type") == "TemplateProcessing":
            _template(step, named, adds, warnings, configured=given is not None)
    if given is None:
        return {}, adds
    for kind in (*SPECIAL_KINDS, "eot", "eom"):
        flag = given.get(f"add_{kind}_token")
        if isinstance(flag, bool):
            adds[kind] = flag
    order = (*SPECIAL_KINDS, "eot", "eom")
    return {kind: named[kind] for kind in order if kind in named}, adds


def _template(
    step: Mapping[str, Any],
    named: dict[str, str],
    adds: dict[str, bool],
    warnings: list[str],
    *,
    configured: bool,
) -> None:
    """What a TemplateProcessing says: a leading token is bos, a trailing one eos, one between two
    texts sep.
    """
    single, pair = step.get("single") or [], step.get("pair") or []
    first = last = None
    if len(single) > 1:
        first, last = _special_id(single[0]), _special_id(single[-1])
        if first is not None:
            if not configured:
                named["bos"] = first
            elif first not in (named.get("bos"), named.get("cls")):
                named.setdefault("bos", first)
                named.setdefault("cls", first)
            adds["bos"] = first in (named["bos"], named.get("cls"))
            if not adds["bos"]:
                warnings.append(f"tokenizer.json: the template begins with {first!r}, not with bos")
        if last is not None:
            old = named.get("eos")
            if old is not None and last != old:
                spare = next((kind for kind in ("eot", "eom") if kind not in named), None)
                if spare is not None:
                    named[spare] = old
                else:
                    warnings.append(
                        f"tokenizer.json: the template ends with {last!r}: no longer eos: {old!r}"
                    )
            named["eos"] = last
            adds["eos"] = True
    start = 1 if first is not None and pair and _special_id(pair[0]) == first else 0
    stop = len(pair) - (1 if last is not None and pair and _special_id(pair[-1]) == last else 0)
    inner = pair[start:stop]
    if len(inner) > 2 and _sequence(inner[0]) == "A" and _sequence(inner[-1]) == "B":
        ends = (named.get("sep"), named.get("eos"))
        between = [_special_id(piece) for piece in inner[1:-1]]
        adds["sep"] = (between[0] is not None and between[0] in ends and last is None) or (
            len(between) == 2 and between[1] is not None and between[1] in ends
        )
        if adds["sep"] and "sep" not in named and "eos" in named:
            named["sep"] = named["eos"]


def _special_id(piece: Mapping[str, Any]) -> str | None:
    token = piece.get("SpecialToken")
    return token.get("id") or None if isinstance(token, Mapping) else None


def _sequence(piece: Mapping[str, Any]) -> str | None:
    token = piece.get("Sequence")
    return token.get("id") if isinstance(token, Mapping) else None


def _content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) and content else None


def _chat_templates(files: Files, warnings: list[str]) -> dict[str, Value]:
    """Chat templates: those of tokenizer_config.json, else those in files; the default one last.

    Templates in files count without a tokenizer_config.json too, where the converter drops them.
    Source: gguf-py/gguf/gguf_writer.py, add_chat_template. The list of names is sorted here (a set
    there).
    """
    given = (files.config or {}).get("chat_template", files.templates)
    if isinstance(given, str):
        given = {"default": given}
    elif isinstance(given, list):
        given = {
            t["name"]: t["template"]
            for t in given
            if isinstance(t, dict) and {"name", "template"} <= t.keys()
        }
    if given is None:
        return {}
    if not isinstance(given, dict):
        warnings.append(
            "tokenizer_config.json: chat_template: expected text or a list, "
            f"got {type(given).__name__}"
        )
        return {}
    plain = set(ascii_letters + digits)
    named = {
        "".join(c if c in plain else "_" for c in name): template
        for name, template in given.items()
        if name
    }
    default = named.pop("default", None)
    made = {
        Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name): text(jinja)
        for name, jinja in named.items()
    }
    if named:
        made[Keys.Tokenizer.CHAT_TEMPLATES] = texts(sorted(named))
    if default is not None:
        made[Keys.Tokenizer.CHAT_TEMPLATE] = text(default)
    return made
