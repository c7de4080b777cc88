"""What a file is called: `{name}-{tag}.gguf`, filled in from a plan.

Two programs read names. The hub takes the last word of it that is one of its file types (see
huggingface.js, packages/tasks/src/gguf.ts, `parseGGUFQuantLabel`): so the recipe's word comes last,
and what else is worth saying before it. llama.cpp's `-hf owner/model:TAG` takes the first file that
has TAG followed by "-" or "." (common/download.cpp, `find_best_model`).
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import re
import string
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from gguf import Metadata, naming_convention

from .container import Value
from .errors import UsageError
from .planning import Plan

_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_TYPE = re.compile(r"[-._](BF16|F16|F32|[A-Z0-9]*Q\d[A-Z0-9_]*)$", re.IGNORECASE)
_SIZE = re.compile(r"\b\d+([._]\d+)?[kmbt]\b", re.IGNORECASE)


def fields(plan: Plan, tag: str, src: str = "", component: str = "model") -> dict[str, str]:
    """What may stand in a name, by the word for it.

    tag        of the recipe, as `rules.tag` has it
    src        where the model lies: what it is called there counts where its key-values say no name
    component  "mmproj" and "mtp" are said in front of the name, as llama.cpp's converter does

    name    of the model, with size, finetune and version as `gguf.naming_convention` puts them
    size    such as "35B-A3B", "" where nobody says it
    tag     the recipe's, in front of it "SSM_BF16-" where gates are protected in that type
    recipe  its name
    arch    general.architecture
    """
    said = {key: _said(plan.values, f"general.{key}") for key in _KEYS}
    if component == "mmproj":
        said["size_label"] = None  # that of the projector alone
    if said["name"] is None and said["basename"] is None:
        said |= _called(src, plan.n_weights, said["size_label"])
    whole = said["basename"] is None and _SIZE.search(said["name"] or "")  # a name with its size
    name = naming_convention(
        said["name"],
        said["basename"],
        said["finetune"],
        said["version"],
        None if whole else said["size_label"],
        None,
    )
    return {
        "name": ("" if component == "model" else f"{component}-") + _plain(name),
        "size": _plain(said["size_label"] or ""),
        "tag": _plain("".join(f"SSM_{kind}-" for kind in _gates(plan)) + tag),
        "recipe": _plain(plan.recipe),
        "arch": _plain(plan.architecture),
    }


_KEYS = "name", "basename", "finetune", "version", "size_label"


def _called(src: str, n_weights: int, size: str | None) -> dict[str, str | None]:
    """What a folder, a file or an address says of the model."""
    stem = PurePosixPath(os.path.abspath(src) if "://" not in src else src).name
    stem = _TYPE.sub("", _PART.sub("", stem.removesuffix(".gguf")))
    name, _, basename, finetune, version, size_label = Metadata.get_model_id_components(
        stem, n_weights
    )
    if size_label is None and _SIZE.search(stem):  # a size that gguf does not believe
        basename = finetune = version = size = None
    told = [name, basename, finetune, version, size_label or size]
    return {key: _worth(word) for key, word in zip(_KEYS, told, strict=True)}


def template(out: str | os.PathLike[str]) -> str:
    """What a user gives as the output: a path, a template of one, or a folder for such names as
    both programs read. Templates are quoted, so it is not the shell that sees to "~/".

    Raises UsageError for an empty one.
    """
    said = os.fspath(out)
    if not said:
        raise UsageError("expected the path of an output, a folder or a template, got none")
    if os.path.isdir(said):
        said = os.path.join(said.replace("{", "{{").replace("}", "}}"), "")
    if said.endswith("/"):
        said = os.path.join(said, "{name}-{tag}.gguf")
    return os.path.expanduser(said) if is_template(said) else said


def is_template(said: str) -> bool:
    """Whether it has words to be filled in, or braces that stand for braces."""
    return "{" in said or "}" in said


def filled(template: str, words: Mapping[str, str]) -> Path:
    """A path with its words filled in. Raises UsageError for a word that there is not, and where
    no name comes out.
    """
    parts = []
    try:
        for literal, word, form, conversion in string.Formatter().parse(template):
            parts.append(literal)
            if word is not None:
                if form or conversion or word not in words:
                    raise UsageError(
                        f"{template}: expected {', '.join(f'{{{w}}}' for w in words)}, "
                        f"got {{{word}}}"
                    )
                parts.append(words[word])
    except ValueError as error:
        raise UsageError(
            f"{template}: {error}", hint="{{ and }} stand for braces themselves"
        ) from error
    path = Path("".join(parts))
    if not path.name:
        raise UsageError(f"{template}: no name comes out of it: nobody says what stands there")
    return path


def _said(values: Mapping[str, Value], key: str) -> str | None:
    value = values.get(key)
    return _worth(str(value.data)) if value is not None else None


def _worth(word: str | None) -> str | None:
    """A word of which something is left in a name, else None."""
    return word if word is not None and _plain(word) else None


def _plain(name: str) -> str:
    """Nothing that leaves the folder or that shells and hubs stumble over."""
    return _UNSAFE.sub("-", name).strip("-.")


def _gates(plan: Plan) -> list[str]:
    """Types in which SSM gates are protected, where the recipe would have another."""
    kinds = {t.encoder.format.name for t in plan.tensors if t.reason == "protect: gates"}
    return sorted(kinds)
