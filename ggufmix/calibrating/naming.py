"""Which parameter of a loaded model a tensor of its checkpoint went to, as transformers says.

It renames tensors while it loads and stacks experts that are stored one by one; the same patterns
are asked here, for names alone.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Parameter(NamedTuple):
    """Where a tensor went: the parameter's name, and which of its matrices it is if it was stored
    by itself, else None.
    """

    name: str
    matrix: int | None


def parameters(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, Parameter]:
    """By name in the checkpoint: where each tensor went. Those that the model does not take (blocks
    of multi-token prediction) are left out.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    transforms = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    known = model.state_dict()
    found = {}
    seen: defaultdict[tuple[str, str], int] = defaultdict(int)
    for name in sorted(stored, key=dot_natural_key):  # experts are stacked in this order
        made, pattern = rename_source_key(
            name, renamings, converters, model.base_model_prefix, known
        )
        if made not in known and name in known:  # it has the new name already
            made, pattern = name, None
        if made not in known:
            continue
        if pattern is None or "*" not in pattern:
            found[name] = Parameter(made, None)
        else:
            found[name] = Parameter(made, seen[made, pattern])
            seen[made, pattern] += 1
    return found
