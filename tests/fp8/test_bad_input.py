"""What cannot be quantized is refused before or while it is written, with its place; the source is
never touched, and nothing that looks finished is left.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from fp8.models import DENSE, MOE, arrays_of, config_of, dense, folder, moe, split
from sources.build import write_json

from ggufmix.errors import ModelError, NotFiniteError, SourceError, UsageError, WriteError
from ggufmix.fp8.coding import Search
from ggufmix.fp8.converting import Options, convert
from ggufmix.fp8.dequantizing import dequantize
from ggufmix.fp8.saving import How


def fingerprint(at: Path) -> dict[str, str]:
    return {
        str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in at.rglob("*") if p.is_file()
    }


@pytest.fixture
def src(tmp_path: Path) -> Iterator[Path]:
    """A checkpoint that is what it was when the test is over."""
    made = dense(tmp_path / "src", shards=2)
    before = fingerprint(made)
    yield made
    assert fingerprint(made) == before


def refuses(src: Path, out: Path, error: type[Exception], message: str, how: How) -> None:
    with pytest.raises(error, match=message) as raised:
        convert(src, out, how=how)
    assert raised.value.hint  # type: ignore[attr-defined]


EVERY_HOW = [How(), How(overwrite=True), How(resume=True)]


@pytest.mark.parametrize("how", EVERY_HOW)
def test_the_source_itself(src: Path, tmp_path: Path, how: How) -> None:
    """Given twice, by another name, by a link: the toolkit before destroyed the first shard."""
    link = tmp_path / "link"
    link.symlink_to(src, target_is_directory=True)
    for out in (src, src / "." / ".." / "src", link):
        refuses(src, out, UsageError, "is the source itself", how)
        refuses(link, src, UsageError, "is the source itself", how)


@pytest.mark.parametrize("how", EVERY_HOW)
def test_one_in_the_other(src: Path, tmp_path: Path, how: How) -> None:
    """A folder in the source would be copied into itself; one around it would be written over."""
    link = tmp_path / "link"
    link.symlink_to(src, target_is_directory=True)
    refuses(src, src / "fp8", UsageError, "lies in the source", how)
    refuses(src, src / "a" / "b", UsageError, "lies in the source", how)
    refuses(src, link / "fp8", UsageError, "lies in the source", how)
    refuses(src, tmp_path, UsageError, "the source lies in it", how)
    assert not (src / "fp8").exists()


@pytest.mark.parametrize("how", EVERY_HOW)
def test_files_of_the_source_that_lie_in_the_output(src: Path, tmp_path: Path, how: How) -> None:
    """A shard of the source that is a link to a file of the output would lose what it links to."""
    out = tmp_path / "out"
    out.mkdir()
    shard = next(src.glob("*00001*"))
    linked = tmp_path / "linked"
    shutil.copytree(src, linked)
    shutil.copy(shard, out / shard.name)
    (linked / shard.name).unlink()
    (linked / shard.name).symlink_to(out / shard.name)
    before = fingerprint(out)
    refuses(linked, out, UsageError, "is a link into it", how)
    assert fingerprint(out) == before


def test_links_in_the_output(src: Path, tmp_path: Path) -> None:
    """With --overwrite, names that link to files of the source become files of their own."""
    out = tmp_path / "out"
    out.mkdir()
    for path in (*src.glob("*.safetensors"), *src.glob("*.json")):
        (out / path.name).symlink_to(path)
        (out / f"{path.name}.part").symlink_to(path)
    for path in out.glob("*.safetensors.part"):
        path.unlink()  # that the writer refuses to open: see tests/writing
    convert(src, out, how=How(overwrite=True))
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_a_folder_with_files(src: Path, tmp_path: Path) -> None:
    """It is not written into unless that is said; an empty one is."""
    out = tmp_path / "out"
    out.mkdir()
    convert(src, out)
    refuses(src, out, WriteError, "there are files in it already", How())
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="expected a folder"):
        convert(src, tmp_path / "file")


def test_overwriting_leaves_no_other_weights(src: Path, tmp_path: Path) -> None:
    """Shards of an earlier output would be taken for parts of the new one; other files stay."""
    out = tmp_path / "out"
    convert(src, out, Options(max_shard_size=200_000))
    (out / "notes.txt").write_text("mine")
    convert(src, out, Options(max_shard_size=10**9), How(overwrite=True))
    assert [p.name for p in out.glob("*safetensors*")] == ["model.safetensors"]
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fused", [True, False])
def test_values_that_are_no_numbers(tmp_path: Path, value: float, fused: bool) -> None:
    """The toolkit before made 16384 NaN of one. Named are file, tensor, row and column as they are
    in the source; of stacked experts which one, and its row.
    """
    arrays = arrays_of(MOE) if fused else split(arrays_of(MOE))
    inner = "model.language_model.layers.2.mlp.experts."
    name = inner + ("gate_up_proj" if fused else "3.up_proj.weight")
    matrix = arrays[name][3] if fused else arrays[name]
    row, which = (128 + 100, "expert 3, ") if fused else (100, "")
    matrix[row, 7] = value
    src = folder(tmp_path / "src", MOE.raw_config(), arrays)
    with pytest.raises(NotFiniteError) as error:
        convert(src, tmp_path / "out")
    message = str(error.value)
    assert message.startswith(f"model.safetensors: {name}, BF16: {which}row {row}, column 7: ")
    assert error.value.hint
    assert not (tmp_path / "out").exists()


def test_where_a_value_of_a_kernel_stands(tmp_path: Path) -> None:
    """Of three dimensions, and no stack of experts: which of the kernels it is."""
    arrays = arrays_of(MOE)
    name = "model.language_model.layers.0.linear_attn.conv1d.weight"
    arrays[name][9, 0, 2] = np.nan
    src = folder(tmp_path / "src", MOE.raw_config(), arrays)
    with pytest.raises(NotFiniteError, match=rf"{name}, BF16: matrix 9, row 0, column 2: "):
        convert(src, tmp_path / "out")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_what_is_copied_is_looked_at(tmp_path: Path, dtype: type) -> None:
    """NaN or infinity in what stays as it is: such a model would be called ready for inference."""
    arrays = arrays_of(DENSE)
    name = "model.language_model.embed_tokens.weight"
    arrays[name] = arrays[name].astype(dtype)
    arrays[name][3, 4] = np.inf
    arrays[name][5, 0] = np.nan
    src = folder(tmp_path / "src", DENSE.raw_config(), arrays)
    with pytest.raises(NotFiniteError, match=rf"model\.safetensors: {name}, .* row 3, column 4"):
        convert(src, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_quantized_already(tmp_path: Path) -> None:
    """The toolkit before read codes as values. `dequantize` is the way: then again."""
    convert(moe(tmp_path / "src"), tmp_path / "out")
    refuses(tmp_path / "out", tmp_path / "x", SourceError, "is quantized already", How())
    dequantize(tmp_path / "out", tmp_path / "plain")
    convert(tmp_path / "plain", tmp_path / "again", Options(search=Search("max")))


def test_quantized_without_scales(tmp_path: Path) -> None:
    """Codes alone mean nothing; a config that speaks of FP8 beside BF16 weights is not believed."""
    arrays = arrays_of(DENSE)
    config = DENSE.raw_config()
    name = "mtp.layers.0.mlp.up_proj.weight"
    bare = {**arrays, name: arrays[name].astype(ml_dtypes.float8_e4m3fn)}
    for number, (values, more, error, message) in enumerate(
        (
            (bare, {}, SourceError, f"{name} is F8_E4M3, and there are no scales for it"),
            (arrays, {"quant_method": "fp8"}, ModelError, "speaks of fp8, but no weight is"),
        )
    ):
        about = {"quantization_config": more} if more else {}
        src = folder(tmp_path / f"src{number}", {**config, **about}, values)
        refuses(src, tmp_path / "out", error, message, How())
        assert not (tmp_path / "out").exists()


def test_scales_without_weights(tmp_path: Path) -> None:
    """Half of a quantized checkpoint."""
    arrays = arrays_of(DENSE)
    arrays["mtp.layers.0.mlp.up_proj.weight_scale_inv"] = np.ones((3, 2), np.float32)
    src = folder(tmp_path / "src", DENSE.raw_config(), arrays)
    with pytest.raises(SourceError, match=r"expected mtp\S+weight beside it in"):
        convert(src, tmp_path / "out")


def test_a_shard_that_is_missing(src: Path, tmp_path: Path) -> None:
    """Found before anything is written."""
    part = tmp_path / "part"
    shutil.copytree(src, part)
    next(part.glob("*00002*")).unlink()
    with pytest.raises(SourceError, match="1 of 2 files are not there"):
        convert(part, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_statistics_of_another_model(src: Path, tmp_path: Path) -> None:
    """They are refused, by what they name and by their widths; without use they are not read."""
    other = write_json(tmp_path / "other.json", {"x.weight": {"input_channel_max": [1.0]}})
    narrow = write_json(
        tmp_path / "narrow.json", {"mtp.layers.0.mlp.up_proj.weight": {"input_channel_max": [1.0]}}
    )
    for path in (other, narrow):
        with pytest.raises(Exception, match=r"of this checkpoint|input channels") as error:
            convert(src, tmp_path / "out", Options(search=Search("mse"), statistics=path))
        assert error.value.exit_code == 1  # type: ignore[attr-defined]
        assert not (tmp_path / "out").exists()
    made = convert(src, tmp_path / "out", Options(search=Search("max"), statistics=other))
    assert any("has no use for activation statistics" in s for s in made.planned.warnings)


def test_nothing_to_dequantize(src: Path, tmp_path: Path) -> None:
    """A checkpoint in BF16 is not copied in silence."""
    with pytest.raises(ModelError, match="expected packed weights"):
        dequantize(src, tmp_path / "out")


def test_a_name_that_comes_twice(tmp_path: Path) -> None:
    """Experts that are there stacked and one by one would be written under one name."""
    stacked = arrays_of(MOE)
    arrays = {**stacked, **split(stacked)}
    src = folder(tmp_path / "src", MOE.raw_config(), arrays)
    with pytest.raises(ModelError, match="is there too"):
        convert(src, tmp_path / "out")


def test_disk_refuses(src: Path, tmp_path: Path) -> None:
    """What cannot be written is an error of that, and no folder is left."""
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    at = tmp_path / "closed"
    at.mkdir(mode=0o500)
    with pytest.raises((WriteError, OSError)):
        convert(src, at / "out")


def test_config_that_cannot_be_read(src: Path, tmp_path: Path) -> None:
    """A damaged config is an error of its file, before anything is written."""
    damaged = tmp_path / "damaged"
    shutil.copytree(src, damaged)
    (damaged / "config.json").write_text(json.dumps(config_of(src))[:-5])
    with pytest.raises(SourceError, match=r"config\.json"):
        convert(damaged, tmp_path / "out")
