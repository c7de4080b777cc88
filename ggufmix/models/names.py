"""Hugging Face names to GGUF names, through `gguf.TensorNameMap`.

The published gguf package knows the six NextN (multi-token prediction) tensors but lists them for
few architectures, and the norm in front of a block's second half not for Nemotron-H, which has it
in such a block; here every architecture has them, and what has one place wherever it occurs.
Nothing of gguf's own tables is changed.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re

import gguf

_BLOCK = re.compile(r"model\.layers\.(\d+)\.")
_ANYWHERE: dict[str, gguf.MODEL_TENSOR] = {
    alias.split("{bid}.")[1]: role
    for role, aliases in gguf.TensorNameMap.block_mappings_cfg.items()
    if role.name.startswith(("NEXTN_", "MOE_LATENT_")) or role.name == "ATTN_POST_NORM"
    for alias in aliases
    if "{bid}." in alias  # later packages know a few outside the blocks
}


class Names:
    """The GGUF names of one architecture with `block_count` blocks."""

    def __init__(self, arch: gguf.MODEL_ARCH, block_count: int) -> None:
        self._map = gguf.get_tensor_name_map(arch, block_count)

    def find(self, name: str) -> tuple[str, str]:
        """The GGUF name of a tensor and its role, a member name of gguf.MODEL_TENSOR.

        name  as transformers spells it in a plain text model, such as
              "model.layers.3.linear_attn.in_proj_a.weight"
        Raises KeyError for a name that has no place: a family asks only for what it knows.
        """
        suffix = next((s for s in (".weight", ".bias") if name.endswith(s)), "")
        found = self._map.get_type_and_name(name, try_suffixes=(".weight", ".bias"))
        if found is not None:
            return found[1], found[0].name
        if block := _BLOCK.match(name):
            role = _ANYWHERE.get(name[block.end() :].removesuffix(suffix))
            if role is not None:
                return gguf.TENSOR_NAMES[role].format(bid=block[1]) + suffix, role.name
        raise KeyError(name)
