"""What benchmarks of whole processes share: a checkpoint, a clock, the machine's name."""

# SPDX-License-Identifier: MIT

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Those that all of them take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, help="where to keep checkpoints; a temporary folder by default"
    )
    parser.add_argument("--runs", type=int, default=5)
    return parser


@contextmanager
def folder_of(given: argparse.Namespace, *left: str) -> Iterator[Path]:
    """Where to work. What is `left` there is gone afterwards; all of it, where it is temporary."""
    folder = given.folder or Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        for name in left:
            shutil.rmtree(folder / name, ignore_errors=True)
            if (folder / name).exists():
                (folder / name).unlink()
        if given.folder is None:
            shutil.rmtree(folder)


def cpu() -> str:
    """What this machine calls its processor."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(": ")[1]
    return platform.processor()


def timed(arguments: list[str], log: Path) -> tuple[float, float]:
    """Seconds and peak resident MB of a process. Raises where it fails, with the end of what it
    said.
    """
    begun = time.perf_counter()
    child = os.posix_spawnp(
        arguments[0],
        arguments,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{arguments[:4]} failed:\n{log.read_text()[-2000:]}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1e3


def make(model: Path, *options: str) -> Path:
    """A checkpoint, made where it is missing, in a process of its own: a child's peak memory begins
    at its parent's.
    """
    if model.exists():
        return model
    script = str(Path(__file__).with_name("checkpoint.py"))
    subprocess.run([sys.executable, script, str(model), *options], check=True, stdout=sys.stderr)
    return model
