"""`convert --sha256sums`: what `sha256sum -c` checks."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ggufmix import sumfile
from ggufmix.cli import app
from ggufmix.errors import WriteError
from ggufmix.writing import places

pytestmark = pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def converted(example: Path, out: Path, *more: str) -> None:
    arguments = ["convert", str(example), "-o", str(out), "--sha256sums", *more]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output


def test_sha256sum_checks_it(example: Path, tmp_path: Path) -> None:
    """Of all parts; a bit that is flipped later is found; another file of the folder keeps its
    line, a file that is made again has one line, the new one.
    """
    converted(example, tmp_path / "m.gguf", "--split-max-tensors", "30")
    parts = sorted(p.name for p in tmp_path.glob("m-*.gguf"))
    assert len(parts) == 3
    converted(example, tmp_path / "x.gguf", "-r", "q4_0")
    converted(example, tmp_path / "x.gguf", "-r", "q8_0", "--overwrite")
    sums = (tmp_path / "SHA256SUMS").read_text()
    assert [line.split()[1] for line in sums.splitlines()] == [*parts, "x.gguf"]
    done = check(tmp_path)
    assert done.stdout == "".join(f"{name}: OK\n" for name in [*parts, "x.gguf"]), done.stderr
    assert done.returncode == 0
    data = bytearray((tmp_path / parts[1]).read_bytes())
    data[-1] ^= 1
    (tmp_path / parts[1]).write_bytes(data)
    assert check(tmp_path).stdout.count("FAILED") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["SHA256SUMS", *parts, "x.gguf"]


def test_files_that_were_there_already(example: Path, tmp_path: Path) -> None:
    """A run that was ended between its files and their digests: those are made up for, and only
    those that nobody has stated.
    """
    out = tmp_path / "{recipe}" / "x.gguf"
    recipes = ["-r", "q4_0", "-r", "q8_0"]
    converted(example, out, *recipes)
    (tmp_path / "q4_0" / "SHA256SUMS").unlink()
    kept = (tmp_path / "q8_0" / "SHA256SUMS").stat()
    converted(example, out, *recipes, "--skip-existing")
    for recipe in ("q4_0", "q8_0"):
        assert check(tmp_path / recipe).stdout == "x.gguf: OK\n"
    assert (tmp_path / "q8_0" / "SHA256SUMS").stat().st_ino == kept.st_ino


@pytest.mark.parametrize("name", ["a b", "ü", "back\\slash", "new\nline", "return\r", "-n"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    """The file is sha256sum's own, byte for byte, and names that need care are found again."""
    path = tmp_path / name
    path.write_bytes(b"one")
    (tmp_path / "SHA256SUMS").touch()
    sumfile.record([path])
    path.write_bytes(b"two" * 5_000_000)
    sumfile.record([path])
    command = ["sha256sum", "--", name]
    theirs = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    assert (tmp_path / "SHA256SUMS").read_bytes() == theirs


def test_what_others_have_written_stays(tmp_path: Path) -> None:
    """Comments, binary marks, a line without its end: none of it is ours to change."""
    sums, path = tmp_path / "SHA256SUMS", tmp_path / "x.gguf"
    path.write_bytes(b"abc")
    other, ours = "0" * 64, "1" * 64
    sums.write_text(f"# mine\n{ours} *x.gguf\n{other} *y.gguf\n{other}  my x.gguf")
    sumfile.record([path])
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    kept = f"# mine\n{other} *y.gguf\n{other}  my x.gguf\n"
    assert sums.read_text() == f"{kept}{digest}  x.gguf\n"


def test_a_line_of_before_is_not_renewed(tmp_path: Path) -> None:
    """A file changed behind SHA256SUMS gets no digest of before by another one's being written."""
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(b"x")
    sums = tmp_path / "SHA256SUMS"
    assert sumfile.record(paths[:2]) == []
    for path in (paths[1], sums):
        os.utime(path, (1, 1))
    paths[0].write_bytes(b"y")
    assert sumfile.record(paths[2:]) == ["a"]
    assert [line.split()[1] for line in sums.read_text().splitlines()] == ["b", "c"]
    assert [sumfile.stated(path) is None for path in paths] == [True, False, False]


def test_two_runs_lose_no_line(tmp_path: Path) -> None:
    """While another run writes the file it is not written, and stays as it was."""
    path, sums = tmp_path / "x.gguf", tmp_path / "SHA256SUMS"
    path.write_bytes(b"abc")
    sums.write_text("theirs\n")
    places.begin(sums)
    with pytest.raises(WriteError, match="another run is writing it"):
        sumfile.record([path])
    assert sums.read_text() == "theirs\n"


def test_progress_and_refusals(tmp_path: Path) -> None:
    """A terabyte takes minutes: how far it is is told. A file that is gone is named."""
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(bytes(5 << 20))
    steps: list[tuple[str, int, int]] = []
    sumfile.record(paths, lambda *step: steps.append(step))
    mib = 1 << 20
    at = [("a", 4), ("a", 5), ("b", 9), ("b", 10)]
    assert steps == [(name, done * mib, 10 * mib) for name, done in at]
    paths[1].unlink()
    with pytest.raises(WriteError, match="SHA256SUMS: No such file"):
        sumfile.record(paths)
