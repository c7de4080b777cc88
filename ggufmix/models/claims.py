"""Claims: each tensor of a checkpoint goes to one place, or is left out for a stated reason."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..errors import ModelError
from ..tensor import BF16, Array, Tensor

_VISION = (
    "model.visual.",
    "visual.",
    "vision_tower.",
    "vision_model.",
    "model.vision_tower.",
    "mlp1.",  # the projector of Nemotron Nano VL
    "mm_projector.",
    "multi_modal_projector.",
    "model.multi_modal_projector.",
)
_SHOWN = 5
_NUMBER = re.compile(r"[0-9]{1,9}")  # of a layer or expert


class _Missing(Tensor):
    """Stands in for a tensor that is not there until all that are missing can be named at once."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape, self.dtype = name, shape, BF16

    def rows(self, start: int, stop: int) -> Array:
        raise AssertionError(f"{self.name} is missing, asked for rows {start} to {stop}")


class Claims:
    """The tensors of a checkpoint under the names they have in a plain text model.

    "model.language_model.x", "language_model.model.x" and "model.x" are one name; so are
    "model.mtp.x" and "mtp.x". The vision tower is left out at once. Messages spell a tensor as its
    file does.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, mmproj: bool = False) -> None:
        """`mmproj`: a file of the vision tower can be written."""
        self.notes: list[str] = []
        self._open: dict[str, Tensor] = {}
        self._missing: list[str] = []
        self._prefix = next(
            (p for p in ("model.language_model.", "language_model.model.") if _any(tensors, p)),
            None,
        )
        vision = 0
        for stored, tensor in tensors.items():
            if stored.startswith(_VISION):
                vision += 1
            elif stored.endswith(".rotary_emb.inv_freq"):
                continue  # computed by every runtime
            elif ".switch_mlp." in stored:
                raise ModelError(
                    f"{stored}: this is the layout of MLX, in which norms have other values",
                    hint="convert the original of transformers instead",
                )
            else:
                name = _plain(stored)
                if name in self._open:
                    raise ModelError(
                        f"{stored}: another tensor of the checkpoint stands for {name} already"
                    )
                self._open[name] = tensor
        if vision:
            self.notes.append(
                f"left out {vision} tensors of the vision tower: this file is the text model"
                + (", --mmproj writes the vision projector" if mmproj else "")
            )

    def __contains__(self, name: str) -> bool:
        return name in self._open

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor that is not claimed yet; None if there is none."""
        return self._open[name].shape if name in self._open else None

    def numbers(self, prefix: str) -> list[int]:
        """The numbers after `prefix` in names of unclaimed tensors: "mtp.layers." gives [0]."""
        heads = {
            name[len(prefix) :].split(".", 1)[0] for name in self._open if name.startswith(prefix)
        }
        return sorted(int(head) for head in heads if _NUMBER.fullmatch(head))

    def claim(self, name: str, shape: Sequence[int]) -> Tensor:
        """Take the tensor `name`. One that is missing is named by `finish`.

        Raises ModelError if its shape is not the one that follows from the config, and whatever its
        source raises if its values cannot be read: now, before anything is written.
        """
        tensor = self._open.pop(name, None)
        if tensor is None:
            self._missing.append(self.spelled(name))
            return _Missing(name, tuple(shape))
        if tensor.shape != tuple(shape):
            raise ModelError(
                f"{tensor.name}: expected shape {list(shape)} from config.json, "
                f"got {list(tensor.shape)}",
                hint="config.json is of another model, or the weights were saved in another layout",
            )
        _ = tensor.dtype
        return tensor

    def leave_out(self, prefix: str | tuple[str, ...], why: str) -> None:
        """Leave out unclaimed tensors under a prefix, or several; `why` completes "left out N
        tensors".
        """
        names = [name for name in self._open if name.startswith(prefix)]
        for name in names:
            del self._open[name]
        if names:
            self.notes.append(f"left out {len(names)} tensors {why}")

    def finish(self, arch: str) -> None:
        """Raises ModelError if a tensor was missing or is left that nobody claimed, naming them."""
        unclaimed = sorted(tensor.name for tensor in self._open.values())
        found = []
        if self._missing:
            found.append(f"{len(self._missing)} missing ({_listed(self._missing)})")
        if unclaimed:
            found.append(f"{len(unclaimed)} that nothing in {arch} claims ({_listed(unclaimed)})")
        if found:
            hint = "config.json states another number of layers, or the checkpoint is incomplete"
            if not self._missing:
                hint = (
                    "this version does not know that part; a file without it would be another model"
                )
            raise ModelError(f"the tensors do not fit {arch}: {'; '.join(found)}", hint=hint)

    def spelled(self, name: str) -> str:
        """A name of a plain text model as this checkpoint would spell it."""
        return (
            name.replace("model.", self._prefix, 1)
            if self._prefix and name.startswith("model.")
            else name
        )


class TowerClaims(Claims):
    """The tensors of a vision tower and its projector, under the names they have without the
    wrapper's "model.". All others are passed over.
    """

    def __init__(self, tensors: Mapping[str, Tensor], roots: Sequence[str]) -> None:
        """`roots`: what names of its tensors begin with, such as "visual."."""
        super().__init__({})
        self._roots = tuple(roots)
        for stored, tensor in tensors.items():
            name = stored.removeprefix("model.")
            if not name.startswith(self._roots):
                continue
            if name in self._open:
                raise ModelError(
                    f"{stored}: another tensor of the checkpoint stands for {name} already"
                )
            self._open[name] = tensor
            if stored != name:
                self._prefix = "model."

    def __bool__(self) -> bool:
        return bool(self._open)

    def spelled(self, name: str) -> str:
        """A name as this checkpoint would spell it."""
        return (self._prefix or "") + name


def _any(names: Mapping[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _plain(name: str) -> str:
    plain = name.replace("language_model.", "", 1)
    return plain.removeprefix("model.") if plain.startswith("model.mtp.") else plain


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
