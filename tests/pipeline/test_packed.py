"""Checkpoints packed as INT4, from folder to file: the trained example with its experts packed by
compressed-tensors.
"""

# SPDX-License-Identifier: MIT

import json
from pathlib import Path

import gguf
import int4
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sources import build

import ggufmix
from ggufmix.errors import InexactError
from ggufmix.inspection import inspect
from ggufmix.pipeline import Options

Experts = dict[str, np.ndarray]


def on_lattice(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes, int8, and BF16 scales of a matrix in groups of 32, as QAT leaves them."""
    apart = values.astype(np.float32).reshape(len(values), -1, 32)
    scales = (np.abs(apart).max(-1) / 7).astype(ml_dtypes.bfloat16)
    codes = np.clip(np.rint(apart / scales.astype(np.float32)[..., np.newaxis]), -8, 7)
    return codes.reshape(values.shape).astype(np.int8), scales


@pytest.fixture
def experts(model: Path) -> Experts:
    """The example model, its experts packed: the value of every weight of them, by stem."""
    file = model / "model.safetensors"
    arrays, made = {}, {}
    for name, stored in load_file(file).items():
        if ".experts." not in name:
            arrays[name] = stored
            continue
        stem = name.removesuffix(".weight")
        arrays |= int4.packed(stem, *on_lattice(stored.view(ml_dtypes.bfloat16)))
        made[stem] = int4.unpacked(stem, arrays)
    save_file(arrays, file, {"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = int4.config()
    (model / "config.json").write_text(json.dumps(config))
    return made


def decoded(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Every tensor of experts: its type, and its values as gguf decodes them."""
    return {
        t.name: (t.tensor_type.name, gguf.quants.dequantize(t.data, t.tensor_type))
        for t in gguf.GGUFReader(path).tensors
        if "_exps" in t.name
    }


def check_exact(path: Path, experts: Experts, kind: str) -> None:
    found = decoded(path)
    assert {type_name for type_name, _ in found.values()} == {kind}
    checked = 0
    for stem, expected in experts.items():
        layer, expert, part = (stem.split(".")[k] for k in (-5, -2, -1))
        if stem.startswith("mtp."):
            continue
        name = f"blk.{layer}.ffn_{part.removesuffix('_proj')}_exps.weight"
        np.testing.assert_array_equal(found[name][1][int(expert)], expected)
        checked += 1
    assert checked == sum(len(values) for _, values in found.values())


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [("q4_x", "Q4_0"), ("q4_x-lossless", "Q4_0"), ("q8_0", "Q8_0"), ("f32", "F32")],
)
def test_every_value_is_the_checkpoints(
    model: Path, experts: Experts, tmp_path: Path, recipe: str, kind: str
) -> None:
    """Each value that gguf decodes from the experts is the one that compressed-tensors unpacks, in
    all recipes that hold codes and scales; the file is as large as planned.
    """
    out = tmp_path / "x.gguf"
    result = ggufmix.convert(model, out, recipe)
    assert out.stat().st_size == ggufmix.plan(model, recipe).total_bytes
    check_exact(out, experts, kind)
    assert not result.inexact
    reasons = {t.reason for t in result.plan.tensors if "_exps" in t.name}
    assert all(
        word in reason
        for reason in reasons
        for word in {"q4_x": ["packed, else lattice, else max/-7", "copied"]}.get(recipe, [])
    )


def test_lossless_keeps_the_rest_as_stored(model: Path, experts: Experts, tmp_path: Path) -> None:
    """q4_x-lossless: what is not packed has the dtype of the checkpoint, or F32 where it must."""
    ggufmix.convert(model, tmp_path / "x.gguf", "q4_x-lossless")
    rest = {
        t.tensor_type.name
        for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors
        if "_exps" not in t.name
    }
    assert rest == {"BF16", "F32"}


def test_any_other_recipe_takes_the_values(model: Path, experts: Experts, tmp_path: Path) -> None:
    """Q4_1 from packed weights is Q4_1 from their values; a note says that errors add up."""
    result = ggufmix.convert(model, tmp_path / "x.gguf", options=Options("pure:q4_1"))
    assert any("quantized a second time" in note for note in result.plan.notes)
    found = decoded(tmp_path / "x.gguf")
    kind, values = found["blk.1.ffn_down_exps.weight"]
    stem = next(s for s in experts if s.endswith("layers.1.mlp.experts.2.down_proj"))
    assert kind == "Q4_1"
    again = gguf.quants.dequantize(
        ggufmix.encode(experts[stem], "Q4_1"), gguf.GGMLQuantizationType.Q4_1
    )
    np.testing.assert_array_equal(values[2], again)


def spoil(model: Path, stem: str, row: int, group: int) -> None:
    """Give one group a scale that float16 does not hold."""
    file = model / "model.safetensors"
    arrays = load_file(file)
    scales = arrays[stem + ".weight_scale"].view(ml_dtypes.bfloat16)
    scales[row, group] = 1.171875 * 2.0**-20
    save_file(arrays, file, {"format": "pt"})


def test_what_becomes_of_inexact_groups(model: Path, experts: Experts, tmp_path: Path) -> None:
    """An error that names tensor, row and group, with a scan before anything is written; the
    nearest, counted; or the tensor in F32, exact.
    """
    stem = next(s for s in experts if s.endswith("layers.2.mlp.experts.1.up_proj"))
    spoil(model, stem, 5, 1)
    out = tmp_path / "x.gguf"
    for scan in (False, True):
        with pytest.raises(InexactError, match=r"up_proj\.weight_scale: row 5, group 1: the"):
            ggufmix.convert(model, out, options=Options("q4_x", scan=scan))
        assert not list(tmp_path.glob("x.gguf*"))
    with pytest.raises(InexactError):
        ggufmix.plan(model, options=Options("q4_x", scan=True))

    result = ggufmix.convert(model, out, options=Options("q4_x", on_inexact="nearest"))
    assert result.inexact == {f"{stem}.weight": 1}

    options = Options("q8_0", on_inexact="f32")
    ggufmix.convert(model, out, options=options, overwrite=True)
    assert out.stat().st_size == ggufmix.plan(model, options=options).total_bytes
    found = decoded(out)
    assert found["blk.2.ffn_up_exps.weight"][0] == "F32"
    assert found["blk.2.ffn_gate_exps.weight"][0] == "Q8_0"
    expected = int4.unpacked(stem, load_bf16(model, stem))
    np.testing.assert_array_equal(found["blk.2.ffn_up_exps.weight"][1][1], expected)


def load_bf16(model: Path, stem: str) -> Experts:
    arrays = {
        n: v for n, v in load_file(model / "model.safetensors").items() if n.startswith(stem + ".")
    }
    scale = stem + ".weight_scale"
    return arrays | {scale: arrays[scale].view(ml_dtypes.bfloat16)}


@pytest.mark.parametrize("threads", [1, 3])
def test_a_lattice_is_recovered(example: Path, model: Path, tmp_path: Path, threads: int) -> None:
    """Experts that were dequantized to BF16 from INT4 come back whole in q4_x, and the counts say
    so, in the result and in a scan; those of the model as trained lie on no lattice.
    """
    file = model / "model.safetensors"
    arrays = load_file(file)
    for name, stored in arrays.items():
        if ".experts." in name:
            codes, scales = on_lattice(stored.view(ml_dtypes.bfloat16))
            each = scales.astype(np.float32).repeat(32, axis=1)
            arrays[name] = (codes.astype(np.float32) * each).astype(ml_dtypes.bfloat16)
    save_file(arrays, file, {"format": "pt"})
    out = tmp_path / "x.gguf"
    result = ggufmix.convert(model, out, "q4_x", threads=threads)
    assert all(v.recovered == v.groups > 0 for v in result.lattice.values())
    for name, (kind, values) in decoded(out).items():
        assert kind == "Q4_0"
        layer, part = name.split(".")[1], name.split("_")[1]
        for i, expert in enumerate(values):
            source = arrays[f"model.layers.{layer}.mlp.experts.{i}.{part}_proj.weight"]
            np.testing.assert_array_equal(expert.astype(ml_dtypes.bfloat16), source)
    scanned = ggufmix.plan(model, options=Options("q4_x", scan=True))
    groups = sum(v.groups for v in result.lattice.values())
    assert any(f"{groups} of {groups} groups lie on an INT4 lattice" in n for n in scanned.notes)
    plain = ggufmix.convert(example, tmp_path / "y.gguf", "q4_x")
    assert sum(v.recovered for v in plain.lattice.values()) == 0


def test_fp8_is_its_values(model: Path, tmp_path: Path) -> None:
    """A checkpoint in block FP8 becomes the file that its dequantized values in F32 become."""
    file = model / "model.safetensors"
    eight, wide = {}, {}
    for name, stored in load_file(file).items():
        eight[name] = wide[name] = stored
        if not name.endswith("_proj.weight"):
            continue
        x = stored.view(ml_dtypes.bfloat16).astype(np.float32)
        scales = np.full((-(-x.shape[0] // 128), -(-x.shape[1] // 128)), 0.0011, np.float32)
        scales *= 1 + np.arange(scales.size, dtype=np.float32).reshape(scales.shape)
        each = scales.repeat(128, axis=0).repeat(128, axis=1)[: x.shape[0], : x.shape[1]]
        codes = (x / each).astype(ml_dtypes.float8_e4m3fn)
        eight |= {name: codes, f"{name}_scale_inv": scales}
        wide[name] = codes.astype(np.float32) * each
    found = []
    for arrays in (eight, wide):
        build.weights(file, {n: own(v) for n, v in arrays.items()})
        out = tmp_path / f"{len(found)}.gguf"
        result = ggufmix.convert(model, out)
        found.append({t.name: t.data.tobytes() for t in gguf.GGUFReader(out).tensors})
    assert found[0] == found[1]
    assert not any("FP8" in note for note in result.plan.notes)


def own(values: np.ndarray) -> np.ndarray:
    """What safetensors.numpy gives for BF16, with its dtype."""
    return values.view(ml_dtypes.bfloat16) if values.dtype.itemsize == 2 else values


def test_inspect_says_what_is_exact(model: Path, experts: Experts) -> None:
    """How the checkpoint is packed, and with a scan the groups that are exact, those that are not,
    and those of other weights that lie on a lattice.
    """
    spoil(model, next(iter(experts)), 5, 1)
    groups = sum(x.size for x in experts.values()) // 32
    found = inspect(model)
    assert found["packed"] == f"{len(experts)} INT4: codes and scales carried over as Q4_0"
    share = 100 * 32 * groups / found["weights"]
    assert found["carried"] == f"100.0 % of the packed weights, which are {share:.1f} % of all"
    assert found["types"]["INT4"]["weights"] == 32 * groups
    assert found["types"]["INT4"]["bytes"] == 18 * groups
    assert "exact_groups" not in found
    scanned = inspect(model, scan=True)
    assert (scanned["exact_groups"], scanned["inexact_groups"]) == (groups - 1, 1)
    floats = [v for n, v in load_file(model / "model.safetensors").items() if n.endswith("t")]
    rows = [v.view(ml_dtypes.bfloat16) for v in floats if v.ndim > 1 and v.shape[-1] % 32 == 0]
    zeros = sum(int((v.reshape(-1, 32) == 0).all(axis=1).sum()) for v in rows)
    assert scanned["lattice_groups"] == zeros
    assert scanned["lattice_candidates"] == sum(v.size for v in rows) // 32
    assert scanned["lattice_tensors"] == 0
