"""What is on disk after a run, whole or broken."""

# SPDX-License-Identifier: MIT

import os
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from writing.made import jobs_of

from ggufmix import writing
from ggufmix.codecs import decode, encoder
from ggufmix.errors import NotFiniteError, OutlierError, UsageError, WriteError
from ggufmix.planning import Plan, lay_out
from ggufmix.tensor import Placed, Tensor, held
from ggufmix.writing import encoding, places
from ggufmix.writing.encoding import Counts, by_part
from ggufmix.writing.running import thread_count
from ggufmix.writing.scans import scannings


def plan(values: dict[str, np.ndarray], kind: str = "Q8_0") -> Plan:
    placed = [Placed(name, "FFN_UP", 0, held("source " + name, x)) for name, x in values.items()]
    return Plan("q8_0", "qwen35", {}, lay_out((p, encoder(kind), "test", None) for p in placed))


def write(made: Plan, path: Path, threads: int = 2, **more: object) -> dict[str, Counts]:
    jobs = jobs_of(made)
    part = writing.Part(path, made.header, made.total_bytes)
    return by_part(jobs, writing.write([part], jobs, threads=threads, **more).found)[0]  # type: ignore[arg-type]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(ml_dtypes.bfloat16)


def test_the_same_bytes_for_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bands go to their own places: one thread or seven, one band or hundreds, the file is the
    same, and is what was planned.
    """
    made = plan({"a": noise(300, 256), "b": noise(4, 70, 64), "c": noise(64)})
    write(made, tmp_path / "one.gguf", threads=1)
    monkeypatch.setattr(encoding, "BAND_BYTES", 1000)
    write(made, tmp_path / "seven.gguf", threads=7)
    raw = (tmp_path / "one.gguf").read_bytes()
    assert raw == (tmp_path / "seven.gguf").read_bytes()
    assert len(raw) == made.total_bytes
    at = len(made.header) + made.tensors[1].offset
    blocks = np.frombuffer(raw[at : at + made.tensors[1].n_bytes], np.uint8).reshape(280, -1)
    assert (
        np.abs(decode(blocks, "Q8_0") - noise(4, 70, 64).reshape(280, 64).astype(np.float32)).max()
        < 0.02
    )


def test_bands_do_not_cross_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """A band belongs to one expert, and is a multiple of the tensor's unit where it can be."""
    made = plan({"a": noise(3, 70, 64)})
    made.tensors[0].placed.tensor.unit = 8
    monkeypatch.setattr(encoding, "BAND_BYTES", 128 * 30)
    (job,) = jobs_of(made)
    assert list(job.bands()) == [
        (m + s, m + min(s + 24, 70)) for m in (0, 70, 140) for s in (0, 24, 48)
    ]


@pytest.mark.parametrize("threads", [1, 4])
def test_a_nan_is_named_by_tensor_row_and_column(tmp_path: Path, threads: int) -> None:
    """The first bad value is named however many threads there are, and nothing is left behind."""
    x = noise(3, 400, 64)
    x[1, 399, 5] = x[2, 1, 1] = np.nan
    with pytest.raises(NotFiniteError, match=r"blk\.0\.x: row 799, column 5") as caught:
        write(plan({"fine": noise(40, 64), "blk.0.x": x}), tmp_path / "x.gguf", threads)
    assert (caught.value.row, caught.value.column) == (799, 5)
    assert list(tmp_path.iterdir()) == []


def test_an_outlier_is_named_and_a_scan_collects_all(tmp_path: Path) -> None:
    """1e19 has no Q8_0 scale: writing stops at it, a scan lists it for every tensor."""
    values = {"a": noise(40, 64), "b": noise(40, 64), "c": noise(40, 64)}
    values["a"][7, 33] = values["c"][39, 0] = 1e19
    with pytest.raises(OutlierError, match=r"a: row 7, column 33"):
        write(plan(values), tmp_path / "x.gguf")
    assert list(tmp_path.iterdir()) == []
    jobs = scannings([plan(values).tensors])
    found = by_part([job.of for job in jobs], writing.run(jobs, threads=2))[0]
    assert {n: (c.outlier.row, c.outlier.column) for n, c in found.items() if c.outlier} == {
        "a": (7, 33),
        "c": (39, 0),
    }


def test_what_is_lossy_is_counted(tmp_path: Path) -> None:
    """Scales that flush to zero and blocks that one value drowns are counted by tensor, and fatal
    for nobody.
    """
    x = noise(10, 64)
    x[2] = 1e-9
    x[5, 40] = 3e4
    found = write(plan({"a": x, "b": noise(10, 64)}), tmp_path / "x.gguf")
    assert {n: (c.flushed, c.wiped) for n, c in found.items()} == {"a": (2, 1), "b": (0, 0)}


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    """Without `overwrite` an existing file is refused and untouched; with it, replaced only by a
    whole one.
    """
    out = tmp_path / "x.gguf"
    out.write_bytes(b"precious")
    with pytest.raises(WriteError, match="exists"):
        write(plan({"a": noise(4, 64)}), out)
    bad = noise(4, 64)
    bad[0, 0] = np.nan
    with pytest.raises(NotFiniteError):
        write(plan({"a": bad}), out, overwrite=True)
    assert out.read_bytes() == b"precious"
    write(plan({"a": noise(4, 64)}), out, overwrite=True)
    assert out.read_bytes()[:4] == b"GGUF"


def test_too_little_space_is_refused_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan knows the size: a disk that cannot take it is said so, with both numbers."""
    usage = type("usage", (), {"free": 100})
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: usage)
    made = plan({"a": noise(4, 64)})
    with pytest.raises(WriteError, match=f"{made.total_bytes} bytes needed, 100 free"):
        write(made, tmp_path / "x.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """Neither a missing folder nor a folder in the place of the file is created or replaced."""
    with pytest.raises(WriteError, match="no directory"):
        write(plan({"a": noise(4, 64)}), tmp_path / "sub" / "x.gguf")
    with pytest.raises(WriteError, match="is a directory"):
        write(plan({"a": noise(4, 64)}), tmp_path, overwrite=True)


class Interrupting(Tensor):
    """Rows that never end well: Ctrl-C arrives while the main thread reads them."""

    name, shape, dtype = "x", (30_000_000, 64), np.dtype(np.float32)

    def rows(self, start: int, stop: int) -> np.ndarray:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return np.ones((stop - start, 64), np.float32)


@pytest.mark.parametrize("asked", [0, 99_999_999])
def test_threads_that_no_machine_has(asked: int) -> None:
    """A slip of the finger is refused; millions of threads would make the machine stand still."""
    with pytest.raises(UsageError, match=f"expected 1 to 4096, got {asked}"):
        thread_count(asked)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_threads_that_do_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """With fewer than asked for the file is the same; where Ctrl-C comes while they are started,
    none goes on writing behind the back of what cleans up.
    """
    made = plan({"a": noise(300, 256), "b": noise(900, 4096)})
    write(made, tmp_path / "whole")
    start, before, count = threading.Thread.start, threading.active_count(), 0

    def some(thread: threading.Thread) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise error
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", some)
    out = tmp_path / "x.gguf"
    if isinstance(error, RuntimeError):
        write(made, out, threads=16)
        assert out.read_bytes() == (tmp_path / "whole").read_bytes()
    else:
        with pytest.raises(KeyboardInterrupt):
            write(made, out, threads=16)
        assert not out.exists()
    assert threading.active_count() == before
    assert [p.name for p in tmp_path.iterdir() if p != out] == ["whole"]


def test_ctrl_c_stops_all_threads(tmp_path: Path) -> None:
    """An interrupt ends the run at once, with no thread left over and no file."""
    placed = Placed("x", "FFN_UP", 0, Interrupting())
    made = Plan("q8_0", "qwen35", {}, lay_out([(placed, encoder("Q8_0"), "test", None)]))
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        write(made, tmp_path / "x.gguf", threads=4)
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


def test_two_runs_do_not_share_an_output(tmp_path: Path) -> None:
    """While one run writes a file, another one to the same name is refused and spoils nothing."""
    made, path = plan({"a": noise(300, 256)}), tmp_path / "x.gguf"
    refused = []

    def meanwhile(*_: object) -> None:
        with pytest.raises(WriteError, match="another run is writing it") as caught:
            write(made, path)
        refused.append(caught.value)

    write(made, path, threads=1, progress=meanwhile)
    assert len(refused) == 1
    write(made, tmp_path / "alone.gguf")
    assert path.read_bytes() == (tmp_path / "alone.gguf").read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["alone.gguf", "x.gguf"]


def test_an_output_is_locked_from_beginning_to_end(tmp_path: Path) -> None:
    """Of several outputs each is this run's until the last byte, also where its files are closed
    already, or not yet begun: another run to it alone is refused, before it empties anything.
    """
    mades = [plan({name: noise(300, 256)}) for name in "abc"]
    paths = [tmp_path / name for name in "xyz"]
    refused = []

    def files() -> list[writing.Part]:
        pairs = zip(mades, paths, strict=True)
        return [writing.Part(p, m.header, m.total_bytes, leads=True) for m, p in pairs]

    def meanwhile(name: str, *_: object) -> None:
        for path in paths[1:]:
            with pytest.raises(WriteError, match=rf"{path.name}: another run is writing it"):
                write(mades[0], path)
            refused.append(name)

    writing.write(files(), jobs_of(*mades), threads=1, progress=meanwhile)
    assert set(refused) == {"a", "b", "c"}
    for made, path in zip(mades, paths, strict=True):
        write(made, tmp_path / "alone", overwrite=True)
        assert path.read_bytes() == (tmp_path / "alone").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_part_that_was_taken_away_is_not_written_anew(tmp_path: Path) -> None:
    """One that was finished and closed has to be there when names are given: its header alone
    would look like a file.
    """
    mades = [plan({name: noise(300, 256)}) for name in "abc"]
    parts = [writing.Part(tmp_path / f"x{n}", m.header, m.total_bytes) for n, m in enumerate(mades)]

    def meanwhile(name: str, *_: object) -> None:
        if name == "c":
            (tmp_path / "x1.part").unlink(missing_ok=True)

    with pytest.raises(WriteError, match=r"x1\.part: No such file"):
        writing.write(parts, jobs_of(*mades), threads=1, progress=meanwhile)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_just_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another run has given its name between our first look and our lock is not replaced."""
    made, path = plan({"a": noise(30, 256)}), tmp_path / "x.gguf"
    begin = places.begin

    def late(*args: Any, **more: Any) -> int:
        monkeypatch.undo()
        path.write_bytes(b"precious")
        return begin(*args, **more)

    monkeypatch.setattr(places, "begin", late)
    with pytest.raises(WriteError, match="exists"):
        write(made, path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]
    assert path.read_bytes() == b"precious"


def test_outputs_are_locked_all_or_none(tmp_path: Path) -> None:
    """Where another run has one of them, nothing of the others is emptied or left."""
    made, paths = plan({"a": noise(300, 256)}), [tmp_path / name for name in "xyz"]
    (tmp_path / "x.part").write_bytes(b"of a run that can be continued")
    parts = [writing.Part(p, made.header, made.total_bytes, leads=True) for p in paths]
    lock = places.begin(paths[2])
    with pytest.raises(WriteError, match="z: another run is writing it"):
        writing.write(parts, jobs_of(made, made, made), threads=1)
    os.close(lock)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.part", "z.part"]
    assert (tmp_path / "x.part").read_bytes() == b"of a run that can be continued"


def test_a_run_that_was_killed_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """What it left unfinished is written anew, whatever its length."""
    made, path = plan({"a": noise(30, 256)}), tmp_path / "x.gguf"
    (tmp_path / "x.gguf.part").write_bytes(b"x" * (made.total_bytes + 99))
    write(made, path)
    assert path.stat().st_size == made.total_bytes
    assert not (tmp_path / "x.gguf.part").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_only_regular_files_are_replaced(tmp_path: Path, overwrite: bool) -> None:
    """A device or a pipe under the name of the output stays what it is, --overwrite or not."""
    made, path = plan({"a": noise(4, 64)}), tmp_path / "x.gguf"
    os.mkfifo(path)
    with pytest.raises(WriteError, match="is no regular file"):
        write(made, path, overwrite=overwrite)
    assert path.is_fifo()


def test_a_link_that_leads_nowhere_exists(tmp_path: Path) -> None:
    """It is not replaced unasked; with --overwrite the link gives way to the file."""
    made, path = plan({"a": noise(4, 64)}), tmp_path / "x.gguf"
    path.symlink_to(tmp_path / "away.gguf")
    with pytest.raises(WriteError, match="exists"):
        write(made, path)
    write(made, path, overwrite=True)
    assert path.stat().st_size == made.total_bytes
    assert not (tmp_path / "away.gguf").exists()


def test_the_unfinished_file_follows_no_link(tmp_path: Path) -> None:
    """A link named like the unfinished file does not lead the writer into another file."""
    made, victim = plan({"a": noise(4, 64)}), tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "x.gguf.part").symlink_to(victim)
    with pytest.raises(WriteError):
        write(made, tmp_path / "x.gguf")
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("length", [252, 300])
def test_a_name_too_long_for_the_disk(tmp_path: Path, length: int) -> None:
    """It is a WriteError that says so, also where only the unfinished file's name is too long."""
    with pytest.raises(WriteError, match="File name too long"):
        write(plan({"a": noise(4, 64)}), tmp_path / ("n" * length))


def test_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data are synced before the rename, the folder after it: power that fails between leaves
    no file that looks finished and is not.
    """
    calls: list[str] = []
    fsync, rename = places.os.fsync, places.os.replace

    def synced(handle: int) -> None:
        folder = places.stat.S_ISDIR(places.os.fstat(handle).st_mode)
        calls.append("folder synced" if folder else "data synced")
        fsync(handle)

    def renamed(a: Path, b: Path) -> None:
        calls.append("renamed")
        rename(a, b)

    monkeypatch.setattr(places.os, "fsync", synced)
    monkeypatch.setattr(places.os, "replace", renamed)
    write(plan({"a": noise(4, 64)}), tmp_path / "x.gguf")
    assert calls == ["data synced", "renamed", "folder synced"]
