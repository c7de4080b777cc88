"""The scripts of the tutorials make what they say."""

# SPDX-License-Identifier: MIT

import importlib.util
from pathlib import Path
from types import ModuleType

import int4 as theirs
import listings
import ml_dtypes
import numpy as np
from safetensors.numpy import load_file

EXAMPLES = Path(__file__).parents[2] / "examples"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_kimi_has_the_tensors_of_kimi() -> None:
    """The listing has every name and shape of a published BF16 file."""
    published = listings.rows(listings.SHAPES / "Kimi-K2-Thinking.tsv")
    shapes = {name: "x".join(map(str, shape)) for name, shape in script("kimi").tensors().items()}
    assert shapes == {name: shape for name, shape, _ in published}


def test_int4_is_packed_as_compressed_tensors_packs(tmp_path: Path) -> None:
    """What compressed-tensors unpacks is the trained weights, rounded: within half a step."""
    script("int4").main(tmp_path)
    made = load_file(tmp_path / "model.safetensors")
    source = load_file(EXAMPLES / "tiny-qwen35moe" / "model.safetensors")
    stems = [name.removesuffix(".weight") for name in source if ".experts." in name]
    assert len(stems) == 48
    assert all(f"{stem}.weight" not in made for stem in stems)
    assert {name for name in made if "_packed" in name} == {f"{s}.weight_packed" for s in stems}
    for stem in stems:
        values = theirs.unpacked(stem, made).reshape(-1, 32)
        weights = source[f"{stem}.weight"].astype(np.float32).reshape(-1, 32)
        scales = made[f"{stem}.weight_scale"].astype(np.float32).reshape(-1, 1)
        assert made[f"{stem}.weight_scale"].dtype == ml_dtypes.bfloat16
        assert np.all(np.abs(values - weights) <= 0.53 * scales)  # BF16 rounds the scale
        assert np.array_equal(values, np.rint(values / scales) * scales)
