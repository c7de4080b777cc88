"""`ggufmix report` as people run it."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import errno
import hashlib
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import gguf
import pytest
from imatrix import made
from typer.testing import CliRunner

import ggufmix
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
    with pytest.raises(WriteError, match=r"README\.md exists"):
        publishing.publish(publishing.gather([files / "m-Q8_0.gguf"])[0], tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    report(files / "m-Q8_0.gguf", "-o", tmp_path, "--overwrite")
    assert (tmp_path / "README.md").read_text() != "mine"


@pytest.mark.parametrize("full_at", [1, 2])
def test_a_full_disk_leaves_what_was_there(
    full_at: int, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where writing fails half-way, old files are as they were, and nothing unfinished stays, no
    folder either.
    """
    for name in ("README.md", "index.html"):
        (tmp_path / name).write_text("old")
    written = 0

    def put(out: int, data: bytes, at: int) -> None:
        nonlocal written
        written += 1
        if written == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(places, "put", put)
    for folder in (tmp_path, tmp_path / "new"):
        written = 0
        with pytest.raises(WriteError, match="No space left"):
            report(files / "m-Q8_0.gguf", "-o", folder, "--overwrite")
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


def test_a_file_without_its_digest_is_told(files: Path, tmp_path: Path) -> None:
    """A card with the digests of some files says which it lacks; one with none does not."""
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes((files / "m-Q8_0.gguf").read_bytes())
    both = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    assert "no digest" not in report(*both, "-o", tmp_path / "none")
    report(both[0], "-o", tmp_path / "one", "--sha256sums")
    assert "no digest of b.gguf: " in report(*both, "-o", tmp_path / "some")
    assert "no digest" not in report(*both, "-o", tmp_path / "all", "--sha256sums")


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
    assert "the card has no license" in words


def test_convert_writes_them_too(
    example: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`convert --report` says of several files what was measured while they were written, and how
    much of them the importance matrix covers.
    """
    monkeypatch.chdir(tmp_path)
    shapes = {t.name: t.shape.tolist() for t in gguf.GGUFReader(files / "m-Q8_0.gguf").tensors}
    matrices = {
        name: made.entry(name, shape[0], [9.0] * (shape[2] if len(shape) > 2 else 1))
        for name, shape in shapes.items()
        if len(shape) > 1 and "attn" not in name
    }
    imatrix = made.write_gguf(tmp_path / "im.gguf", matrices)
    words = ["convert", example, "-r", "q4_k_m", "-r", "q8_0", "-o", "out/{recipe}.gguf"]
    words += ["--verify", "--imatrix", imatrix, "--report", "out", "--sha256sums"]
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    assert {"out/index.html", "out/README.md"} < {*done.stdout.splitlines()}
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("tensors held against what they were made from") == 2
    assert "7.12 %" in page
    planned = ggufmix.plan(example, options=ggufmix.Options("q4_k_m", imatrix=(imatrix,)))
    assert planned.imatrix is not None
    n, without = planned.imatrix["with"], planned.imatrix["without"]
    assert len(without) > 4
    assert f"{n} of {n + len(without)} tensors that can use importance had it" in page
    digest = hashlib.sha256((tmp_path / "out" / "q8_0.gguf").read_bytes()).hexdigest()
    assert digest in page
    again = ["--skip-existing", "--report", "again"]
    done = CliRunner().invoke(app, [*map(str, words), *again])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "again" / "index.html").read_text()
    assert page.count("Not measured.") == 4
    assert f"{n + len(without)} tensors here are of types that can use importance" in page
    done = CliRunner().invoke(app, [*map(str, words)])
    assert isinstance(done.exception, WriteError)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf://Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("hf://Qwen/Qwen3-0.6B@main", "Qwen/Qwen3-0.6B"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B/", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("hf://Qwen/Qwen3-0.6B/folder/x.gguf", None),
        ("https://evil.example/Qwen/Qwen3", None),
        ("https://huggingface.co/../x", None),
        ("a/b\nc", None),
        ("a/b/c", None),
        ("x" * 400 + "/y", None),
    ],
)
def test_names_of_repositories(source: str, name: str | None) -> None:
    """Only what the hub can have becomes a link to it."""
    assert publishing.repository(source) == name


def test_templates_are_shipped() -> None:
    """A template that pyproject.toml does not name would be missing from the wheel."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    globs = tool["package-data"]["ggufmix.publishing"]
    folder = Path(publishing.__file__).parent
    there = [p for p in folder.rglob("*") if p.is_file() and p.suffix not in {".py", ".pyc"}]
    assert there
    for path in there:
        assert any(fnmatch(str(path.relative_to(folder)), glob) for glob in globs), path
