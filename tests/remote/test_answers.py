"""Answers of servers that are odd, one by one, and layouts of more than one file."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from remote.serving import Server, serving
from safetensors.numpy import load_file, save_file

from ggufmix.errors import SourceError, UsageError
from ggufmix.inspection import inspect
from ggufmix.sources import open_checkpoint
from ggufmix.sources.remote.web import Client


@pytest.fixture
def server(example: Path) -> Iterator[Server]:
    """A web server with the example."""
    with serving(example) as found:
        yield found


def _answer(status: int, **headers: str) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made.headers.update({k.replace("_", "-"): v for k, v in headers.items()})
    made.raw = None
    return made


def test_never_from_https_to_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect may not take the encryption away."""
    asked = []

    def one(_: Client, url: str, __: object) -> requests.Response:
        asked.append(url)
        return _answer(302, Location="http://h/x")

    monkeypatch.setattr(Client, "_one", one)
    monkeypatch.setattr(requests.Response, "close", lambda _: None)
    with (
        pytest.raises(SourceError, match="redirects from https to http, which is not"),
        Client().get("https://h/x", "x", 0, 1),
    ):
        pass
    assert asked == ["https://h/x"]


@pytest.mark.parametrize(
    ("to", "with_secret"), [("/y", True), ("http://other/y", False), ("http://h:81/y", False)]
)
def test_secrets_are_for_one_origin(
    monkeypatch: pytest.MonkeyPatch, to: str, with_secret: bool
) -> None:
    """A token is not sent to where its server redirects, another port of it included."""
    sent = []

    def get(_: requests.Session, url: str, **given: object) -> requests.Response:
        headers = given["headers"]
        assert isinstance(headers, dict)
        sent.append("Authorization" in headers)
        return _answer(302, Location=to) if len(sent) == 1 else _answer(206)

    monkeypatch.setattr(requests.Session, "get", get)
    monkeypatch.setattr(requests.Response, "close", lambda _: None)
    client = Client({"http://h": {"Authorization": "Bearer x"}})
    with client.get("http://h/x", "x", 0, 1):
        pass
    assert sent == [True, with_secret]


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"Content-Encoding": "gzip"}, "expected the bytes of the file, got gzip"),
        ({"Content-Range": "bytes 0-1/*"}, "does not say how long the file is"),
    ],
)
def test_answers_that_cannot_be_used(
    server: Server, headers: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compressed on the way has other offsets; what has no size has no end."""
    whole = Client._one

    def one(client: Client, url: str, given: dict[str, str]) -> requests.Response:
        answer = whole(client, url, given)
        answer.headers.update(headers)
        return answer

    monkeypatch.setattr(Client, "_one", one)
    with pytest.raises(SourceError, match=told):
        open_checkpoint(server.url)


def test_a_host_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not up, and an address that cannot be, are errors of ours."""
    monkeypatch.setattr("ggufmix.sources.remote.patience.ATTEMPTS", 2)
    with pytest.raises(SourceError, match="gave up after 2 attempts: the connection was refused"):
        open_checkpoint("http://127.0.0.1:9/x")
    with pytest.raises(UsageError, match="no address"):
        open_checkpoint("http://127.0.0.1:99999/x")
    with pytest.raises(SourceError, match="the name of the server is not known here"):
        open_checkpoint("http://no-such-host.invalid/x")


def test_empty_files(server: Server, example: Path, tmp_path: Path) -> None:
    """A file of no bytes has no range that could be asked for."""
    server.root = shutil.copytree(example, tmp_path / "copy")
    (server.root / "README.md").write_bytes(b"")
    with open_checkpoint(server.url) as checkpoint:
        assert (checkpoint.directory / "README.md").read_bytes() == b""
    (server.root / "model.safetensors").write_bytes(b"")
    with pytest.raises(SourceError, match="expected a safetensors file, got 0 bytes"):
        open_checkpoint(server.url)


def test_many_files(server: Server, example: Path, tmp_path: Path) -> None:
    """Shards by their index; a shard that the server lacks is named."""
    server.root = shutil.copytree(example, tmp_path / "copy")
    found = load_file(example / "model.safetensors")
    (server.root / "model.safetensors").unlink()
    names, weight_map = sorted(found), {}
    for i in range(3):
        file = f"model-0000{i + 1}-of-00003.safetensors"
        save_file({n: np.ascontiguousarray(found[n]) for n in names[i::3]}, server.root / file)
        weight_map |= dict.fromkeys(names[i::3], file)
    index = server.root / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert inspect(f"{server.url}/{index.name}") == inspect(server.root)
    (server.root / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(SourceError, match="1 of 3 files are not there: model-00002-of-00003"):
        inspect(server.url)
    with pytest.raises(UsageError, match="holds a part of a checkpoint only"):
        inspect(f"{server.url}/model-00001-of-00003.safetensors")


def test_parts_of_a_gguf_file(server: Server, local: Path, tmp_path: Path) -> None:
    """Of a split GGUF file the first part is given, the others are found beside it."""
    import gguf

    source = gguf.GGUFReader(local)
    stem = "m-{:05}-of-00002.gguf"
    for number in range(2):
        out = gguf.GGUFWriter(tmp_path / stem.format(number + 1), "qwen35moe")
        tensors = source.tensors[number::2]
        out.add_uint16("split.no", number)
        out.add_uint16("split.count", 2)
        out.add_int32("split.tensors.count", len(source.tensors))
        for t in tensors:
            out.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_tensors_to_file()
        out.close()
    server.root = tmp_path
    described = inspect(f"{server.url}/{stem.format(1)}")
    assert described["tensors"] == len(source.tensors)
    assert described == inspect(tmp_path / stem.format(1))
    (tmp_path / stem.format(2)).unlink()
    with pytest.raises(SourceError, match=r"m-00002-of-00002\.gguf: missing, one of 2 parts"):
        inspect(f"{server.url}/{stem.format(1)}")
