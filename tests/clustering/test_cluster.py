"""`convert --engine dask`: a real scheduler, real workers on loopback, the bytes of a local run."""

# SPDX-License-Identifier: MIT

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ggufmix
from ggufmix import clustering
from ggufmix.cli import app
from ggufmix.errors import (
    GgufmixError,
    NotFiniteError,
    OutlierError,
    SourceError,
    UsageError,
    WriteError,
)
from ggufmix.pipeline import Options
from ggufmix.splitting import Limits
from ggufmix.writing import keeping

Start = Callable[..., subprocess.Popen[bytes]]
SECONDS = 60


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port


@contextmanager
def scheduling() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler, in a process of its own, and its address."""
    port = free_port()
    with _process("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard") as process:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"tcp://127.0.0.1:{port}", process


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of one that most tests share."""
    with scheduling() as (address, _):
        yield address


class _process:  # noqa: N801
    """A process of dask's, ended with the block."""

    def __init__(self, kind: str, *arguments: object, **env: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "dask", kind, *map(str, arguments)]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, stdout=quiet, stderr=quiet, env={**os.environ, **env}
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def worker(scheduler: str, folder: Path, **env: str) -> _process:
    """One worker with one thread, without a nanny: what is killed stays dead."""
    return _process(
        "worker",
        scheduler,
        "--nthreads",
        1,
        "--no-nanny",
        "--no-dashboard",
        "--local-directory",
        folder,
        **env,
    )


@pytest.fixture(scope="module")
def two(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of two workers, one of which has no SIMD."""
    folder = tmp_path_factory.mktemp("workers")
    with worker(scheduler, folder), worker(scheduler, folder, GGUFMIX_TIER="base"):
        yield scheduler


@pytest.mark.parametrize(
    ("options", "split"),
    [
        (Options(), None),
        (Options("q4_k_m", scan=True), None),
        (Options("q8_0"), Limits(tensors=30)),
    ],
    ids=["q8_0", "scanned", "in parts"],
)
def test_the_bytes_of_a_local_run(
    options: Options, split: Limits | None, example: Path, two: str, tmp_path: Path
) -> None:
    """A file from a cluster, whatever its workers can do, is the file from this machine; so are the
    errors that were measured.
    """
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    local = ggufmix.convert(example, here / "m.gguf", options=options, split=split, verify=True)
    steps: list[int] = []
    spread = ggufmix.convert(
        example,
        there / "m.gguf",
        options=options,
        split=split,
        verify=True,
        progress=lambda _, done, total: steps.append(done * 100 // total),
        engine=clustering.on(two),
    )
    assert sorted(p.name for p in there.iterdir()) == sorted(p.name for p in here.iterdir())
    for path in here.iterdir():
        assert (there / path.name).read_bytes() == path.read_bytes()
    assert spread.found == local.found
    again = options.scan  # which is work of its own, before
    assert (again or steps == sorted(steps), steps[-1]) == (True, 100)


def test_several_recipes_of_one_reading(example: Path, two: str, tmp_path: Path) -> None:
    """Several files in parts, each worker reading a tensor once for all of them."""
    for folder, engine in (("here", None), ("there", clustering.on(two))):
        ggufmix.convert_each(
            example,
            tmp_path / folder / "{recipe}.gguf",
            ["q8_0", "q4_k_m"],
            options=Options(on_outlier="bf16"),
            split=Limits(size=2_500_000),
            engine=engine,
        )
    here = sorted(p.relative_to(tmp_path / "here") for p in tmp_path.glob("here/*/*.gguf"))
    assert len(here) == 4
    for name in here:
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_what_another_file_has(example: Path, two: str, tmp_path: Path) -> None:
    """Workers copy what was found to be there, from the file's own place, and encode the rest."""
    options = Options("q4_k_m", set_roles=["attn_q=Q6_K"])
    old, out = tmp_path / "old.gguf", tmp_path / "x.gguf"
    ggufmix.convert(example, old, "q4_k_m")
    ggufmix.convert(example, tmp_path / "here.gguf", options=options)
    made = ggufmix.convert(example, out, options=options, reuse=[old], engine=clustering.on(two))
    assert 0 < len(made.copied) < len(made.plan.tensors)
    assert out.read_bytes() == (tmp_path / "here.gguf").read_bytes()


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that takes a worker without SIMD some seconds."""
    out = tmp_path_factory.mktemp("larger") / "model"
    script = Path(__file__).parents[2] / "benchmarks" / "checkpoint.py"
    subprocess.run(
        [sys.executable, script, out, "--layers", "1"], check=True, stdout=subprocess.DEVNULL
    )
    return out


def test_a_worker_is_killed(larger: Path, scheduler: str, tmp_path: Path) -> None:
    """One of two workers dies in the middle of its work: what it had is made again, and the file is
    the same.
    """
    ggufmix.convert(larger, tmp_path / "here.gguf", "q4_k_m")
    slow = {"GGUFMIX_TIER": "base"}
    with worker(scheduler, tmp_path, **slow) as first, worker(scheduler, tmp_path, **slow):
        client = clustering.client(scheduler)
        client.wait_for_workers(2, timeout=SECONDS)
        killed = threading.Event()

        def progress(_: str, done: int, total: int) -> None:
            if not killed.is_set() and done < total:
                first.send_signal(signal.SIGKILL)
                killed.set()

        made = ggufmix.convert(
            larger,
            tmp_path / "there.gguf",
            "q4_k_m",
            progress=progress,
            engine=clustering.on(scheduler),
        )
        client.close()
    assert killed.is_set()
    assert len(made.found) == len(made.plan.tensors)
    assert (tmp_path / "there.gguf").read_bytes() == (tmp_path / "here.gguf").read_bytes()


def test_the_scheduler_is_killed(
    larger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends at once and says why; what was made is continued without a cluster."""
    monkeypatch.setattr(keeping, "SYNC_SECONDS", 0.0)
    out = tmp_path / "there.gguf"
    with scheduling() as (address, process), worker(address, tmp_path, GGUFMIX_TIER="base"):

        def progress(_: str, done: int, total: int) -> None:
            if keeping.left(out) and done < total:
                process.kill()

        with pytest.raises(WriteError, match="the scheduler is gone"):
            ggufmix.convert(larger, out, "q6_k", progress=progress, engine=clustering.on(address))
    assert not out.exists()
    assert ggufmix.convert(larger, out, "q6_k", resume=True).resumed > 0
    ggufmix.convert(larger, tmp_path / "here.gguf", "q6_k")
    assert out.read_bytes() == (tmp_path / "here.gguf").read_bytes()


def test_begun_there_continued_here(
    example: Path, two: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is this process's: what a cluster has written is continued without it."""
    monkeypatch.setattr(keeping, "SYNC_SECONDS", 0.0)
    ggufmix.convert(example, tmp_path / "here.gguf")

    def progress(_: str, done: int, total: int) -> None:
        time.sleep(0.01)
        if done > total // 2:
            raise KeyboardInterrupt

    out = tmp_path / "there.gguf"
    with pytest.raises(KeyboardInterrupt):
        ggufmix.convert(example, out, progress=progress, engine=clustering.on(two))
    assert not out.exists()
    made = ggufmix.convert(example, out, resume=True)
    assert made.resumed > 0
    assert out.read_bytes() == (tmp_path / "here.gguf").read_bytes()


def test_errors_come_back(model: Path, two: str, tmp_path: Path) -> None:
    """A NaN is named with its place, as by a local run, and nothing is left behind."""
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2:] = b"\xc0\x7f"
    weights.unlink()
    weights.write_bytes(data)
    with pytest.raises(NotFiniteError) as here:
        ggufmix.convert(model, tmp_path / "here.gguf")
    with pytest.raises(NotFiniteError) as there:
        ggufmix.convert(model, tmp_path / "there.gguf", engine=clustering.on(two))
    assert str(there.value) == str(here.value)
    assert (there.value.row, there.value.hint) == (here.value.row, here.value.hint)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_another_plan_is_refused(example: Path, two: str, tmp_path: Path) -> None:
    """A worker that would write another file, of another version or source, writes nothing."""
    engine = clustering.on(two)
    with pytest.raises(WriteError, match="on another machine the same plan came out otherwise"):
        ggufmix.convert(
            example,
            tmp_path / "m.gguf",
            engine=lambda work: engine(type(work)(**{**vars(work), "digest": "0" * 64})),
        )
    assert not list(tmp_path.iterdir())


def test_every_error_travels() -> None:
    """Errors go between processes with all that they know."""
    for error in (
        OutlierError("too large", row=3, column=4, hint="h"),
        SourceError("no", hint=None),
        GgufmixError("x"),
    ):
        found = pickle.loads(pickle.dumps(error))
        assert type(found) is type(error)
        assert (str(found), vars(found)) == (str(error), vars(error))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--engine", "dask"], "belong together"),
        (["--scheduler", "tcp://127.0.0.1:1"], "belong together"),
        (["--engine", "ray"], "expected threads or dask"),
        (["--engine", "dask", "--scheduler", "nonsense://x"], "no Dask scheduler answers"),
    ],
)
def test_bad_requests(arguments: list[str], part: str, example: Path, tmp_path: Path) -> None:
    """What cannot be meant is said before anything is written."""
    out = tmp_path / "m.gguf"
    result = CliRunner().invoke(app, ["convert", str(example), "-o", str(out), *arguments])
    assert isinstance(result.exception, UsageError)
    assert part in str(result.exception)
    assert not list(tmp_path.iterdir())
