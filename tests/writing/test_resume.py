"""Runs that are killed, stopped, or end on a full disk: what is left, and what becomes of it."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xxhash
from writing.made import jobs_of, plan, values, write

from ggufmix import writing
from ggufmix.errors import NotFiniteError, SourceError, WriteError
from ggufmix.planning import Plan
from ggufmix.tensor import Tensor
from ggufmix.writing import checking, keeping, places
from ggufmix.writing.encoding import Counts, Each


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every job is on disk, with its line, before the next band is handed in."""
    ended = keeping.Keeper.ended

    def then_sync(self: keeping.Keeper, *args: Any) -> None:
        ended(self, *args)
        self.flush()

    monkeypatch.setattr(keeping.Keeper, "ended", then_sync)


class Stop(BaseException):
    """Ctrl-C, as it were."""


def stopping(after: str) -> Callable[[str, int, int], None]:
    """A progress that ends the run when a tensor is reached."""

    def progress(name: str, _done: int, _total: int) -> None:
        if name == after:
            raise Stop

    return progress


def stopped(made: Plan, path: Path, after: str, **more: Any) -> None:
    with pytest.raises(Stop):
        write(made, path, threads=1, progress=stopping(after), **more)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("split", [1, 3])
def test_a_stopped_run_is_continued(tmp_path: Path, split: int) -> None:
    """Only what was not finished is done again; file and report are those of one run, in one part
    or in several.
    """
    made = plan(values())
    whole = write(made, tmp_path / "whole", split=split)
    (tmp_path / "x").mkdir()
    out = tmp_path / "x" / "out"
    stopped(made, out, "t4", split=split)
    assert not [n for n in names(out.parent) if not n.endswith((".part", ".part.journal"))]
    worked: list[str] = []
    again = write(
        made, out, split=split, resume=True, progress=lambda name, *_: worked.append(name)
    )
    assert again.resumed == 5
    assert again.damaged == ()
    assert (again.found, again.sums) == (whole.found, whole.sums)
    assert list(again.found) == list(whole.found)
    assert again.found["t1"].of[0].flushed == 3
    assert worked[-1] == "t5"
    made_of = {
        n.removeprefix("whole"): (tmp_path / n).read_bytes() for n in names(tmp_path) if n != "x"
    }
    assert {
        n.removeprefix("out"): (out.parent / n).read_bytes() for n in names(out.parent)
    } == made_of


def test_parts_are_claimed_when_they_are_closed(tmp_path: Path) -> None:
    """Also in a run too short for the journal's thread, of which only the last part is missing."""
    made = plan(values())
    with pytest.raises(Stop):
        write(made, tmp_path / "out", split=3, progress=stopping("t4"))
    assert write(made, tmp_path / "out", split=3, resume=True).resumed == 4


def test_a_short_run_keeps_no_journal(tmp_path: Path) -> None:
    """What is done in a second is done again as soon: a stopped run leaves nothing."""
    stopped(plan(values()), tmp_path / "out", "t4")
    assert names(tmp_path) == []


@pytest.mark.usefixtures("at_once")
def test_nothing_to_continue(tmp_path: Path) -> None:
    """`--resume` without a usable state is a run like any other: no file, an unfinished file alone,
    a journal that is empty or torn in its first line.
    """
    made = plan(values())
    write(made, tmp_path / "whole")
    out = tmp_path / "out"
    for state in (None, b"", b"0123456789abcdef {}\n", b"half a li"):
        if state is not None:
            (tmp_path / "out.part").write_bytes(b"x" * 99_999)
            keeping.journal(out).write_bytes(state)
        done = write(made, out, resume=True)
        assert done.resumed == 0
        assert out.read_bytes() == (tmp_path / "whole").read_bytes()
        assert names(tmp_path) == ["out", "whole"]
        out.unlink()


@pytest.mark.usefixtures("at_once")
def test_without_resume_a_run_begins_anew(tmp_path: Path) -> None:
    """State that was not asked for is not used, and does not outlive the run."""
    made = plan(values())
    stopped(made, tmp_path / "out", "t4")
    done = write(made, tmp_path / "out")
    assert done.resumed == 0
    assert names(tmp_path) == ["out"]


@pytest.mark.usefixtures("at_once")
def test_another_source_is_refused(tmp_path: Path) -> None:
    """A state of another source, recipe or plan is refused by that word, and left as it was."""
    made, out = plan(values()), tmp_path / "out"
    stopped(made, out, "t4")
    before = {n: (tmp_path / n).read_bytes() for n in names(tmp_path)}
    for other, bound, word in (
        (made, {"source": "b"}, "source"),
        (made, {"source": "a", "imatrix": "c"}, "imatrix"),
        (plan(values(), "Q4_0"), None, "plan"),
    ):
        with pytest.raises(WriteError, match=f"cannot be resumed: the {word} is not") as caught:
            write(other, out, resume=True, bound=bound)
        assert caught.value.hint
        assert {n: (tmp_path / n).read_bytes() for n in names(tmp_path)} == before
    assert write(made, out, resume=True).resumed == 5


@pytest.mark.usefixtures("at_once")
def test_what_was_damaged_is_done_again(tmp_path: Path) -> None:
    """One bit of the unfinished file, in data or between them, in the file's second half that was
    never written, or all of it gone: the result is right, and what was wrong is named.
    """
    made, out = plan(values() | {"odd": np.ones((3, 32), np.float32)}), tmp_path / "out"
    write(made, tmp_path / "whole")
    part = tmp_path / "out.part"
    for place in (0, 1, 2, made.tensors[2].n_bytes - 1, "padding", "cut", "gone"):
        stopped(made, out, "t4")
        raw = bytearray(part.read_bytes())
        base = len(made.header)
        if place == "cut":
            part.write_bytes(raw[: base + made.tensors[2].offset + 5])
        elif place == "gone":
            part.unlink()
        elif place == "padding":
            third = made.tensors[2]
            raw[-1] ^= 1
            raw[base + third.offset + third.n_bytes] ^= 1 if third.n_bytes % 32 else 0
            part.write_bytes(raw)
        else:
            assert isinstance(place, int)
            raw[base + made.tensors[2].offset + place] ^= 0x10
            part.write_bytes(raw)
        done = write(made, out, resume=True)
        assert out.read_bytes() == (tmp_path / "whole").read_bytes()
        if isinstance(place, int):
            assert (done.resumed, done.damaged) == (4, ("t2",))
        out.unlink()


def test_memory_that_has_been_used_is_not_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file that was cut no longer has is not taken from memory in which, by chance, the same
    data lie: those of another output, which has just been read.
    """
    made, empty = plan({"t0": values()["t0"]}), np.empty
    write(made, tmp_path / "whole")
    (job,) = jobs_of(made)
    data = (tmp_path / "whole").read_bytes()[job.extents[0].offset :][: job.extents[0].size]

    def used(shape: int, dtype: type) -> np.ndarray:
        found = empty(shape, dtype)
        found[:] = np.frombuffer(data, dtype)[:shape]
        return found

    monkeypatch.setattr(checking.np, "empty", used)
    stated = [(job, (xxhash.xxh64_intdigest(data),))]
    for size, wrong in ((None, set()), (job.extents[0].offset + 5, {"t0"}), (0, {"t0"})):
        with (tmp_path / "whole").open("r+b") as file:
            file.truncate(size if size is not None else made.total_bytes)
            assert checking.damaged(0, file.fileno(), stated, threads=1) == wrong


@pytest.mark.usefixtures("at_once")
def test_a_torn_journal_counts_to_the_tear(tmp_path: Path) -> None:
    """Cut anywhere, or with one byte wrong, the journal says no more than was said before that
    place, and the next run can add to it.
    """
    made, out = plan(values()), tmp_path / "out"
    write(made, tmp_path / "whole")
    stopped(made, out, "t4")
    part, journal = (tmp_path / "out.part").read_bytes(), keeping.journal(out).read_bytes()
    rng = random.Random(7)
    counts = set()
    for _ in range(40):
        (tmp_path / "out.part").write_bytes(part)
        at = rng.randrange(len(journal))
        torn = journal[:at] if rng.random() < 0.5 else bytearray(journal)
        if len(torn) == len(journal):
            torn[at] ^= 1 << rng.randrange(8)  # type: ignore[index]
        keeping.journal(out).write_bytes(torn)
        lines = journal[:at].count(b"\n") - 1
        if rng.random() < 0.3 and lines >= 0:
            stopped(made, out, "t5", resume=True)
            assert write(made, out, resume=True).resumed == 6
        else:
            done = write(made, out, resume=True)
            assert done.resumed == max(0, lines)
            counts.add(done.resumed)
        assert out.read_bytes() == (tmp_path / "whole").read_bytes()
        out.unlink()
    assert len(counts) > 3


@pytest.mark.usefixtures("at_once")
def test_outputs_in_another_order(tmp_path: Path) -> None:
    """What was begun for other outputs, or for the same in another order, is not thrown away
    unasked; where they are begun anew nothing speaks of the old ones any longer.
    """
    made = plan(values())

    def both(order: str, **more: Any) -> None:
        parts = [
            writing.Part(tmp_path / name, made.header, made.total_bytes, leads=True)
            for name in order
        ]
        resumable = writing.Resumable(Each[Counts], {"source": "a"}, more.pop("resume", False))
        writing.write(parts, jobs_of(made, made), threads=1, resumable=resumable, **more)

    with pytest.raises(Stop):
        both("xy", progress=stopping("t4"))
    with pytest.raises(WriteError, match=r"x: cannot be resumed: the plan"):
        both("yx", resume=True)
    assert names(tmp_path) == ["x.part", "x.part.journal", "y.part"]
    assert (tmp_path / "x.part").stat().st_size == made.total_bytes
    both("yx")
    assert names(tmp_path) == ["x", "y"]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Full, over quota, broken: a WriteError that says so, and how much is missing where that is
    it; the finished tensors are kept.
    """
    made, out = plan(values()), tmp_path / "out"
    put = places.put

    def refusing(file: int, data: Any, at: int) -> None:
        if at > made.tensors[3].offset + len(made.header):
            raise OSError(number, os.strerror(number))
        put(file, data, at)

    monkeypatch.setattr(places, "put", refusing)
    with pytest.raises(WriteError, match=os.strerror(number)) as caught:
        write(made, out, threads=1)
    if number in {errno.ENOSPC, errno.EDQUOT}:
        assert "more bytes are needed" in str(caught.value.hint)
    assert names(tmp_path) == ["out.part", "out.part.journal"]
    monkeypatch.setattr(places, "put", put)
    assert write(made, out, resume=True).resumed == 4


def test_the_disk_that_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several files on several disks it is said which one could not be written."""
    made, put = plan(values()), places.put

    def refusing(file: int, data: Any, at: int) -> None:
        if os.path.samestat(os.fstat(file), (tmp_path / "y.part").stat()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(file, data, at)

    monkeypatch.setattr(places, "put", refusing)
    parts = [
        writing.Part(tmp_path / name, made.header, made.total_bytes, leads=True) for name in "xyz"
    ]
    with pytest.raises(WriteError, match="y: No space left") as caught:
        writing.write(parts, jobs_of(made, made, made), threads=1)
    assert "more bytes are needed" in str(caught.value.hint)
    assert names(tmp_path) == []


@pytest.mark.usefixtures("at_once")
def test_a_disk_that_does_not_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that the disk lost are not claimed: what was not synced has no line."""
    made, out = plan(values()), tmp_path / "out"
    sync, count = keeping._sync, 0

    def refusing(file: int) -> None:
        nonlocal count
        count += 1
        if count == 6:  # the data of the third tensor: two calls each
            raise OSError(errno.EIO, "Input/output error")
        sync(file)

    monkeypatch.setattr(keeping, "_sync", refusing)
    with pytest.raises(WriteError, match="Input/output error"):
        write(made, out, threads=1)
    monkeypatch.setattr(keeping, "_sync", sync)
    assert write(made, out, resume=True).resumed < 4


class Vanishing(Tensor):
    """Rows on a disk that goes away for a while."""

    name, shape, dtype = "x", (50, 64), np.dtype(np.float32)
    there = True

    def rows(self, start: int, stop: int) -> np.ndarray:
        if not self.there:
            raise SourceError("x: cannot be read") from OSError(errno.EIO, "Input/output error")
        return np.ones((stop - start, 64), np.float32)


@pytest.mark.usefixtures("at_once")
def test_a_source_that_goes_away(tmp_path: Path) -> None:
    """What was made of it is kept, and continued when it is there again."""
    source = Vanishing()
    made, out = plan(values() | {"x": source}), tmp_path / "out"
    write(made, tmp_path / "whole")
    source.there = False
    with pytest.raises(SourceError, match="cannot be read"):
        write(made, out, threads=1)
    assert keeping.left(out)
    source.there = True
    assert write(made, out, resume=True).resumed == 6
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_job_of_nothing(tmp_path: Path) -> None:
    """A tensor without rows has no bands; the others are written."""
    made = plan(values(2))
    job = jobs_of(made)[1]
    empty = SimpleNamespace(name="e", source_bytes=0, n_rows=0, extents=(), bands=lambda: iter(()))
    part = writing.Part(tmp_path / "out", made.header, made.total_bytes)
    written = writing.write([part], [empty, job], threads=2)
    assert list(written.found) == list(written.sums) == ["t1"]


@pytest.mark.usefixtures("at_once")
def test_a_value_that_comes_again_leaves_nothing(tmp_path: Path) -> None:
    """A NaN is there in every run: state that only it could use is not kept."""
    tensors = values()
    tensors["t5"][7, 7] = np.nan
    with pytest.raises(NotFiniteError):
        write(plan(tensors), tmp_path / "out", threads=1)
    assert names(tmp_path) == []


def test_data_are_on_disk_before_they_are_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line in the journal comes after a sync of the file that began when all of the tensor was
    written, so no loss of power makes it a lie.
    """
    events: list[tuple[str, int]] = []
    write_, sync, put = os.write, keeping._sync, places.put
    monkeypatch.setattr(keeping, "SYNC_SECONDS", 0.0)

    def synced(file: int) -> None:
        covered = sum(n for what, n in events if what == "put")
        sync(file)
        events.append(("sync", covered))

    def wrote(file: int, data: Any) -> int:
        events.append(("line", bytes(data).count(b'"name"')))
        return write_(file, data)

    def putting(file: int, data: Any, at: int) -> None:
        put(file, data, at)
        events.append(("put", len(data)))
        time.sleep(0.002)

    monkeypatch.setattr(keeping, "_sync", synced)
    monkeypatch.setattr(keeping.os, "write", wrote)
    monkeypatch.setattr(places, "put", putting)
    made = plan(values(30))
    write(made, tmp_path / "out", threads=1)
    claimed = safe = lines = 0
    sizes = [t.n_bytes for t in made.tensors]
    for what, n in events:
        if what == "sync":
            safe = max(safe, n)
        elif what == "line":
            lines += n > 0
            claimed += n
            assert sum(sizes[:claimed]) <= safe
    assert lines > 3


def killed(*arguments: object) -> dict[str, Any]:
    """What kills.py says of many runs."""
    script = Path(__file__).with_name("kills.py")
    run = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_killed_at_every_call(tmp_path: Path) -> None:
    """A run of two parts that is killed in the place of its n-th call that changes the disk, for
    every n there is: nothing looks finished that is not, and the next run ends with the same bytes.
    """
    found = killed("every", tmp_path)
    assert not found["wrong"]
    assert found["kills"] > 30
    assert set(found["resumed"]) == {0, 1, 2, 3, 4}


def test_killed_at_random_moments(example: Path, tmp_path: Path) -> None:
    """`convert` ended by SIGKILL, some twice, and then resumed: the same bytes as
    of a run without a break, every time.
    """
    found = killed("random", tmp_path, example, 50)
    assert not found["wrong"]
    assert found["kills"] >= 50
    assert sum(n > 0 for n in found["resumed"]) > 15
