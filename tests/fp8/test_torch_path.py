"""The path through torch: the bytes of the kernel, run here on torch's CPU device."""

# SPDX-License-Identifier: MIT

import subprocess
import sys

import numpy as np
import pytest
from fp8 import plain
from kernels import data

from ggufmix.errors import FormatError, ImportanceError, NotFiniteError, ShapeError, UsageError
from ggufmix.fp8 import coding, torch_path
from ggufmix.fp8.coding import Search

MODES = ("max", "rms", "percentile", "mse")
SCALES = ("bf16", "f32", "pow2")
DTYPES = (plain.BF16, np.dtype(np.float16), np.dtype(np.float32))
SHAPES = ((1, 1), (3, 17), (127, 129), (128, 128), (300, 260), (256, 15))


def devices() -> list[str]:
    import torch

    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def same(x, search: Search, device: str, **options) -> None:
    got = torch_path.quantize(x, search, device=device, **options)
    options.pop("chunk", None)
    want = coding.quantize(x, search, **options)
    assert np.array_equal(got.scales, want.scales)
    assert np.array_equal(got.codes, want.codes)
    assert (got.saturated, got.flushed) == (want.saturated, want.flushed)
    names = ("count", "ww", "dd", "wd", "ee", "e", "most")
    a, b = ([getattr(q.sums, name) for name in names] for q in (got, want))
    assert a == pytest.approx(b, rel=1e-12)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("mode", MODES)
def test_bytes_are_those_of_the_kernel(mode, kind, device):
    """A checkpoint does not show where it was made: all edges, types and statistics."""
    rng = np.random.default_rng(len(mode))
    for shape in SHAPES:
        weights = rng.exponential(1, shape[1]).astype(np.float32)
        for dtype in DTYPES:
            x = rng.standard_t(3, shape).astype(dtype)
            same(x, Search(mode), device, scale=kind)
            same(x, Search(mode, 2.5, 97.3, 7), device, scale=kind, weights=weights)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("mode", MODES)
def test_bytes_in_bulk(mode, device):
    """Two million bfloat16 of every kind, where ties are common."""
    x = data.bulk(32)[:256] if mode == "mse" else data.bulk(32)[:2048]
    same(x, Search(mode), device)
    same(x[:256], Search(mode), device, weights=data.importances(1024)["spans"], scale="f32")


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("mode", MODES)
def test_special_values(mode, device):
    """Zeros, the smallest and the largest floats, blocks whose columns weigh nothing."""
    x = np.concatenate([data.special() * np.float32(s) for s in (1e-30, 1, 1e33)])
    for kind in SCALES:
        same(x, Search(mode, grid=9), device, scale=kind)
        same(x, Search(mode, grid=3), device, scale=kind, weights=np.zeros(1024, np.float32))


@pytest.mark.parametrize("mode", MODES)
def test_chunks_change_nothing(mode):
    """A matrix larger than the device goes through in rows of blocks, whatever their number."""
    x = np.random.default_rng(0).normal(0, 1, (650, 300)).astype(plain.BF16)
    x.setflags(write=False)
    for chunk in (1, 300 * 128, 300 * 300):
        same(x, Search(mode, grid=9), "cpu", chunk=chunk)


def test_chunks_bound_memory():
    """What lives at once is some bytes for each weight of a chunk, however large the matrix."""
    code = """
import resource
import numpy as np
from ggufmix.fp8 import torch_path
from ggufmix.fp8.coding import Search
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
quantize = lambda rows: torch_path.quantize(x[:rows], Search(mode), device="cpu", chunk=1 << 18)
x = np.ones((1 << 11, 1 << 11), np.float16)
mode = "rms"
quantize(1 << 8)
before = peak()
quantize(1 << 11)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 12 * (1 << 22)  # of 4 Mi weights whole matrices would take 80 each


def test_bad_input():
    """The errors of the kernel's path, and of devices."""
    x = np.ones((300, 400), plain.BF16)
    x[140, 2] = x[139, 399] = np.nan
    with pytest.raises(NotFiniteError) as caught:
        torch_path.quantize(x, Search(), device="cpu", chunk=1)
    assert (caught.value.row, caught.value.column) == (139, 399)
    with pytest.raises(FormatError):
        torch_path.quantize(x.astype(np.float64), Search(), device="cpu")
    with pytest.raises(ShapeError):
        torch_path.quantize(x[0], Search(), device="cpu")
    with pytest.raises(ImportanceError):
        torch_path.quantize(x, Search(), device="cpu", weights=np.ones(3, np.float32))
    empty = torch_path.quantize(x[:0], Search(), device="cpu")
    assert empty.codes.shape == (0, 400)
    for device in ("gpu", "cuda:99"):
        with pytest.raises(UsageError, match=device):
            torch_path.check_device(device)
    torch_path.check_device("cpu")


def test_torch_is_loaded_by_nobody_else():
    """FP8 on the CPU needs no torch; without it the device says what to install."""
    code = """
import sys
sys.modules["torch"] = None  # an import of it fails
import numpy as np
from ggufmix.errors import UsageError
from ggufmix.fp8 import coding, torch_path
coding.quantize(np.ones((3, 4), np.float32), coding.Search())
try:
    torch_path.check_device("cuda")
except UsageError as error:
    print(error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "ggufmix[torch]" in done.stdout
