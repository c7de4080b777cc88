"""What a plan is made for: a checkpoint, a GGUF file, or a listing, each as tensors in their places
with the key-values that are known of them.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gguf import GGUFType

from . import general, models, sources, tokenizer
from .container import Value, text, u32
from .errors import SourceError, UsageError
from .models import Component
from .models.config import text_config
from .models.gguf_names import architectures_of, by_name
from .sources import GgufFile, Listing
from .tensor import Placed

REMOTE_THREADS = 16
"""For a remote source: each thread has the request of a band under way, so that with answers after
50 ms 640 MB/s are possible.
"""


@dataclass(frozen=True)
class Placement:
    """A model before anything is decided.

    arch      general.architecture
    tensors   in their places
    values    key-values in front of general.file_type, in the order of the header
    words     those behind it
    files     what the weights lie in
    whole     the key-values are complete: the size of a file follows to the byte
    shapes    heads and experts follow from shapes alone, not from key-values
    readable  rows can be read: there are weights
    packed    weights that the checkpoint has in packed form
    abandon   lets no reader wait any longer for a source that is far away
    """

    arch: str
    tensors: Sequence[Placed]
    values: Mapping[str, Value]
    words: Mapping[str, Value] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    files: tuple[sources.SourceFile, ...] = ()
    whole: bool = True
    shapes: bool = False
    readable: bool = True
    packed: Sequence[sources.Packed] = ()
    abandon: Callable[[], None] | None = None

    @property
    def least_threads(self) -> int:
        """How many threads keep a fast line busy."""
        return REMOTE_THREADS if any(file.path is None for file in self.files) else 1


@contextmanager
def opened(
    src: str | os.PathLike[str],
    *,
    config: Path | None = None,
    arch: str | None = None,
    component: Component = "model",
    mtp: bool = True,
    fuse: bool = False,
    pre: str | None = None,
    model_name: str | None = None,
    metadata: Path | None = None,
    on_inexact: sources.OnInexact = "error",
) -> Iterator[Placement]:
    """Open what `src` names: a folder or safetensors file, or a `.gguf` file, here or at an address
    such as hf://owner/name; or a `.tsv` listing.

    config      config.json for a listing
    arch        general.architecture of a listing, where its names fit several
    component   what of it: the model, its vision projector, or its blocks of multi-token
                prediction alone
    mtp         keep blocks of multi-token prediction
    fuse        gate and up of stacked experts become one tensor
    pre         tokenizer.ggml.pre
    model_name  general.name
    metadata    a file of general.* keys
    on_inexact  what becomes of packed weights whose scale float16 does not hold
    Raises the errors of ggufmix.errors.
    """
    if component == "mtp" and not mtp:
        raise UsageError(
            "--mtp writes the blocks that --no-mtp leaves out: expected one of the two"
        )
    if component == "mmproj" and (fuse or pre is not None or not mtp):
        raise UsageError(
            "--mmproj: the vision projector has no experts, no tokenizer and no MTP blocks: leave "
            "out what is for those"
        )
    of_it = _Choice(os.fspath(src), component, fuse)
    suffix = sources.suffix(src)
    listed = suffix == sources.LISTING_SUFFIX and not sources.is_remote(src)
    if listed and (pre is not None or model_name is not None or metadata is not None):
        raise UsageError(
            f"{src}: --tokenizer-pre, --model-name and --metadata are for checkpoints and files"
        )
    stated = general.stated(metadata) if metadata is not None else {}
    if listed:
        yield of_it.made(_of_listing(sources.read_listing(Path(src)), config, arch, mtp))
        return
    if config is not None or arch is not None:
        raise UsageError(f"{src}: --config and --arch are for listings (.tsv)")
    if suffix == ".gguf":
        with sources.open_gguf(src) as file:
            whole = _of_gguf(file, pre=pre, model_name=model_name, stated=stated)
            yield of_it.made(whole if mtp else _without_mtp(src, whole))
        return
    with sources.open_checkpoint(src) as checkpoint:
        yield _of_checkpoint(
            checkpoint,
            of_it,
            mtp=mtp,
            pre=pre,
            model_name=model_name,
            stated=stated,
            on_inexact=on_inexact,
        )


@dataclass(frozen=True)
class _Choice:
    """What of a model is wanted, and how."""

    where: str
    component: Component
    fuse: bool

    def model(self, whole: models.Model) -> models.Model:
        """What is wanted of a checkpoint."""
        tensors, notes = self._tensors(whole.arch, whole.tensors, whole.values, whole.notes)
        return replace(whole, tensors=tensors, notes=notes)

    def made(self, whole: Placement) -> Placement:
        """What is wanted of what has its places already."""
        tensors, notes = self._tensors(whole.arch, whole.tensors, whole.values, whole.notes)
        return replace(whole, tensors=tensors, notes=tuple(notes))

    def _tensors(
        self,
        arch: str,
        tensors: Sequence[Placed],
        values: Mapping[str, Value],
        notes: Sequence[str],
    ) -> tuple[list[Placed], list[str]]:
        """Raises UsageError where the model does not have what is wanted."""
        made, told = list(tensors), list(notes)
        if self.component == "mmproj":
            raise UsageError(
                f"{self.where}: --mmproj is for checkpoints: expected a folder with config.json",
                hint="a file that is a projector already is converted without it",
            )
        if self.component == "mtp":
            layers = models.mtp_layers(arch, values, made)
            if not layers:
                raise UsageError(
                    f"{self.where}: --mtp: there is no block of multi-token prediction to write",
                    hint=next((note for note in told if " MTP block" in note), None),
                )
            made = models.draft_head(made, layers)
            told.append(
                f"left out {len(tensors) - len(made)} tensors: this is the draft head alone"
            )
        if self.fuse:
            made = models.fuse_gate_up(arch, made)
        return made, told


def _of_checkpoint(
    checkpoint: sources.Checkpoint,
    of_it: _Choice,
    *,
    mtp: bool,
    pre: str | None,
    model_name: str | None,
    stated: Mapping[str, Any],
    on_inexact: sources.OnInexact,
) -> Placement:
    found = sources.presented(checkpoint.tensors, checkpoint.config, on_inexact)
    if of_it.component == "mmproj":
        images = _of_images(checkpoint)
        model = models.place_vision(checkpoint.config, found.tensors, images)
        words = tokenizer.Tokenizer({}, [])
    else:
        model = of_it.model(models.place(checkpoint.config, found.tensors, mtp=mtp))
        words = tokenizer.load(
            checkpoint.directory,
            checkpoint.config,
            rows=model.vocab_rows,
            arch=model.arch,
            pre=pre,
        )
    # of a remote source it is a temporary directory, which says nothing to anybody
    remote = any(file.path is None for file in checkpoint.files)
    told = checkpoint.where if remote else str(checkpoint.directory)
    warnings = list(words.warnings)
    values: dict[str, Value] = {"general.architecture": text(model.arch)}
    values |= general.general(
        checkpoint.directory,
        parameters=model.parameters,
        model_name=model_name,
        kind=GGUFType.MMPROJ if of_it.component == "mmproj" else GGUFType.MODEL,
        stated=stated,
        warnings=warnings,
    )
    values |= model.values
    return Placement(
        model.arch,
        model.tensors,
        values,
        words.values,
        (*model.notes, *found.notes),
        tuple(w.replace(str(checkpoint.directory), told) for w in warnings),
        checkpoint.files,
        packed=found.packed,
        abandon=checkpoint.abandon,
    )


def _of_images(checkpoint: sources.Checkpoint) -> dict[str, Any]:
    """What is said of preparing images: preprocessor_config.json, and what processor_config.json
    says otherwise; each with what it keeps under a name of its own.
    """
    found: dict[str, Any] = {}
    for name, inner in (
        ("preprocessor_config.json", "media_proc_cfg"),
        ("processor_config.json", "image_processor"),
    ):
        stated = checkpoint.json(name) or {}
        nested = stated.get(inner)
        found |= stated | (nested if isinstance(nested, dict) else {})
    return found


def _without_mtp(where: str | os.PathLike[str], whole: Placement) -> Placement:
    """A GGUF file whose blocks of multi-token prediction are left out, if it has any."""
    layers = models.mtp_layers(whole.arch, whole.values, whole.tensors)
    rest = [p for p in whole.tensors if p.layer not in layers]
    if layers and all(p.layer is None for p in rest):
        raise UsageError(f"{where}: --no-mtp: this is a draft head alone, nothing would be left")
    if not layers:
        return whole
    n = len(whole.tensors) - len(rest)
    plural = "s" * (len(layers) != 1)
    note = f"left out {n} tensors of {len(layers)} MTP block{plural}, as asked"
    values = models.without_mtp(whole.arch, whole.values, len(layers))
    return replace(whole, tensors=rest, values=values, notes=(*whole.notes, note))


_OURS = ("split.", "ggufmix.")
"""Beginnings of keys that are not carried over: of the parts of the source, and its provenance."""


def _of_gguf(
    found: GgufFile, *, pre: str | None, model_name: str | None, stated: Mapping[str, Any]
) -> Placement:
    arch = found.values.get("general.architecture")
    if arch is None or not isinstance(arch.data, str):
        raise SourceError(f"{found.where}: expected general.architecture, the header has none")
    if not found.tensors:
        raise SourceError(f"{found.where}: expected tensors, the header lists none")
    values = {k: v for k, v in found.values.items() if not k.startswith(_OURS)}
    values |= general.values_of(stated)
    if pre is not None:
        values["tokenizer.ggml.pre"] = text(pre)
    if model_name is not None:
        values["general.name"] = text(model_name)
    placed = by_name(found.tensors)
    warnings = tuple(
        f"{name}: its header is not what its checksum says: damaged, or edited by another program"
        for name in found.broken_seals()
    )
    if not warnings and not found.unsealed():
        found.tell_checksums()
    return Placement(
        arch.data, placed, values, warnings=warnings, files=found.files, abandon=found.abandon
    )


def _of_listing(listing: Listing, config: Path | None, arch: str | None, mtp: bool) -> Placement:
    stated = _config(config) if config is not None else None
    if listing.names == "hf":
        if stated is None:
            raise UsageError(
                f"{listing.where}: lists names of Hugging Face: their places follow from the "
                "model's config",
                hint="give it as --config config.json",
            )
        model = models.place(stated, listing.tensors, mtp=mtp)
        return Placement(
            model.arch,
            model.tensors,
            model.values,
            notes=tuple(model.notes),
            whole=False,
            readable=False,
        )
    if not mtp:
        raise UsageError(f"{listing.where}: --no-mtp is for checkpoints and GGUF files")
    placed = by_name(listing.tensors)
    notes = []
    likely = architectures_of({p.role for p in placed}, listing.where)
    if arch is None:
        arch = likely[0] if likely else "unknown"
        also = f" (it could be {', '.join(likely[1:])} too)" if likely[1:] else ""
        notes.append(
            f"{listing.where}: architecture {arch}, by its tensors{also}; --arch says otherwise"
        )
    return Placement(
        arch,
        placed,
        _keys(stated or {}, arch),
        notes=tuple(notes),
        whole=False,
        shapes=True,
        readable=False,
    )


_KEYS = {
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "expert_used_count": ("num_experts_per_tok", "moe_topk", "top_k_experts", "moe_top_k"),
}
"""What a mixture or a reader of plans asks for, and how configs spell it."""


def _keys(config: Mapping[str, Any], arch: str) -> dict[str, Value]:
    inner = {**config, **text_config(config)}
    found = {}
    for key, names in _KEYS.items():
        value = next((inner[n] for n in names if isinstance(inner.get(n), int)), None)
        if value is not None:
            found[f"{arch}.{key}"] = u32(value)
    return found


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SourceError(f"{path.name}: not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise SourceError(f"{path.name}: expected an object, got {type(found).__name__}")
    return found
