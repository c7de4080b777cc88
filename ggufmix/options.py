"""What the user asks for, and how a file records it."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from . import sources
from .models import Component
from .rules import FallbackName, Gates, Mirror

OnOutlier = Literal["error", "bf16"]


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asks for, apart from where it comes from and goes to.

    recipe         name of a built-in recipe, "pure:TYPE", "auto" (bf16 or f16, as the weights have
                   it), or the path of a .toml file
    component      what of the checkpoint to write: the language "model", its vision projector
                   ("mmproj"), or its multi-token-prediction blocks alone ("mtp")
    gates          what SSM gates are kept in at least: "bf16", "f32", or "recipe" for no protection
    mirror         "llama.cpp" or "ik": that tool's mixture and fallbacks, no protection
    fallback       for rows that do not fit a type: "quality", "llama.cpp", "ik" or "error"; by
                   default the mirror's, else "quality"
    edges          N=TYPE: at least TYPE in the first and last N blocks
    target         where the file is to run, such as "vulkan": notes say what is slow there
    set_roles      ROLE=TYPE, first match wins, before tensor_types
    tensor_types   REGEX=TYPE, first match wins; read as llama-quantize reads them where it is
                   mirrored
    mtp            keep multi-token-prediction blocks that the checkpoint has
    fuse_gate_up_exps  gate and up of stacked experts become one tensor
    tokenizer_pre  value of tokenizer.ggml.pre where it cannot be recognised
    model_name     value of general.name
    metadata       a file of general.* keys, as llama.cpp's converter takes it
    override_kv    KEY=TYPE:VALUE, over whatever the output would have
    prune_layers   blocks to leave out, such as "3,7,20-25"
    scan           read the data once before planning
    imatrix        importance matrices, GGUF or legacy; several are merged
    include_weights, exclude_weights  parts of names: what of the imatrix is used, or is not
    on_outlier     "error", or "bf16": a tensor whose scales would be infinite is written in BF16
                   (implies scan)
    on_inexact     of packed INT4 weights with a scale that float16 does not hold: "error";
                   "nearest" takes the nearest and counts; "f32" writes the tensor in F32 (implies
                   scan)
    allow_requantize   what a GGUF source has in one quantized type may be written in another one
    custom_q           ik_llama.cpp's rules, after set_roles and tensor_types
    tensor_type_files  llama-quantize's files of rules, after those
    thireus            recipe files of Thireus' suite, after those
    like               a GGUF file whose types to take, after those
    config             config.json for a listing
    arch               general.architecture of a listing, where its names fit several
    """

    recipe: str = "q8_0"
    component: Component = "model"
    gates: Gates = "bf16"
    mirror: Mirror | None = None
    fallback: FallbackName | None = None
    edges: Sequence[str] = ()
    target: str | None = None
    set_roles: Sequence[str] = ()
    tensor_types: Sequence[str] = ()
    mtp: bool = True
    fuse_gate_up_exps: bool = False
    tokenizer_pre: str | None = None
    model_name: str | None = None
    metadata: str | os.PathLike[str] | None = None
    override_kv: Sequence[str] = ()
    prune_layers: str | None = None
    scan: bool = False
    on_outlier: OnOutlier = "error"
    on_inexact: sources.OnInexact = "error"
    imatrix: Sequence[str | os.PathLike[str]] = ()
    include_weights: Sequence[str] = ()
    exclude_weights: Sequence[str] = ()
    custom_q: Sequence[str] = ()
    tensor_type_files: Sequence[str | os.PathLike[str]] = ()
    thireus: Sequence[str | os.PathLike[str]] = ()
    like: str | os.PathLike[str] | None = None
    config: str | os.PathLike[str] | None = None
    arch: str | None = None
    allow_requantize: bool = False

    @property
    def scans(self) -> bool:
        """The data are read once before anything is decided, whatever they are."""
        return self.scan or self.on_outlier == "bf16"

    def absolute(self) -> Options:
        """The same with whole paths, for a process that stands elsewhere."""

        def whole(path: str | os.PathLike[str]) -> str:
            return os.path.abspath(path)

        return replace(
            self,
            recipe=whole(self.recipe) if self.recipe.lower().endswith(".toml") else self.recipe,
            imatrix=tuple(map(whole, self.imatrix)),
            tensor_type_files=tuple(map(whole, self.tensor_type_files)),
            thireus=tuple(map(whole, self.thireus)),
            like=whole(self.like) if self.like is not None else None,
            config=whole(self.config) if self.config is not None else None,
            metadata=whole(self.metadata) if self.metadata is not None else None,
        )


class Recorded(NamedTuple):
    """How a file says what was asked for.

    option  as on a command line
    field   of Options
    stands  of an option without a value: what the field is then
    file    the value is a path, and only its name is said
    """

    option: str
    field: str
    stands: str | bool | None = None
    file: bool = False


RECORDED = (
    Recorded("--mmproj", "component", "mmproj"),
    Recorded("--mtp", "component", "mtp"),
    Recorded("--gates", "gates"),
    Recorded("--mirror", "mirror"),
    Recorded("--fallback", "fallback"),
    Recorded("--edges", "edges"),
    Recorded("--set", "set_roles"),
    Recorded("--tensor-type", "tensor_types"),
    Recorded("--custom-q", "custom_q"),
    Recorded("--tensor-type-file", "tensor_type_files", file=True),
    Recorded("--thireus", "thireus", file=True),
    Recorded("--like", "like", file=True),
    Recorded("--on-outlier", "on_outlier"),
    Recorded("--on-inexact", "on_inexact"),
    Recorded("--allow-requantize", "allow_requantize", True),
    Recorded("--no-mtp", "mtp", False),
    Recorded("--fuse-gate-up-exps", "fuse_gate_up_exps", True),
    Recorded("--tokenizer-pre", "tokenizer_pre"),
    Recorded("--model-name", "model_name"),
    Recorded("--metadata", "metadata", file=True),
    Recorded("--override-kv", "override_kv"),
    Recorded("--prune-layers", "prune_layers"),
    Recorded("--include-weights", "include_weights"),
    Recorded("--exclude-weights", "exclude_weights"),
)
"""Whatever changes what is written, but for the recipe and the imatrix, which have keys of their
own, and what a listing takes, of which nothing is written. In the order in which files have it.
"""


def recorded(options: Options) -> list[str]:
    """What differs from the defaults, as on a command line: no paths."""
    plain = Options()
    said = []
    for option, field, stands, file in RECORDED:
        given = getattr(options, field)
        if given == getattr(plain, field):
            continue
        if stands is not None:
            said += [option] if given == stands else []
            continue
        values = given if isinstance(given, (list, tuple)) else [given]
        said += [f"{option} {Path(value).name if file else value}" for value in values]
    return said


def fields_of(said: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Fields of Options by what `recorded` says; and what of it is not enough to make them: names
    of files, and what is not known here.
    """
    known = {of.option: of for of in RECORDED}
    several = {field.name for field in fields(Options) if field.default == ()}
    made: dict[str, Any] = {}
    rest = []
    for words in said:
        option, _, given = words.partition(" ")
        of = known.get(option)
        if of is None or of.file:
            rest.append(words)
        elif of.stands is not None:
            made[of.field] = of.stands
        elif of.field in several:
            made[of.field] = (*made.get(of.field, ()), given)
        else:
            made[of.field] = given
    return made, rest
