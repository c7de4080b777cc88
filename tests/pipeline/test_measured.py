"""`convert --verify`: errors that are summed while a file is written are those of the file."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ggufmix
from ggufmix import verifying
from ggufmix.measures import Measures


@pytest.mark.parametrize("recipe", ["q8_0", "q4_k_m", "q4_x"])
def test_what_is_measured_is_in_the_file(example: Path, tmp_path: Path, recipe: str) -> None:
    """Beside the file as the gguf package decodes it, in plain float64; and the bytes are the same
    whether anything was measured or not.
    """
    out = tmp_path / "x.gguf"
    result = ggufmix.convert(example, out, recipe, verify=True, threads=3)
    plain = ggufmix.convert(example, tmp_path / "plain.gguf", recipe)
    assert plain.measured == {}
    assert out.read_bytes() == (tmp_path / "plain.gguf").read_bytes()
    # The same recipe in F32 holds the values as they are after all transforms.
    ggufmix.convert(example, tmp_path / "f32.gguf", "f32")
    before = {t.name: t for t in gguf.GGUFReader(tmp_path / "f32.gguf").tensors}
    for tensor in gguf.GGUFReader(out).tensors:
        x, y = (
            gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64).ravel()
            for t in (before[tensor.name], tensor)
        )
        found = result.measured[tensor.name]
        assert found.count == x.size
        assert found.broken == 0
        for mine, sums in ((found.ee, (x - y) ** 2), (found.xx, x * x), (found.xy, x * y)):
            assert mine == pytest.approx(sums.sum(), rel=1e-12)
        assert found.most == np.abs(x - y).max()
        at = found.row * tensor.shape[0] + found.column
        assert abs(x[at] - y[at]) == found.most
    assert sum(m.rrmse > 0 for m in result.measured.values()) > 30


def test_the_same_sums_for_any_threads(example: Path, tmp_path: Path) -> None:
    """Sums of floats depend on their order, and that is the order of the file."""
    found = [
        ggufmix.convert(example, tmp_path / f"{n}.gguf", "q4_k_m", verify=True, threads=n).measured
        for n in (1, 7)
    ]
    assert found[0] == found[1]


def test_blocks_that_are_copied_have_no_error(example: Path, tmp_path: Path) -> None:
    """They are said to be what they were, without being decoded."""
    ggufmix.convert(example, tmp_path / "a.gguf", "q4_0")
    result = ggufmix.convert(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_0", verify=True)
    copied = [t for t in result.plan.tensors if t.copied]
    assert len(copied) > 20
    for t in copied:
        assert result.measured[t.name] == Measures(t.placed.tensor.n_values)
    assert verifying.of_plan(result.plan, result.measured).grade == "GOOD"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggufmix", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_tensor_that_fails_ends_with_1(example: Path, model: Path, tmp_path: Path) -> None:
    """Weights too small for the type's scale are all gone: the file is there, the command says
    which tensor failed, and its status does.
    """
    good = run(example, "-o", tmp_path / "good.gguf", "--verify")
    assert good.returncode == 0
    assert good.stdout.splitlines()[-1] == "measured while it was written: GOOD (76 GOOD)"
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.3.self_attn.k_proj.weight"].view(ml_dtypes.bfloat16)[:] = 1e-9
    save_file(tensors, file, {"format": "pt"})
    out = tmp_path / "x.gguf"
    bad = run(model, "-o", out, "--verify")
    assert bad.returncode == 1
    assert "FAIL: blk.3.attn_k.weight: " in bad.stdout
    assert bad.stdout.splitlines()[-1].endswith("FAIL (75 GOOD, 1 FAIL)")
    assert "Traceback" not in bad.stderr
    assert out.exists()
    assert run(model, "-o", out, "--overwrite").returncode == 0


def test_measures_are_kept_for_a_resumed_run(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of a run that was stopped and continued is that of a run without a break; one
    that measured nothing cannot be continued as one that does.
    """
    from ggufmix.errors import WriteError
    from ggufmix.writing import keeping

    ended = keeping.Keeper.ended

    def then_flush(self: keeping.Keeper, *args: object) -> None:
        ended(self, *args)  # type: ignore[arg-type]
        self.flush()

    monkeypatch.setattr(keeping.Keeper, "ended", then_flush)
    whole = ggufmix.convert(example, tmp_path / "whole.gguf", verify=True)

    def stop(_: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    out = tmp_path / "x.gguf"
    for verify in (False, True):
        with pytest.raises(KeyboardInterrupt):
            ggufmix.convert(example, out, verify=verify, progress=stop, threads=1)
        if verify:
            again = ggufmix.convert(example, out, verify=True, resume=True)
            assert again.resumed > 0
            assert again.measured == whole.measured
        else:
            with pytest.raises(WriteError, match="--verify"):
                ggufmix.convert(example, out, verify=True, resume=True)


def test_infinities_survive_the_journal(tmp_path: Path) -> None:
    """A weight that F16 cannot hold is written as an infinity; its measures can be kept."""
    import msgspec

    from ggufmix.writing.encoding import Counts

    counts = Counts(measures=Measures(4, most=float("inf"), broken=1))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(counts), type=Counts) == counts
