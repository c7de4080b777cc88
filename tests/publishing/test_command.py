"""`ggufmix report` as people run it."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import errno
import hashlib
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ggufmix import publishing
from ggufmix.cli import app
from ggufmix.errors import GgufmixError, UsageError, WriteError
from ggufmix.writing import places

ROOT = Path(__file__).parents[2]


def report(*words: str | Path) -> str:
    """What the command prints; the errors of ggufmix come through."""
    done = CliRunner().invoke(app, ["report", *map(str, words)])
    if isinstance(done.exception, GgufmixError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_it_writes_a_page_and_a_card(files: Path, tmp_path: Path) -> None:
    """A folder that was not there holds both; the same command writes the same bytes."""
    out = tmp_path / "deep" / "out"
    words = [files / "m-Q8_0.gguf", "--eval", files / "eval.json", "--base-model", "a/b"]
    paths = [f"{out}/index.html", f"{out}/README.md"]
    assert set(paths) < {*report(*words, "-o", out).splitlines()}
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "index.html"]
    assert "516.6436" in (out / "index.html").read_text()
    assert "base_model_relation: quantized" in (out / "README.md").read_text()
    again = tmp_path / "again"
    report(*words, "-o", again)
    for name in ("index.html", "README.md"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_nothing_is_overwritten_unasked(files: Path, tmp_path: Path) -> None:
    """A card that somebody has written stays, and then there is no page either."""
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(WriteError, match=r"README\.md exists"):
        report(files / "m-Q8_0.gguf", "-o", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]
    report(files / "m-Q8_0.gguf", "-o", tmp_path, "--overwrite")
    assert (tmp_path / "README.md").read_text() != "mine"


@pytest.mark.parametrize("full_at", [1, 2])
def test_a_full_disk_leaves_what_was_there(
    full_at: int, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where writing fails half-way, old files are as they were, and nothing unfinished stays."""
    for name in ("README.md", "index.html"):
        (tmp_path / name).write_text("old")
    written = 0

    def put(out: int, data: bytes, at: int) -> None:
        nonlocal written
        written += 1
        if written == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(places, "put", put)
    with pytest.raises(WriteError, match="No space left"):
        report(files / "m-Q8_0.gguf", "-o", tmp_path, "--overwrite")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "README.md": "old",
        "index.html": "old",
    }


def test_a_place_that_is_no_folder(files: Path, tmp_path: Path) -> None:
    """A file in the way is named before anything is read."""
    (tmp_path / "out").write_text("")
    for out in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(WriteError, match="no directory"):
            report(tmp_path / "none.gguf", "-o", out)
    with pytest.raises(UsageError, match="no file"):
        report(tmp_path / "none.gguf", "-o", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_digests_on_request(files: Path, tmp_path: Path) -> None:
    """`--sha256sums` writes SHA256SUMS, and page and card show the digests."""
    path = tmp_path / "m.gguf"
    path.write_bytes((files / "m-Q8_0.gguf").read_bytes())
    report(path, "-o", tmp_path / "out", "--sha256sums")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (tmp_path / "SHA256SUMS").read_text() == f"{digest}  m.gguf\n"
    assert f"{digest}  m.gguf" in (tmp_path / "out" / "README.md").read_text()
    assert digest in (tmp_path / "out" / "index.html").read_text()


def test_what_is_missing_is_said(files: Path, tmp_path: Path) -> None:
    """A card without base model or license is no surprise on the hub."""
    words = report(files / "m-Q8_0.gguf", "--verify", files / "verify.json", "-o", tmp_path)
    assert "note: m-Q4_K_M.gguf: measured, but none of these files; left out" in words
    assert "--base-model" in words
    assert "no file says what its license is" in words


def test_templates_are_shipped() -> None:
    """A template that pyproject.toml does not name would be missing from the wheel."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    globs = tool["package-data"]["ggufmix.publishing"]
    folder = Path(publishing.__file__).parent
    there = [p for p in folder.rglob("*") if p.is_file() and p.suffix not in {".py", ".pyc"}]
    assert there
    for path in there:
        assert any(fnmatch(str(path.relative_to(folder)), glob) for glob in globs), path
