"""Whole files: `convert --mmproj` beside the converter's, what verify, lint and llama.cpp make of
them, and what is refused.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from imatrix.made import entry, write_gguf
from mtmd import embeddings
from visions import TEXT_HIDDEN, VISIONS

import ggufmix
from ggufmix import Options, pipeline, proof, review
from ggufmix.errors import GgufmixError, ImportanceError, ModelError, UsageError
from ggufmix.inspection import inspect
from ggufmix.models.gguf_names import role_of
from ggufmix.runtime import Llama

GOLDEN = Path(__file__).parents[1] / "golden" / "visions"
FALLEN = "ffn_down.weight"


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A case as a checkpoint; by default of the Qwen3.5 family."""
    name = getattr(request, "param", "qwen-dense")
    return VISIONS[name].write(tmp_path / name)


def made(folder: Path, recipe: str = "auto", **more: Any) -> Path:
    """The projector of a checkpoint in a file beside it."""
    out = folder.parent / "mmproj.gguf"
    options = Options(component="mmproj", recipe=recipe, **more)
    ggufmix.convert(folder, out, options=options, overwrite=True)
    return out


@pytest.mark.parametrize("outtype", ["auto", "f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("folder", VISIONS, indirect=True)
def test_the_file_is_the_converters(folder: Path, outtype: str) -> None:
    """Every tensor has the type and the bytes that llama.cpp's converter writes with the same
    --outtype, under the same name but for capitals. Rows that do not fit are F16 there, as a mirror
    has them.
    """
    golden = json.loads((GOLDEN / f"{folder.name}.json").read_text())
    options = Options(component="mmproj", recipe=outtype, mirror="llama.cpp")
    [path] = ggufmix.convert(folder, f"{folder.parent}/", options=options).paths
    reader = gguf.GGUFReader(path)
    ours = {
        t.name: [t.tensor_type.name, hashlib.sha256(t.data.tobytes()).hexdigest()]
        for t in reader.tensors
    }
    assert ours == {name: of[outtype] for name, of in golden["tensors"].items()}
    said = {key: field.contents() for key, field in reader.fields.items()}
    assert said["general.type"] == "mmproj"
    assert said["general.file_type"] == golden["files"][outtype]["file_type"]
    assert not [key for key in said if key.startswith("tokenizer.")]
    assert path.name.lower() == golden["files"][outtype]["name"].lower()


@pytest.mark.parametrize("folder", VISIONS, indirect=True)
@pytest.mark.parametrize("recipe", ["auto", "f16", "q8_0", "q4_k_m"])
def test_llama_cpp_sees_through_it(folder: Path, recipe: str, language_model: Llama) -> None:
    """The library loads the finished file in the usual types, and the image stays what it is."""
    side = VISIONS[folder.name].config["patch_size"] * 6
    image = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    want = embeddings(made(folder, "f32"), language_model, image, TEXT_HIDDEN)
    found = embeddings(made(folder, recipe), language_model, image, TEXT_HIDDEN)
    off = np.linalg.norm(found - want) / np.linalg.norm(want)
    assert off < {"auto": 0.02, "f16": 0.02, "q8_0": 0.1, "q4_k_m": 0.5}[recipe]


def test_rows_that_do_not_fit(folder: Path) -> None:
    """4304 columns, as Qwen3.5 has them, hold no block of 32: such rows keep 16 bits, and the plan
    says so.
    """
    plan = pipeline.plan(folder, options=Options(component="mmproj", recipe="q8_0"))
    kinds = {t.name: t.encoder.name for t in plan.tensors if t.name.endswith(FALLEN)}
    assert set(kinds.values()) == {"BF16"}
    assert any("do not fit" in note for note in plan.notes)


def test_the_convolution_keeps_its_type(folder: Path) -> None:
    """F16 may be asked for, nothing else."""
    asked = Options(component="mmproj", recipe="bf16", tensor_types=("patch_embd.weight=f16",))
    plan = pipeline.plan(folder, options=asked)
    kinds = {t.encoder.name for t in plan.tensors if ".patch_embd.weight" in t.name}
    assert kinds == {"F16"}
    asked = Options(component="mmproj", recipe="f16", set_roles=("v_enc_embd_patch=bf16",))
    with pytest.raises(UsageError, match="must be F32"):
        pipeline.plan(folder, options=asked)


@pytest.mark.parametrize("folder", ["glm-moe"], indirect=True)
def test_a_convolution_is_no_stack_of_experts(folder: Path) -> None:
    """Its rows of two values go through in few bands: in one for each pair of rows, the projector
    of GLM-4.5V would take days.
    """
    plan = pipeline.plan(folder, options=Options(component="mmproj"))
    for t in plan.tensors:
        assert len(t.placed.tensor.shape) != 4 or (
            t.placed.tensor.matrix_rows == t.placed.tensor.n_rows
        )


@pytest.mark.parametrize("folder", VISIONS, indirect=True)
def test_verify_lint_and_inspect_know_it(folder: Path) -> None:
    """A projector is held against the whole checkpoint, whichever recipe made it."""
    for recipe in ("auto", "q8_0"):
        out = made(folder, recipe)
        report = proof.verify(out, folder)
        assert (report.grade, report.problems, report.warnings) == ("GOOD", (), ())
        assert all(t.same_bytes for t in report.tensors)
        assert any("as the file says it was made" in sentence for sentence in report.compared)
    assert not review.check(out)
    said = inspect(out)
    blocks = VISIONS[folder.name].config.get("depth", 3)
    assert (said["architecture"], said["recurrent_layers"]) == ("clip", "none")
    assert said["attention_layers"] == ("0" if blocks == 1 else f"0-{blocks - 1}")
    with pytest.raises(UsageError, match="expected the language model"):
        review.advise(out, 4096)


def test_verify_of_another_tools_projector(folder: Path) -> None:
    """A file that does not say how it was made is compared by its values."""
    out = made(folder, "f16")
    bare = folder.parent / "bare.gguf"
    reader = gguf.GGUFReader(out)
    writer = gguf.GGUFWriter(bare, "clip")
    writer.add_type("mmproj")
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = proof.verify(bare, folder)
    assert report.grade == "GOOD"
    assert len(report.tensors) == len(reader.tensors)


@pytest.mark.parametrize("folder", VISIONS, indirect=True)
def test_names_say_the_roles(folder: Path) -> None:
    """Of a file by any tool, tensors have the roles and blocks that the checkpoint's have: `--set`
    and the rules of recipes speak of the same ones.
    """
    for t in pipeline.plan(folder, options=Options(component="mmproj")).tensors:
        assert role_of(t.name) == (t.placed.role, t.placed.layer)


def test_edges_are_the_towers(folder: Path) -> None:
    """First and last blocks are those of the tower."""
    config = json.loads((folder / "config.json").read_text())
    assert config["vision_config"]["depth"] == 2
    options = Options(component="mmproj", recipe="q8_0", edges=("1=f16",))
    plan = pipeline.plan(folder, options=options)
    kinds = {t.name: t.encoder.name for t in plan.tensors}
    assert kinds["v.blk.0.attn_qkv.weight"] == kinds["v.blk.1.attn_qkv.weight"] == "F16"
    assert kinds["mm.0.weight"] == "Q8_0"


def test_a_projector_made_smaller(folder: Path) -> None:
    """The file itself is a source: in 16 bits now, quantized later, with the bytes of one step."""
    big, small = made(folder, "bf16"), folder.parent / "small.gguf"
    ggufmix.convert(big, small, "q8_0")
    later = {t.name: t.data.tobytes() for t in gguf.GGUFReader(small).tensors}
    at_once = {t.name: t.data.tobytes() for t in gguf.GGUFReader(made(folder, "q8_0")).tensors}
    assert later == at_once
    with pytest.raises(UsageError, match="--mmproj is for checkpoints"):
        pipeline.plan(big, options=Options(component="mmproj"))


def test_without_a_vision_tower(tmp_path: Path) -> None:
    """A language model alone is refused with that word, a tower that is not known by its class."""
    example = Path(__file__).parents[2] / "examples" / "tiny-qwen35moe"
    options = Options(component="mmproj")
    with pytest.raises(UsageError, match="nothing of a vision tower"):
        pipeline.plan(example, options=options)
    folder = VISIONS["qwen-dense"].write(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Gemma3"]}))
    with pytest.raises(ModelError, match="'Gemma3' is not known here"):
        pipeline.plan(folder, options=options)
    (folder / "config.json").write_text(json.dumps({**config, "vision_config": None}))
    with pytest.raises(UsageError, match="no vision_config"):
        pipeline.plan(folder, options=options)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("spatial_merge_size", 4, "spatial_merge_size: expected 2"),
        ("temporal_patch_size", 1, "temporal_patch_size: expected 2"),
        ("deepstack_visual_indexes", [1], "deepstack_visual_indexes"),
        ("hidden_act", "silu", "hidden_act"),
        ("depth", 3, "12 missing"),
        ("depth", 1, "that nothing in the vision tower"),
        ("depth", 1 << 30, "depth: expected at most"),
        ("hidden_size", 128, "expected shape"),
        ("patch_size", 1 << 30, "no real sizes"),
        ("num_heads", "four", "num_heads: expected a whole number"),
    ],
)
def test_a_config_that_is_another_models(folder: Path, key: str, value: Any, says: str) -> None:
    """What llama.cpp would compute otherwise, and what does not fit the tensors, is refused."""
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=says):
        pipeline.plan(folder, options=Options(component="mmproj"))


@pytest.mark.parametrize(
    ("folder", "key", "value"),
    [
        ("kimi", "projector_ln_eps", 1e-6),
        ("kimi", "merge_kernel_size", [2, 4]),
        ("kimi", "num_attention_heads", 3),
        ("glm-moe", "hidden_act", "gelu"),
        ("glm-moe", "spatial_merge_size", 4),
        ("glm-moe", "out_hidden_size", 128),
    ],
    indirect=["folder"],
)
def test_a_config_that_llama_cpp_reads_otherwise(folder: Path, key: str, value: Any) -> None:
    """Kimi's tower has one epsilon there, merges squares of two, and rotates heads in two
    dimensions; GLM's has gates of SiLU.
    """
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json"):
        pipeline.plan(folder, options=Options(component="mmproj"))


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (None, "image_mean: expected three numbers, it says nothing of it"),
        ({"image_mean": [0.5], "image_std": [0.5, 0.5, 0.5]}, "image_mean: expected three"),
        ({"image_mean": [0.5] * 3, "image_std": [1, 2, "x"]}, "image_std: expected three"),
    ],
)
def test_nothing_said_of_images(folder: Path, said: Any, says: str) -> None:
    """Without mean and spread of a channel llama.cpp would not load the file."""
    path = folder / "preprocessor_config.json"
    path.unlink() if said is None else path.write_text(json.dumps(said))
    with pytest.raises(ModelError, match=says):
        pipeline.plan(folder, options=Options(component="mmproj"))


def test_processor_config_counts_more(folder: Path) -> None:
    """As in llama.cpp's converter: processor_config.json overrules preprocessor_config.json."""
    inner = {"image_processor": {"image_mean": [0.25, 0.5, 0.75]}}
    (folder / "processor_config.json").write_text(json.dumps(inner))
    plan = pipeline.plan(folder, options=Options(component="mmproj"))
    assert plan.values["clip.vision.image_mean"].data == [0.25, 0.5, 0.75]
    assert plan.values["clip.vision.image_std"].data == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("more", [{"mtp": False}, {"tokenizer_pre": "qwen2"}])
def test_options_of_the_language_model(folder: Path, more: dict[str, Any]) -> None:
    """What says nothing of a projector is not dropped silently."""
    with pytest.raises(GgufmixError, match="vision projector has no experts"):
        pipeline.plan(folder, options=Options(component="mmproj", **more))


def test_an_imatrix_covers_no_projector(folder: Path, tmp_path: Path) -> None:
    """It was measured on text: one that is given all the same is not dropped silently."""
    entries = {"blk.0.ffn_down.weight": entry("blk.0.ffn_down.weight", 80, [100.0])}
    matrix = write_gguf(tmp_path / "imatrix.gguf", entries)
    with pytest.raises(ImportanceError, match="no entry is of a tensor of this model"):
        pipeline.plan(folder, options=Options(component="mmproj", imatrix=(matrix,)))


def test_the_command_line(folder: Path) -> None:
    """`convert --mmproj` without a recipe writes what the converter does where nothing is asked;
    `plan` says nothing of tokens; the text model's note names the option.
    """
    done = command("convert", folder, "--mmproj", "-o", folder.parent / "mmproj.gguf")
    assert "bits per weight, bf16" in done.stdout
    done = command("plan", folder, "--mmproj")
    assert "patch convolution" in done.stdout
    assert "token reads" not in done.stdout
    assert json.loads(command("plan", folder, "--mmproj", "--json").stdout)["active"] is None
    done = command("plan", folder, "--mmproj", "--mtp", code=2)
    assert "expected one of them, got both" in done.stderr


def command(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ggufmix", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done
