"""Measuring what flows into the weights of a model of transformers, while it computes.

Three kinds of modules multiply by a matrix: `nn.Linear`, routers (another module with a `weight` of
two dimensions), and experts that transformers lets be computed by any function that is registered
(`transformers.integrations.moe`): there the inputs of each expert are seen, and those of its second
matrix too. Anything else that holds stacked matrices is refused by name.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

NAME = "ggufmix_calibrate"
"""Under which our computation of experts is registered."""

Kind = Literal["linear", "experts"]


class Inputs:
    """What was seen of the inputs of one weight, or of its matrices if it is a stack of experts.

    counts  int64, (matrices,): rows seen
    axis    along which the input channels lie in the weight: -1, or -2 if it is transposed
    cols    input channels
    """

    def __init__(self, matrices: int, cols: int, axis: Literal[-1, -2]) -> None:
        self.cols, self.axis = cols, axis
        self.counts: NDArray[np.int64] = np.zeros(matrices, np.int64)
        self._sums: torch.Tensor | None = None
        self._maxima: torch.Tensor | None = None

    def add(self, rows: torch.Tensor, matrix: int = 0) -> None:
        """Inputs, (..., cols), of one matrix. Squares of a call are added in float32, calls in
        float64.
        """
        import torch

        rows = rows.detach().reshape(-1, self.cols).to(torch.float32)
        if not len(rows):
            return
        if self._sums is None or self._maxima is None:
            at = rows.device if rows.device.type != "mps" else "cpu"  # which has no float64
            shape = (len(self.counts), self.cols)
            self._sums = torch.zeros(shape, dtype=torch.float64, device=at)
            self._maxima = torch.zeros(shape, dtype=torch.float32, device=at)
        at = self._sums.device
        self._sums[matrix] += rows.square().sum(0).to(at)
        self._maxima[matrix] = torch.maximum(self._maxima[matrix], rows.abs().amax(0).to(at))
        self.counts[matrix] += len(rows)

    def sums(self, matrix: int) -> NDArray[np.float64]:
        """Sums of squares, float64, (cols,)."""
        if self._sums is None:
            return np.zeros(self.cols)
        made: NDArray[np.float64] = self._sums[matrix].cpu().numpy()
        return made

    def maxima(self, matrix: int) -> NDArray[np.float32]:
        """Largest magnitudes, float32, (cols,)."""
        if self._maxima is None:
            return np.zeros(self.cols, np.float32)
        made: NDArray[np.float32] = self._maxima[matrix].cpu().numpy()
        return made

    def finite(self) -> bool:
        """Whether all that was seen was finite."""
        return self._sums is None or bool(self._sums.isfinite().all())


def kind_of(model: PreTrainedModel, parameter: str) -> Kind | None:
    """How the inputs of a parameter can be seen; None of one that is no matrix of a product, such
    as an embedding, the taps of a convolution, or a state.

    Raises ModelError, naming the class, for stacked matrices of a module that is not known.
    """
    from torch import nn

    owner, leaf = parameter.rsplit(".", 1)
    module = model.get_submodule(owner)
    dims = model.get_parameter(parameter).dim()
    if isinstance(module, nn.Embedding | nn.modules.conv._ConvNd):
        return None
    if leaf == "weight" and dims == 2:
        return "linear"
    if dims < 3:
        return None
    if leaf in ("gate_up_proj", "up_proj", "down_proj") and hasattr(module, "is_transposed"):
        return "experts"
    raise ModelError(
        f"{parameter}: {type(module).__name__} keeps {dims}-dimensional weights in a way that is "
        "not known here: what its experts see could not be measured",
        hint="llama-imatrix measures a GGUF of it; its file will do for convert and for fp8",
    )


class Measuring:
    """Inputs of some parameters of a model: `with measuring: model(...)` adds to them.

    inputs  by name of the parameter
    """

    def __init__(self, model: PreTrainedModel, parameters: Iterable[str]) -> None:
        self.model = model
        self.inputs: dict[str, Inputs] = {}
        self._linears: dict[str, nn.Module] = {}
        self._experts: dict[nn.Module, dict[str, Inputs]] = {}
        for name in dict.fromkeys(parameters):
            kind = kind_of(model, name)
            if kind is None:
                continue
            owner, leaf = name.rsplit(".", 1)
            module, shape = model.get_submodule(owner), model.get_parameter(name).shape
            if kind == "linear":
                self.inputs[name] = Inputs(1, shape[1], -1)
                self._linears[name] = module
            else:
                axis: Literal[-1, -2] = -2 if module.is_transposed else -1
                self.inputs[name] = Inputs(shape[0], shape[axis], axis)
                self._experts.setdefault(module, {})[leaf] = self.inputs[name]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Measure for the time of a block. Raises ModelError where transformers would not use our
        computation of the experts.
        """
        handles = [
            module.register_forward_pre_hook(partial(_seen, self.inputs[name]), with_kwargs=True)
            for name, module in self._linears.items()
        ]
        before = self.model.get_experts_implementation() if self._experts else None
        try:
            if self._experts:
                self._take_over()
            yield
        finally:
            for handle in handles:
                handle.remove()
            if before is not None:
                self.model.set_experts_implementation(before)

    def _take_over(self) -> None:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

        ALL_EXPERTS_FUNCTIONS[NAME] = partial(_compute, self._experts)
        self.model.set_experts_implementation(NAME)
        for module in self._experts:
            if module.config._experts_implementation != NAME:  # type: ignore[union-attr]
                raise ModelError(
                    f"{type(module).__name__}: transformers does not let its experts be computed "
                    "by another function, so what they see could not be measured",
                    hint="llama-imatrix measures a GGUF of it",
                )


def _seen(
    inputs: Inputs, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    del module
    inputs.add(args[0] if args else next(iter(kwargs.values())))


def _compute(
    measured: Mapping[nn.Module, Mapping[str, Inputs]],
    module: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """What experts compute, one after the other, with their inputs measured. As
    transformers.integrations.moe has it for its own implementations.

    hidden_states  (tokens, hidden)
    top_k_index    (tokens, k): experts of each token; top_k_weights  what their outputs weigh
    """
    import torch

    into = measured[module]
    k = top_k_index.shape[-1]
    chosen, order = torch.sort(top_k_index.reshape(-1), stable=True)
    ends = torch.bincount(chosen, minlength=module.num_experts).cumsum(0).tolist()
    first = "gate_up_proj" if module.has_gate else "up_proj"
    activate = module._apply_gate if module.has_gate else module.act_fn
    weights = top_k_weights.reshape(-1)
    made = []
    start = 0
    for expert, end in enumerate(ends):
        if start == end:
            continue
        mine = order[start:end]
        x = hidden_states[mine // k]
        _add(into, first, x, expert)
        x = activate(_product(module, first, expert, x))
        _add(into, "down_proj", x, expert)
        x = _product(module, "down_proj", expert, x)
        if module.has_post_expert_norm:
            x = module.post_expert_norm(x)
        made.append(x * weights[mine, None])
        start = end
    out = torch.empty_like(joined := torch.cat(made))
    out[order] = joined
    return out.view(len(hidden_states), k, -1).sum(1).to(hidden_states.dtype)


def _add(into: Mapping[str, Inputs], leaf: str, rows: torch.Tensor, expert: int) -> None:
    if leaf in into:
        into[leaf].add(rows, expert)


def _product(module: Any, leaf: str, expert: int, x: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import linear

    weight = getattr(module, leaf)[expert]
    bias = getattr(module, leaf + "_bias")[expert] if module.has_bias else None
    return linear(x, weight.T if module.is_transposed else weight, bias)
