"""Whole models as others pack them: against llama.cpp's converter, and run by llama.cpp."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from packed_models import PACKINGS, write
from plain_gguf import write_f32

from ggufmix import models
from ggufmix.container import TensorInfo, aligned, header, text, u32
from ggufmix.errors import ModelError, SourceError
from ggufmix.inspection import inspect
from ggufmix.models import Model
from ggufmix.runtime import Llama, kl
from ggufmix.sources import open_checkpoint, presented
from ggufmix.tensor import Tensor

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "packed.json").read_text())


BOUND = 1e-6  # nats per token, of values in float32
ROUNDED = 5e-2  # the same where llama.cpp rounds activations to Q8_0, and routers may flip
KINDS = {
    "gpt-oss-mxfp4": "MXFP4",
    "gptq": "Q4_0",
    "gptq-v2-asymmetric": "Q8_0",
    "awq": "Q8_0",
    "int4": "Q4_0",
    "int8": "Q8_0",
    "nvfp4": "NVFP4",
    "nvfp4-modelopt": "NVFP4",
    "kimi-k25": "Q4_0",
}
"""Packing -> the type that holds its codes and scales."""


@contextmanager
def opened(name: str, folder: Path) -> Iterator[Model]:
    """A packed checkpoint, placed."""
    config, arrays, _ = PACKINGS[name].checkpoint()
    with open_checkpoint(write(folder / name, config, arrays)) as checkpoint:
        found = presented(checkpoint.tensors, checkpoint.config)
        yield models.place(checkpoint.config, found.tensors)


@pytest.mark.parametrize("name", GOLDEN)
def test_same_as_the_converter(name: str, tmp_path: Path) -> None:
    """The same tensors, shapes and values as llama.cpp's converter; of MXFP4 and NVFP4 the same
    bytes, and the same scale beside them. (What it writes of activations is left out.)
    """
    want = {n: t for n, t in GOLDEN[name].items() if not n.endswith(".input_scale")}
    with opened(name, tmp_path) as model:
        made = {}
        for p in model.tensors:
            kind, tensor = want[p.name][0], p.tensor
            as_stored = kind in ("MXFP4", "NVFP4")
            data = (tensor.blocks if as_stored else tensor.rows)(0, tensor.n_rows)
            made[p.name] = described(kind, tensor, data if as_stored else data.astype("<f4"))
            if tensor.outer_scale is not None:
                beside = p.name.removesuffix(".weight") + ".scale"
                made[beside] = described("F32", tensor.outer_scale, tensor.outer_scale.all())
        assert made == want
        assert {str(p.tensor.format) for p in model.tensors} == {KINDS[name], "None"}


def described(kind: str, tensor: Tensor, data: np.ndarray) -> list[object]:
    """As make_packed.py does."""
    return [kind, list(tensor.shape), hashlib.sha256(data.tobytes()).hexdigest()]


@pytest.mark.parametrize("name", PACKINGS)
def test_same_logits(name: str, tmp_path: Path, tokens: list[int]) -> None:
    """Values and blocks alike compute what transformers computes of the dequantized weights."""
    import torch
    import transformers

    _, _, plain = PACKINGS[name].checkpoint()
    case = PACKINGS[name].like.plain()
    plain = {n.removeprefix("language_model."): v for n, v in plain.items()}
    plain = {n: v for n, v in plain.items() if not n.startswith(("vision_tower", "mm_projector"))}
    stored = write(tmp_path / "plain", case.raw_config(), plain)
    theirs, said = getattr(transformers, case.hf_class).from_pretrained(
        stored, dtype=torch.float32, output_loading_info=True
    )
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        want = theirs.eval()(torch.tensor([tokens])).logits[0].numpy()
    with opened(name, tmp_path) as model:
        for write_gguf, bound in ((write_f32, BOUND), (write_as_stored, ROUNDED)):
            with Llama(write_gguf(model, tmp_path / "x.gguf"), len(tokens)) as llama:
                assert kl(want, llama.logits(tokens)) < bound


@pytest.mark.parametrize("name", PACKINGS)
def test_what_inspect_says(name: str, tmp_path: Path) -> None:
    """Which packing, what holds it, and that all of it is carried."""
    config, arrays, _ = PACKINGS[name].checkpoint()
    found = inspect(write(tmp_path, config, arrays), scan=True)
    assert f"codes and scales carried over as {KINDS[name]}" in found["packed"]
    assert ";" not in found["packed"]
    assert found["carried"].startswith("100.0 % of the packed weights, which are ")
    assert found["inexact_groups"] == 0 < found["exact_groups"]


def test_biases_that_quantizers_add(tmp_path: Path) -> None:
    """Older GPTQ has a bias of zeros for every matrix: they are left out, and that is said. One
    that is not zero may be part of the model, and so may those of its kind.
    """
    config, arrays, _ = PACKINGS["gptq"].checkpoint()
    stems = [n.removesuffix(".qweight") for n in arrays if n.endswith(".qweight")]
    arrays |= {f"{s}.bias": np.zeros(arrays[f"{s}.scales"].shape[1], np.float16) for s in stems}
    with open_checkpoint(write(tmp_path / "zeros", config, arrays)) as checkpoint:
        found = presented(checkpoint.tensors, checkpoint.config)
        model = models.place(checkpoint.config, found.tensors)
        assert {p.name for p in model.tensors} == set(GOLDEN["gptq"])
        [note] = found.notes
        assert note.startswith(f"left out {len(stems)} biases of zeros")
    arrays[f"{stems[3]}.bias"][-1] = 1e-7
    kind = stems[3].split(".")[-1]
    with open_checkpoint(write(tmp_path / "others", config, arrays)) as checkpoint:
        found = presented(checkpoint.tensors, checkpoint.config)
        assert {n for n in found.tensors if n.endswith(".bias")} == {
            f"{s}.bias" for s in stems if s.endswith(kind)
        }
        with pytest.raises(ModelError, match="3 that nothing in qwen3 claims"):
            models.place(checkpoint.config, found.tensors)
    arrays[f"{stems[0]}.bias"] = np.zeros(5, np.float16)
    with (
        open_checkpoint(write(tmp_path / "wrong", config, arrays)) as checkpoint,
        pytest.raises(SourceError, match=r"\.bias: expected shape"),
    ):
        presented(checkpoint.tensors, checkpoint.config)


def test_nvfp4_where_llama_cpp_uses_no_scale(tmp_path: Path) -> None:
    """In an architecture whose graph ignores the scale beside a weight, only values are left, and
    that is said.
    """
    packing = replace(PACKINGS["nvfp4"], case="qwen2moe", sizes={"moe_intermediate_size": 64})
    config, arrays, plain = packing.checkpoint()
    with open_checkpoint(write(tmp_path / "x", config, arrays)) as checkpoint:
        found = presented(checkpoint.tensors, checkpoint.config)
        model = models.place(checkpoint.config, found.tensors)
        assert not any(p.tensor.format or p.tensor.outer_scale for p in model.tensors)
        assert "llama.cpp uses no scale beside them in qwen2moe" in model.notes[-1]
        values = {p.name: p.tensor.all() for p in model.tensors}
        down = plain["model.layers.0.mlp.experts.1.down_proj.weight"]
        np.testing.assert_array_equal(values["blk.0.ffn_down_exps.weight"][1], down)
    assert inspect(tmp_path / "x")["carried"].startswith("0.0 % of the packed weights")


@pytest.mark.parametrize("name", ["gpt-oss-mxfp4", "kimi-k25"])
def test_bands_are_the_whole(name: str, tmp_path: Path) -> None:
    """Rows in bands, as they are written, are those read at once."""
    with opened(name, tmp_path) as model:
        for p in model.tensors:
            tensor = p.tensor
            if tensor.format is None:
                continue
            for read in (tensor.rows, tensor.blocks):
                whole = read(0, tensor.n_rows)
                bands = [read(a, min(a + 7, tensor.n_rows)) for a in range(0, tensor.n_rows, 7)]
                np.testing.assert_array_equal(np.concatenate(bands), whole, p.name)


def test_fine_tunes_in_part(tmp_path: Path) -> None:
    """gpt-oss with experts of one layer in float32 and the others in MXFP4 is the same model."""
    config, arrays, plain = PACKINGS["gpt-oss-mxfp4"].checkpoint()
    at = "model.layers.1.mlp.experts."
    for part in ("gate_up_proj", "down_proj"):
        del arrays[f"{at}{part}_blocks"], arrays[f"{at}{part}_scales"]
        arrays[at + part] = plain[at + part]
    with (
        opened("gpt-oss-mxfp4", tmp_path) as whole,
        open_checkpoint(write(tmp_path / "in part", config, arrays)) as checkpoint,
    ):
        found = presented(checkpoint.tensors, checkpoint.config)
        model = models.place(checkpoint.config, found.tensors)
        for ours, want in zip(model.tensors, whole.tensors, strict=True):
            assert ours.name == want.name
            if ours.layer == 1:
                assert ours.tensor.format is None
            else:
                assert ours.tensor.format == want.tensor.format
            np.testing.assert_array_equal(ours.tensor.all(), want.tensor.all(), ours.name)


def write_as_stored(model: Model, path: Path) -> Path:
    """A placed model as GGUF: blocks where it has them, else float32; no vocabulary."""
    values = {"general.architecture": text(model.arch), **model.values}
    values |= {
        f"{model.arch}.vocab_size": u32(model.vocab_rows),
        "tokenizer.ggml.model": text("none"),
    }
    infos, data, at = [], [], 0
    pieces: list[tuple[str, Tensor, int, bytes]] = []
    for placed in model.tensors:
        tensor, name = placed.tensor, placed.name
        if tensor.format is not None:
            raw = tensor.blocks(0, tensor.n_rows).tobytes()
            pieces.append((name, tensor, tensor.format.id, raw))
        else:
            pieces.append((name, tensor, 0, tensor.all().astype(np.float32).tobytes()))
        if tensor.outer_scale is not None:
            raw = tensor.outer_scale.all().tobytes()
            pieces.append((name.removesuffix(".weight") + ".scale", tensor.outer_scale, 0, raw))
    for name, tensor, kind, raw in pieces:
        shape = tuple(reversed(tensor.shape))
        infos.append(TensorInfo(name, shape, GGMLQuantizationType(kind), at))
        data.append(raw + bytes(-len(raw) % 32))
        at = aligned(at + len(raw))
    path.write_bytes(header(values, infos) + b"".join(data))
    return path
