"""The main job on the trained model: the file that comes out, and that nothing else does."""

# SPDX-License-Identifier: MIT

import json
import shutil
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ggufmix
from ggufmix.errors import (
    ModelError,
    NotFiniteError,
    OutlierError,
    SourceError,
    UsageError,
    WriteError,
)
from ggufmix.pipeline import Options


def types(path: Path) -> dict[str, str]:
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


def damaged(model: Path, name: str, row: int, column: int, value: float) -> Path:
    """The model with one value replaced."""
    file = model / "model.safetensors"
    tensors = load_file(file)
    x = tensors[name].view(ml_dtypes.bfloat16)
    x.reshape(-1, x.shape[-1])[row, column] = value
    save_file(tensors, file, {"format": "pt"})
    return model


def test_the_default_file(example: Path, tmp_path: Path) -> None:
    """Q8_0 with BF16 gates, in llama-quantize's order, exactly as large as planned; read by the
    gguf package.
    """
    out = tmp_path / "x.gguf"
    result = ggufmix.convert(example, out)
    planned = ggufmix.plan(example)
    assert out.stat().st_size == planned.total_bytes == result.plan.total_bytes
    made = types(out)
    assert list(made) == [t.name for t in planned.tensors]
    assert made["blk.0.ssm_alpha.weight"] == made["blk.2.ssm_beta.weight"] == "BF16"
    assert (
        made["blk.0.ffn_down_exps.weight"]
        == made["token_embd.weight"]
        == made["output.weight"]
        == "Q8_0"
    )
    assert made["blk.0.ffn_gate_inp.weight"] == made["blk.0.ssm_conv1d.weight"] == "F32"
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


@pytest.mark.parametrize("recipe", ["q8_0", "bf16", "f16", "f32", "q4_0"])
@pytest.mark.parametrize("mirror", [None, "llama.cpp"])
def test_every_recipe_is_as_large_as_planned(
    example: Path, tmp_path: Path, recipe: str, mirror: str | None
) -> None:
    """The size that a plan names is the size of the file, to the byte, and general.file_type is the
    recipe's.
    """
    options = Options(recipe=recipe, mirror=mirror)
    out = tmp_path / "x.gguf"
    ggufmix.convert(example, out, options=options)
    assert out.stat().st_size == ggufmix.plan(example, options=options).total_bytes
    file_type = gguf.GGUFReader(out).get_field("general.file_type").contents()
    assert (
        gguf.LlamaFileType(file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()
        == recipe
    )


def test_the_same_bytes_for_any_threads_and_tier(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread, five threads, the plainest tier: one file."""
    ggufmix.convert(example, tmp_path / "a.gguf", threads=1)
    ggufmix.convert(example, tmp_path / "b.gguf", threads=5)
    monkeypatch.setenv("GGUFMIX_TIER", "base")
    ggufmix.convert(example, tmp_path / "c.gguf")
    raw = (tmp_path / "a.gguf").read_bytes()
    assert raw == (tmp_path / "b.gguf").read_bytes() == (tmp_path / "c.gguf").read_bytes()


def test_no_path_of_this_machine_is_written(example: Path, tmp_path: Path) -> None:
    """The folder's name and path appear nowhere in the file; provenance names files, sizes and
    fingerprints.
    """
    secret = tmp_path / "secretfolder-7B-Instruct"
    shutil.copytree(example, secret)
    out = tmp_path / "x.gguf"
    ggufmix.convert(secret, out)
    raw = out.read_bytes()
    assert b"secretfolder" not in raw
    assert str(tmp_path).encode() not in raw
    reader = gguf.GGUFReader(out)
    assert reader.get_field("ggufmix.source.files").contents() == ["model.safetensors"]
    assert reader.get_field("ggufmix.source.sizes").contents() == [
        (example / "model.safetensors").stat().st_size
    ]
    assert len(reader.get_field("ggufmix.source.fingerprints").contents()[0]) == 64
    assert reader.get_field("ggufmix.recipe").contents() == "q8_0"
    ggufmix.convert(example, tmp_path / "y.gguf")
    assert (tmp_path / "y.gguf").read_bytes() == raw


def test_what_was_asked_for_is_recorded(example: Path) -> None:
    """The file says by which options it was made, so that another can be made like it; a file made
    by the defaults names none.
    """
    asked = Options(mirror="llama.cpp", gates="f32", set_roles=("ffn_down_exps=Q4_0",))
    made = ggufmix.plan(example, options=asked).values["ggufmix.options"].data
    assert made == ["--gates f32", "--mirror llama.cpp", "--set ffn_down_exps=Q4_0"]
    asked = Options(mtp=False, model_name="A B", tokenizer_pre="qwen2")
    made = ggufmix.plan(example, options=asked).values["ggufmix.options"].data
    assert made == ["--no-mtp", "--tokenizer-pre qwen2", "--model-name A B"]
    assert ggufmix.plan(example).values["ggufmix.options"].data == []


def test_the_name_comes_from_the_option(example: Path, tmp_path: Path) -> None:
    """`--model-name` is general.name."""
    ggufmix.convert(example, tmp_path / "x.gguf", options=Options(model_name="My Model"))
    assert gguf.GGUFReader(tmp_path / "x.gguf").get_field("general.name").contents() == "My Model"


def test_a_plan_reads_no_weights(model: Path) -> None:
    """With the weights of every tensor gone (a hole in the file) the plan is the same but for the
    fingerprint.
    """
    before = ggufmix.plan(model)
    file = model / "model.safetensors"
    head = int.from_bytes(file.read_bytes()[:8], "little") + 8
    size = file.stat().st_size
    with file.open("r+b") as f:
        f.truncate(head)
        f.truncate(size)
    after = ggufmix.plan(model)
    assert after.as_dict() == before.as_dict()


def test_nan_stops_the_run(model: Path, tmp_path: Path) -> None:
    """A NaN is named by tensor, row and column, and by the expert and file it is from; no file is
    left.
    """
    damaged(model, "model.layers.0.mlp.experts.1.down_proj.weight", 44, 17, np.nan)
    with pytest.raises(
        NotFiniteError,
        match=r"blk\.0\.ffn_down_exps\.weight: row 300, column 17: .*from model\.safetensors: "
        r"model\.layers\.0\.mlp\.experts\.1\.down_proj\.weight",
    ):
        ggufmix.convert(model, tmp_path / "x.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_an_outlier_stops_the_run_or_is_planned_for(model: Path, tmp_path: Path) -> None:
    """1e19 stops the run with its place and the way out; with `--on-outlier bf16` that tensor alone
    is BF16.
    """
    damaged(model, "model.layers.3.self_attn.k_proj.weight", 5, 250, 1e19)
    out = tmp_path / "x.gguf"
    with pytest.raises(OutlierError, match=r"blk\.3\.attn_k\.weight: row 5, column 250") as caught:
        ggufmix.convert(model, out)
    assert "--on-outlier bf16" in str(caught.value.hint)
    assert not list(tmp_path.glob("*.gguf*"))
    options = Options(on_outlier="bf16")
    ggufmix.convert(model, out, options=options)
    assert types(out)["blk.3.attn_k.weight"] == "BF16"
    assert types(out)["blk.3.attn_v.weight"] == "Q8_0"
    planned = {t.name: t for t in ggufmix.plan(model, options=options).tensors}
    assert "outlier at row 5, column 250" in planned["blk.3.attn_k.weight"].reason


def test_a_scan_tells_and_changes_nothing(model: Path) -> None:
    """`--scan` names the outlier in a warning; the plan is what it was."""
    damaged(model, "model.layers.3.self_attn.k_proj.weight", 5, 250, 1e19)
    made = ggufmix.plan(model, options=Options(scan=True))
    assert any("blk.3.attn_k.weight: row 5, column 250" in w for w in made.warnings)
    assert made.as_dict()["tensors"] == ggufmix.plan(model).as_dict()["tensors"]


def test_losses_are_reported(model: Path, tmp_path: Path) -> None:
    """Unused rows near 1e-9 flush to zero: counted by tensor, fatal for nobody."""
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"].view(ml_dtypes.bfloat16)[2040] = 1e-9
    save_file(tensors, file, {"format": "pt"})
    result = ggufmix.convert(model, tmp_path / "x.gguf")
    assert result.losses["token_embd.weight"].flushed == 256 // 32


def test_a_dtype_that_cannot_be_read(model: Path) -> None:
    """FP8 weights are refused by file and tensor when planning, not hours into writing."""
    file = model / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.3.self_attn.k_proj.weight"
    raw = tensors[name].view(ml_dtypes.bfloat16).astype(ml_dtypes.float8_e4m3fn)
    save_file({**tensors, name: raw}, file, {"format": "pt"})
    with pytest.raises(
        SourceError, match=r"model\.safetensors: .*k_proj\.weight: stored as F8_E4M3"
    ):
        ggufmix.plan(model)


def test_sizes_that_differ(model: Path, tmp_path: Path) -> None:
    """A vocabulary size in the config that is not the embedding's is an error with both numbers."""
    config = json.loads((model / "config.json").read_text())
    config["vocab_size"] = 2000
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"2000.*2048|2048.*2000"):
        ggufmix.convert(model, tmp_path / "x.gguf")


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    """A missing SRC is a usage error."""
    with pytest.raises(UsageError, match="nowhere"):
        ggufmix.plan(tmp_path / "nowhere")


def test_public_names() -> None:
    """Everything in __all__ is there, and `formats` is the function."""
    for name in ggufmix.__all__:
        assert callable(getattr(ggufmix, name))
    assert "Q8_0" in ggufmix.formats()
    assert ggufmix.tiers()[0] == "base"


def test_an_output_that_is_refused_costs_no_scan(example: Path, tmp_path: Path) -> None:
    """Where the output exists, or its folder does not, the data is not read first."""
    (tmp_path / "x.gguf").write_bytes(b"mine")
    read: list[str] = []
    for out in (tmp_path / "x.gguf", tmp_path / "nowhere" / "x.gguf"):
        with pytest.raises(WriteError):
            ggufmix.convert(
                example, out, options=Options(scan=True), progress=lambda *a: read.append(a[0])
            )
    assert not read
    assert (tmp_path / "x.gguf").read_bytes() == b"mine"
