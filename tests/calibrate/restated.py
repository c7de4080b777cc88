"""What flows into the weights of a model, measured a second time: hooks on modules, and experts
computed from their weights in float64.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


def inputs(model: Any, sequences: Sequence[Sequence[int]]) -> dict[str, Rows]:
    """Rows of inputs, float64 (tokens, cols), by name of the parameter; of experts by name and
    number, "layers.0.mlp.experts.down_proj[3]", for gated ones with silu.
    """
    import torch

    seen: dict[str, list[Rows]] = {}

    def linear(name: str) -> Any:
        def hook(_module: Any, args: Any, _output: Any) -> None:
            x = args[0].detach().double().numpy()
            seen.setdefault(f"{name}.weight", []).append(x.reshape(-1, x.shape[-1]))

        return hook

    def experts(name: str) -> Any:
        def hook(module: Any, args: Any, _output: Any) -> None:
            x, chosen = args[0].detach().double().numpy(), args[1].numpy()
            for e in range(module.num_experts):
                mine = x[(chosen == e).any(axis=1)]
                both = mine @ module.gate_up_proj[e].detach().double().numpy().T
                gate, up = np.split(both, 2, axis=1)
                seen.setdefault(f"{name}.gate_up_proj[{e}]", []).append(mine)
                down = gate / (1 + np.exp(-gate)) * up
                seen.setdefault(f"{name}.down_proj[{e}]", []).append(down)

        return hook

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            handles.append(module.register_forward_hook(linear(name)))
        elif hasattr(module, "gate_up_proj") and not hasattr(module, "gate_proj"):
            handles.append(module.register_forward_hook(experts(name)))
    with torch.no_grad():
        for ids in sequences:
            model(torch.tensor([list(ids)]), use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(rows) for name, rows in seen.items()}
