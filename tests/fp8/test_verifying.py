"""Verification tells a sound folder from a damaged one, while it is written and later."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fp8.models import DENSE, arrays_of, config_of, dense, folder, loaded, moe
from sources.build import weights as write_weights

from ggufmix.errors import ModelError, WriteError
from ggufmix.fp8 import places, rereading
from ggufmix.fp8.coding import Search, Sums, dequantize, quantize
from ggufmix.fp8.converting import Options, convert
from ggufmix.fp8.losses import Lost, measured
from ggufmix.fp8.reviewing import (
    Review,
    Reviewed,
    closing,
    recommendations,
    seed_metrics,
    summary,
)
from ggufmix.fp8.saving import How
from ggufmix.sources.layout import INDEX

WEIGHT = "mtp.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source and what became of it."""
    at = tmp_path_factory.mktemp("pair")
    src = dense(at / "src", shards=2)
    convert(src, at / "out")
    return src, at / "out"


@pytest.fixture
def damaged(pair: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the output that a test may damage."""
    return Path(shutil.copytree(pair[1], tmp_path / "damaged"))


def test_the_same_from_files_as_when_it_was_made(tmp_path: Path) -> None:
    """What `verify` finds later is what `fp8` found, to the last bit, with any number of threads,
    of stacked and of single experts.
    """
    src = moe(tmp_path / "src")
    made = convert(src, tmp_path / "out", Options(verify=False)).review
    assert (made.read_back, made.compared) == (0, 0)
    for threads in (1, 3):
        later = rereading.verify(tmp_path / "out", src, threads=threads)
        assert later.weights == made.weights
        assert not later.problems
        assert later.verdict == made.verdict == "GOOD"
        assert (later.passed, later.compared) == (made.passed, made.passed)
    one_by_one = moe(tmp_path / "split", fused=False)
    assert {w.name: w for w in rereading.verify(tmp_path / "out", one_by_one).weights} == {
        w.name: w for w in made.weights
    }


def test_measures_are_what_they_say(tmp_path: Path) -> None:
    """Relative RMSE, cosine, both absolute errors and both shares, against float64 from the values
    that safetensors reads.
    """
    src = dense(tmp_path / "src")
    result = convert(src, tmp_path / "out", Options(search=Search("rms", factor=3)))
    found = loaded(tmp_path / "out" / "model.safetensors")
    source = arrays_of(DENSE)
    for weight in result.review.weights:
        w = source[weight.name].astype(np.float64)
        scales = found[f"{weight.name}_scale_inv"].astype(np.float64)
        s = scales.repeat(128, 0).repeat(128, 1)[: w.shape[0], : w.shape[1]]
        d = found[weight.name].astype(np.float64) * s
        e = d - w
        lost = weight.lost
        assert math.isclose(lost.rrmse, math.sqrt((e**2).sum() / (w**2).sum()), rel_tol=1e-9)
        cosine = (w * d).sum() / math.sqrt((w**2).sum() * (d**2).sum())
        assert math.isclose(lost.cosine, cosine, rel_tol=1e-12)
        assert math.isclose(lost.mae, np.abs(e).mean(), rel_tol=1e-9)
        assert math.isclose(lost.maxae, np.abs(e).max(), rel_tol=1e-6)
        assert lost.saturated == (np.abs(w) > 464 * s).sum()
        assert lost.flushed == ((d == 0) & (w != 0)).sum()
        assert lost.saturated > 0


def rewritten(at: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change a tensor of one file."""
    for path in at.glob("*.safetensors"):
        arrays = loaded(path)
        if WEIGHT in arrays:
            change(arrays)
            write_weights(path, arrays)


def one_code(arrays: dict[str, np.ndarray]) -> None:
    codes = arrays[WEIGHT].view(np.uint8)
    row, column = np.argwhere(codes & 0x7F > 0x40)[7]
    codes[row, column] ^= 0x08  # the lowest bit of its exponent


def a_sign(arrays: dict[str, np.ndarray]) -> None:
    codes = arrays[WEIGHT].view(np.uint8)
    row, column = np.argwhere(codes & 0x7F > 0x40)[7]
    codes[row, column] ^= 0x80


def a_code(arrays: dict[str, np.ndarray]) -> None:
    arrays[WEIGHT].view(np.uint8)[5] ^= 0x40


def a_nan(arrays: dict[str, np.ndarray]) -> None:
    arrays[WEIGHT].view(np.uint8)[5, 6] = 0x7F


def a_scale(arrays: dict[str, np.ndarray]) -> None:
    arrays[f"{WEIGHT}_scale_inv"][0] *= 2


def no_scale(arrays: dict[str, np.ndarray]) -> None:
    arrays[f"{WEIGHT}_scale_inv"][0] = 0


@pytest.mark.parametrize("change", [one_code, a_sign, a_code, a_nan, a_scale, no_scale])
def test_damaged_weights(
    pair: tuple[Path, Path], damaged: Path, change: Callable[[Any], None]
) -> None:
    """A bit of one code in a hundred thousand, a row, a NaN, a scale: the tensor fails by name."""
    rewritten(damaged, change)
    review = rereading.verify(damaged, pair[0])
    assert review.verdict == "FAIL"
    assert [w.name for w in review.weights if w.verdict == "FAIL"] == [WEIGHT]


def test_a_copied_tensor_that_differs(pair: tuple[Path, Path], damaged: Path) -> None:
    """What is not FP8 is compared byte by byte: one bit of one norm is enough."""
    name = "mtp.layers.0.input_layernorm.weight"
    for path in damaged.glob("*.safetensors"):
        arrays = loaded(path)
        if name in arrays:
            arrays[name].view(np.uint8)[0] ^= 1
            write_weights(path, arrays)
    review = rereading.verify(damaged, pair[0])
    assert review.problems == (f"{name}: 1 bytes are not those of the source",)
    assert review.verdict == "FAIL"


def in_config(at: Path, change: Callable[[dict[str, Any]], None]) -> None:
    made = config_of(at)
    change(made)
    (at / "config.json").write_text(json.dumps(made))


def test_a_config_that_lies(pair: tuple[Path, Path], damaged: Path) -> None:
    """Modules that are in BF16 and not listed are read as FP8; listed ones that do not exist match
    others in engines that look for parts of names; other keys have no reason to change.
    """

    def change(config: dict[str, Any]) -> None:
        listed = config["quantization_config"]["modules_to_not_convert"]
        listed.remove("mtp.fc")
        listed += ["mlp.gate", WEIGHT.removesuffix(".weight")]
        config["hidden_act"] = "relu"
        config["transformers_version"] = "another"

    in_config(damaged, change)
    assert rereading.verify(damaged, pair[0]).problems == (
        "config.json: mtp.fc is not FP8, but modules_to_not_convert does not name it",
        "config.json: modules_to_not_convert names mlp.gate, which does not exist",
        "config.json: modules_to_not_convert names mtp.layers.0.mlp.up_proj, which is FP8",
        "config.json: other values than in the source: hidden_act",
    )
    in_config(damaged, lambda config: config.pop("quantization_config"))
    assert any("nothing reads the scales" in p for p in rereading.verify(damaged, pair[0]).problems)


@pytest.mark.parametrize("ending", ["_scale_inv", "_scale"])
def test_folders_of_others(tmp_path: Path, ending: str) -> None:
    """Scales that were rounded after the weights were divided, as the toolkit before did it, and
    one scale for each row: sound all the same, as long as the values are where rounding puts them.
    """
    name = "model.layers.0.mlp.down_proj.weight"
    w = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    w[0] *= 1e-6
    src = folder(tmp_path / "src", {}, {name: w})
    convert(src, tmp_path / "out")
    if ending == "_scale":
        scale = (np.abs(w).max(1, keepdims=True) / 448).astype(np.float32)
        divided, stored_scale = w / scale, scale
    else:
        blocks = np.abs(w).reshape(2, 128, 2, 128).max((1, 3)) / np.float32(448)
        divided = w / blocks.repeat(128, 0).repeat(128, 1)
        stored_scale = blocks.astype(ml_dtypes.bfloat16)
    codes = np.clip(divided, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    path = tmp_path / "out" / "model.safetensors"
    write_weights(path, {name: codes, name + ending: stored_scale})
    review = rereading.verify(tmp_path / "out", src)
    assert (review.verdict, review.weights[0].problem) == ("GOOD", None)
    codes.view(np.uint8)[9, 9] ^= 0x10
    write_weights(path, {name: codes, name + ending: stored_scale})
    review = rereading.verify(tmp_path / "out", src)
    assert review.weights[0].problem == (
        "1 values are further from the source than rounding puts them"
    )


def test_other_scales_are_measured_alike() -> None:
    """In numpy, where the kernel does not know the scales: the same counts, sums to rounding."""
    w = np.random.default_rng(1).standard_normal((256, 256)).astype(np.float32)
    w[3] *= 1e-7
    made = quantize(w, Search("rms", factor=3), scale="f32")
    found = measured(w, dequantize(made.codes, made.scales), made.codes)
    assert found.saturated == made.saturated > 50
    assert found.flushed == made.flushed > 200
    for name in ("count", "ww", "dd", "wd", "ee", "e", "most"):
        assert math.isclose(getattr(found.sums, name), getattr(made.sums, name), rel_tol=1e-6), name


def test_files_that_are_missing(pair: tuple[Path, Path], damaged: Path) -> None:
    """Of the folder, and of the index: its size is what a download is checked with."""
    (damaged / "chat_template.jinja").unlink()
    (damaged / "README.md").write_text("a card of its own")
    (damaged / "tokenizer.json").write_text("{}")
    index = json.loads((damaged / INDEX).read_text())
    index["metadata"]["total_size"] += 1
    (damaged / INDEX).write_text(json.dumps(index))
    size = index["metadata"]["total_size"] - 1
    assert rereading.verify(damaged, pair[0]).problems == (
        f"{INDEX}: expected a total_size of {size}, got {size + 1}",
        "chat_template.jinja: lies beside the source, but not here",
        "tokenizer.json: is not that of the source",
    )


def test_tensors_that_are_missing_or_too_many(tmp_path: Path) -> None:
    """Nothing is lost, nothing invented, nothing cast."""
    src = dense(tmp_path / "src")
    convert(src, tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    arrays = loaded(path)
    del arrays["mtp.norm.weight"]
    arrays["mtp.fc.weight"] = arrays["mtp.fc.weight"].astype(np.float32)
    arrays["new"] = np.zeros(3, np.float32)
    write_weights(path, arrays)
    problems = rereading.verify(tmp_path / "out", src).problems
    assert "mtp.norm.weight: of the source, is not there" in problems
    assert "new: the source has no such tensor" in problems
    assert "mtp.fc.weight: expected BF16 [256, 512] of the source, got F32 [256, 512]" in problems


def test_another_source(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """Weights of another model, and a folder that holds no FP8."""
    with pytest.raises(ModelError, match="expected weights in FP8"):
        rereading.verify(pair[0], pair[0])
    arrays = {n: v[..., ::-1].copy() for n, v in arrays_of(DENSE).items()}
    other = folder(tmp_path / "other", DENSE.raw_config(), arrays)
    review = rereading.verify(pair[1], other)
    assert all(w.verdict == "FAIL" for w in review.weights)


def test_what_is_read_back(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many weights of each file; and a disk that gives back something else is found out."""
    for samples, n in ((0, 0), (2, 4), (1000, 29)):
        out = tmp_path / str(samples)
        review = convert(pair[0], out, Options(verify_samples=samples)).review
        assert review.read_back == n
        assert review.compared == review.passed > 50
    real = rereading.compare

    def other(w: Any, codes: Any, scales: Any) -> Any:
        return real(w, codes ^ 1, scales)

    monkeypatch.setattr(rereading, "compare", other)
    review = convert(pair[0], tmp_path / "x").review
    assert review.verdict == "FAIL"
    problem = "what is on disk is not what was written"
    read = [i for i, w in enumerate(review.weights) if w.problem == problem]
    assert len(read) == review.read_back == 10
    assert read[0] < 5
    assert read[-1] > 20  # of 29: from all over


def test_shards_that_were_whole_already(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A run that was stopped after its last shard: --resume measures what is there and goes on."""
    out = tmp_path / "out"
    shutil.copytree(pair[1], out)
    (out / "config.json").unlink()
    (out / INDEX).unlink()
    begun = {p.name: p.stat().st_mtime_ns for p in out.glob("*.safetensors")}
    review = convert(pair[0], out, how=How(resume=True)).review
    assert begun == {p.name: p.stat().st_mtime_ns for p in out.glob("*.safetensors")}
    assert review.weights == rereading.verify(out, pair[0]).weights
    assert review.read_back == len(review.weights)
    assert config_of(out) == config_of(pair[1])


def test_new_shards_never_stand_beside_an_old_config(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overwritten with another choice of modules and stopped after the shards: the list of before
    would have engines read FP8 as BF16.
    """
    out = tmp_path / "out"
    shutil.copytree(pair[1], out)

    def stopping(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(places, "copy", stopping)
    with pytest.raises(KeyboardInterrupt):
        convert(pair[0], out, Options(preset="official"), How(overwrite=True))
    assert not (out / "config.json").exists()


@pytest.mark.parametrize(
    "options", [Options(search=Search("max")), Options(pow2=True), Options(preset="official")]
)
def test_whole_shards_of_other_options(
    pair: tuple[Path, Path], tmp_path: Path, options: Options
) -> None:
    """--resume does not take them for those that were asked for."""
    out = tmp_path / "out"
    shutil.copytree(pair[1], out)
    with pytest.raises(WriteError, match="is whole, but not what would be written"):
        convert(pair[0], out, options, How(resume=True))


def reviewed(calibration: str = "mse(grid=50)", **more: Any) -> Review:
    """A review of one weight of a million values of standard deviation 0.02."""
    rrmse, saturated, flushed = (more.get(k, 0) for k in ("rrmse", "saturated", "flushed"))
    n, ww = 1_000_000, 400.0
    sums = Sums(n, ww, ww, ww * (1 - rrmse**2 / 2), ww * rrmse**2, more.get("e", 300.0), 0.005)
    weight = Reviewed("a.b.weight", (1000, 1000), Lost(sums, saturated, flushed))
    return Review(calibration, 1, (weight,), 0, 0, 0)


def test_bands() -> None:
    """GOOD to 2.8 %, FAIL from 3.5 %, NaN included; many zeros are worth a look."""
    assert reviewed(rrmse=0.0264).verdict == "GOOD"
    assert reviewed(rrmse=0.029).verdict == "WARN"
    assert reviewed(rrmse=0.0371).verdict == "FAIL"
    assert reviewed(rrmse=math.nan).verdict == "FAIL"
    assert reviewed(rrmse=0.0264, flushed=20_000).verdict == "WARN"
    assert "Ready for inference" in closing(reviewed(rrmse=0.0264))
    assert "Do not deploy" in closing(reviewed(rrmse=0.0371))


def test_recommendations_are_of_the_mode() -> None:
    """The toolkit before said to lower k where values saturate, which makes it worse."""
    bad = {"rrmse": 0.08, "saturated": 5000}
    (rms, kept) = recommendations(reviewed("rms(k=3)", **bad))
    assert "a larger --rms-factor, or --mode mse" in rms
    assert "better kept" in kept
    assert "a larger --percentile" in next(recommendations(reviewed("percentile(99)", **bad)))
    assert "--mode mse" in next(recommendations(reviewed("max", rrmse=0.03)))
    assert "--keep a.b " in next(recommendations(reviewed(rrmse=0.0264, flushed=20_000)))
    assert not list(recommendations(reviewed(rrmse=0.0264)))


def test_zeros_that_a_factor_makes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """With a factor out of all proportion nothing is wrong with the weights: a smaller one is what
    helps, not to keep every tensor. The share that is named is the one that is found.
    """
    result = convert(pair[0], tmp_path / "out", Options(search=Search("rms", factor=1e5)))
    first, *_ = recommendations(result.review)
    assert "with a factor of 100000 that is 17 % of any bell shape" in first
    assert "a smaller --rms-factor (8 by default), or --mode mse" in first
    assert "--keep" not in first
    assert result.review.whole.flushed_share == pytest.approx(0.17, abs=0.02)
    most = next(recommendations(reviewed("rms(k=1e+30)", rrmse=1, flushed=1_000_000)))
    assert "with a factor of 1e+30 that is most of any bell shape" in most
    assert "--keep a.b " in next(recommendations(reviewed("rms(k=8)", flushed=20_000)))


def test_absolute_errors_decide_nothing() -> None:
    """Weights ten times as large have ten times the error, and are as good: it is said so."""
    review = reviewed(rrmse=0.0264, e=3000.0)
    assert {n: b for n, _, b in seed_metrics(review)}["worst MAE"] == "FAIL"
    assert review.verdict == "GOOD"
    assert "there is nothing to do" in next(recommendations(review))


def test_the_summary_has_what_the_seeds_has() -> None:
    """Calibration, shards, weights by verdict, passthrough, and its four measures with bands."""
    text = str(list(summary(reviewed(rrmse=0.0264))))
    for word in ("calibration", "shards", "1 GOOD", "passthrough", "cosine sim", "mean abs err"):
        assert word in text
    assert "worst MAE" in text
    assert "worst MaxAE" in text
    assert json.loads(json.dumps(reviewed(rrmse=0.0264).as_dict()))["verdict"] == "GOOD"
