"""Whole files with an imatrix: the bytes of llama.cpp's encoder, expert by expert."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import oracle
import pytest
from imatrix import made

import ggufmix
from ggufmix.codecs import ENCODERS
from ggufmix.errors import ImportanceError, UsageError
from ggufmix.pipeline import Options
from ggufmix.writing import encoding

USED = [e.name for e in ENCODERS.values() if e.importance != "NONE"]
OTHER = {"Q8_0"}
DOWN = "blk.1.ffn_down_exps.weight"


@pytest.fixture(scope="module")
def weights(example: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The example's weights as they are placed in a GGUF, float32, by name."""
    out = tmp_path_factory.mktemp("f32") / "x.gguf"
    ggufmix.convert(example, out, "f32")
    return {t.name: np.array(t.data) for t in gguf.GGUFReader(out).tensors}


@pytest.fixture(scope="module")
def entries(weights: dict[str, Any]) -> dict[str, Any]:
    """An entry for every matrix that llama-imatrix would measure; of four experts one is unused."""
    return {
        name: made.entry(name, x.shape[-1], [700, 0, 9, 40000] if x.ndim == 3 else [40960])
        for name, x in weights.items()
        if x.ndim >= 2 and name.startswith("blk.") and "conv1d" not in name
    }


@pytest.fixture(scope="module")
def file(entries: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write_gguf(tmp_path_factory.mktemp("imatrix") / "example.gguf", entries, chunks=80)


@pytest.mark.parametrize("kind", [*USED, *sorted(OTHER)])
def test_the_bytes_of_llama_cpp(
    example: Path,
    weights: dict[str, Any],
    entries: dict[str, Any],
    file: Path,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every tensor of a file is what `ggml_quantize_chunk` makes of each expert with its weights,
    on threads and in bands of a few rows.
    """
    monkeypatch.setattr(encoding, "BAND_BYTES", 20_000)
    out = tmp_path / "x.gguf"
    options = Options(mirror="llama.cpp", tensor_types=[f"weight={kind}"], imatrix=[file])
    result = ggufmix.convert(example, out, options=options, threads=3)
    assert out.stat().st_size == result.plan.total_bytes
    stored = [t for t in gguf.GGUFReader(out).tensors if t.tensor_type.name in (*USED, *OTHER)]
    assert len([t for t in stored if t.tensor_type.name == kind]) >= 30
    for t in stored:
        x = weights[t.name]
        matrices = x if x.ndim == 3 else x[np.newaxis]
        vectors = made.expected(*entries[t.name]) if t.name in entries else [None] * len(matrices)
        theirs = np.concatenate(
            [
                oracle.encode(m, t.tensor_type.name, v)
                for m, v in zip(matrices, vectors, strict=True)
            ]
        )
        assert t.data.tobytes() == theirs.tobytes(), t.name
    served = {t.name for t in result.plan.tensors if t.importance}
    assert served == {t.name for t in stored if t.tensor_type.name in USED} & set(entries)


def test_importance_changes_something(example: Path, file: Path, tmp_path: Path) -> None:
    """With an imatrix the weights differ, types do not;
    the header has the keys.
    """
    plain, weighed = Options(recipe="q4_0"), Options(recipe="q4_0", imatrix=[str(file)])
    one = ggufmix.convert(example, tmp_path / "a.gguf", options=plain).plan
    two = ggufmix.convert(example, tmp_path / "b.gguf", options=weighed).plan
    assert one.imatrix is None
    a, b = (gguf.GGUFReader(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    changed = [
        x.name for x, y in zip(a.tensors, b.tensors, strict=True) if (x.data != y.data).any()
    ]
    assert changed == [t.name for t in two.tensors if t.importance]
    keys = {k: b.get_field(k).contents() for k in b.fields if k.startswith("quantize.")}
    assert keys == {
        "quantize.imatrix.file": "example.gguf",
        "quantize.imatrix.dataset": "calibration.txt",
        "quantize.imatrix.entries_count": len(made_entries(file)),
        "quantize.imatrix.chunks_count": 80,
    }
    assert str(file.parent).encode() not in (tmp_path / "b.gguf").read_bytes()


def made_entries(file: Path) -> list[str]:
    names = [t.name for t in gguf.GGUFReader(file).tensors]
    return [n for n in names if n.endswith(".in_sum2")]


def test_a_vector_of_the_wrong_length(
    example: Path, entries: dict[str, Any], tmp_path: Path
) -> None:
    """The error names the tensor, and nothing is written."""
    wrong = dict(entries) | {DOWN: made.entry(DOWN, 96, [1, 2, 3, 4])}
    path = made.write_gguf(tmp_path / "i.gguf", wrong)
    options = Options(recipe="q4_0", imatrix=[path])
    with pytest.raises(ImportanceError, match=rf"{DOWN}: expected .* 4 x 128 .* 384"):
        ggufmix.convert(example, tmp_path / "x.gguf", options=options)
    assert not list(tmp_path.glob("x.gguf*"))


def test_an_imatrix_that_is_not_there(example: Path, tmp_path: Path) -> None:
    """A missing imatrix is a usage error of the plan already."""
    with pytest.raises(UsageError, match=r"nothing\.dat"):
        ggufmix.plan(example, options=Options(imatrix=[tmp_path / "nothing.dat"]))


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ggufmix", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_plan_says_what_is_covered(example: Path, file: Path, entries: dict[str, Any]) -> None:
    """`plan --imatrix --json` names each tensor's entry and what is missing; sentences go to
    stderr.
    """
    done = command("plan", example, "--recipe", "q4_0", "--imatrix", file, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    by_name = {t["name"]: t for t in said["tensors"]}
    assert by_name[DOWN]["importance"] == DOWN
    assert by_name["blk.0.ssm_alpha.weight"]["importance"] is None
    assert said["imatrix"]["unrouted"][DOWN] == [1]
    assert said["imatrix"]["entries"] == len(entries)
    assert "output.weight" in said["imatrix"]["without"]
    assert "experts that no token was routed to" in done.stderr


def test_looking_at_one(file: Path, entries: dict[str, Any], tmp_path: Path) -> None:
    """`imatrix` lists the least covered first, or everything as JSON; `--merge` writes what it
    reads, and refuses to overwrite.
    """
    done = command("imatrix", file)
    assert done.returncode == 0, done.stderr
    assert "75.0 %" in done.stdout.splitlines()[8]
    assert done.stdout.splitlines()[-1].startswith(f"example.gguf: {len(entries)} entries")
    assert len(command("imatrix", file, "--all").stdout.splitlines()) > len(entries)
    out = tmp_path / "m.gguf"
    again = command("imatrix", file, file, "--merge", out, "--json")
    assert again.returncode == 0, again.stderr
    said = json.loads(again.stdout)
    row = next(row for row in said["by_entry"] if row["name"] == DOWN)
    assert (row["matrices"], row["columns"], row["covered"]) == (4, 128, 3)
    assert (row["least"], row["most"], row["unrouted"]) == (0, 80000, [1])
    assert json.loads(command("imatrix", out, "--json").stdout)["by_entry"] == said["by_entry"]
    refused = command("imatrix", file, "--merge", out)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "hint: --overwrite" in refused.stderr


def test_looking_at_no_imatrix(tmp_path: Path) -> None:
    """A file that is none, or is not there: exits 1 and 2, a sentence, no traceback."""
    (tmp_path / "x.dat").write_bytes(b"nonsense")
    for name, code in (("x.dat", 1), ("y.dat", 2)):
        done = command("imatrix", tmp_path / name)
        assert done.returncode == code
        assert name in done.stderr
        assert "Traceback" not in done.stderr


def test_a_plan_that_uses_none(example: Path, file: Path, tmp_path: Path) -> None:
    """Q8_0 has no use for importance: said so, not as a share of nothing. A folder is no file."""
    made_of = ggufmix.plan(example, options=Options(imatrix=[file]))
    [said] = [note for note in made_of.notes if note.startswith("importance from")]
    assert said.endswith("; no type of this plan uses it")
    with pytest.raises(UsageError, match="expected an imatrix file; it is a folder"):
        ggufmix.plan(example, options=Options(imatrix=[tmp_path]))
