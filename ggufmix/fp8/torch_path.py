"""`coding.quantize` once more in torch, for a GPU.

Scales are the same functions in float64, codes torch's own cast: max and percentile give the same
bytes. rms and mse add up float64 in another order, so a scale of rms can be its neighbour where a
sum lies within 10^-15 of the edge between two (of scales in float32 about one in 10^8, of bfloat16
far fewer), and mse can choose the other of two scales whose errors agree in 13 digits.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..errors import NotFiniteError, UsageError
from .coding import BLOCK, Quantized, Scale, Search, Sums, check

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 22
"""Weights that are worked on at once; each takes up to 80 bytes of the device while it is."""

_LEAST = 2.0**-126
_MOST: dict[Scale, float] = {"bf16": 146 * 2.0**112, "f32": 9586980 * 2.0**96, "pow2": 2.0**119}


def check_device(device: str) -> None:
    """Raise UsageError where torch is not installed, or does not know or have this device."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        hint = "pip install 'ggufmix[torch]', or leave the device out: the CPU needs no torch"
        raise UsageError("torch is not installed here", hint=hint) from error
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        raise UsageError(f"expected a device that torch can use, got {device!r}: {said}") from error


def quantize(
    x: NDArray[Any],
    search: Search,
    *,
    device: str,
    scale: Scale = "bf16",
    weights: NDArray[np.float32] | None = None,
    chunk: int = CHUNK,
) -> Quantized:
    """As `coding.quantize`, on a device of torch such as "cuda" or "cuda:1".

    x      held by the CPU; it goes to the device, and what comes of it comes back
    chunk  weights to work on at once; rows of blocks are not cut, so one row of blocks at least
    Raises what `coding.quantize` raises.
    """
    import torch

    check(x, scale, weights)
    rows, cols = x.shape
    codes = np.empty((rows, cols), np.uint8)
    scales = np.empty((-(-rows // BLOCK), -(-cols // BLOCK)), np.float32)
    saturated = flushed = 0
    total = Sums()
    columns = None
    if weights is not None and search.mode in {"rms", "mse"}:
        columns = torch.tensor(weights, device=device, dtype=torch.float64)
    step = max(1, chunk // max(cols, 1) // BLOCK) * BLOCK
    for start in range(0, rows if cols else 0, step):
        band = _on(device, x[start : start + step])
        finite = torch.isfinite(band)
        if not finite.all():
            row, column = (int(i) for i in (~finite).nonzero()[0])
            value = float(band[row, column])
            raise NotFiniteError(f"FP8 cannot store {value}", row=start + row, column=column)
        for part in _rectangles(*band.shape):
            made = _Blocks(band[part], None if columns is None else columns[part[1]])
            found = made.scales(search, scale)
            to = np.s_[part[0].start + start : part[0].stop + start, part[1]]
            codes[to] = made.coded(found)
            low, left = to[0].start // BLOCK, to[1].start // BLOCK
            grid = found.view(made.down, made.across).cpu().numpy()
            scales[low : low + made.down, left : left + made.across] = grid
            saturated += made.saturated
            flushed += made.flushed
            total += made.sums
    return Quantized(codes, scales, saturated, flushed, total)


def _on(device: str, x: NDArray[Any]) -> Tensor:
    """Weights in float32 on the device."""
    import torch

    if x.dtype == ml_dtypes.bfloat16:
        bits = torch.tensor(np.ascontiguousarray(x).view(np.int16), device=device)
        return bits.view(torch.bfloat16).float()
    return torch.tensor(x, device=device).float()


def _rectangles(rows: int, cols: int) -> Iterator[tuple[slice, slice]]:
    """The matrix cut so that the blocks of each part are alike: whole ones, and those of edges."""
    for down in _parts(rows):
        for across in _parts(cols):
            yield down, across


def _parts(n: int) -> Iterator[slice]:
    whole = n // BLOCK * BLOCK
    if whole:
        yield slice(0, whole)
    if whole < n:
        yield slice(whole, n)


class _Blocks:
    """Blocks of one size, a row each: w (blocks, weights of a block) float32, a (blocks, the same)
    float64 or None, the weights of their columns.
    """

    def __init__(self, x: Tensor, columns: Tensor | None) -> None:
        self.height, self.width = min(BLOCK, x.shape[0]), min(BLOCK, x.shape[1])
        self.down, self.across = x.shape[0] // self.height, x.shape[1] // self.width
        self.w = self._tiled(x)
        self.a = None if columns is None else self._tiled(columns.expand(x.shape))
        self.top = self.w.abs().amax(1)
        self.saturated = self.flushed = 0
        self.sums = Sums()

    def _tiled(self, x: Tensor) -> Tensor:
        x = x.reshape(self.down, self.height, self.across, self.width)
        return x.transpose(1, 2).reshape(self.down * self.across, self.height * self.width)

    def scales(self, search: Search, stored: Scale) -> Tensor:
        """One for each block, float32."""
        import torch

        top = self.top.double()
        a = self.a
        if a is not None:
            lost = (self.w.double().square() * a).sum(1, keepdim=True) == 0
            a = torch.where(lost, torch.ones_like(a), a)
        if search.mode == "mse" and stored != "pow2":
            found = self._least_squares(search, stored, top, a)
        else:
            if search.mode == "rms":
                reach = search.factor * self._root_mean_square(a)
            elif search.mode == "percentile":
                reach = self._percentile(search.percentile)
            else:
                reach = top
            found = _stored(_over(torch.where(reach > 0, reach, top), 448), stored)
        return torch.where(self.top == 0, torch.ones_like(found), found)

    def _root_mean_square(self, a: Tensor | None) -> Tensor:
        squares = self.w.double().square()
        if a is None:
            return _over(squares.sum(1), squares.shape[1]).sqrt()
        return ((squares * a).sum(1) / (a[:, : self.width].sum(1) * self.height)).sqrt()

    def _percentile(self, percentile: float) -> Tensor:
        at = percentile / 100 * (self.w.shape[1] - 1)
        k = int(at)
        order = self.w.abs().sort(1).values
        low, high = order[:, k].double(), order[:, min(k + 1, order.shape[1] - 1)].double()
        return low + (high - low) * (at - k)

    def _least_squares(
        self, search: Search, stored: Scale, top: Tensor, a: Tensor | None
    ) -> Tensor:
        import torch

        best = torch.ones_like(self.top)
        least = torch.full_like(top, torch.inf)
        for k in range(search.grid):
            scale = _stored(_over(top * (1 + k / search.grid), 448), stored)
            errors = (_e4m3(self.w / scale[:, None]).float() * scale[:, None] - self.w).double()
            squares = errors.square_()
            error = (squares if a is None else squares.mul_(a)).sum(1)
            better = error < least
            least, best = torch.where(better, error, least), torch.where(better, scale, best)
        return best

    def coded(self, scales: Tensor) -> NDArray[np.uint8]:
        """The codes, (rows, cols); sets the counts and sums."""
        import torch

        scale = scales[:, None]
        ratio = self.w / scale
        codes = _e4m3(ratio)
        stored = codes.float() * scale
        d, w, e = stored.double(), self.w.double(), (stored - self.w).double()
        bits = codes.view(torch.uint8)
        self.saturated = int((ratio.abs() > 464).sum())
        self.flushed = int(((bits & 0x7F == 0) & (self.w != 0)).sum())
        of_errors = ((e * e).sum(), e.abs().sum(), e.abs().max())
        sums = torch.stack([(w * w).sum(), (d * d).sum(), (w * d).sum(), *of_errors])
        self.sums = Sums(w.numel(), *sums.tolist())
        tiles = bits.view(self.down, self.across, self.height, self.width).transpose(1, 2)
        flat: NDArray[np.uint8] = tiles.reshape(self.down * self.height, -1).cpu().numpy()
        return flat


def _over(x: Tensor, divisor: float) -> Tensor:
    """Quotients, rounded once: by a plain number CUDA multiplies with its rounded inverse."""
    import torch

    return x / torch.full_like(x, divisor)


def _e4m3(ratio: Tensor) -> Tensor:
    import torch

    return ratio.clamp(-448, 448).to(torch.float8_e4m3fn)


def _stored(raw: Tensor, stored: Scale) -> Tensor:
    """As stored_scale of ext/fp8_scale.h."""
    import torch

    scale = raw.clamp(_LEAST, _MOST[stored]).float()
    if stored == "bf16":
        return scale.bfloat16().float()
    if stored == "pow2":
        return ((scale.view(torch.int32) + 0x7FFFFF) & 0x7F800000).view(torch.float32)
    return scale
