"""What the user asks for, and how a file records it."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

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


def recorded(options: Options) -> list[str]:
    """What differs from the defaults, as on a command line: no paths."""
    chosen = [f"--{options.component}"] if options.component != "model" else []
    chosen += [f"--gates {options.gates}"] if options.gates != "bf16" else []
    chosen += [f"--mirror {options.mirror}"] if options.mirror else []
    chosen += [f"--fallback {options.fallback}"] if options.fallback else []
    chosen += [f"--edges {e}" for e in options.edges]
    chosen += [f"--set {o}" for o in options.set_roles]
    chosen += [f"--tensor-type {o}" for o in options.tensor_types]
    chosen += [f"--custom-q {o}" for o in options.custom_q]
    chosen += [f"--tensor-type-file {Path(o).name}" for o in options.tensor_type_files]
    chosen += [f"--thireus {Path(o).name}" for o in options.thireus]
    chosen += [f"--like {Path(options.like).name}"] if options.like is not None else []
    chosen += [f"--on-outlier {options.on_outlier}"] if options.on_outlier != "error" else []
    chosen += [f"--on-inexact {options.on_inexact}"] if options.on_inexact != "error" else []
    chosen += ["--allow-requantize"] if options.allow_requantize else []
    chosen += [] if options.mtp else ["--no-mtp"]
    chosen += ["--fuse-gate-up-exps"] if options.fuse_gate_up_exps else []
    chosen += [f"--tokenizer-pre {options.tokenizer_pre}"] if options.tokenizer_pre else []
    chosen += [f"--model-name {options.model_name}"] if options.model_name is not None else []
    chosen += [f"--metadata {Path(options.metadata).name}"] if options.metadata is not None else []
    chosen += [f"--override-kv {o}" for o in options.override_kv]
    chosen += [f"--prune-layers {options.prune_layers}"] if options.prune_layers else []
    chosen += [f"--include-weights {o}" for o in options.include_weights]
    chosen += [f"--exclude-weights {o}" for o in options.exclude_weights]
    return chosen
