"""The hub and S3, by servers on this machine that answer as they do."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from huggingface_hub import constants
from remote.serving import COMMIT, Asked, HubHandler, S3Handler, Server, serving
from remote.test_convert import REVISIONS, keys, same_but_revision

import ggufmix
from ggufmix.errors import GgufmixError, SourceError, UsageError
from ggufmix.inspection import inspect
from ggufmix.sources import is_remote, open_checkpoint
from ggufmix.sources.remote import stores
from ggufmix.sources.remote.addresses import Address, label, parse, suffix

HUB = "hf://ann/tiny"


@pytest.fixture
def hub(example: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A hub whose files lie on another host, with a token of the user."""
    monkeypatch.setenv("HF_TOKEN", "hf_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with serving(example) as files, serving(example, HubHandler, cdn=files.url) as found:
        found.files = files  # type: ignore[attr-defined]
        template = "{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{found.url}/{template}")
        monkeypatch.setattr("huggingface_hub.HfApi", _api_of(found.url))
        yield found


def _api_of(endpoint: str) -> type:
    """HfApi takes its endpoint from the environment when it is imported."""
    from huggingface_hub import HfApi

    class Api(HfApi):
        def __init__(self) -> None:
            super().__init__(endpoint=endpoint)

    return Api


def about(hub: Server) -> list[Asked]:
    """Requests for what a revision holds; the library asks for other things too."""
    return [a for a in hub.asked if a.path.startswith("/api/models/")]


def test_of_the_hub(hub: Server, local: Path, tmp_path: Path) -> None:
    """hf://owner/name gives the file of a download, and names the commit. The token goes to the hub
    and to nobody else, files are asked for at the commit, and the hub once for each of them.
    """
    out = tmp_path / "out.gguf"
    ggufmix.convert(HUB, out)
    assert same_but_revision(out, local) == [f"hf://ann/tiny@{COMMIT}"]
    assert [a.path for a in about(hub)] == ["/api/models/ann/tiny"]
    resolved = [a for a in hub.asked if "/resolve/" in a.path]
    assert all(f"/resolve/{COMMIT}/" in a.path for a in resolved)
    assert all(a.headers["Authorization"] == "Bearer hf_TOKEN" for a in resolved + about(hub))
    files: Server = hub.files  # type: ignore[attr-defined]
    assert all("Authorization" not in a.headers for a in files.asked)
    assert len([a for a in resolved if a.path.endswith("model.safetensors")]) <= 2
    assert b"SECRET" not in out.read_bytes()
    assert b"hf_TOKEN" not in out.read_bytes()


def test_a_branch_that_moves(hub: Server) -> None:
    """What is pushed meanwhile is not read: all files are of the commit that was found first."""
    with open_checkpoint(f"{HUB}@main") as checkpoint:
        hub.commit = "f" * 40
        with pytest.raises(SourceError, match="is there no longer"):
            checkpoint.directory  # noqa: B018
    assert [a.path for a in about(hub)] == ["/api/models/ann/tiny/revision/main"]
    assert {a.path.split("/")[4] for a in hub.asked if "resolve" in a.path} == {COMMIT}


def test_a_folder_of_a_repository(hub: Server, example: Path, tmp_path: Path) -> None:
    """A model may lie below the top of its repository, and chat templates in a folder of its own:
    these, and nothing else, are put where the tokenizer is looked for.
    """
    hub.root = hub.files.root = tmp_path  # type: ignore[attr-defined]
    model = shutil.copytree(example, tmp_path / "v2" / "bf16")
    templates = model / "additional_chat_templates"
    templates.mkdir()
    (templates / "tool.jinja").write_text("tool")
    (templates / "other.bin").write_text("no")
    (model / "chat_template.jinja").write_text("plain")
    with open_checkpoint(f"{HUB}/v2/bf16") as checkpoint:
        found = {p.relative_to(checkpoint.directory) for p in checkpoint.directory.rglob("*.*")}
        assert {str(p) for p in found if "template" in str(p)} == {
            "chat_template.jinja",
            "additional_chat_templates/tool.jinja",
        }
    memory = fsspec.filesystem("memory")
    try:
        memory.put(str(model), "/deep", recursive=True)
        with open_checkpoint("memory://deep") as checkpoint:
            assert (checkpoint.directory / "additional_chat_templates" / "tool.jinja").is_file()
    finally:
        memory.rm("/deep", recursive=True)


@pytest.mark.parametrize(
    ("code", "told", "hint"),
    [
        (401, "no such model, or a private one", "HF_TOKEN"),
        (403, "access has to be granted first", "accept the terms"),
        (404, "no such revision", None),
        (400, "the hub answered 400", None),
    ],
)
def test_the_hub_refuses(hub: Server, code: int, told: str, hint: str | None) -> None:
    """Private, gated and missing models are told apart, and the token is not."""
    hub.refuses = code
    with pytest.raises(SourceError, match=f"hf://ann/tiny@v1: {told}") as caught:
        inspect(f"{HUB}@v1")
    assert "hf_TOKEN" not in str(caught.value)
    assert (hint is None and not caught.value.hint) or str(hint) in str(caught.value.hint)
    assert len(about(hub)) == 1


def test_a_burst_of_503(hub: Server, example: Path) -> None:
    """The hub is busy now and then, its list and its files both."""
    hub.fault = lambda asked: "503" if asked.number < 3 else None
    assert inspect(HUB) == inspect(example)


def test_by_the_environment(hub: Server, local: Path, tmp_path: Path) -> None:
    """HF_ENDPOINT and HF_TOKEN do for the command line what they do for other tools."""
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "ggufmix", "plan", HUB, "--summary"],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    assert "qwen35moe, recipe q8_0" in done.stdout
    assert "hf_TOKEN" not in done.stdout + done.stderr


@pytest.fixture
def s3(example: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A bucket `models` with the example at its top."""
    with serving(example, S3Handler) as found:
        for name, value in (
            ("AWS_ENDPOINT_URL", found.url),
            ("AWS_ACCESS_KEY_ID", "ann"),
            ("AWS_SECRET_ACCESS_KEY", "SECRETKEY"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_CONFIG_FILE", str(tmp_path / "none")),
        ):
            monkeypatch.setenv(name, value)
        yield found


def test_of_s3(s3: Server, example: Path, local: Path, tmp_path: Path) -> None:
    """s3://bucket/prefix gives the file of a download, and names its ETag; a plan reads ranges."""
    s3.root = example.parent
    assert inspect("s3://models/tiny-qwen35moe") == inspect(example)
    assert s3.sent(".safetensors") == 128 << 10
    out = tmp_path / "out.gguf"
    ggufmix.convert("s3://models/tiny-qwen35moe/", out)
    size = (example / "model.safetensors").stat().st_size
    assert same_but_revision(out, local) == [f"model.safetensors-{size:x}"]
    assert b"SECRETKEY" not in out.read_bytes()


def test_s3_has_changed(s3: Server) -> None:
    """An object that is written anew meanwhile is no source."""
    with open_checkpoint("s3://models/") as checkpoint:
        tensor = list(checkpoint.tensors.values())[-1]
        s3.etag = lambda _: "another"
        with pytest.raises(SourceError, match=r"model\.safetensors: changed while it was being"):
            tensor.raw(0, 1)


def test_s3_refuses(s3: Server, example: Path) -> None:
    """No access, no such bucket, and a store that is gone are told, without the key."""
    s3.fault = lambda _: "403"
    with pytest.raises(SourceError, match="s3://models/x: access denied") as caught:
        open_checkpoint("s3://models/x")
    assert "AWS_PROFILE" in str(caught.value.hint)
    assert "SECRETKEY" not in str(caught.value)
    s3.fault = lambda _: None
    with pytest.raises(SourceError, match="expected a checkpoint"):
        open_checkpoint("s3://models/no-such")


def test_any_store(example: Path, local: Path, tmp_path: Path) -> None:
    """Other file systems that fsspec knows serve as well; one that cannot pin a file is asked for
    its state at each read.
    """
    memory = fsspec.filesystem("memory")
    try:
        for path in example.iterdir():
            memory.pipe_file(f"/tiny/{path.name}", path.read_bytes())
        ggufmix.convert("memory://tiny", tmp_path / "out.gguf")
        assert len(keys(tmp_path / "out.gguf")[REVISIONS]) == 1  # type: ignore[arg-type]
        same_but_revision(tmp_path / "out.gguf", local)
        with open_checkpoint("memory://tiny") as checkpoint:
            tensor = list(checkpoint.tensors.values())[-1]
            memory.pipe_file("/tiny/model.safetensors", b"x" * 9_000_000)
            with pytest.raises(SourceError, match="changed while it was being read"):
                tensor.raw(0, 1)
    finally:
        memory.rm("/tiny", recursive=True)


def test_no_such_file_system() -> None:
    """A scheme that nobody knows is no address; one whose package is not there names it."""
    with pytest.raises(UsageError, match="no address that can be read from"):
        open_checkpoint("nowhere://x/y")
    with pytest.raises(UsageError, match="needs its file system for gs://"):
        open_checkpoint("gs://x/y")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("hf://a/b", Address("hub", "a/b")),
        ("hf://a/b/", Address("hub", "a/b")),
        ("hf://a/b@v1.0", Address("hub", "a/b", revision="v1.0")),
        ("hf://a/b@refs/pr/7", Address("hub", "a/b", revision="refs/pr/7")),
        ("hf://a/b@refs/pr/7/x.gguf", Address("hub", "a/b", "x.gguf", revision="refs/pr/7")),
        ("hf://a/b@x%2Fy/sub", Address("hub", "a/b", None, "sub", "x/y")),
        ("hf://a/b/sub/x.gguf", Address("hub", "a/b", "x.gguf", "sub")),
        ("https://huggingface.co/a/b", Address("hub", "a/b")),
        ("https://hf.co/a/b/tree/v2/sub", Address("hub", "a/b", None, "sub", "v2")),
        ("https://huggingface.co/a/b/tree/refs/pr/3", Address("hub", "a/b", revision="refs/pr/3")),
        (
            "https://huggingface.co/a/b/resolve/main/q/x.gguf?download=true",
            Address("hub", "a/b", "x.gguf", "q", "main"),
        ),
        (
            "https://huggingface.co/a/b/blob/main/model.safetensors.index.json",
            Address("hub", "a/b", revision="main"),
        ),
        ("https://h:8/a/b/?s=1", Address("web", "https://h:8/a/b", query="s=1")),
        ("http://h/x%20y.gguf", Address("web", "http://h", "x y.gguf")),
        ("https://h/m/model.safetensors.index.json", Address("web", "https://h/m")),
        ("https://h/m/a.safetensors", Address("web", "https://h/m", "a.safetensors")),
        ("s3://b/c/d", Address("store", "s3://b/c/d")),
        ("s3://b/c/x.gguf", Address("store", "s3://b/c", "x.gguf")),
    ],
)
def test_what_an_address_means(given: str, meant: Address) -> None:
    """As people copy them from other tools and from their browser."""
    assert is_remote(given)
    assert parse(given) == meant


@pytest.mark.parametrize(
    "given",
    [
        "hf://b",
        "hf://a/b@",
        "hf://",
        "hf://a/../b",
        "hf://a/b/../../c",
        "hf://datasets/a",
        "https://huggingface.co/a",
        "https://huggingface.co/a/b/discussions/1",
        "https://",
        "https:///x",
        "file:///etc/passwd",
    ],
)
def test_what_means_nothing(given: str) -> None:
    """Such an address is refused before anybody is asked."""
    with pytest.raises(UsageError):
        parse(given)


def test_paths_are_paths(tmp_path: Path) -> None:
    """What is on this machine stays what it was, and an address that became a Path is caught."""
    assert not any(map(is_remote, ("a/b", "./hf:x", "C:\\x", "/a://b", tmp_path)))
    assert (suffix("https://h/x.gguf?a=b.c"), suffix("a/x.gguf"), suffix("hf://a/b")) == (
        ".gguf",
        ".gguf",
        "",
    )
    with pytest.raises(UsageError, match="got a path made of it"):
        ggufmix.plan(Path(HUB))
    assert label("https://ann:pw@h:8/p?sig=1#f") == "https://h:8/p"
    assert label("hf://a/b@v1") == "hf://a/b@v1"


def test_messages_of_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library says may have a key in it: only the kind of its error is passed on."""

    class System:
        def ls(self, *_: object, **__: object) -> None:
            raise OSError("secret KEY")

    folder = object.__new__(stores.StoreFolder)
    folder.where, folder._system, folder._root = "s3://b", System(), "b"
    with pytest.raises(Exception, match="the store failed") as caught:
        folder._list("")
    assert "KEY" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not isinstance(caught.value, GgufmixError), "worth another attempt"
