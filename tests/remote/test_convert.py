"""From an address to a file: the same bytes as from a local copy, whatever the line does."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from remote.serving import Asked, Server, serving
from safetensors import safe_open
from visions import VISIONS

import ggufmix
from ggufmix import Options, proof
from ggufmix.errors import SourceError, UsageError
from ggufmix.inspection import inspect
from ggufmix.pipeline import plan
from ggufmix.sources import open_checkpoint
from ggufmix.sources.remote import patience, web

REVISIONS = "ggufmix.source.revisions"


def keys(path: Path) -> dict[str, object]:
    """Key-values of a file, as its own reader gives them."""
    fields = gguf.GGUFReader(path).fields
    return {name: f.contents() for name, f in fields.items() if not name.startswith("GGUF.")}


def same_but_revision(made: Path, local: Path) -> list[str]:
    """Assert that two files differ by the key of the revision alone; return what that says.

    Tensors: names, types, shapes, order and bytes. Keys: all others, but checksums of the header,
    which has the key in it.
    """
    ours, theirs = keys(made), keys(local)
    told = ours.pop(REVISIONS)
    assert REVISIONS not in theirs
    assert list(ours) == list(theirs)
    differ = {name for name in ours if ours[name] != theirs[name]}
    assert differ <= {"ggufmix.header.xxh64"}, differ
    a, b = gguf.GGUFReader(made), gguf.GGUFReader(local)
    assert [(t.name, t.tensor_type, list(t.shape)) for t in a.tensors] == [
        (t.name, t.tensor_type, list(t.shape)) for t in b.tensors
    ]
    assert all(np.array_equal(x.data, y.data) for x, y in zip(a.tensors, b.tensors, strict=True))
    assert isinstance(told, list)
    return told


def first_time(fault: str, *, suffix: str = ".safetensors") -> Callable[[Asked], str | None]:
    """Every range of the weights goes wrong once."""
    return lambda asked: fault if asked.path.endswith(suffix) and not asked.number else None


@pytest.fixture
def server(example: Path) -> Iterator[Server]:
    """A web server with the example."""
    with serving(example) as found:
        yield found


def test_bytes_of_a_local_copy(server: Server, local: Path, tmp_path: Path) -> None:
    """A file from an address is the file from a download, and says which state it was made of."""
    ggufmix.convert(server.url, tmp_path / "out.gguf")
    size = next(server.root.glob("*.safetensors")).stat().st_size
    assert same_but_revision(tmp_path / "out.gguf", local) == [f"model.safetensors-{size:x}"]


def test_the_vision_projector_alone(tmp_path: Path) -> None:
    """--mmproj of an address writes what it writes of a download; what is said of images is fetched
    once.
    """
    folder = VISIONS["qwen-dense"].write(tmp_path / "model")
    options = Options(component="mmproj")
    ggufmix.convert(folder, tmp_path / "local.gguf", options=options)
    with serving(folder) as found:
        ggufmix.convert(found.url, tmp_path / "out.gguf", options=options)
        assert max(a.number for a in found.of("preprocessor_config.json")) == 0
    assert len(same_but_revision(tmp_path / "out.gguf", tmp_path / "local.gguf")) == 1


def test_nothing_is_kept(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint does not land on the disk: only config and tokenizer do, and they go again."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_checkpoint(server.url) as checkpoint:
        kept = {p.name for p in checkpoint.directory.iterdir()}
        assert kept == {
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        }
    assert list(tmp_path.iterdir()) == []


def test_a_plan_reads_headers(server: Server, example: Path) -> None:
    """Whoever plans a model of a terabyte over a telephone reads its headers: of a file of weights
    its first 128 KiB and the 256 KiB of samples that its fingerprint has.
    """
    made = plan(server.url)
    assert made.total_bytes > plan(example).total_bytes
    assert made.warnings[0].startswith(f"{server.url}/tokenizer.json: ")
    assert server.sent(".safetensors") <= (128 << 10) + 64 * 4096
    assert max(a.number for a in server.of(".safetensors")) == 0, "a range was asked for twice"


def test_inspect_reads_less(server: Server, example: Path) -> None:
    """Inspect says of an address what it says of a folder, from the header alone."""
    assert inspect(server.url + "/") == inspect(example)
    assert server.sent(".safetensors") == 128 << 10


def big(folder: Path, n_files: int, width: int) -> int:
    """A sparse checkpoint of a model far larger than memory: experts of that width, shards, an
    index, zeros as weights. Returns the bytes of the headers.
    """
    shutil.copytree(Path(__file__).parents[2] / "examples" / "tiny-qwen35moe", folder)
    config = json.loads((folder / "config.json").read_text())
    config["moe_intermediate_size"] = width
    (folder / "config.json").write_text(json.dumps(config))
    with safe_open(folder / "model.safetensors", "np") as found:
        shapes = {name: found.get_slice(name).get_shape() for name in found.keys()}  # noqa: SIM118
    (folder / "model.safetensors").unlink()
    names, weight_map, headers = sorted(shapes), {}, 0
    for number in range(n_files):
        file = f"model-{number + 1:05}-of-{n_files:05}.safetensors"
        header, at = {}, 0
        for name in names[number::n_files]:
            shape = list(shapes[name])
            if ".experts." in name:
                shape[1 if "down_proj" in name else 0] = width
            n_bytes = 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n_bytes]}
            at += n_bytes
            weight_map[name] = file
        text = json.dumps(header).encode()
        headers += 8 + len(text)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + at)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return headers


def test_a_plan_of_a_huge_model(tmp_path: Path) -> None:
    """The plan of a model of half a trillion weights, a terabyte in eight files, costs its headers,
    256 KiB of samples a file, and config and tokenizer: less than four megabytes.
    """
    headers = big(tmp_path / "big", 8, 40_960_000)
    with serving(tmp_path / "big") as server:
        made = plan(server.url)
        assert made.n_weights > 500e9
        assert sum(made.sources.values()) > 1e12
        shards = server.sent("-of-00008.safetensors")
        assert shards <= headers + 8 * ((128 << 10) + 64 * 4096)
        assert server.sent() - shards < 200_000
        began = len(server.asked)
        assert inspect(server.url)["weights"] == made.n_weights
        assert (
            len([a for a in server.asked[began:] if a.path.endswith("-of-00008.safetensors")]) == 8
        )


def test_late_but_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A range whose last bytes come after the limit has come: asking for what is behind it would
    have the file pass for one that became shorter.
    """
    clock = itertools.count(step=2 * web.STALL_SECONDS)
    monkeypatch.setattr(web.time, "monotonic", lambda: float(next(clock)))
    answer = SimpleNamespace(raw=io.BytesIO(b"abc"))
    buffer = bytearray(3)
    web._read_body(answer, memoryview(buffer))
    assert bytes(buffer) == b"abc"
    answer = SimpleNamespace(raw=SimpleNamespace(read1=lambda _: b"a"))
    with pytest.raises(patience.TransientError, match="slower than"):
        web._read_body(answer, memoryview(buffer))


@pytest.mark.parametrize(
    "fault", ["reset", "close", "short", "stall", "silence", "shifted", "503", "later 0"]
)
def test_every_range_fails_once(
    server: Server, local: Path, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad line costs time and no bit: each range is broken once, in this way, and the file is
    the same.
    """
    if fault in ("stall", "silence"):
        seen = itertools.count()  # each costs the whole limit: 24 of them
        server.fault = lambda asked: (
            fault if not asked.number and asked.start and next(seen) < 24 else None
        )
        monkeypatch.setattr(web, "STALL_SECONDS", 0.2)
    else:
        server.fault = first_time(fault)
    ggufmix.convert(server.url, tmp_path / "out.gguf")
    same_but_revision(tmp_path / "out.gguf", local)
    if fault not in ("stall", "silence"):
        again = [a for a in server.of(".safetensors") if a.number or a.start]
        assert len(again) > 100


def test_what_has_come_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    """After a reset in the middle of a body the request goes on where it broke."""
    server.fault = lambda asked: "reset" if not asked.start and not asked.number else None
    with open_checkpoint(server.url):
        starts = [a.start for a in server.of("model.safetensors") if a.start]
        assert starts in ([], [64 << 10])  # a reset may overtake the bytes before it


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("reset", "the connection (was reset|broke)"),
        ("stall", r"no byte for 0\.1 s"),
        ("trickle", "slower than"),
        ("503", "answered 503"),
        ("later 0", "answered 429"),
        ("shifted", r"asked for bytes from \d+, got some from \d+"),
    ],
)
def test_gives_up(
    server: Server, tmp_path: Path, fault: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that is gone for good ends the run after the stated number of attempts, with file,
    place and reason, and leaves no finished file.
    """
    monkeypatch.setattr(patience, "ATTEMPTS", 3)
    if fault in ("stall", "trickle"):  # a busy machine may take as long for the others
        monkeypatch.setattr(web, "STALL_SECONDS", 0.1)
    server.fault = lambda asked: (
        fault if asked.start > 4_000_000 and asked.path.endswith(".safetensors") else None
    )
    with pytest.raises(SourceError, match=told) as caught:
        ggufmix.convert(server.url, tmp_path / "out.gguf")
    assert re.match(
        r"model\.safetensors: gave up after 3 attempts at byte \d+: ", str(caught.value)
    )
    assert int(re.search(r"byte (\d+)", str(caught.value))[1]) > 4_000_000  # type: ignore[index]
    assert caught.value.hint
    assert not (tmp_path / "out.gguf").exists()


def test_retry_after_holds_for_all(
    server: Server, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that says when to come again is left alone until then, by every thread."""
    times: list[float] = []

    def fault(asked: Asked) -> str | None:
        if asked.path.endswith(".safetensors"):
            times.append(time.monotonic())
            return "later 1" if len(times) == 1 else None
        return None

    server.fault = fault
    with open_checkpoint(server.url):
        pass
    assert times[1] - times[0] >= 1.0


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("changed", "changed while it was being read: .* became another"),
        ("404", "is there no longer"),
        ("403", "access denied: the server answered 403"),
        ("401", "access denied"),
        ("redirect file:///etc/passwd", "redirects from http to file, which is not followed"),
        ("redirect ftp://127.0.0.1/x", "redirects from http to ftp"),
    ],
)
def test_what_no_attempt_mends(server: Server, tmp_path: Path, fault: str, told: str) -> None:
    """A changed file, a missing one, a closed one or a way elsewhere is an error at once."""
    server.fault = lambda asked: fault if asked.start > 4_000_000 else None
    with pytest.raises(SourceError, match=told) as caught:
        ggufmix.convert(server.url, tmp_path / "out.gguf", threads=1)
    assert str(caught.value).startswith("model.safetensors: ")
    assert max(a.number for a in server.asked) == 0


def test_a_shrunk_file(server: Server, example: Path, tmp_path: Path) -> None:
    """A file that is written anew meanwhile, shorter, is no source."""
    copy = shutil.copytree(example, tmp_path / "copy")
    server.root = copy
    with open_checkpoint(server.url) as checkpoint:
        tensor = list(checkpoint.tensors.values())[-1]
        with (copy / "model.safetensors").open("r+b") as file:
            file.truncate(1_000_000)
        with pytest.raises(SourceError, match="changed while it was being read: it had 8179144"):
            tensor.raw(0, 1)


def test_a_grown_file(server: Server, example: Path, tmp_path: Path) -> None:
    """Neither is one that has become longer, where no ETag tells."""
    copy = server.root = shutil.copytree(example, tmp_path / "copy")
    server.etag = lambda _: "the same"
    with open_checkpoint(server.url) as checkpoint:
        tensor = list(checkpoint.tensors.values())[-1]
        with (copy / "model.safetensors").open("ab") as file:
            file.write(b"x")
        with pytest.raises(SourceError, match="it had 8179144 bytes, now 8179145"):
            tensor.raw(0, 1)


def test_without_ranges(server: Server) -> None:
    """A server that sends whole files only is refused, before 50 GB come for a header."""
    server.ranges = False
    with pytest.raises(SourceError, match="does not send parts of files") as caught:
        open_checkpoint(server.url)
    assert "download" in str(caught.value.hint)
    assert len(server.of("model.safetensors")) == 1


def test_redirects_too_many(server: Server) -> None:
    """A ring of redirects ends."""
    server.fault = lambda _: f"redirect {server.url}/model.safetensors"
    with pytest.raises(SourceError, match="more than 10 redirects"):
        open_checkpoint(server.url)


def test_a_target_that_ends(server: Server, local: Path, tmp_path: Path) -> None:
    """Redirects lead to addresses that are signed for an hour: the first one is asked again then,
    and not for every range.
    """
    life = 60
    with serving(server.root) as signed:

        def now() -> int:
            return len(signed.of(".safetensors")) // life

        signed.fault = lambda asked: "403" if now() - int(asked.query) > 1 else None
        server.fault = lambda asked: (
            f"redirect {signed.url}/model.safetensors?{now()}"
            if asked.path.endswith("model.safetensors")
            else None
        )
        ggufmix.convert(server.url, tmp_path / "out.gguf")
        same_but_revision(tmp_path / "out.gguf", local)
        assert len(signed.of(".safetensors")) > 3 * life
        assert 1 < len(server.of("model.safetensors")) < life


def test_secrets_stay(server: Server, tmp_path: Path) -> None:
    """Password and signature of an address reach the server, no message, and no byte of the
    output.
    """
    url = server.url.replace("http://", "http://ann:PASSWORD@") + "/?sig=SIGNATURE"
    out = tmp_path / "out.gguf"
    ggufmix.convert(url, out)
    assert {a.query for a in server.asked} == {"sig=SIGNATURE"}
    assert all(a.headers["Authorization"].startswith("Basic ") for a in server.asked)
    assert b"PASSWORD" not in out.read_bytes()
    assert b"SIGNATURE" not in out.read_bytes()
    said = []
    for fault in ("403", "redirect file:///SIGNATURE", "reset", "500", "404"):
        server.fault = lambda _, fault=fault: fault  # type: ignore[misc]
        with pytest.raises(SourceError) as caught:
            open_checkpoint(url)
        said.append(f"{caught.value} {caught.value.hint} {caught.value.__cause__}")
    for text in said:
        assert "PASSWORD" not in text
        assert "SIGNATURE" not in text


def test_names_stay_in_the_folder(server: Server, example: Path, tmp_path: Path) -> None:
    """An index on a server cannot name what lies beside the folder: nothing is even asked for."""
    copy = shutil.copytree(example, tmp_path / "copy")
    server.root = copy
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    for name in ("../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "..\\x"):
        index = {"weight_map": {"a": name}}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(SourceError, match="expected the name of a file in the folder"):
            open_checkpoint(server.url)
    assert {a.path for a in server.asked} == {
        "/model.safetensors",
        "/model.safetensors.index.json",
    }


def test_addresses_of_files(server: Server, local: Path, tmp_path: Path) -> None:
    """The file itself, its index, a GGUF file: each can be what is given."""
    server.root = tmp_path
    shutil.copy(local, tmp_path / "a b.gguf")
    out = tmp_path / "out.gguf"
    ggufmix.convert(f"{server.url}/a%20b.gguf", out)
    assert keys(out)["ggufmix.source.files"] == ["a b.gguf"]
    theirs = {t.name: hashlib.md5(t.data).digest() for t in gguf.GGUFReader(local).tensors}
    assert theirs == {t.name: hashlib.md5(t.data).digest() for t in gguf.GGUFReader(out).tensors}
    described = inspect(f"{server.url}/a%20b.gguf")
    assert described == inspect(tmp_path / "a b.gguf")
    with pytest.raises(SourceError, match=r"expected model\.safetensors\.index\.json or "):
        open_checkpoint(server.url)
    with pytest.raises(SourceError, match=r"no\.gguf: no such file in http://127"):
        inspect(f"{server.url}/no.gguf")


def test_latency_is_hidden(example: Path, tmp_path: Path) -> None:
    """Requests wait side by side: with 100 ms for each of more than a hundred, a run of one after
    the other would take over ten seconds.
    """
    with serving(example, latency=0.1) as server:
        began = time.monotonic()
        ggufmix.convert(server.url, tmp_path / "out.gguf")
        spent = time.monotonic() - began
    assert len(server.asked) > 100
    assert spent < 0.1 * len(server.asked) / 2


def test_closed_means_closed(server: Server) -> None:
    """After `with`, reading fails at once, and nothing waits for the network."""
    with open_checkpoint(server.url) as checkpoint:
        tensor = next(iter(checkpoint.tensors.values()))
    with pytest.raises(ValueError, match="after its checkpoint was closed"):
        tensor.raw(0, 1)


def test_command_line(server: Server, tmp_path: Path, local: Path) -> None:
    """An address goes through the command line as it is."""
    out = tmp_path / "out.gguf"
    done = subprocess.run(
        [sys.executable, "-m", "ggufmix", "convert", server.url + "/", "-o", out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    same_but_revision(out, local)


def test_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the error names it."""
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.delitem(sys.modules, "ggufmix.sources.remote.stores", raising=False)
    with pytest.raises(UsageError, match="need") as caught:
        open_checkpoint("s3://bucket/model")
    assert "ggufmix[hub]" in str(caught.value.hint)


@pytest.mark.parametrize("fault", ["stall", "503"])
def test_ctrl_c_in_an_outage(server: Server, tmp_path: Path, fault: str) -> None:
    """Whoever stops a run while its server is down has the prompt back, without more attempts."""
    server.fault = lambda asked: (
        fault if asked.start > 4_000_000 and asked.path.endswith(".safetensors") else None
    )
    code = (
        "import sys, ggufmix.sources.remote.patience as p; p.FIRST_WAIT = 300.0\n"
        "import ggufmix\n"
        "from ggufmix.sources import SourceFile; SourceFile.fingerprint = ''\n"
        "ggufmix.convert(sys.argv[1], sys.argv[2])"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, server.url, tmp_path / "out.gguf"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 20
    while not any(a.start > 4_000_000 for a in server.asked) and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)
    began = time.monotonic()
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert "KeyboardInterrupt" in said
    assert not (tmp_path / "out.gguf").exists()


def test_verify_at_both_places(server: Server, example: Path, tmp_path: Path) -> None:
    """What was made from an address is good beside it, and beside the download."""
    out = tmp_path / "out.gguf"
    ggufmix.convert(server.url, out)
    for src in (server.url, example):
        found = proof.verify(out, src)
        assert (found.grade, found.problems) == ("GOOD", ())
