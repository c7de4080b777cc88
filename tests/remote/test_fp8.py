"""FP8 checkpoints from an address: the files of a local copy, and what lies beside them."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from fp8.models import dense
from remote.serving import Server, serving
from remote.test_hub import HUB, hub  # noqa: F401

from ggufmix.errors import SourceError
from ggufmix.fp8.converting import Options, convert, plan
from ggufmix.fp8.dequantizing import dequantize
from ggufmix.fp8.rereading import verify
from ggufmix.fp8.saving import How
from ggufmix.sources.remote import folder as remote_folder


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """A checkpoint in two files, with what a tokenizer, a processor and a publisher leave there."""
    made = dense(tmp_path / "src", shards=2)
    (made / "preprocessor_config.json").write_text('{"patch_size": 16}')
    (made / "merges.txt").write_text("a b")
    (made / "modeling.py").write_text("pass")
    (made / "pytorch_model.bin").write_bytes(b"weights")
    (made / ".gitattributes").write_text("*.safetensors filter=lfs")
    (made / "figures").mkdir()
    (made / "figures" / "loss.svg").write_text("<svg/>")
    return made


def files(at: Path) -> dict[str, bytes]:
    """All files of a folder, by their names in it."""
    return {str(p.relative_to(at)): p.read_bytes() for p in at.rglob("*") if p.is_file()}


def weights_of(at: Path) -> dict[str, bytes]:
    """Those that are weights."""
    return {name: data for name, data in files(at).items() if name.endswith(".safetensors")}


@pytest.fixture
def repository(hub: Server, src: Path) -> Server:  # noqa: F811
    """The hub, with this checkpoint as its model."""
    hub.root = hub.files.root = src  # type: ignore[attr-defined]
    return hub


@pytest.mark.usefixtures("repository")
def test_the_files_of_a_local_copy(src: Path, tmp_path: Path) -> None:
    """From the hub: every file, its bytes, what is left and why; read back against it, too; and
    backwards. Nothing of a checkpoint's own weights is fetched that is in another form.
    """
    here, there = convert(src, tmp_path / "here"), convert(HUB, tmp_path / "there")
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert {"figures/loss.svg", "modeling.py", "preprocessor_config.json"} <= {
        *there.planned.side.copied
    }
    assert sorted(there.planned.side.left) == sorted(here.planned.side.left)
    assert there.review.verdict == here.review.verdict == "GOOD"
    assert plan(HUB)[1].side == there.planned.side
    assert verify(tmp_path / "there", HUB).verdict == "GOOD"
    dequantize(tmp_path / "here", tmp_path / "back")
    with serving(tmp_path / "here") as web:
        dequantize(web.url, tmp_path / "far")
    assert weights_of(tmp_path / "far") == weights_of(tmp_path / "back")


def test_nothing_else_is_fetched(repository: Server, tmp_path: Path) -> None:
    """Weights in another form may be as large as the model: not a byte of them. A plan reads no
    weights.
    """
    plan(HUB)
    served: Server = repository.files  # type: ignore[attr-defined]
    assert not served.of(".bin")
    assert served.sent(".safetensors") <= 2 * remote_folder.HEAD_BYTES
    result = convert(HUB, tmp_path / "out")
    assert not served.of(".bin")
    assert ("pytorch_model.bin", "weights in another form") in result.planned.side.left


@pytest.mark.usefixtures("repository")
def test_what_is_too_large_is_left_and_said(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A film in a model's repository is not held in a temporary directory."""
    (src / "figures" / "film.mp4").write_bytes(bytes(3 << 20))
    monkeypatch.setattr(remote_folder, "MAX_SIDE_BYTES", 2 << 20)
    result = convert(HUB, tmp_path / "out")
    assert ("figures/film.mp4", "more than 2 MiB") in result.planned.side.left
    assert not (tmp_path / "out" / "figures" / "film.mp4").exists()


def test_where_nobody_can_list(src: Path, tmp_path: Path) -> None:
    """A web server has no list: what a tokenizer needs is asked for by name, and that there may be
    more is said. A store lists what lies right in its folder.
    """
    with serving(src) as web:
        result = convert(web.url, tmp_path / "web")
    assert result.planned.side.left == (
        ("other files", "a web server does not say what lies there"),
    )
    convert(src, tmp_path / "here")
    assert weights_of(tmp_path / "web") == weights_of(tmp_path / "here")
    memory = fsspec.filesystem("memory")
    try:
        memory.put(str(src), "/fp8", recursive=True)
        convert("memory://fp8", tmp_path / "store")
    finally:
        memory.rm("/fp8", recursive=True)
    assert files(tmp_path / "store") == {
        n: v for n, v in files(tmp_path / "here").items() if not n.startswith("figures")
    }


def test_a_line_that_breaks(
    repository: Server, src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that lost its source leaves what it has, and goes on from there: the same files."""
    import ggufmix.sources.remote.patience as waiting

    convert(src, tmp_path / "here", Options(max_shard_size=200_000))
    served: Server = repository.files  # type: ignore[attr-defined]
    monkeypatch.setattr(waiting, "ATTEMPTS", 2)
    asked = 0

    def fault(request: object) -> str | None:
        nonlocal asked
        asked += getattr(request, "path", "").endswith(".safetensors")
        return "503" if asked > 12 else None

    served.fault = fault
    options = Options(max_shard_size=200_000)
    with pytest.raises(SourceError):
        convert(HUB, tmp_path / "out", options)
    served.fault = lambda _: None
    convert(HUB, tmp_path / "out", options, How(resume=True))
    assert files(tmp_path / "out") == files(tmp_path / "here")


def test_the_command(tmp_path: Path) -> None:
    """The address goes through as it was typed; one that means nothing is a usage error."""
    made = dense(tmp_path / "src")
    with serving(made) as web:
        command = [sys.executable, "-m", "ggufmix", "fp8", web.url, "-o", str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not copied: other files (a web server does not say what lies there)" in done.stderr
    assert (tmp_path / "out" / "config.json").is_file()
    command[4] = "hf://"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
