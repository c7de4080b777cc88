"""`verify` where the source is packed, where an importance matrix was used, where the file is in
parts; and the command.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from checkpoints import CASES, write
from imatrix import made
from packed_models import PACKINGS
from packed_models import write as write_packed
from safetensors.numpy import load_file, save_file
from sources import build
from tokenizer import ranks
from verify.files import anonymous, data_of, head_of, rebuilt

import ggufmix
from ggufmix import codecs, proof, verifying
from ggufmix.errors import GgufmixError
from ggufmix.pipeline import Options
from ggufmix.verifying import Report

TOKENS = [700, 0, 9, 40000]
"""That went through each expert; one is unused."""


@pytest.fixture(scope="module")
def kimi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint packed as Kimi-K2.5 is."""
    rows = ranks.N + 256
    case = CASES["kimi-wrapped"]
    case = replace(case, config={**case.config, "vocab_size": rows, "eos_token_id": ranks.N + 2})
    config, arrays, _ = PACKINGS["kimi-k25"].checkpoint(case)
    folder = ranks.cases()["ranks-wrapped"].write(tmp_path_factory.mktemp("kimi"))
    build.write_json(folder / "config.json", config)
    build.weights(folder / "model.safetensors", arrays)
    return folder


def experts(report: Report) -> list[verifying.Tested]:
    return [t for t in report.tensors if "_exps.weight" in t.name]


@pytest.mark.parametrize("recipe", ["q4_x", "q4_x-lossless", "q8_0"])
def test_packed_int4_is_counted(kimi: Path, tmp_path: Path, recipe: str) -> None:
    """Every group, code and scale of the checkpoint is in the file bit for bit, in blocks of Q4_0
    and of Q8_0.
    """
    ggufmix.convert(kimi, tmp_path / "x.gguf", recipe)
    report = proof.verify(tmp_path / "x.gguf", kimi)
    assert report.grade == "GOOD"
    assert experts(report)
    for t in experts(report):
        p, m = t.parts, t.measures
        assert p is not None
        assert m.ee == 0
        assert p.groups == p.same_groups == p.same_scales == m.count // 32
        assert p.codes == p.same_codes == m.count


def test_packed_int4_that_was_rounded_again(kimi: Path, tmp_path: Path) -> None:
    """As other tools do it, by way of BF16 values and a search for scales: the error is within
    what Q4_0 does, so it is no failure, but the report says what was lost and how to keep it.
    """
    ggufmix.convert(kimi, tmp_path / "wide.gguf", "f32")
    head = head_of(tmp_path / "wide.gguf")
    shapes = {t.name: t.shape for t in head.tensors if "_exps.weight" in t.name}

    def stock(data: dict[str, bytes]) -> dict[str, bytes]:
        found = dict(data)
        for name, shape in shapes.items():
            x = np.frombuffer(data[name], np.float32).reshape(-1, shape[0])
            found[name] = codecs.encode(x.astype(ml_dtypes.bfloat16), "Q4_0").tobytes()
        return found

    path = rebuilt(
        tmp_path / "wide.gguf",
        tmp_path / "x.gguf",
        tensors=stock,
        types=dict.fromkeys(shapes, "Q4_0"),
        values=anonymous,
    )
    report = proof.verify(path, kimi)
    assert report.grade == "WARN"
    for t in experts(report):
        assert t.parts is not None
        assert t.parts.same_groups < t.parts.groups
        assert "bit for bit" in t.verdict.why
        assert "q4_x" in t.verdict.advice


def test_recovered_lattices_are_counted(model: Path, tmp_path: Path) -> None:
    """A BF16 copy of INT4 weights: the groups that are on the lattice are in the file bit for bit;
    in one of stock Q4_0 they are not.
    """
    file = model / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.linear_attn.in_proj_qkv.weight"
    x = tensors[name].view(ml_dtypes.bfloat16)
    rng = np.random.default_rng(2)
    codes = rng.integers(-7, 8, (len(x), x.shape[1] // 32, 32))
    scales = rng.uniform(0.001, 0.01, codes.shape[:2]).astype(ml_dtypes.bfloat16)
    values = codes * scales.astype(np.float32)[..., np.newaxis]
    tensors[name] = values.reshape(x.shape).astype(ml_dtypes.bfloat16)
    save_file(tensors, file, {"format": "pt"})
    ggufmix.convert(model, tmp_path / "x.gguf", options=Options(tensor_types=("attn_qkv=Q4_X",)))
    report = proof.verify(tmp_path / "x.gguf", model)
    [t] = [t for t in report.tensors if t.name == "blk.1.attn_qkv.weight"]
    assert report.grade == "GOOD"
    assert t.parts is not None
    assert t.parts.groups == t.parts.same_groups == codes.size // 32
    ggufmix.convert(model, tmp_path / "y.gguf", options=Options(tensor_types=("attn_qkv=Q4_0",)))
    stock = rebuilt(tmp_path / "y.gguf", tmp_path / "z.gguf", values=anonymous)
    [t] = [t for t in proof.verify(stock, model).tensors if t.name == "blk.1.attn_qkv.weight"]
    assert t.parts is not None
    assert t.parts.groups == codes.size // 32
    assert t.parts.same_groups < 0.3 * t.parts.groups
    assert t.verdict.grade == "WARN"


def test_rows_of_zeros_are_no_lattice(model: Path, tmp_path: Path) -> None:
    """A vocabulary is padded with zeros, and stock Q4_0 writes their scale as it likes: nothing of
    the source was rounded.
    """
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][-3:] = 0
    save_file(tensors, file, {"format": "pt"})
    ggufmix.convert(model, tmp_path / "x.gguf", options=Options(recipe="pure:Q4_0"))
    stock = rebuilt(tmp_path / "x.gguf", tmp_path / "y.gguf", values=anonymous)
    report = proof.verify(stock, model)
    [t] = [t for t in report.tensors if t.name == "token_embd.weight"]
    assert t.kind.name == "Q4_0"
    assert t.parts is None
    assert report.grade == "GOOD"


@pytest.fixture(scope="module")
def weighed(example: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file that was made with an importance matrix, and that matrix."""
    folder = tmp_path_factory.mktemp("weighed")
    ggufmix.convert(example, folder / "f32.gguf", "f32")
    entries = {
        t.name: made.entry(t.name, int(t.shape[0]), TOKENS if len(t.shape) == 3 else [9])
        for t in gguf.GGUFReader(folder / "f32.gguf").tensors
        if len(t.shape) >= 2 and t.name.startswith("blk.") and "conv1d" not in t.name
    }
    matrix = made.write_gguf(folder / "imatrix.gguf", entries, chunks=80)
    ggufmix.convert(example, folder / "x.gguf", options=Options(recipe="q4_k_m", imatrix=[matrix]))
    return folder / "x.gguf", matrix


def test_importance(example: Path, weighed: tuple[Path, Path]) -> None:
    """With the matrix every byte is compared; without, values are, and the report says why. An
    importance matrix makes no tensor fail its band.
    """
    path, matrix = weighed
    report = proof.verify(path, example, imatrix=[matrix])
    assert report.grade == "GOOD"
    assert all(t.same_bytes for t in report.tensors)
    assert "every byte" in report.compared[0]
    report = proof.verify(path, example)
    assert report.grade == "GOOD"
    assert "--imatrix FILE" in report.compared[0]
    unsaid = [t for t in report.tensors if t.same_bytes is None]
    assert unsaid
    assert all(t.kind.name.startswith(("Q4", "Q5", "Q6")) for t in unsaid)


def test_another_importance_matrix(
    example: Path, weighed: tuple[Path, Path], tmp_path: Path
) -> None:
    """It is not the one that was used: the bytes differ, the checksums do not."""
    path, matrix = weighed
    entries = {
        t.name.removesuffix(".in_sum2"): made.entry(
            t.name, int(t.shape[0]), [9] * int(np.prod(t.shape[1:]))
        )
        for t in gguf.GGUFReader(matrix).tensors
        if t.name.endswith(".in_sum2")
    }
    other = made.write_gguf(tmp_path / "imatrix.gguf", entries, chunks=80)
    report = proof.verify(path, example, imatrix=[other])
    assert report.grade == "FAIL"
    failed = [t for t in report.tensors if t.verdict.grade == "FAIL"]
    assert all("importance matrix" in t.verdict.advice for t in failed)
    assert not any("checksum" in p for p in report.problems)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as a script runs it."""
    line = [sys.executable, "-m", "ggufmix", "verify", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def file(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example by the default recipe."""
    out = tmp_path_factory.mktemp("file") / "x.gguf"
    ggufmix.convert(example, out)
    return out


def test_the_command(file: Path, example: Path) -> None:
    """A picture, types, the worst tensors, what was compared and what that does not prove; the
    verdict is the last line.
    """
    done = command(file, "--against", example)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "x.gguf: GOOD (76 GOOD)"
    assert any("█" in line and "FFN_DOWN_EXP" in line for line in lines)
    assert sum(line.startswith("GOOD ") for line in lines) == 5
    assert sum(line.startswith("compared: ") for line in lines) == 3
    assert sum(line.startswith("not proven: ") for line in lines) == 1
    every = command(file, "--against", example, "--all").stdout.splitlines()
    assert sum(line.startswith("GOOD ") for line in every) == 76
    some = command(file, "--against", example, "--sample", 3).stdout
    assert "x.gguf: GOOD (3 GOOD)" in some
    assert "sampled: " in some


def test_the_command_on_a_damaged_file(file: Path, example: Path, tmp_path: Path) -> None:
    """Exit code 1, the tensor named on both ways, and what to do."""
    name = "blk.3.ffn_up_exps.weight"

    def change(data: dict[str, bytes]) -> dict[str, bytes]:
        return data | {name: data[name][:1000] + b"\xff" + data[name][1001:]}

    bad = rebuilt(file, tmp_path / "bad.gguf", tensors=change)
    done = command(bad, "--against", example)
    assert done.returncode == 1
    assert f"FAIL: {name}: row 3 is the first with other bytes" in done.stdout
    assert "hint: " in done.stdout
    assert "bad.gguf: FAIL (75 GOOD, 1 FAIL, 1 problem)" in done.stdout
    done = command(bad, "--checksums")
    assert done.returncode == 1
    assert f"FAIL: {name}: its bytes are not those its checksum says: damaged" in done.stdout
    done = command(bad, "--against", example, "--json")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["verdict"] == "FAIL"
    assert [t["name"] for t in said["tensors"] if t["verdict"] == "FAIL"] == [name]


def test_words_that_cannot_be_meant(file: Path, example: Path, tmp_path: Path) -> None:
    """Exit code 2 with a hint."""
    stripped = rebuilt(file, tmp_path / "x.gguf", values=anonymous)
    for arguments, word in (
        ((stripped,), "--against SRC"),
        ((tmp_path / "none.gguf", "--against", example), "there is none"),
        ((file, "--sample", 3), "--against SRC"),
        ((example,), "--against SRC"),
        ((file, "--checksums", "--against", example), "leave --against out"),
    ):
        done = command(*arguments)
        assert done.returncode == 2, arguments
        assert word in done.stderr
        assert "Traceback" not in done.stderr
    assert data_of(stripped).keys() == data_of(file).keys()


def test_a_file_in_parts(file: Path, example: Path, tmp_path: Path) -> None:
    """Checksums of all parts are in the first one; damage in any part is found by either way."""
    from ggufmix.splitting import Limits

    ggufmix.convert(example, tmp_path / "x.gguf", split=Limits(tensors=20))
    parts = sorted(tmp_path.glob("x-*.gguf"))
    assert len(parts) == 4
    for part in parts:
        assert proof.verify_sums(part).grade == "GOOD"
        report = proof.verify(part, example)
        assert (report.grade, report.warnings) == ("GOOD", ())
        assert len(report.tensors) == 76
    raw = bytearray(parts[2].read_bytes())
    raw[-40_000] ^= 1
    parts[2].write_bytes(raw)
    assert proof.verify_sums(parts[0]).grade == "FAIL"
    report = proof.verify(parts[0], example)
    [failed] = [t.name for t in report.tensors if t.verdict.grade == "FAIL"]
    assert failed in data_of(parts[2])
    parts[1].write_bytes(parts[3].read_bytes())  # which has not as many tensors
    with pytest.raises(GgufmixError, match=r"expected split\.no of 1, got 3"):
        proof.verify_sums(parts[0])
    parts[1].unlink()
    with pytest.raises(GgufmixError, match="missing"):
        proof.verify_sums(parts[0])


def test_files_are_closed(file: Path, example: Path) -> None:
    """Whoever verifies a folder of large sets, from Python, has no files left open."""
    before, known = os.listdir("/dev/fd"), gc.isenabled()
    gc.disable()
    try:
        proof.verify_sums(file)
        proof.verify(file, example, quick=True, sample=1)
        with pytest.raises(GgufmixError):
            proof.verify_sums(example / "config.json")
        assert os.listdir("/dev/fd") == before
    finally:
        if known:
            gc.enable()


def test_quick(file: Path, example: Path, tmp_path: Path) -> None:
    """Nothing is encoded again, so it is for formats that are slow: floats and copies are compared
    by bytes, the rest by value and checksum; what is compared is said.
    """
    report = proof.verify(file, example, quick=True)
    assert report.grade == "GOOD"
    blocks = [t for t in report.tensors if t.kind.values > 1]
    assert all(t.same_bytes is None for t in blocks)
    assert all(t.same_bytes for t in report.tensors if t.kind.values == 1)
    assert f"{len(blocks)} others by value" in report.compared[0]
    name = blocks[0].name
    bad = rebuilt(file, tmp_path / "x.gguf", tensors=lambda d: d | {name: d[name][:-1] + b"\1"})
    report = proof.verify(bad, example, quick=True)
    assert report.grade == "FAIL"
    assert f"{name}: its bytes are not those its checksum says: damaged" in report.problems


@pytest.mark.parametrize("name", CASES)
def test_every_family(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a family does to values and whatever blocks it leaves out, its files verify."""
    from ggufmix import placing, tokenizer

    nothing = tokenizer.Tokenizer({}, [])
    monkeypatch.setattr(placing.tokenizer, "load", lambda *_, **__: nothing)
    case = CASES[name]
    folder = write(tmp_path / "model", case.raw_config(), case.arrays())
    options = [Options(recipe="q5_0")]
    if case.mtp:
        options.append(Options(recipe="q5_0", mtp=False))
    for i, one in enumerate(options):
        out = tmp_path / f"{i}.gguf"
        ggufmix.convert(folder, out, options=one)
        report = proof.verify(out, folder)
        assert (report.grade, report.problems, report.warnings) == ("GOOD", (), ())
        assert all(t.same_bytes for t in report.tensors)
        assert "every byte" in report.compared[0]


@pytest.mark.parametrize("name", ["gpt-oss-mxfp4", "nvfp4", "nvfp4-modelopt", "gptq", "awq"])
def test_every_packing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes and scales that a type holds as they are, outer scales of NVFP4 among them, are
    counted; of a block that differs, so is what differs, and its error is that of one code.
    """
    from ggufmix import placing, tokenizer

    nothing = tokenizer.Tokenizer({}, [])
    monkeypatch.setattr(placing.tokenizer, "load", lambda *_, **__: nothing)
    config, arrays, _ = PACKINGS[name].checkpoint()
    folder = write_packed(tmp_path / "model", config, arrays)
    out = tmp_path / "x.gguf"
    ggufmix.convert(folder, out, "q4_x-lossless")
    report = proof.verify(out, folder)
    assert report.grade == "GOOD"
    packed = [t for t in report.tensors if t.parts is not None]
    assert packed
    for t in packed:
        assert t.parts is not None
        assert t.measures.ee == 0
        assert t.parts.groups == t.parts.same_groups == t.parts.same_scales
        assert t.parts.codes == t.parts.same_codes == t.measures.count
    victim = packed[0]

    def change(data: dict[str, bytes]) -> dict[str, bytes]:
        one = bytearray(data[victim.name])
        one[victim.kind.bytes - 1] ^= 1
        return data | {victim.name: bytes(one)}

    bad = rebuilt(out, tmp_path / "bad.gguf", tensors=change, values=anonymous)
    report = proof.verify(bad, folder)
    [found] = [t for t in report.tensors if t.verdict.grade != "GOOD"]
    assert found.name == victim.name
    assert found.parts is not None
    assert found.parts.groups - found.parts.same_groups == 1
    assert found.parts.codes - found.parts.same_codes == 1
    assert found.parts.same_scales == found.parts.groups
    assert 0 < found.measures.rrmse < 0.05
