"""From GGUF to GGUF: the same bytes as from the checkpoint, and as llama.cpp writes them."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imatrix.made import write_gguf
from sources.gguf_build import blocks_of, gguf_file, raw_file
from whole_file import described

import ggufmix
from ggufmix.container import Value, boolean, f32, header, i32s, text, texts, u32
from ggufmix.errors import FormatError, GgufmixError, NotFiniteError, SourceError, UsageError
from ggufmix.pipeline import Options
from ggufmix.runtime import Llama
from ggufmix.splitting import Limits, split
from ggufmix.writing import encoding

ITS_OWN = ("general.file_type", "ggufmix.")
"""Beginnings of keys that belong to a file, not to the model."""


@pytest.fixture(scope="module")
def made(example: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example model from its checkpoint."""
    folder = tmp_path_factory.mktemp("made")
    files = {}
    for name in ("f32", "bf16", "q8_0", "q4_k_m"):
        files[name] = folder / f"{name}.gguf"
        ggufmix.convert(example, files[name], name)
    return files


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    """Name -> type and bytes, as the gguf package reads them."""
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


def keys(path: Path) -> dict[str, Any]:
    """The key-values that are the model's, in their order."""
    values = described(path)["values"]
    return {k: v for k, v in values.items() if not k.startswith(ITS_OWN)}


@pytest.mark.parametrize("source", ["f32", "bf16"])
@pytest.mark.parametrize("recipe", ["q4_0", "q4_k_m", "q5_k_s", "q6_k", "q8_0"])
def test_equal_to_llama_cpp(
    made: dict[str, Path], example: Path, tmp_path: Path, source: str, recipe: str
) -> None:
    """Every tensor has the bytes that `ggml_quantize_chunk` makes of the source's values, in the
    types of llama-quantize's mixture.
    """
    options = Options(recipe=recipe, mirror="llama.cpp")
    ggufmix.convert(made[source], tmp_path / "x.gguf", options=options)
    ours = tensors(tmp_path / "x.gguf")
    mixture = {t.name: t.encoder.name for t in ggufmix.plan(example, options=options).tensors}
    assert {name: kind for name, (kind, _) in ours.items()} == mixture
    for tensor in gguf.GGUFReader(made[source]).tensors:
        kind, data = ours[tensor.name]
        if kind == tensor.tensor_type.name:
            assert data == tensor.data.tobytes()
        else:
            x = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert data == oracle.encode(x.reshape(-1, x.shape[-1]), kind).tobytes(), tensor.name


@pytest.mark.parametrize("recipe", ["q8_0", "q4_k_m", "f32"])
def test_the_detour_over_bf16_changes_nothing(
    made: dict[str, Path], example: Path, tmp_path: Path, recipe: str
) -> None:
    """Checkpoint -> BF16 file -> recipe gives the tensors and keys of checkpoint -> recipe."""
    straight, detour = tmp_path / "straight.gguf", tmp_path / "detour.gguf"
    ggufmix.convert(example, straight, recipe)
    ggufmix.convert(made["bf16"], detour, recipe)
    assert list(tensors(detour)) == list(tensors(straight))
    assert tensors(detour) == tensors(straight)
    assert list(keys(detour).items()) == list(keys(straight).items())
    for key in ("general.file_type", "ggufmix.recipe", "ggufmix.options"):
        assert described(detour)["values"][key] == described(straight)["values"][key]


def test_provenance_is_of_the_source(made: dict[str, Path], tmp_path: Path) -> None:
    """What a file says it was made of is the GGUF file, with size and fingerprint; no path."""
    out = tmp_path / "x.gguf"
    ggufmix.convert(made["bf16"], out)
    values = {k: v[-1] for k, v in described(out)["values"].items()}
    assert values["ggufmix.source.files"] == ["bf16.gguf"]
    assert values["ggufmix.source.sizes"] == [made["bf16"].stat().st_size]
    [fingerprint] = values["ggufmix.source.fingerprints"]
    assert len(fingerprint) == 64
    assert values["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
    assert str(made["bf16"].parent).encode() not in out.read_bytes()
    again = tmp_path / "again.gguf"
    ggufmix.convert(out, again)
    assert described(again)["values"]["ggufmix.source.files"][-1] == ["x.gguf"]
    assert list(described(again)["values"]) == list(described(out)["values"])


@pytest.mark.parametrize("source", ["q8_0", "q4_k_m", "bf16"])
def test_the_same_recipe_copies(made: dict[str, Path], tmp_path: Path, source: str) -> None:
    """A file by the recipe that made it: every tensor is copied, byte for byte."""
    ggufmix.convert(made[source], tmp_path / "x.gguf", source)
    assert tensors(tmp_path / "x.gguf") == tensors(made[source])


def changed(source: Path, out: Path, name: str, *, header: bool = False) -> Path:
    """A copy of a file with one bit of a tensor's data changed, and one of its header."""
    raw = bytearray(source.read_bytes())
    [tensor] = [t for t in gguf.GGUFReader(source).tensors if t.name == name]
    raw[int(tensor.data_offset + tensor.n_bytes) - 1] ^= 4
    if header:
        key = b"general.size_label"
        raw[raw.index(key) + len(key) + 4 + 8] ^= 1  # its first letter
    out.write_bytes(raw)
    return out


@pytest.mark.parametrize(
    ("source", "name", "kind"),
    [
        ("q8_0", "blk.1.ffn_down_exps.weight", "Q8_0"),
        ("q8_0", "blk.0.attn_norm.weight", "F32"),
        ("bf16", "blk.3.attn_q.weight", "BF16"),
    ],
)
def test_a_copy_is_held_against_the_source_s_checksum(
    made: dict[str, Path], tmp_path: Path, source: str, name: str, kind: str
) -> None:
    """A source that was damaged on a disk or on its way: what is copied from it, block by block or
    as it is, must be what the file itself says. The error names file and tensor; nothing is left.
    """
    [stored] = [t for t in gguf.GGUFReader(made[source]).tensors if t.name == name]
    assert stored.tensor_type.name == kind
    bad = changed(made[source], tmp_path / "bad.gguf", name)
    out = tmp_path / "out" / "x.gguf"
    out.parent.mkdir()
    with pytest.raises(SourceError, match=rf"bad\.gguf: {name}: its data is not what the file's"):
        ggufmix.convert(bad, out, source)
    assert not out.exists()
    whole = ggufmix.convert(made[source], out, source)
    assert tensors(whole.paths[0]) == tensors(made[source])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("source", "recipe", "name"),
    [
        ("bf16", "q4_k_m", "blk.3.attn_q.weight"),
        ("f32", "q8_0", "blk.1.ffn_down_exps.weight"),
        ("q8_0", "q4_0", "blk.0.ffn_up_exps.weight"),
        ("q4_0", "q8_0", "blk.0.ffn_up_exps.weight"),
    ],
)
def test_what_is_encoded_is_held_against_it_too(
    made: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    recipe: str,
    name: str,
    threads: int,
) -> None:
    """A bit of a BF16 file that went wrong would be in every file made from it: floats that are
    rounded, blocks that are decoded, blocks that are moved. In one band or in many; measured or
    not.
    """
    if source not in made:
        made[source] = made["bf16"].with_name(f"{source}.gguf")
        ggufmix.convert(made["bf16"], made[source], source)
    options = Options(recipe, allow_requantize=True)
    bad = changed(made[source], tmp_path / "bad.gguf", name)
    out = tmp_path / "out" / "x.gguf"
    out.parent.mkdir()
    monkeypatch.setattr(encoding, "BAND_BYTES", 20_000)
    for measured in (False, True):
        with pytest.raises(SourceError, match=rf"bad\.gguf: {name}: its data is not what the"):
            ggufmix.convert(bad, out, options=options, threads=threads, verify=measured)
        assert not out.exists()
    ggufmix.convert(made[source], out, options=options, threads=threads)


def test_a_part_that_is_damaged(made: dict[str, Path], tmp_path: Path) -> None:
    """Of a split source: the part that the tensor lies in is named, not the first."""
    parts = split(made["q8_0"], Limits(tensors=30), tmp_path / "p")
    victim = gguf.GGUFReader(parts[1]).tensors[-1].name
    changed(parts[1], parts[1], victim)
    with pytest.raises(SourceError, match=rf"{parts[1].name}: {victim}: its data is not"):
        ggufmix.convert(parts[0], tmp_path / "x.gguf", "q8_0")


def test_checksums_that_are_of_another_file(made: dict[str, Path], tmp_path: Path) -> None:
    """Another program writes other data and copies our numbers with the other keys: where a header
    is not what it was when it was sealed, they say nothing, and that it is not is a warning.
    """
    name = "blk.1.ffn_down_exps.weight"
    other = changed(made["q8_0"], tmp_path / "other.gguf", name, header=True)
    result = ggufmix.convert(other, tmp_path / "x.gguf", "q8_0")
    assert any("header is not what its checksum says" in w for w in result.plan.warnings)
    assert tensors(result.paths[0])[name] == tensors(other)[name]


def test_requantizing_needs_a_word(made: dict[str, Path], tmp_path: Path) -> None:
    """Without --allow-requantize the plan ends with tensor, both types and the option; with it the
    bytes are llama.cpp's of the decoded values.
    """
    with pytest.raises(UsageError, match=r"weight: Q8_0 in the source .* as Q6_K") as caught:
        ggufmix.plan(made["q8_0"], "q6_k")
    assert "--allow-requantize" in str(caught.value.hint)
    out = tmp_path / "x.gguf"
    options = Options("q6_k", allow_requantize=True, mirror="llama.cpp")
    ggufmix.convert(made["q8_0"], out, options=options)
    ours = tensors(out)
    again = 0
    for tensor in gguf.GGUFReader(made["q8_0"]).tensors:
        if tensor.tensor_type.name == "Q8_0" and ours[tensor.name][0] == "Q6_K":
            x = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            wanted = oracle.encode(x.reshape(-1, x.shape[-1]), "Q6_K").tobytes()
            assert ours[tensor.name][1] == wanted
            again += 1
    assert again > 20
    assert b"--allow-requantize" in out.read_bytes()


@pytest.mark.parametrize("kind", ["Q4_0", "MXFP4"])
def test_what_q8_0_holds_is_exact_unless_llama_cpp_is_mirrored(tmp_path: Path, kind: str) -> None:
    """Q8_0 holds what Q4_0 and MXFP4 do, so no value changes, no word is needed, and the plan says
    so; the mirror quantizes the decoded values again, as llama-quantize does.
    """
    raw = blocks_of(kind, 64, 256)
    x = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    source = gguf_file(tmp_path / "x.gguf", {"blk.0.ffn_up.weight": (kind, raw)})
    result = ggufmix.convert(source, tmp_path / "y.gguf", "q8_0")
    [planned] = result.plan.tensors
    assert planned.reason.endswith(f"; the codes and scales of {kind}")
    [made] = gguf.GGUFReader(tmp_path / "y.gguf").tensors
    assert np.array_equal(gguf.quants.dequantize(made.data, made.tensor_type), x)
    verified = ggufmix.verify(tmp_path / "y.gguf", source)
    [tested] = verified.tensors
    assert (tested.measures.ee, tested.verdict.grade, tested.same_bytes) == (0, "GOOD", True)
    raised = ggufmix.plan(source, options=Options(f"pure:{kind}", edges=["1=Q8_0"]))
    assert [t.encoder.name for t in raised.tensors] == [kind]
    with pytest.raises(UsageError, match=f"{kind} in the source"):
        ggufmix.plan(source, options=Options("q8_0", mirror="llama.cpp"))
    options = Options("q8_0", mirror="llama.cpp", allow_requantize=True)
    ggufmix.convert(source, tmp_path / "z.gguf", options=options)
    [(kind, data)] = tensors(tmp_path / "z.gguf").values()
    assert (kind, data) == ("Q8_0", oracle.encode(x, "Q8_0").tobytes())
    assert data != made.data.tobytes()


def test_values_that_q8_0_rounds(tmp_path: Path) -> None:
    """Blocks of MXFP4 with scales that no float16 is: as near as Q8_0 gets, counted where they
    become zeros, measured, and no failure of `verify`.
    """
    raw = blocks_of("MXFP4", 64, 256).reshape(64, 8, 17)
    raw[3, 5, 0], raw[3, 6, 0] = 103, 60
    raw[3, 5:7, 1:] = 0x71  # values of 1 and 12 steps
    source = gguf_file(tmp_path / "x.gguf", {"blk.0.ffn_up.weight": ("MXFP4", raw.reshape(64, -1))})
    out = tmp_path / "y.gguf"
    result = ggufmix.convert(source, out, "q8_0")
    assert [loss.flushed for loss in result.losses.values()] == [1]
    [tested] = ggufmix.verify(out, source).tensors
    assert 0 < tested.measures.most <= 2**-25
    assert (tested.verdict.grade, tested.same_bytes) == ("GOOD", True)


def test_f32_takes_decoded_values_as_they_are(made: dict[str, Path], tmp_path: Path) -> None:
    """Nothing is lost from blocks to F32, so no word is needed; the values are gguf's."""
    ggufmix.convert(made["q4_k_m"], tmp_path / "x.gguf", "f32")
    there = {t.name: t for t in gguf.GGUFReader(made["q4_k_m"]).tensors}
    for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors:
        other = there[tensor.name]
        x = gguf.quants.dequantize(other.data, other.tensor_type)
        assert tensor.data.tobytes() == x.astype(np.float32).tobytes()


def test_gates_that_are_quantized_stay_so(example: Path, tmp_path: Path) -> None:
    """A protection cannot bring back what the source has lost: gates are copied, and the plan says
    that they stay below what would be protected.
    """
    low = tmp_path / "low.gguf"
    ggufmix.convert(example, low, options=Options("q4_0", gates="recipe"))
    made = ggufmix.plan(low, options=Options("q4_0"))
    gates = [t for t in made.tensors if t.placed.role in ("SSM_ALPHA", "SSM_BETA")]
    assert {(t.encoder.name, t.asked.name if t.asked else "", t.copied) for t in gates} == {
        ("Q4_0", "Q4_0", True)
    }
    assert all("no more (protect: gates)" in t.reason for t in gates)
    assert "6 tensors kept as in the source, Q4_0 instead of BF16: more bits win nothing" in (
        made.notes
    )
    told = ggufmix.plan(low, options=Options("q4_0", set_roles=["ssm_alpha=F32"]))
    assert {t.encoder.name for t in told.tensors if t.placed.role == "SSM_ALPHA"} == {"F32"}


def test_it_runs(made: dict[str, Path], tmp_path: Path, heldout: str) -> None:
    """llama.cpp loads what was made of a GGUF file; F32 from BF16 gives its very logits."""
    out, wide = tmp_path / "x.gguf", tmp_path / "wide.gguf"
    ggufmix.convert(made["bf16"], out, "q4_k_m")
    ggufmix.convert(made["bf16"], wide, "f32")
    with Llama(made["f32"]) as model:
        tokens = model.tokenize(heldout[:2000])[:128]
        wanted = model.logits(tokens)
    with Llama(wide) as model:
        assert np.array_equal(model.logits(tokens), wanted)
    with Llama(out) as model:
        assert np.isfinite(model.logits(tokens)).all()


def realigned(source: Path, out: Path, alignment: int, **more: Any) -> Path:
    """A copy of a file with another alignment, written by the gguf package."""
    reader = gguf.GGUFReader(source)
    made = gguf.GGUFWriter(out, "qwen35moe", **more)
    made.add_custom_alignment(alignment)
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "ggufmix.", "general.architecture")):
            made.add_key_value(key, field.contents(), field.types[0], *field.types[1:2])
    for t in reader.tensors:
        raw = t.data if t.data.dtype != np.uint8 else np.ascontiguousarray(t.data)
        made.add_tensor(t.name, raw, raw_dtype=t.tensor_type)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return out


@pytest.mark.parametrize("alignment", [64, 256])
def test_alignment_is_kept(made: dict[str, Path], tmp_path: Path, alignment: int) -> None:
    """A file with an alignment of its own gives one with it: as planned, for gguf and llama.cpp,
    with the tensors of the usual file.
    """
    source = realigned(made["bf16"], tmp_path / "source.gguf", alignment)
    out, usual = tmp_path / "x.gguf", tmp_path / "usual.gguf"
    result = ggufmix.convert(source, out, "q6_k")
    assert out.stat().st_size == result.plan.total_bytes
    assert len(result.plan.header) % alignment == 0
    assert all(t.offset % alignment == 0 for t in result.plan.tensors)
    ggufmix.convert(made["bf16"], usual, "q6_k")
    assert tensors(out) == tensors(usual)
    with Llama(source) as one, Llama(out) as model:
        assert model.n_vocab == one.n_vocab


def test_a_split_source_is_joined(made: dict[str, Path], tmp_path: Path) -> None:
    """From the parts comes what comes from the whole, but for provenance; no key of a split is
    left.
    """
    realigned(made["bf16"], tmp_path / "m.gguf", 32, split_max_tensors=20)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) == 4
    ggufmix.convert(parts[0], tmp_path / "x.gguf", "q8_0")
    ggufmix.convert(made["bf16"], tmp_path / "y.gguf", "q8_0")
    assert tensors(tmp_path / "x.gguf") == tensors(tmp_path / "y.gguf")
    joined = described(tmp_path / "x.gguf")["values"]
    assert not [k for k in joined if k.startswith("split.")]
    assert joined["ggufmix.source.files"][-1] == [p.name for p in parts]
    assert {k: v for k, v in keys(tmp_path / "x.gguf").items() if k != "general.alignment"} == (
        keys(tmp_path / "y.gguf")
    )


def test_like_a_split_file(made: dict[str, Path], example: Path, tmp_path: Path) -> None:
    """--like and lint see all parts: a split file by its own types is joined, nothing else."""
    realigned(made["q4_k_m"], tmp_path / "m.gguf", 32, split_max_tensors=20)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    for part in (parts[0], parts[2]):
        options = Options("f32", like=part)
        ggufmix.convert(part, tmp_path / "x.gguf", options=options, overwrite=True)
        assert tensors(tmp_path / "x.gguf") == tensors(made["q4_k_m"])
    parts[1].unlink()
    with pytest.raises(SourceError, match=r"m-00002-of-00004\.gguf: missing"):
        ggufmix.plan(example, options=Options(like=parts[0]))


def strange(path: Path, **more: Any) -> Path:
    """An architecture that nobody has heard of."""
    rng = np.random.default_rng(3)
    return gguf_file(
        path,
        {
            "token_embd.weight": ("F32", rng.standard_normal((64, 256), np.float32)),
            "blk.0.attn_norm.weight": ("F32", rng.standard_normal(256, np.float32)),
            "blk.0.flux_capacitor.weight": ("F16", rng.standard_normal((8, 256)).astype("f2")),
            "blk.0.table.weight": ("I32", np.arange(16, dtype=np.int32).reshape(2, 8)),
            "blk.0.attn_q.weight.lora_a": ("F16", rng.standard_normal((8, 256)).astype("f2")),
            "blk.0.ffn_up.weight": ("IQ2_XXS", blocks_of("IQ2_XXS", 8, 256)),
            "blk.0.ffn_down.weight": ("TQ1_0", blocks_of("TQ1_0", 8, 256)),
        },
        arch="strange",
        **more,
    )


def test_any_architecture(tmp_path: Path) -> None:
    """Unknown architectures and tensors are quantized by the generic rules; integers, matrices that
    are no weights and types without an encoder are copied, keys kept.
    """
    source = strange(tmp_path / "source.gguf", alignment=64)
    out = tmp_path / "x.gguf"
    types = ["ffn_up=IQ2_XXS", "ffn_down=TQ1_0"]
    ggufmix.convert(source, out, options=Options(tensor_types=types))
    before, after = tensors(source), tensors(out)
    assert {name: kind for name, (kind, _) in after.items()} == {
        "token_embd.weight": "Q8_0",
        "blk.0.attn_norm.weight": "F32",
        "blk.0.flux_capacitor.weight": "Q8_0",
        "blk.0.table.weight": "I32",
        "blk.0.attn_q.weight.lora_a": "F16",
        "blk.0.ffn_up.weight": "IQ2_XXS",
        "blk.0.ffn_down.weight": "TQ1_0",
    }
    for name in before:
        if after[name][0] == before[name][0]:
            assert after[name] == before[name]
    assert list(keys(source).items()) == [
        (k, v) for k, v in keys(out).items() if k != "general.quantization_version"
    ]


def test_the_same_bytes_for_any_threads(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread or five, one band or many: one file, where blocks are copied and where not."""
    options = Options("q4_k_m", allow_requantize=True)
    ggufmix.convert(made["q8_0"], tmp_path / "a.gguf", options=options, threads=1)
    monkeypatch.setattr(encoding, "BAND_BYTES", 5000)
    ggufmix.convert(made["q8_0"], tmp_path / "b.gguf", options=options, threads=5)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_the_source_is_not_overwritten(made: dict[str, Path], tmp_path: Path) -> None:
    """SRC as OUT is refused by any name it has, whatever --overwrite says."""
    source = tmp_path / "x.gguf"
    source.write_bytes(made["bf16"].read_bytes())
    link = tmp_path / "y.gguf"
    link.symlink_to(source)
    for out in (source, link):
        with pytest.raises(UsageError, match="expected another file than the source"):
            ggufmix.convert(source, out, overwrite=True)
    assert source.read_bytes() == made["bf16"].read_bytes()


@pytest.mark.parametrize("recipe", ["q8_0", "q4_0", "f32"])
def test_a_bad_scale_stops_the_run(tmp_path: Path, recipe: str) -> None:
    """NaN in a block is found where it is copied and where it is decoded; no file is left."""
    raw = blocks_of("Q8_0", 8, 256)
    raw[5, 1] = 0x7E
    source = gguf_file(tmp_path / "x.gguf", {"blk.0.ffn_up.weight": ("Q8_0", raw)})
    options = Options(recipe, allow_requantize=True)
    with pytest.raises(SourceError, match=r"blk\.0\.ffn_up\.weight: row 5, block 0"):
        ggufmix.convert(source, tmp_path / "y.gguf", options=options)
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_a_nan_stops_the_run(tmp_path: Path) -> None:
    """NaN among floats is named as in a checkpoint."""
    x = np.ones((8, 256), ml_dtypes.bfloat16)
    x[3, 7] = np.nan
    source = gguf_file(tmp_path / "x.gguf", {"blk.0.ffn_up.weight": ("BF16", x)})
    with pytest.raises(NotFiniteError, match=r"ffn_up\.weight: row 3, column 7"):
        ggufmix.convert(source, tmp_path / "y.gguf")


def test_what_cannot_be_decoded(tmp_path: Path) -> None:
    """A type that is only ever computed cannot become another one; the hint says how to copy it."""
    raw = blocks_of("Q8_1", 2, 64)
    source = gguf_file(tmp_path / "x.gguf", {"blk.0.ffn_up.weight": ("Q8_1", raw)})
    with pytest.raises(FormatError, match="Q8_1 in the source cannot be decoded"):
        ggufmix.plan(source, options=Options(allow_requantize=True))


@pytest.mark.parametrize(
    ("values", "says"),
    [({"arch": ""}, "expected general.architecture"), ({"tensors": {}}, "expected tensors")],
)
def test_a_file_without_a_model(tmp_path: Path, values: dict[str, Any], says: str) -> None:
    """A vocabulary alone, or a file that does not say what it is, is no source."""
    path = tmp_path / "x.gguf"
    named = {} if "arch" in values else {"general.architecture": text("llama")}
    path.write_bytes(header(named, []))
    with pytest.raises(SourceError, match=says):
        ggufmix.plan(path)


KEYS = (
    "general.alignment",
    "general.file_type",
    "split.count",
    "split.no",
    "llama.block_count",
    "llama.expert_count",
    "llama.expert_used_count",
    "llama.attention.head_count",
)
SCALARS = st.one_of(
    st.sampled_from([0, 1, 64, 2**31]).map(u32),
    st.sampled_from([0.0, 1e30, float("nan"), float("inf")]).map(f32),
    st.sampled_from(["", "64", b"\xff"]).map(text),
    st.booleans().map(boolean),
)
LISTS = st.one_of(
    st.lists(st.integers(-1, 64), max_size=3).map(i32s),
    st.lists(st.sampled_from(["", "64"]), max_size=3).map(texts),
)


@given(st.dictionaries(st.sampled_from(KEYS), SCALARS | LISTS, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_metadata_gives_a_plan_or_an_error(tmp_path: Path, values: dict[str, Value]) -> None:
    """Keys of the wrong type or with absurd values end in a plan or in an error of ours."""
    infos = [
        ("token_embd.weight", (256, 4), "F32", 0),
        ("blk.0.attn_v.weight", (256,), "F32", 4096),
    ]
    path = tmp_path / "x.gguf"
    path.write_bytes(raw_file(infos, 8192, values, 4096))
    with contextlib.suppress(GgufmixError):
        ggufmix.plan(path, "q4_k_m").as_dict()


def test_memory_is_that_of_bands(tmp_path: Path) -> None:
    """A hundred million weights pass through 60 MB more than a plan needs, copied or decoded."""
    rows = np.broadcast_to(blocks_of("Q8_0", 1, 4096), (24576, 4352))
    source = gguf_file(tmp_path / "x.gguf", {"blk.0.ffn_up.weight": ("Q8_0", rows.copy())})
    code = (
        "import resource, sys, ggufmix\n"
        "from ggufmix.pipeline import Options\n"
        "ggufmix.plan(sys.argv[1])\n"
        "rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "options = Options(sys.argv[3], allow_requantize=True)\n"
        "ggufmix.convert(sys.argv[1], sys.argv[2], options=options, threads=2)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rest)\n"
    )
    for recipe in ("q8_0", "q4_0"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(source), str(tmp_path / recipe), recipe],
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(done.stdout) < 60_000, recipe  # kilobytes


def test_an_imatrix_weighs_a_gguf_source(made: dict[str, Path], tmp_path: Path) -> None:
    """Importance by tensor name, as for a checkpoint: llama.cpp's bytes with it."""
    name, cols = "blk.3.attn_k.weight", 256
    importance = np.linspace(0.1, 9, cols, dtype=np.float32)
    write_gguf(tmp_path / "i.gguf", {name: (importance.reshape(1, -1), [1])})
    options = Options("q4_k_m", imatrix=[tmp_path / "i.gguf"], mirror="llama.cpp")
    ggufmix.convert(made["f32"], tmp_path / "x.gguf", options=options)
    kind, data = tensors(tmp_path / "x.gguf")[name]
    [x] = [t.data for t in gguf.GGUFReader(made["f32"]).tensors if t.name == name]
    assert data == oracle.encode(x, kind, importance).tobytes()
    assert data != oracle.encode(x, kind).tobytes()
