"""What a report says of a file is what the file, its neighbours and the measurements say."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest
import xxhash
from gguf import GGMLQuantizationType
from typer.testing import CliRunner

import ggufmix
from ggufmix import mending, publishing, review, splitting
from ggufmix.cli import app
from ggufmix.container import TensorInfo, header, text, texts, u32
from ggufmix.errors import SourceError, UsageError
from ggufmix.publishing import facts, telling

from .conftest import EVAL


def test_figures_are_those_of_another_reader(files: Path) -> None:
    """Sizes, counts and checksums are the file's, counted by gguf's reader."""
    path = files / "m-Q4_K_M.gguf"
    found = facts.of_file(path)
    reader = gguf.GGUFReader(path)
    counts: dict[str, list[int]] = {}
    for t in reader.tensors:
        entry = counts.setdefault(t.tensor_type.name, [0, 0, 0])
        entry[0] += 1
        entry[1] += int(t.n_elements)
        entry[2] += int(t.n_bytes)
    assert {k: [*v.values()] for k, v in found.types.items()} == counts
    assert found.size == path.stat().st_size
    stated = int(reader.fields["ggufmix.header.xxh64"].contents())
    assert found.parts[0].header == f"{stated:016x}"
    assert (found.recipe, found.file_type) == ("q4_k_m", "MOSTLY_Q4_K_M")
    bits = 8 * sum(c[2] for c in counts.values()) / sum(c[1] for c in counts.values())
    assert found.outline.bits_per_weight == pytest.approx(bits)
    sums = np.array(reader.fields["ggufmix.tensor.xxh64"].contents(), "<u8")
    assert publishing.identity(path) == {"data_xxh64": xxhash.xxh64(sums.tobytes()).hexdigest()}


def test_memory_is_what_advise_says(files: Path) -> None:
    """The table of contexts has the figures of `advise`, and ends with what it was trained for."""
    path = files / "m-Q8_0.gguf"
    found = facts.of_file(path).running
    assert [m.context for m in found.memory] == [4096, 8192]
    for m in found.memory:
        total = review.advise(path, m.context)["total"]
        assert (m.f16, m.q8_0) == (total["f16"], total["q8_0"])
    assert found.arguments == "-m m-Q8_0.gguf -c 8192 -fa on -ctk q8_0 -ctv q8_0"


def test_a_split_set_is_one_file(files: Path, tmp_path: Path) -> None:
    """Whichever part is named, the whole is meant, and llama.cpp is given the first."""
    limits = splitting.Limits.of(tensors=30)
    splitting.split(files / "m-Q4_K_M.gguf", limits, tmp_path / "s")
    parts = sorted(tmp_path.glob("s-*.gguf"))
    assert len(parts) > 1
    found = facts.of_file(parts[-1])
    assert [p.name for p in found.parts] == [p.name for p in parts]
    assert found.size == sum(p.stat().st_size for p in parts)
    assert found.title == parts[0].name
    assert parts[0].name in found.running.arguments
    assert found.making.command.startswith("ggufmix convert SRC -o s.gguf")
    assert any("--split-max-size" in need for need in found.making.needs)
    assert len(found.outline.tensors) == 76
    with pytest.raises(UsageError, match="same one twice"):
        publishing.gather(parts[:2])


def test_digests_are_those_of_sha256sum(files: Path, tmp_path: Path) -> None:
    """SHA256SUMS of any program is read; one from before the file was written is not."""
    path = tmp_path / "a b.gguf"
    path.write_bytes((files / "m-Q8_0.gguf").read_bytes())
    assert facts.of_file(path).parts[0].sha256 == ""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for option in ("--text", "--binary"):
        with (tmp_path / "SHA256SUMS").open("wb") as sums:
            sums.write(b"0" * 64 + b"  another.gguf\n")
            sums.flush()
            subprocess.run(["sha256sum", option, path.name], cwd=tmp_path, stdout=sums, check=True)
        assert facts.of_file(path).parts[0].sha256 == digest
    later = (tmp_path / "SHA256SUMS").stat().st_mtime_ns + 1
    os.utime(path, ns=(later, later))
    assert facts.of_file(path).parts[0].sha256 == ""


def test_imatrix_keys_are_told(files: Path, tmp_path: Path) -> None:
    """What quantize.imatrix.* says stands in the report; a file without them used none."""
    assert facts.of_file(files / "m-Q4_K_M.gguf").importance is None
    path = tmp_path / "m.gguf"
    path.write_bytes((files / "m-Q4_K_M.gguf").read_bytes())
    keys = {"file": text("im.gguf"), "dataset": text("wiki.txt")}
    keys |= {"entries_count": u32(39), "chunks_count": u32(80)}
    edit = mending.Edit({f"quantize.imatrix.{k}": v for k, v in keys.items()})
    mending.apply(mending.prepare(path, edit))
    found = facts.of_file(path).importance
    assert found is not None
    assert (found.file, found.dataset, found.entries, found.chunks) == (
        "im.gguf",
        "wiki.txt",
        39,
        80,
    )
    using = {"Q4_K", "Q5_0", "Q6_K"}
    assert found.uses == sum(t.tensor_type.name in using for t in gguf.GGUFReader(path).tensors)
    assert "--imatrix im.gguf" in facts.of_file(path).making.command


def test_measurements_find_their_files(files: Path) -> None:
    """Figures stand at the file they are of; what is of no file here is said, and left out."""
    rows = publishing.read_eval(files / "eval.json")
    other = [*rows, publishing.Scored(file="C:\\logs\\other.gguf", ppl=1.0)]
    tests = [publishing.read_verify(files / "verify.json")]
    paths = [files / "m-Q4_K_M.gguf", files / "m-Q8_0.gguf"]
    found, notes = publishing.gather(paths, scores=other, verified=tests)
    assert [len(f.scores) for f in found] == [0, 2]
    assert [f.verified is not None for f in found] == [True, False]
    assert notes == ["C:\\logs\\other.gguf: measured, but none of these files; left out"]
    assert [row.ppl for row in found[1].scores] == [row["ppl"] for row in EVAL]
    _, notes = publishing.gather(paths[1:], verified=tests)
    assert notes == ["m-Q4_K_M.gguf: measured, but none of these files; left out"]


def test_a_log_that_does_not_say_its_context(files: Path) -> None:
    """`eval --like` of the last lines alone has none: nothing is said of it, least of all None. A
    figure too large to be one in per cent is not finite.
    """
    row = publishing.Scored(file="m-Q8_0.gguf", ppl=4.7, base_ppl=4.65, same_top=1e308)
    found, _ = publishing.gather([files / "m-Q8_0.gguf"], scores=[row])
    assert telling.conditions(found[0]) == "perplexity of the base 4.6500"
    assert telling.scores(found[0])[0] == ["not said", "", "4.7000", "", "", "not finite", ""]


def test_a_verify_of_another_state_is_refused(files: Path, tmp_path: Path, example: Path) -> None:
    """Errors of a file that has been written anew since, with other types, are not its errors."""
    path = tmp_path / "m-Q4_K_M.gguf"
    ggufmix.convert(example, path, "q5_k_m")
    with pytest.raises(SourceError, match=r"was Q4_K when it was verified, the file has Q5_K"):
        publishing.gather([path], verified=[publishing.read_verify(files / "verify.json")])


def test_measurements_of_other_data_are_refused(
    files: Path, tmp_path: Path, example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures of yesterday's file of that name are not today's, even where its types are; new
    key-values alone change nothing.
    """
    path = tmp_path / "m.gguf"
    ggufmix.convert(example, path, "q4_0")
    (tmp_path / "text").write_text((example.parent / "wiki-heldout.txt").read_text()[:4000])
    words = ["eval", path, "--text", tmp_path / "text", "--ctx", "64", "--chunks", "1", "--json"]
    printed = CliRunner().invoke(app, [*map(str, words)]).stdout
    (tmp_path / "e.json").write_text(printed)
    printed = CliRunner().invoke(app, ["verify", str(path), "--checksums", "--json"]).stdout
    (tmp_path / "v.json").write_text(printed)
    rows = publishing.read_eval(tmp_path / "e.json")
    test = publishing.read_verify(tmp_path / "v.json")
    assert rows[0].text == "text"
    edit = mending.Edit({"general.license": text("mit")})
    mending.apply(mending.prepare(path, edit))
    [found], notes = publishing.gather([path], scores=rows, verified=[test])
    assert (len(found.scores), found.verified, notes) == (1, test, [])
    splitting.split(path, splitting.Limits.of(tensors=30), tmp_path / "m")
    whole = path.read_bytes()
    path.unlink()
    first = next(tmp_path.glob("m-00001-*"))
    renamed = [msgspec.structs.replace(row, file=first.name) for row in rows]
    [found], _ = publishing.gather([first], scores=renamed)
    assert len(found.scores) == 1
    path.write_bytes(whole)
    ggufmix.convert(example, path, options=ggufmix.Options("q4_0", gates="f32"), overwrite=True)
    for measured in ({"scores": rows}, {"verified": [test]}):
        with pytest.raises(SourceError, match="written anew since it was measured"):
            publishing.gather([path], **measured)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[1]",
        "{}",
        '[{"ppl": 1}]',
        '[{"file": "a", "ppl": "low"}]',
        "[" * 100_000,
        '{"file": 1}',
    ],
    ids=range(7),
)
def test_other_json_is_refused(document: str, tmp_path: Path) -> None:
    """A file of something else is named with what was expected of it."""
    path = tmp_path / "e.json"
    path.write_text(document)
    with pytest.raises(SourceError, match=r"e\.json: expected what `ggufmix eval --json` prints"):
        publishing.read_eval(path)
    with pytest.raises(SourceError, match=r"e\.json: expected what `ggufmix verify --json` prints"):
        publishing.read_verify(path)
    with pytest.raises(SourceError, match="No such file"):
        publishing.read_eval(tmp_path / "none.json")


def test_a_file_cut_off_is_refused(files: Path, tmp_path: Path) -> None:
    """Nobody publishes a header with half of its data."""
    path = tmp_path / "m.gguf"
    path.write_bytes((files / "m-Q8_0.gguf").read_bytes()[:-100_000])
    with pytest.raises(SourceError):
        facts.of_file(path)


def test_parents_and_repository(files: Path, tmp_path: Path) -> None:
    """What was quantized is another thing than what that was made from: only the first is the
    card's base model.
    """
    path = tmp_path / "m.gguf"
    path.write_bytes((files / "m-Q8_0.gguf").read_bytes())
    hub = "https://huggingface.co"
    keys = {
        "base_model.count": u32(1),
        "base_model.0.name": text("Qwen3.5 Base"),
        "base_model.0.repo_url": text(f"{hub}/Qwen/Qwen3.5-Base"),
        "license": text("Apache-2.0"),
        "tags": texts(["chat", "text-generation"]),
    }
    edit = mending.Edit({f"general.{k}": v for k, v in keys.items()})
    mending.apply(mending.prepare(path, edit))
    model = facts.of_file(path).model
    assert model.made_from is None
    assert model.parents == (("Qwen3.5 Base", "Qwen/Qwen3.5-Base"),)
    edit = mending.Edit({"general.source.repo_url": text(f"{hub}/Qwen/Qwen3.5")})
    mending.apply(mending.prepare(path, edit))
    assert facts.of_file(path).model.made_from == "Qwen/Qwen3.5"
    assert facts.of_file(path, made_from="me/mine").model.made_from == "me/mine"
    assert facts.of_file(path).making.command.startswith("ggufmix convert hf://Qwen/Qwen3.5 -o")
    with pytest.raises(UsageError, match="expected OWNER/NAME"):
        publishing.gather([path], made_from="https://evil.example/a/b")
    [found], _ = publishing.gather([path], made_from=f"{hub}/me/mine", quantized_by="me")
    assert (found.model.made_from, found.model.quantized_by) == ("me/mine", "me")


def test_files_of_several_models_are_told(files: Path, tmp_path: Path) -> None:
    """A card is for one model: whoever names a file too many hears of it, and of nothing else."""
    other = tmp_path / "other.gguf"
    values = {"general.architecture": text("llama"), "llama.embedding_length": u32(32)}
    info = TensorInfo("output.weight", (32, 4), GGMLQuantizationType.F32, 0)
    other.write_bytes(header(values, [info]) + bytes(512))
    named = [files / "m-Q8_0.gguf", files / "m-Q4_K_M.gguf"]
    assert publishing.gather(named)[1] == []
    (told,) = publishing.gather([*named, other])[1]
    assert told.startswith("m-Q8_0.gguf is qwen35moe of width 256, other.gguf llama of width 32: ")


def test_types_of_ik_llama_cpp_are_reported(tmp_path: Path) -> None:
    """A file that only ik_llama.cpp reads has a report too."""
    kind = 137  # iq2_k: 76 bytes for 256 weights
    infos = [TensorInfo("blk.0.ffn_up.weight", (256, 4), kind, 0)]  # type: ignore[arg-type]
    infos.append(TensorInfo("blk.0.ffn_down.weight", (32, 4), GGMLQuantizationType.F32, 320))
    path = tmp_path / "ik.gguf"
    values = {"general.architecture": text("llama")}
    path.write_bytes(header(values, infos) + bytes(320 + 512))
    found = facts.of_file(path)
    assert [*found.types] == ["F32", "IQ2_K"]
    assert "IQ2_K" in found.making.toml
    publishing.publish([found], tmp_path)
    assert "2.38" in (tmp_path / "index.html").read_text()


def test_an_mmproj_has_no_advice_of_its_own(files: Path, tmp_path: Path) -> None:
    """A vision projector is run beside a model: the card's command names both."""
    path = tmp_path / "mmproj.gguf"
    path.write_bytes((files / "m-Q8_0.gguf").read_bytes())
    edit = mending.Edit({"general.type": text("mmproj")})
    mending.apply(mending.prepare(path, edit))
    found, _ = publishing.gather([files / "m-Q8_0.gguf", path])
    assert found[1].running.why_not == "Nothing to run by itself: general.type is mmproj."
    out = tmp_path / "out"
    publishing.publish(found, out)
    assert "llama-server -m m-Q8_0.gguf" in (out / "README.md").read_text()
    assert "--mmproj mmproj.gguf" in (out / "README.md").read_text()
