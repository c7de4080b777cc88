"""Code that others wrote reads our folders: transformers loads and runs them, and would make FP8
layers of what is FP8; compressed-tensors gets the same values out of them.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from fp8.models import config_of, dense, folder, loaded, moe, stored

from ggufmix.fp8.coding import Search
from ggufmix.fp8.converting import Options, convert
from ggufmix.fp8.dequantizing import dequantize

WINDOWS, TOKENS = 8, 512


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def block_max(w: torch.Tensor) -> torch.Tensor:
    """Plain rounding: the largest magnitude of each 128 x 128 is 448, scales in BF16."""
    rows, cols = w.shape
    padded = torch.nn.functional.pad(w.float(), (0, -cols % 128, 0, -rows % 128))
    blocks = padded.reshape(padded.shape[0] // 128, 128, -1, 128)
    scale = (blocks.abs().amax((1, 3), keepdim=True).clamp(min=1e-12) / 448).bfloat16().float()
    q = (blocks / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
    return q.reshape(padded.shape)[:rows, :cols]


@pytest.fixture(scope="module")
def windows(example: Path, heldout: str) -> torch.Tensor:
    """Windows of held-out text, as tokens of the example."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(example)
    ids = tokenizer(heldout).input_ids[: WINDOWS * TOKENS]
    assert len(ids) == WINDOWS * TOKENS
    return torch.tensor(ids).reshape(WINDOWS, TOKENS)


def logits_of(model: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """Log probabilities, (tokens, vocabulary), in float32."""
    with torch.no_grad():
        return torch.cat([model.float().eval()(w[None]).logits[0] for w in windows]).log_softmax(-1)


@pytest.fixture(scope="module")
def base(example: Path, windows: torch.Tensor) -> torch.Tensor:
    """What the example says in BF16."""
    model = transformers.AutoModelForCausalLM.from_pretrained(example, dtype=torch.float32)
    return logits_of(model, windows)


def loaded_model(at: Path) -> torch.nn.Module:
    """A folder's model; without a GPU its FP8 weights are dequantized."""
    model, said = transformers.AutoModelForCausalLM.from_pretrained(
        at, dtype=torch.float32, output_loading_info=True
    )
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    assert not said["mismatched_keys"]
    return model


def divergence(base: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.kl_div(other, base, log_target=True, reduction="batchmean"))


@pytest.fixture(scope="module")
def plain(example: Path, windows: torch.Tensor, base: torch.Tensor) -> float:
    """What plain rounding of everything that becomes FP8 costs the example."""
    model = transformers.AutoModelForCausalLM.from_pretrained(example, dtype=torch.float32)
    kept = ("shared_expert", "in_proj_a", "in_proj_b", "conv1d", "out_proj", "mlp.gate.")
    for name, values in model.state_dict().items():
        if ".layers." in name and values.ndim >= 2 and not any(k in name for k in kept):
            for matrix in values if values.ndim == 3 else [values]:
                halves = matrix.chunk(2) if name.endswith("gate_up_proj") else [matrix]
                for half in halves:
                    half.copy_(block_max(half))
    return divergence(base, logits_of(model, windows))


def test_a_trained_model_stays_itself(
    example: Path, tmp_path: Path, windows: torch.Tensor, base: torch.Tensor, plain: float
) -> None:
    """The whole promise: a trained mixture, loaded by transformers, says what it said in BF16, and
    that at least about as well as with plain rounding.
    """
    convert(example, tmp_path / "out")
    found = divergence(base, logits_of(loaded_model(tmp_path / "out"), windows))
    assert 0 < found < 0.03
    assert 0 < plain < 0.03
    assert found <= 1.2 * plain


@pytest.mark.parametrize(
    "options",
    [
        Options(search=Search("rms"), scale_dtype="f32"),
        Options(search=Search("max"), pow2=True),
        Options(preset="official"),
    ],
    ids=["rms", "pow2", "official"],
)
def test_in_every_way(
    example: Path, tmp_path: Path, windows: torch.Tensor, base: torch.Tensor, options: Options
) -> None:
    """Other modes, other scales, and what Qwen makes FP8: over the first two windows."""
    convert(example, tmp_path / "out", options)
    made = logits_of(loaded_model(tmp_path / "out"), windows[:2])
    assert 0 < divergence(base[: len(made)], made) < 0.03


@pytest.mark.parametrize("make", [dense, moe], ids=["dense", "moe"])
def test_wrapped_models_load(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """With vision and MTP: no key too few or too many but what the source has too, and every value
    is code times scale.
    """
    src = make(tmp_path / "src")
    convert(src, tmp_path / "out")
    made, before = (
        transformers.AutoModelForImageTextToText.from_pretrained(
            at, dtype=torch.float32, output_loading_info=True
        )
        for at in (tmp_path / "out", src)
    )
    assert not made[1]["missing_keys"]
    assert not made[1]["mismatched_keys"]
    mtp = "mtp."  # which transformers has no module for, with or without FP8
    assert all(name.startswith(mtp) for name in made[1]["unexpected_keys"])
    assert all(name.startswith(mtp) for name in before[1]["unexpected_keys"])
    dequantize(tmp_path / "out", tmp_path / "back", "f32")
    again = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "back", dtype=torch.float32
    )
    state = again.state_dict()
    assert made[0].state_dict().keys() == state.keys()
    for name, values in made[0].state_dict().items():
        assert torch.equal(values, state[name]), name


@pytest.mark.parametrize("preset", ["conservative", "official"])
@pytest.mark.parametrize("make", [dense, moe], ids=["dense", "moe"])
def test_transformers_makes_fp8_layers_of_what_is_fp8(
    tmp_path: Path, make: Callable[[Path], Path], preset: str
) -> None:
    """Where there is a GPU it replaces modules by the config's list alone: one that is missing in
    it would get random scales, one too many would read codes as values.
    """
    from transformers.integrations.finegrained_fp8 import (
        FP8Experts,
        FP8Linear,
        replace_with_fp8_linear,
    )

    convert(make(tmp_path / "src"), tmp_path / "out", Options(preset=preset))
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    about = config.quantization_config
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    quantization = transformers.FineGrainedFP8Config(
        **{k: v for k, v in about.items() if k not in ("quant_method", "fmt")}
    )
    replace_with_fp8_linear(
        model, about["modules_to_not_convert"], quantization, pre_quantized=True
    )
    eight = {n for n, m in model.named_modules() if isinstance(m, FP8Linear | FP8Experts)}
    names = {n.removesuffix(".weight_scale_inv") for n in stored(tmp_path / "out")}
    tensors = {n for n in names if f"{n}.weight_scale_inv" in stored(tmp_path / "out")}
    modules = {n.partition(".experts.")[0] + ".experts" if ".experts." in n else n for n in tensors}
    assert eight == {n for n in modules if not n.startswith("mtp.")}


@pytest.mark.parametrize("make", [dense, moe], ids=["dense", "moe"])
@pytest.mark.parametrize("scale_dtype", ["bf16", "f32"])
def test_compressed_tensors_gets_the_same_values(
    tmp_path: Path, make: Callable[[Path], Path], scale_dtype: str
) -> None:
    """Its converter of block FP8, which others use to go on from such a folder, agrees with our
    `dequantize` on every tensor, and takes the folder as one of its kind.
    """
    from compressed_tensors.entrypoints.convert import convert_checkpoint
    from compressed_tensors.entrypoints.convert.converters import FP8BlockDequantizer

    out = tmp_path / "out"
    convert(make(tmp_path / "src"), out, Options(scale_dtype=scale_dtype))  # type: ignore[arg-type]
    converter = FP8BlockDequantizer.from_pretrained(str(out))
    convert_checkpoint(str(out), str(tmp_path / "theirs"), converter)
    dequantize(out, tmp_path / "ours")
    theirs = loaded(tmp_path / "theirs" / "model.safetensors")
    ours = loaded(tmp_path / "ours" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    for name, values in ours.items():
        assert theirs[name].dtype == values.dtype, name
        np.testing.assert_array_equal(theirs[name].view(np.uint8), values.view(np.uint8), name)
    assert "quantization_config" not in config_of(tmp_path / "ours")


@pytest.mark.parametrize("shape", [(200, 256), (192, 320), (64, 256), (130, 100)])
def test_shapes_off_128(tmp_path: Path, shape: tuple[int, int]) -> None:
    """compressed-tensors reads them right. transformers without a GPU spreads the scales evenly,
    or refuses; the warning says of which shapes, and no longer has to when this test fails.
    """
    from compressed_tensors.entrypoints.convert import FP8BlockDequantizer
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    name = "model.layers.0.mlp.down_proj.weight"
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    result = convert(folder(tmp_path / "src", {}, {name: w}), tmp_path / "out")
    found = loaded(tmp_path / "out" / "model.safetensors")
    codes = torch.from_numpy(found[name].view(np.uint8)).view(torch.float8_e4m3fn)
    scales = torch.from_numpy(found[f"{name}_scale_inv"].astype(np.float32))
    theirs = FP8BlockDequantizer(dtype=torch.float32).process(
        {name: codes, f"{name}_scale_inv": scales}
    )
    dequantize(tmp_path / "out", tmp_path / "back", "f32")
    ours = loaded(tmp_path / "back" / "model.safetensors")[name]
    np.testing.assert_array_equal(theirs[name].numpy(), ours)
    try:
        read = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32).numpy()
    except ValueError:
        read = np.zeros(shape, np.float32)
    warned = any("transformers" in sentence for sentence in result.planned.warnings)
    assert np.array_equal(read, ours) is not warned
