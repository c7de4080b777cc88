"""`ggufmix fp8` and `ggufmix dequantize` as they are typed, the old toolkit's flags among them."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from fp8.models import DENSE, arrays_of, config_of, dense, folder, loaded, moe, stored

from ggufmix.cli.fp8 import fp8
from ggufmix.fp8 import jobs
from ggufmix.fp8.coding import Search
from ggufmix.fp8.converting import Options, convert
from ggufmix.writing import keeping

Run = subprocess.CompletedProcess[str]


def ggufmix(*arguments: object, code: int = 0, **more: Any) -> Run:
    command = [sys.executable, "-m", "ggufmix", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense checkpoint."""
    return dense(tmp_path_factory.mktemp("command") / "src", shards=2)


def test_the_old_toolkits_flags(src: Path, tmp_path: Path) -> None:
    """Every flag of quantize_fp8.py, spelled as there, does what it says."""
    stats = tmp_path / "calib_stats.json"
    held = {
        name: {"input_channel_max": [1.0 + i % 7 for i in range(values.shape[1])]}
        for name, values in arrays_of(DENSE).items()
        if name.endswith("_proj.weight")
    }
    stats.write_text(json.dumps(held))
    made = tmp_path / "made"
    ggufmix(
        *("fp8", "--input_dir", src, "--output_dir", made, "--calib_mode", "rms"),
        *("--rms_factor", 7.5, "--activation_stats", stats, "--device", "cpu"),
        *("--verify_samples", 20),
    )
    options = Options(search=Search("rms", factor=7.5), statistics=stats)
    convert(src, tmp_path / "same", options)
    assert stored(made) == stored(tmp_path / "same")
    convert(src, tmp_path / "plain", Options(search=Search("rms", factor=7.5)))
    assert stored(made) != stored(tmp_path / "plain")
    percentile = Search("percentile", percentile=99.99)
    for number, (flags, search) in enumerate(
        (
            (("--calib_mode", "percentile", "--calib_percentile", "99.99"), percentile),
            (("--calib_mode", "mse", "--mse_grid_size", 7, "--skip_verify"), Search("mse", grid=7)),
            (("--calib_mode", "max"), Search("max")),
        )
    ):
        old, new = tmp_path / f"old{number}", tmp_path / f"new{number}"
        ggufmix("fp8", "--input_dir", src, "--output_dir", old, *flags)
        convert(src, new, Options(search=search))
        assert stored(old) == stored(new)


def test_new_spellings_and_report(src: Path, tmp_path: Path) -> None:
    """SRC and -o, hyphens; the report on stdout, all else on stderr."""
    done = ggufmix("fp8", src, "-o", tmp_path / "out", "--mode", "mse", "--grid", 9, "-t", 2)
    assert "calibration" in done.stdout
    assert "mse(grid=9), scales bf16" in done.stdout
    assert "29 (29 GOOD, 0 WARN, 0 FAIL)" in done.stdout
    assert "worst MaxAE" in done.stdout
    assert "Ready for inference" in done.stdout
    assert "29 weights become FP8" in done.stderr


def test_json(src: Path, tmp_path: Path) -> None:
    """For machines: verdict, every tensor, what was written and what was left."""
    done = ggufmix("fp8", src, "-o", tmp_path / "out", "--json", "--scale", "pow2")
    found = json.loads(done.stdout)
    assert found["verdict"] == "GOOD"
    assert len(found["tensors"]) == found["fp8_weights"] == 29
    assert {"rrmse", "cosine", "mae", "maxae", "saturated", "flushed"} < found["tensors"][0].keys()
    assert len(found["written"]["files"]) == 2
    scales = {
        n: v
        for path in (tmp_path / "out").glob("*.safetensors")
        for n, v in loaded(path).items()
        if n.endswith("_scale_inv")
    }
    assert len(scales) == 29
    for values in scales.values():
        assert (np.frexp(values.astype(np.float32))[0] == 0.5).all()


def test_a_dry_run(src: Path, tmp_path: Path) -> None:
    """What would become of what, and why, before hours of work; nothing is written."""
    before = sorted(tmp_path.iterdir())
    done = ggufmix("fp8", src, "--dry-run", "--keep", "mtp.layers.0", cwd=tmp_path)
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert "FP8" in lines["model.language_model.layers.*.mlp.up_proj"]
    assert "as it is  --keep mtp.layers.0" in lines["mtp.layers.*.mlp.up_proj"]
    assert "as it is  embedding" in lines["model.language_model.embed_tokens"]
    found = json.loads(ggufmix("fp8", src, "--dry-run", "--json", cwd=tmp_path).stdout)
    made = json.loads(ggufmix("fp8", src, "-o", tmp_path / "out", "--json").stdout)
    assert {k: found[k] for k in made["written"]} == made["written"]
    about = config_of(tmp_path / "out")["quantization_config"]
    assert found["modules_to_not_convert"] == about["modules_to_not_convert"]
    eight = {f"{m['module']}.weight" for m in found["modules"] if m["fp8"]}
    assert eight == {tensor["name"] for tensor in made["tensors"]}
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "out"]
    nothing = ggufmix("fp8", src, code=2)
    assert "-o DIR; or --dry-run" in nothing.stderr


def test_a_fail_is_exit_1(src: Path, tmp_path: Path) -> None:
    """The toolkit before ended with 0, whatever it had found. --skip-verify judges nothing."""
    bad = ("fp8", src, "--mode", "rms", "--rms-factor", 1)
    done = ggufmix(*bad, "-o", tmp_path / "out", code=1)
    assert "FAIL: model.language_model.layers.0." in done.stdout
    assert "a larger --rms-factor, or --mode mse" in done.stdout
    assert "Do not deploy" in done.stdout
    done = ggufmix(*bad, "-o", tmp_path / "skipped", "--skip-verify")
    assert "not verified" in done.stdout


def test_verify(src: Path, tmp_path: Path) -> None:
    """`verify` holds a folder against its source: 0 where it is sound, 1 where a bit is not."""
    out = tmp_path / "out"
    ggufmix("fp8", src, "-o", out)
    done = ggufmix("verify", out, "--against", src)
    assert "29 (29 GOOD, 0 WARN, 0 FAIL)" in done.stdout
    assert json.loads(ggufmix("verify", out, "--against", src, "--json").stdout)["read_back"] == 29
    shard = next(out.glob("*.safetensors"))
    with shard.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 0x40]))
    done = ggufmix("verify", out, "--against", src, code=1)
    assert "Do not deploy" in done.stdout
    assert "--against SRC" in ggufmix("verify", out, code=2).stderr
    assert "--against SRC" in ggufmix("verify", out, "--checksums", code=2).stderr


@pytest.mark.parametrize(
    "option", ["--checksums", "--quick", "--all", "--sample=3", "--recipe=x", "--imatrix=x"]
)
def test_verify_takes_nothing_that_it_would_not_do(src: Path, tmp_path: Path, option: str) -> None:
    """What is meant for GGUF files is refused for a folder, not passed over."""
    done = ggufmix("verify", tmp_path, "--against", src, option, code=2)
    assert f"{option.partition('=')[0]} is for GGUF files" in done.stderr


@pytest.mark.parametrize("begun", [True, False])
def test_a_stopped_run_says_how_to_go_on(
    src: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    begun: bool,
) -> None:
    """Where there is something to go on with, and only there."""
    real, out = jobs.Coding.make, tmp_path / "out"
    made: list[str] = []

    def stopping(self: jobs.Coding, start: int, stop: int) -> Any:
        made.append(self.name)
        if len(made) > 20 or not begun:
            time.sleep(0.3 if begun else 0)
            raise KeyboardInterrupt
        return real(self, start, stop)

    monkeypatch.setattr(keeping, "SYNC_SECONDS", 0.01 if begun else 60)
    monkeypatch.setattr(jobs.Coding, "make", stopping)
    with pytest.raises(KeyboardInterrupt):
        fp8(src, out=out, threads=1)
    said = f"{out} is unfinished: the same command with --resume continues it"
    assert (said in capsys.readouterr().err) == begun


USAGE = {
    "no source": ((), "expected SRC, or --input-dir, got neither"),
    "two sources": (("{src}", "--input-dir", "{src}"), "got both"),
    "no mode": (("{src}", "--mode", "median"), "expected a mode"),
    "no factor": (("{src}", "--rms-factor", "0"), "rms factor above 0"),
    "no scale": (("{src}", "--scale", "e8m0"), "--scale: expected one of any, pow2"),
    "no dtype": (("{src}", "--scale-dtype", "f16"), "--scale-dtype: expected one of bf16, f32"),
    "no device": (("{src}", "--device", "tpu"), "device: expected auto, cpu, cuda or cuda:N"),
    "no size": (("{src}", "--max-shard-size", "5"), "expected a size such as 5GB"),
    "no preset": (("{src}", "--preset", "best"), "unknown preset"),
    "pattern": (("{src}", "--keep", "nothing"), "no module has such a name"),
}


@pytest.mark.parametrize("case", USAGE)
def test_what_cannot_be_meant(src: Path, tmp_path: Path, case: str) -> None:
    """Exit 2, before anything is written."""
    arguments, message = USAGE[case]
    given = [a.format(src=src) for a in arguments]
    done = ggufmix("fp8", *given, "-o", tmp_path / "out", code=2)
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_dequantize(tmp_path: Path) -> None:
    """There and back: names, shapes and config of the source, values within the error of FP8."""
    src = moe(tmp_path / "src", fused=False)
    ggufmix("fp8", src, "-o", tmp_path / "out")
    done = ggufmix("dequantize", tmp_path / "out", "-o", tmp_path / "back")
    assert "weights in BF16" in done.stdout
    assert config_of(tmp_path / "back") == config_of(src)
    ours, theirs = (
        loaded(tmp_path / "back" / "model.safetensors"),
        loaded(src / "model.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name].dtype == values.dtype
        assert ours[name].shape == values.shape
        w, d = values.astype(np.float64), ours[name].astype(np.float64)
        assert ((w - d) ** 2).sum() <= 0.028**2 * (w**2).sum()


def test_into_gguf(tmp_path: Path, example: Path) -> None:
    """FP8 is a source for GGUF: the same file as from its dequantized twin in F32."""
    ggufmix("fp8", example, "-o", tmp_path / "fp8")
    ggufmix("dequantize", tmp_path / "fp8", "-o", tmp_path / "f32", "--dtype", "f32")
    data = []
    for folder_ in ("fp8", "f32"):
        out = tmp_path / f"{folder_}.gguf"
        ggufmix("convert", tmp_path / folder_, "-o", out, "--model-name", "x")
        data.append({t.name: t.data.tobytes() for t in gguf.GGUFReader(out).tensors})
    assert data[0] == data[1]


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Bands, not tensors: a tensor of 64 MB is never held whole."""
    big = {"model.layers.0.mlp.down_proj.weight": np.ones((8192, 4096), np.float16)}
    src = folder(tmp_path / "src", {"architectures": ["X"]}, big)
    code = (
        "import resource, sys; from ggufmix.fp8.converting import convert;"
        "from ggufmix.fp8.saving import How;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "convert(sys.argv[1], sys.argv[2], how=How(threads=2));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    arguments = [sys.executable, "-c", code, str(src), str(tmp_path / "out")]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) < 50_000  # KB
