"""What counts as GOOD, WARN and FAIL, and that it is what the types really do."""

# SPDX-License-Identifier: MIT

import importlib.util
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np
import pytest

from ggufmix import codecs, verifying
from ggufmix.measures import Measures, measure

ROOT = Path(__file__).parents[2]
BLOCKS = [e for e in codecs.ENCODERS.values() if e.format.values > 1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script that the bands come from."""
    spec = importlib.util.spec_from_file_location("bands", ROOT / "benchmarks" / "bands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_K", "NVFP4"])
def test_the_bands_are_what_the_script_measures(script: ModuleType, name: str) -> None:
    """Nobody has turned a limit by hand, and no encoder has changed behind it."""
    found = verifying.band(codecs.FORMATS[name])
    assert (found.good, found.warn) == script.band(script.types()[name])


def test_every_type_that_is_written_has_a_band() -> None:
    """A new format needs one: without, whatever it does would be a failure."""
    assert {f.name for f in codecs.formats().values()} == set(verifying.bands())
    for found in verifying.bands().values():
        assert 0 < found.good <= found.warn < 1


@pytest.mark.parametrize("to", BLOCKS, ids=str)
@pytest.mark.parametrize("kind", ["normal", "laplace", "trained"])
def test_ordinary_weights_are_good(to: codecs.Encoder, kind: str, example: Path) -> None:
    """Other draws than those the bands come from, and weights that were really trained."""
    rng = np.random.default_rng(99)
    if kind == "trained":
        from ggufmix.sources import open_checkpoint

        with open_checkpoint(example) as checkpoint:
            x = checkpoint.tensors["model.layers.1.linear_attn.in_proj_qkv.weight"].all()
        x = x.reshape(-1, x.shape[-1])
    else:
        x = (0.03 * getattr(rng, kind)(size=(256, 1024))).astype(ml_dtypes.bfloat16)
    found = measure(x, codecs.decode(codecs.encode(x, to.name), to.format))
    assert verifying.verdict(to.format, found).grade == "GOOD"


@pytest.mark.parametrize("to", BLOCKS, ids=str)
def test_fewer_bits_do_not_pass_for_more(to: codecs.Encoder) -> None:
    """A file whose weights went through a type of two bits less fails."""
    x = (0.03 * np.random.default_rng(5).standard_normal((64, 1024))).astype(np.float32)
    less = {8: "Q5_0", 6: "Q4_0", 5: "Q3_K", 4: "Q2_K"}.get(int(to.format.bits))
    if less is None:
        pytest.skip("nothing has two bits less")
    coarse = codecs.decode(codecs.encode(x, less), less)
    found = measure(x, codecs.decode(codecs.encode(coarse, to.name), to.format))
    assert verifying.verdict(to.format, found).grade == "FAIL"


@pytest.mark.parametrize("to", BLOCKS, ids=str)
def test_other_weights_are_called_other_weights(to: codecs.Encoder) -> None:
    """Two tensors exchanged, or rows in another order."""
    x = (0.03 * np.random.default_rng(5).standard_normal((64, 1024))).astype(np.float32)
    found = measure(x[::-1], codecs.decode(codecs.encode(x, to.name), to.format))
    judged = verifying.verdict(to.format, found)
    assert judged.grade == "FAIL"
    assert "other weights" in judged.why
    assert "SRC" in judged.advice


def test_damage_to_a_few_rows_shows() -> None:
    """One expert of hundreds is lost in the sums of all of them."""
    q8 = codecs.FORMATS["Q8_0"]
    fine = Measures(1 << 30, 25.0, 1e6, 1e6, 1e6)
    gone = Measures(1 << 20, 20.0, 1e3, 1e3, 1e3, row=7)
    assert verifying.verdict(q8, fine).grade == "GOOD"
    judged = verifying.verdict(q8, fine, gone)
    assert judged.grade == "FAIL"
    assert "row 7" in judged.why


def test_not_finite_fails_with_its_place() -> None:
    """NaN compares false with every limit and must not slip through."""
    x = np.ones((3, 32), np.float32)
    y = x.copy()
    y[2, 5] = np.nan
    judged = verifying.verdict(codecs.FORMATS["Q8_0"], measure(x, y))
    assert judged.grade == "FAIL"
    assert "row 2, column 5" in judged.why


def test_heavy_tails_are_a_warning_with_advice() -> None:
    """Between what is usual and what is impossible."""
    found = verifying.verdict(codecs.FORMATS["Q8_0"], Measures(100, 1e-4, 1.0, 1.0, 1.0))
    assert (found.grade, "1.00 %" in found.why) == ("WARN", True)
    assert found.advice


def test_floats_may_be_rounded_once() -> None:
    """A plain type loses no more than its mantissa: a weight that another tool computed with other
    last places is no damage, a fine-tune's norm is.
    """
    x = 1 + 0.3 * np.random.default_rng(1).standard_normal((1, 4096)).astype(np.float32)
    once = np.nextafter(x, np.float32(9))
    fine_tuned = x + np.float32(1e-3)
    f32 = codecs.FORMATS["F32"]
    assert verifying.verdict(f32, measure(x, x)).grade == "GOOD"
    assert verifying.verdict(f32, measure(x, once)).grade != "FAIL"
    assert verifying.verdict(f32, measure(x, fine_tuned)).grade == "FAIL"
    for name, dtype in (("F16", np.float16), ("BF16", ml_dtypes.bfloat16)):
        rounded = measure(x, x.astype(dtype).astype(np.float32))
        assert verifying.verdict(codecs.FORMATS[name], rounded).grade == "GOOD"
