"""What a run holds in memory, whatever the shape of a model."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import pytest
from sources.gguf_build import raw_file

from ggufmix import writing
from ggufmix.writing import Extent, Made, Piece, running

MEASURED = """
import sys
from ggufmix.cli import main
sys.argv = ["ggufmix", *sys.argv[1:]]
try:
    main()
finally:  # not getrusage: its peak begins with that of the process that forked us
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(int(line.split()[1]) // 1024, file=sys.stderr)
"""


@dataclass(frozen=True)
class Nothing:
    def __add__(self, other: Nothing) -> Nothing:
        return other


@dataclass
class Large:
    """Bands of a mebibyte, of which it counts how many there are at once."""

    name: str = "large"
    source_bytes: int = 0
    n_rows: int = 100
    extents: tuple[Extent, ...] = (Extent(0, 100 << 20),)
    alive: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def bands(self) -> Iterator[tuple[int, int]]:
        return ((i, i + 1) for i in range(self.n_rows))

    def memory(self, start: int, stop: int) -> int:
        return (stop - start) << 20

    def make(self, start: int, stop: int) -> Made[Nothing]:
        assert stop == start + 1
        with self.lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
        time.sleep(0.001)  # so that there is another one meanwhile
        return Made((Piece(0, start << 20, memoryview(bytearray(1 << 20))),), Nothing())

    def step(self, *_: object) -> None:
        with self.lock:
            self.alive -= 1


@pytest.mark.parametrize(("budget", "most"), [(5, 5), (100, 16), (0, 1)])
def test_bands_under_way_fit_the_budget(
    monkeypatch: pytest.MonkeyPatch, budget: int, most: int
) -> None:
    """No more bands at once than fit, or than twice the threads; one always may, and none waits for
    ever.
    """
    monkeypatch.setattr(running, "UNDER_WAY_BYTES", budget << 20)
    job = Large()
    writing.run([job], None, lambda *_: None, threads=8, progress=job.step)
    assert job.alive == 0
    assert 0 < job.most <= most
    assert job.most > 1 or most == 1


def sparse(path: Path, tensors: dict[str, tuple[int, ...]]) -> Path:
    """A GGUF file of F16 zeros that take no room on disk; shapes in GGUF order."""
    at, infos = 0, []
    for name, shape in tensors.items():
        infos.append((name, shape, "F16", at))
        at += -(-2 * int(np.prod(shape, dtype=np.int64)) // 32) * 32
    path.write_bytes(raw_file(infos, 0))
    os.truncate(path, path.stat().st_size + at)
    return path


def limited() -> None:
    """From now on whoever asks for more than 400 MB, used or not, gets none."""
    resource.setrlimit(resource.RLIMIT_DATA, (400_000_000, 400_000_000))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says it in /proc")
@pytest.mark.parametrize("more", [("--threads", "16"), ("--threads", "16", "--verify"), ()])
def test_a_model_far_larger_than_its_memory(tmp_path: Path, more: tuple[str, ...]) -> None:
    """2.5 GB of weights, among them stacked experts of 1.6 GB and rows of eight million values:
    under 400 MB resident with 16 threads, and 400 MB of memory are enough with the usual number.
    """
    source = sparse(
        tmp_path / "x.gguf",
        {
            "blk.0.ffn_up_exps.weight": (2048, 3072, 128),
            "blk.0.ffn_norm.weight": (2048,),
            "token_embd.weight": (1 << 23, 40),
            "output.weight": (2048, 50_000),
        },
    )
    out = tmp_path / "y.gguf"
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, "convert", source, "-o", out, "-r", "pure:Q4_0", *more],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=None if more else limited,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stderr.split()[-1]) < 400
    made = {t.name: t.tensor_type.name for t in gguf.GGUFReader(out).tensors}
    assert made["token_embd.weight"] == made["blk.0.ffn_up_exps.weight"] == "Q4_0"
