"""Kill runs many times, resume them, and compare what comes out: prints one JSON object.

    python kills.py random FOLDER MODEL N   `ggufmix convert` by SIGKILL at N random moments
    python kills.py every  FOLDER           a small plan, at every call that changes the disk

A process of its own: it imports everything once and forks for each run, so that a run is all work
and no import.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import rich.progress  # noqa: F401
import tokenizers  # noqa: F401
from writing.made import plan, values, write

from ggufmix import cli, pipeline, progress  # noqa: F401
from ggufmix.writing import keeping

CALLS = ("open", "pwrite", "write", "fsync", "fdatasync", "replace", "unlink", "ftruncate")
Work = Callable[[Path], int]


def converts(model: str) -> Work:
    """The command, on a model; how many tensors it found to be done."""

    def work(out: Path) -> int:
        sys.argv = ["ggufmix", "convert", model, "-o", str(out), "--resume"]
        try:
            cli.main()
        except SystemExit as error:
            if error.code:
                return DIED
        words = sys.stderr.getvalue().split()  # type: ignore[attr-defined]
        return int(words[words.index("of") - 1]) if "already" in words else 0

    return work


def writes(out: Path) -> int:
    """A plan of four tensors in two parts, each in the journal as soon as it is done; how many it
    found to be done.
    """
    ended = keeping.Keeper.ended

    def then_flush(self: keeping.Keeper, *args: Any) -> None:
        ended(self, *args)
        self.flush()

    keeping.Keeper.ended = then_flush  # type: ignore[method-assign]
    keeping.SYNC_SECONDS = 60.0
    return write(plan(values(4)), out, split=2, threads=1, resume=True).resumed


def begun(work: Work, out: Path, *, dies_at: int = 0, slow: float = 0) -> int:
    """Do it in a child; its process id. Its exit status is what the work gives.

    dies_at  ends, as a killed process does, in the place of its n-th call of CALLS; 0: never
    slow     seconds that a write to the file takes longer, so that there is time to kill
    """
    child = os.fork()
    if child:
        return child
    status = DIED
    try:
        sys.stdout = sys.stderr = io.StringIO()
        keeping.SYNC_SECONDS = 0.0
        left, lock = dies_at, threading.Lock()

        def counted(call: Callable[..., Any], name: str) -> Callable[..., Any]:
            def counting(*args: Any, **more: Any) -> Any:
                nonlocal left
                with lock:
                    if name != "open" or args[1] & os.O_CREAT:
                        left -= 1
                        if left == 0:
                            os._exit(KILLED)
                if slow and name == "pwrite":
                    time.sleep(slow)
                return call(*args, **more)

            return counting

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name), name))
        keeping._sync = os.fdatasync
        status = work(out)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


KILLED, DIED = 254, 255


def ended(child: int) -> int:
    """The exit status of a child."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Print what happened: kills, tensors that were resumed after each, and what differed."""
    how, folder, *more = sys.argv[1:]
    work = converts(more[0]) if how == "random" else writes
    enough = int(more[1]) if how == "random" else 1000
    base, rng = Path(folder), random.Random(enough)

    def files(at: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in at.parent.iterdir()}

    def fresh(name: str) -> Path:
        (base / name).mkdir()
        return base / name / "x.gguf"

    whole = fresh("whole")
    begin = time.monotonic()
    assert ended(begun(work, whole, slow=0.002)) == 0
    lasts = time.monotonic() - begin
    want = files(whole)
    resumed, wrong, kills = [], [], 0
    for i in itertools.count(1):
        if kills >= enough:
            break
        out = fresh(str(i))
        if how == "every":
            if ended(begun(work, out, dies_at=i)) != KILLED:
                break
            kills += 1
        else:
            for _ in range(1 + (i % 5 == 0)):
                child = begun(work, out, slow=0.002)
                time.sleep(rng.random() * lasts)
                os.kill(child, signal.SIGKILL)
                kills += ended(child) == -signal.SIGKILL
        left = files(out)
        if any(left[name] != data for name, data in want.items() if name in left):
            wrong.append(f"{i}: a file that looks finished is not")
        if left != want:
            found = ended(begun(work, out))
            if found >= KILLED:
                wrong.append(f"{i}: could not be resumed")
            resumed.append(found)
        if files(out) != want:
            wrong.append(f"{i}: other bytes, or files: {sorted(files(out))}")
        shutil.rmtree(out.parent)
    print(json.dumps({"kills": kills, "resumed": resumed, "wrong": wrong}))


if __name__ == "__main__":
    main()
