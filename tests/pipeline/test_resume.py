"""`convert` with `resume`: what a state is good for, and what it is not."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from imatrix.made import write_gguf
from safetensors.numpy import load_file, save_file

import ggufmix
from ggufmix.errors import WriteError
from ggufmix.pipeline import Options, Result
from ggufmix.writing import keeping


class Stop(BaseException):
    """Ctrl-C, as it were."""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor is in the journal as soon as it is done."""
    ended = keeping.Keeper.ended

    def then_flush(self: keeping.Keeper, *args: Any) -> None:
        ended(self, *args)
        self.flush()

    monkeypatch.setattr(keeping.Keeper, "ended", then_flush)


def stopped(model: Path, out: Path, **more: Any) -> None:
    """A run that ends in the middle."""

    def progress(_: str, done: int, total: int) -> None:
        if done > total // 2:
            raise Stop

    with pytest.raises(Stop):
        ggufmix.convert(model, out, threads=1, progress=progress, **more)
    assert keeping.left(out)


def resumed(model: Path, out: Path, **more: Any) -> Result:
    return ggufmix.convert(model, out, resume=True, **more)


@pytest.mark.parametrize("recipe", ["q8_0", "q4_x", "q4_k_m"])
def test_a_stopped_convert_is_continued(example: Path, tmp_path: Path, recipe: str) -> None:
    """The file is that of a run without a break, and so is what is said of it."""
    whole = ggufmix.convert(example, tmp_path / "whole.gguf", recipe)
    out = tmp_path / "x.gguf"
    stopped(example, out, recipe=recipe)
    result = resumed(example, out, recipe=recipe, threads=5)
    assert 0 < result.resumed < len(result.plan.tensors)
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert (result.found, result.losses, result.lattice) == (
        whole.found,
        whole.losses,
        whole.lattice,
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole.gguf", "x.gguf"]


def test_tensors_of_two_forms_are_counted_once(example: Path, tmp_path: Path) -> None:
    """Of a source in blocks llama.cpp's way has one file copy what another decodes: two jobs of one
    tensor, and no more tensors there than there are.
    """
    source, out = tmp_path / "source.gguf", tmp_path / "{recipe}.gguf"
    ggufmix.convert(example, source, "q4_x")
    options = Options(allow_requantize=True, mirror="llama.cpp")

    def progress(_: str, done: int, total: int) -> None:
        if done == total:
            raise Stop

    with pytest.raises(Stop):
        ggufmix.convert_each(source, out, ["q4_0", "q8_0"], options=options, progress=progress)
    results = ggufmix.convert_each(source, out, ["q4_0", "q8_0"], options=options, resume=True)
    assert {result.resumed for result in results} == {len(results[0].plan.tensors)}


def test_the_file_of_a_finished_run_is_kept(example: Path, tmp_path: Path) -> None:
    """`--resume` with nothing to resume does not replace what is there."""
    out = tmp_path / "x.gguf"
    out.write_bytes(b"precious")
    with pytest.raises(WriteError, match="exists"):
        resumed(example, out)
    assert out.read_bytes() == b"precious"


def test_retrained_weights_are_another_source(model: Path, tmp_path: Path) -> None:
    """The same names, shapes and times with other values: a file of two models is never made."""
    out = tmp_path / "x.gguf"
    stopped(model, out)
    file = model / "model.safetensors"
    times = file.stat()
    tensors = load_file(file)
    for name in tensors:
        if tensors[name].ndim >= 2:
            values = tensors[name].view(ml_dtypes.bfloat16)
            tensors[name] = (values * 2).astype(ml_dtypes.bfloat16).view(tensors[name].dtype)
    save_file(tensors, file, {"format": "pt"})
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_size == times.st_size
    with pytest.raises(WriteError, match="the source is not what the unfinished file was begun"):
        resumed(model, out)
    resumed_anew = ggufmix.convert(model, out)
    assert resumed_anew.resumed == 0


def test_a_file_that_was_written_again_is_another_source(model: Path, tmp_path: Path) -> None:
    """One weight that no sample meets may be different: the time says so."""
    out = tmp_path / "x.gguf"
    stopped(model, out)
    file = model / "model.safetensors"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    with pytest.raises(WriteError, match="the source is not"):
        resumed(model, out)


def test_another_recipe_is_refused(example: Path, tmp_path: Path) -> None:
    """Also one that differs in the encoder alone, in one tensor, or in a name."""
    out = tmp_path / "x.gguf"
    stopped(example, out, recipe="q4_0")
    for options, word in (
        (Options("q4_x"), "recipe"),
        (Options("q8_0"), "recipe"),
        (Options("q4_0", set_roles=["ffn_down_exps=Q8_0"]), "recipe"),
        (Options("q4_0", model_name="Another"), "plan"),
    ):
        with pytest.raises(WriteError, match=f"the {word} is not"):
            resumed(example, out, options=options)
    assert resumed(example, out, recipe="q4_0").resumed > 0


def test_another_imatrix_is_refused(example: Path, tmp_path: Path) -> None:
    """Measured on other text, it has the same names, sizes and header."""
    out, file = tmp_path / "x.gguf", tmp_path / "imatrix.gguf"
    sums = {
        t.name: (np.full((1, t.placed.tensor.cols), 5, np.float32), [5.0])
        for t in ggufmix.plan(example).tensors
        if t.name.startswith("blk.3.attn_")
        and t.name.endswith("weight")
        and len(t.placed.tensor.shape) == 2
    }
    write_gguf(file, sums)
    stopped(example, out, options=Options("q4_k_m", imatrix=[file]))
    sums = {name: (values * 2, counts) for name, (values, counts) in sums.items()}
    write_gguf(file, sums)
    with pytest.raises(WriteError, match="the imatrix is not"):
        resumed(example, out, options=Options("q4_k_m", imatrix=[file]))


STOPPED = """
import signal, sys
from ggufmix.writing import keeping, places
keeping.SYNC_SECONDS = 0.0
put, n = places.put, 0
def counting(*args):
    global n
    put(*args)
    n += 1
    if n == 60:
        signal.raise_signal(number)
places.put = counting
number = int(sys.argv.pop())
sys.argv = ["ggufmix", "convert", *sys.argv[1:], "--threads", "1"]
from ggufmix.cli import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_how_to_go_on(example: Path, tmp_path: Path, number: signal.Signals) -> None:
    """A stopped command names what it left and the option that continues it; the option does."""
    ggufmix.convert(example, tmp_path / "whole.gguf")
    out = tmp_path / "x.gguf"
    command = [sys.executable, "-c", STOPPED, str(example), "-o", str(out), str(int(number))]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 128 + number
    assert f"{out} is unfinished: the same command with --resume continues it" in run.stderr
    assert "Traceback" not in run.stderr
    command = [sys.executable, "-m", "ggufmix", "convert", str(example), "-o", str(out), "--resume"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "tensors were there already" in run.stderr
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole.gguf", "x.gguf"]
