"""`convert --profile`: where the time went."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ggufmix
from ggufmix import profiling
from ggufmix.cli import app
from ggufmix.pipeline import Options
from ggufmix.profiling import following, phase, recorded, stage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, in a list so that a test can set it."""
    now = [0.0]
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now[0])
    return now


def test_work_within_work_counts_once(clock: list[float]) -> None:
    """A phase that is slow because of another one within it is not blamed."""
    with recorded() as profile:
        clock[0] = 1
        with stage("tensors"), phase("transforming"):
            clock[0] = 3
            with phase("reading"):
                clock[0] = 10
            clock[0] = 11
        clock[0] = 12
    found = profile.stages["tensors"]
    assert (profile.clock, found.clock) == (12, 10)
    assert (found.phases["transforming"].threads, found.phases["transforming"].clock) == (3, 3)
    assert (found.phases["reading"].threads, found.phases["reading"].clock) == (7, 7)


def test_stages_share_the_time(clock: list[float]) -> None:
    """A stage within another one is no part of it, so that all of them add up; a phase belongs to
    the stage that it begins in.
    """
    with recorded() as profile, stage("planning"):
        clock[0] = 2
        with stage("scan"), phase("reading"):
            clock[0] = 5
        with phase("reading"):
            clock[0] = 6
    assert {name: s.clock for name, s in profile.stages.items()} == {"planning": 3, "scan": 3}
    assert profile.stages["scan"].phases["reading"].clock == 3
    assert profile.stages["planning"].phases["reading"].clock == 1


def test_threads_at_the_same_time(clock: list[float]) -> None:
    """Two threads that read from 0 to 4 and from 1 to 6 take 9 seconds of threads, 6 of the clock;
    a thread that was not told to follow is another run's.
    """
    with recorded() as profile, stage("tensors"), phase("reading"):
        inside, over = threading.Event(), threading.Event()

        def work() -> None:
            with phase("reading"):
                inside.set()
                over.wait()

        clock[0] = 1
        threads = [threading.Thread(target=following(work)), threading.Thread(target=work)]
        threads[1].start()
        inside.wait()
        inside.clear()
        threads[0].start()
        inside.wait()
        clock[0] = 4
        with phase("encoding"):
            clock[0] = 6
            over.set()
            for thread in threads:
                thread.join()
    found = profile.stages["tensors"].phases
    assert (found["reading"].threads, found["reading"].clock) == (9, 6)
    assert found["encoding"].threads == 2


def test_nothing_is_recorded_unasked() -> None:
    """Who does not ask for a profile does not pay for one."""
    with recorded() as profile:
        pass
    assert isinstance(phase("reading"), nullcontext)
    with stage("tensors"), phase("reading"):
        pass
    assert profile.stages == {}


def test_a_run_names_its_work(example: Path, tmp_path: Path) -> None:
    """Every step of a run is in the profile, and it claims no more time than there was."""
    with recorded() as profile:
        ggufmix.convert(
            example,
            tmp_path / "x.gguf",
            options=Options("q4_x", scan=True),
            threads=3,
            verify=True,
        )
    stages = profile.stages
    assert list(stages) == ["opening, planning", "scan", "tensors", "headers, names"]
    assert {"reading", "transforming", "encoding"} <= set(stages["scan"].phases)
    assert "writing" not in stages["scan"].phases
    steps = {"reading", "transforming", "encoding", "measuring", "writing", "hashing"}
    assert steps <= set(stages["tensors"].phases)
    assert "syncing" in stages["headers, names"].phases
    assert sum(s.clock for s in stages.values()) <= profile.clock
    for found in stages.values():
        for spent in found.phases.values():
            assert 0 < spent.clock <= found.clock
            assert spent.clock <= spent.threads * (1 + 1e-9)
        assert sum(p.threads for p in found.phases.values()) <= 4 * found.clock


def test_the_table_is_on_stderr(example: Path, tmp_path: Path) -> None:
    """It does not get into what a script reads, and the bytes are the same."""
    runner, texts = CliRunner(), []
    for name, more in (("a.gguf", []), ("b.gguf", ["--profile"])):
        result = runner.invoke(app, ["convert", str(example), "-o", str(tmp_path / name), *more])
        assert result.exit_code == 0
        texts.append((result.stdout, result.stderr))
    (out, told), (out_profiled, told_profiled) = texts
    assert out_profiled == out.replace("a.gguf", "b.gguf")
    assert told_profiled.startswith(told)
    rows = [line.split() for line in told_profiled.removeprefix(told).splitlines()]
    assert rows[0] == ["seconds", "of", "all", "threads"]
    assert {"reading", "encoding", "hashing", "writing", "syncing"} <= {row[0] for row in rows}
    assert rows[-1][:2] == ["in", "all"]
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
