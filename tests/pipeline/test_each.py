"""Several recipes of one reading: each file is that of a run of its own."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
from imatrix.made import entry, write_gguf
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import ggufmix
from ggufmix import publishing
from ggufmix.cli import app
from ggufmix.errors import UsageError, WriteError
from ggufmix.pipeline import Options, Result
from ggufmix.splitting import Limits
from ggufmix.writing import encoding, keeping, places

SIX = ["q8_0", "q6_k", "q5_k_m", "q4_k_m", "hq4_k", "q4_x"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command."""
    found = CliRunner().invoke(app, list(map(str, arguments)))
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.stdout, found.stderr


@pytest.fixture
def imatrix(example: Path, tmp_path: Path) -> Path:
    """Importance of half of the tensors."""
    tensors = [t for t in ggufmix.plan(example, "f32").tensors if len(t.shape) == 2][::2]
    return write_gguf(
        tmp_path / "imatrix.gguf", {t.name: entry(t.name, t.shape[0], [7]) for t in tensors}
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_each_file_is_that_of_its_own_run(
    example: Path, tmp_path: Path, imatrix: Path, threads: int
) -> None:
    """Six recipes, importance and an override among them: the bytes of six runs, and what they
    found.
    """
    options = Options(imatrix=[imatrix], set_roles=["attn_q=F16"])
    together = ggufmix.convert_each(
        example, tmp_path / "{recipe}.gguf", SIX, options=options, threads=threads, verify=True
    )
    assert [r.plan.recipe for r in together] == SIX
    for recipe, result in zip(SIX, together, strict=True):
        out = tmp_path / "alone" / f"{recipe}.gguf"
        out.parent.mkdir(exist_ok=True)
        alone = ggufmix.convert(example, out, options=replace(options, recipe=recipe), verify=True)
        assert result.paths == (tmp_path / f"{recipe}.gguf",)
        assert result.paths[0].read_bytes() == out.read_bytes()
        assert result.found == alone.found
        assert list(result.found) == list(alone.found)


def test_the_source_is_read_once(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 1.05 times its bytes, and every type of a tensor is encoded once, however many files
    have it.
    """
    read, preadv = Counter[str](), os.preadv
    weights = (example / "model.safetensors").stat()

    def counted(fd: int, buffers: Any, *where: Any) -> int:
        n = preadv(fd, buffers, *where)
        if os.fstat(fd).st_ino == weights.st_ino:
            read["bytes"] += n
        return n

    made: Counter[tuple[str, int, str]] = Counter()
    encoded = encoding.encoded

    def noted(planned: Any, rows: encoding.Rows, **more: Any) -> Any:
        made[planned.name, rows.start, planned.encoder.name] += 1
        return encoded(planned, rows, **more)

    monkeypatch.setattr(os, "preadv", counted)
    monkeypatch.setattr(encoding, "encoded", noted)
    results = ggufmix.convert_each(example, tmp_path / "{recipe}.gguf", SIX)
    assert 0.95 * weights.st_size < read["bytes"] < 1.05 * weights.st_size
    assert set(made.values()) == {1}
    kinds = {(t.name, t.encoder.name) for r in results for t in r.plan.tensors}
    assert {(name, kind) for name, _, kind in made} == kinds


def test_a_scan_reads_once_too(example: Path, tmp_path: Path) -> None:
    """What a scan finds it finds for every recipe: an outlier that Q8_0 cannot hold stays in BF16
    in both files, where plain F16 types could.
    """
    model = tmp_path / "model"
    shutil.copytree(example, model)
    tensors = load_file(model / "model.safetensors")
    name = next(n for n in tensors if n.endswith("layers.3.self_attn.q_proj.weight"))
    tensors[name][5, 7] = 1e19
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    options = Options(on_outlier="bf16")
    q8, f32 = ggufmix.convert_each(
        model, tmp_path / "{recipe}.gguf", ["q8_0", "f32"], options=options
    )
    kinds = [{t.name: t.encoder.name for t in r.plan.tensors} for r in (q8, f32)]
    assert kinds[0]["blk.3.attn_q.weight"] == "BF16"
    assert kinds[1]["blk.3.attn_q.weight"] == "F32"
    ggufmix.convert(model, tmp_path / "alone.gguf", options=options)
    assert (tmp_path / "alone.gguf").read_bytes() == (tmp_path / "q8_0.gguf").read_bytes()


def test_a_source_that_is_stored_in_blocks(example: Path, tmp_path: Path) -> None:
    """One file copies its blocks, another one decodes them, and llama-quantize's way to Q8_0
    decodes what ours widens: all of one run.
    """
    source = tmp_path / "source.gguf"
    ggufmix.convert(example, source, "q4_x")
    for mirror in (None, "llama.cpp"):
        options = Options(allow_requantize=True, mirror=mirror)
        recipes = ["q4_0", "q8_0", "q6_k", "q4_x"]
        folder = tmp_path / str(mirror)
        template = f"{folder}/{{recipe}}.gguf"
        for result in ggufmix.convert_each(source, template, recipes, options=options):
            alone = tmp_path / "alone.gguf"
            own = replace(options, recipe=result.plan.recipe)
            ggufmix.convert(source, alone, options=own, overwrite=True)
            assert result.paths[0].read_bytes() == alone.read_bytes()


def test_names_are_made_of_the_plan(example: Path, tmp_path: Path) -> None:
    """A folder is enough: names that the hub and llama.cpp read, one folder for each split quant,
    checksums in each folder.
    """
    out = tmp_path / "new" / "out"
    status, stdout, _ = run(
        "convert", example, "-o", f"{out}/", "-r", "q8_0", "-r", "q4_k_m", "--model-name", "Tiny",
        "--split-max-size", "2M", "--sha256sums",
    )  # fmt: skip
    assert status == 0
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*.gguf"))
    assert names == [
        *(f"SSM_BF16-Q4_K_M/{STEM}-SSM_BF16-Q4_K_M-0000{i}-of-00002.gguf" for i in (1, 2)),
        *(f"SSM_BF16-Q8_0/{STEM}-SSM_BF16-Q8_0-0000{i}-of-00003.gguf" for i in (1, 2, 3)),
    ]
    sums = sorted(str(p.relative_to(out)) for p in out.rglob("SHA256SUMS"))
    assert sums == ["SSM_BF16-Q4_K_M/SHA256SUMS", "SSM_BF16-Q8_0/SHA256SUMS"]
    assert [line.split(": ")[0] for line in stdout.splitlines()] == [
        f"{out}/{names[2]} and 2 more",
        f"{out}/{names[0]} and 1 more",
    ]
    whole = tmp_path / "whole"
    whole.mkdir()
    assert run("convert", example, "-o", whole, "-r", "q4_k_m", "--model-name", "Tiny")[0] == 0
    assert [p.name for p in whole.iterdir()] == [f"{STEM}-SSM_BF16-Q4_K_M.gguf"]


STEM = "Tiny-4x2.9M"
"""What gguf.naming_convention makes of the name, and of the example's size."""


def test_a_folder_of_the_users_own(example: Path, tmp_path: Path) -> None:
    """Who says how folders are called gets these; a file that is named in full gets no folder."""
    results = ggufmix.convert_each(
        example,
        tmp_path / "{recipe}" / "x.gguf",
        ["q8_0", "q4_k_m"],
        split=Limits(tensors=40),
    )
    assert {str(p.parent.relative_to(tmp_path)) for r in results for p in r.paths} == {
        "q8_0",
        "q4_k_m",
    }
    result = ggufmix.convert(example, tmp_path / "y.gguf", split=Limits(tensors=40))
    assert {p.parent for p in result.paths} == {tmp_path}


@pytest.mark.parametrize(
    ("template", "recipes", "why"),
    [
        ("x.gguf", ["q8_0", "q6_k"], r"x\.gguf: one name for 2 recipes .*\{name\}-\{tag\}"),
        ("{arch}.gguf", ["q8_0", "q6_k"], "two of the recipes would be written there"),
        ("{quant}.gguf", ["q8_0"], r"expected \{name\}, .*got \{quant\}"),
        ("{tag.gguf", ["q8_0"], r"\{\{ and \}\} stand for braces"),
        ("{tag}.gguf", ["q8_0", "q9"], "unknown recipe 'q9'"),
        ("{tag}.gguf", ["q8_0", "Q8_0"], "two of the recipes"),
    ],
)
def test_what_cannot_be_meant(
    example: Path, tmp_path: Path, template: str, recipes: list[str], why: str
) -> None:
    """Two files of one path, a word that there is not, braces left open: nothing is made."""
    with pytest.raises(UsageError) as caught:
        ggufmix.convert_each(example, f"{tmp_path}/new/{template}", recipes)
    assert re.search(why, f"{caught.value} {caught.value.hint}")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_meant(example: Path, tmp_path: Path) -> None:
    """Two names of one place are seen before anything is written; of folders, of which one cannot
    be made, none stays.
    """
    (tmp_path / "q8_0").mkdir()
    (tmp_path / "q6_k").symlink_to("q8_0")
    with pytest.raises(UsageError, match="two of the recipes"):
        ggufmix.convert_each(example, tmp_path / "{recipe}" / "x.gguf", ["q8_0", "q6_k"])
    assert list((tmp_path / "q8_0").iterdir()) == []
    long = "n" * 260
    for bad in (f"{tmp_path}/a/b/{long}/", f"{tmp_path}/a/b/{long}.gguf/{{tag}}.gguf"):
        with pytest.raises(WriteError, match="File name too long"):
            ggufmix.convert_each(example, bad, ["q8_0", "q6_k"])
    (tmp_path / "f").touch()
    with pytest.raises(WriteError, match="Not a directory"):
        ggufmix.convert_each(example, f"{tmp_path}/f/{{recipe}}/", ["q8_0", "q6_k"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "q6_k", "q8_0"]


def test_dots_and_nothing(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose name is no name of a file is as good as any, and what fails there is said."""
    monkeypatch.chdir(tmp_path)
    (result,) = ggufmix.convert_each(example, ".", ["q8_0"])
    assert result.paths[0].exists()
    for out, said in ((".", f"{result.paths[0]} exists"), ("", "expected the path of an output")):
        with pytest.raises((UsageError, WriteError), match=re.escape(said)):
            run("convert", example, "-o", out)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_of_another_encoding(example: Path, imatrix: Path, tmp_path: Path) -> None:
    """No journal and no page can hold a name of bytes that are no text: an output of it is refused
    before anything is written, an imatrix of it is read.
    """
    bad = tmp_path / os.fsdecode(b"\xff.gguf")
    with pytest.raises(WriteError, match="expected the name of a file in UTF-8"):
        ggufmix.convert_each(example, bad, ["q8_0"])
    imatrix.rename(bad)
    options = Options(imatrix=(bad,))
    ggufmix.convert_each(example, tmp_path / "x.gguf", ["q4_0"], options=options)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "x.gguf", bad]
    (tmp_path / "x.gguf").rename(bad)
    with pytest.raises(WriteError, match="expected the name of a file in UTF-8"):
        publishing.gather([bad])


def test_a_report_goes_by_names(example: Path, tmp_path: Path) -> None:
    """Files that it could not tell apart are refused before anything is written, not after."""
    out = f"{tmp_path}/{{recipe}}/x.gguf"
    with pytest.raises(UsageError, match="--report: two of the files"):
        run("convert", example, "-r", "q8_0", "-r", "q6_k", "-o", out, "--report", tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


class Stop(BaseException):
    """Ctrl-C, as it were."""


@pytest.mark.parametrize("split", [None, Limits(tensors=30)])
def test_all_or_none_have_their_names(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: Limits | None
) -> None:
    """A run that was stopped leaves nothing that looks finished; continued, it gives the files of a
    run without a break, and reads again only what was not done.
    """
    ended = keeping.Keeper.ended

    def then_flush(self: keeping.Keeper, *args: Any) -> None:
        ended(self, *args)
        self.flush()

    monkeypatch.setattr(keeping.Keeper, "ended", then_flush)

    def progress(_: str, done: int, total: int) -> None:
        if done > total // 2:
            raise Stop

    def each(folder: Path, **more: Any) -> list[Result]:
        return ggufmix.convert_each(
            example, folder / "{recipe}.gguf", SIX[:3], split=split, threads=1, **more
        )

    each(tmp_path / "whole")
    with pytest.raises(Stop):
        each(tmp_path / "x", progress=progress)
    assert not [p for p in (tmp_path / "x").rglob("*.gguf") if p.is_file()]
    results = each(tmp_path / "x", resume=True)
    assert results[0].resumed > 20
    assert files(tmp_path / "x") == files(tmp_path / "whole")


def test_ended_between_two_names(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when some files had their names: with --skip-existing too it is continued, and nothing
    is left beside the files.
    """
    template, recipes = tmp_path / "x" / "{recipe}.gguf", ["q8_0", "q6_k", "q4_k_m"]
    ggufmix.convert_each(example, tmp_path / "whole" / "{recipe}.gguf", recipes)
    replace_, left = os.replace, iter((1,))

    def once(old: Path, new: Path) -> None:
        if not next(left, 0):
            raise Stop
        replace_(old, new)

    monkeypatch.setattr(places.os, "replace", once)
    with pytest.raises(Stop):
        ggufmix.convert_each(example, template, recipes)
    monkeypatch.undo()
    assert len(files(tmp_path / "x")) == 4
    again = ggufmix.convert_each(example, template, recipes, resume=True, skip_existing=True)
    assert [result.skipped for result in again] == [False] * 3
    assert again[0].resumed == len(again[0].plan.tensors)
    assert files(tmp_path / "x") == files(tmp_path / "whole")


def test_disk_is_looked_at_for_all(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for one of two files is too little: nothing is begun, no folder stays."""
    q8, q6 = (ggufmix.plan(example, recipe).total_bytes for recipe in ("q8_0", "q6_k"))
    usage = places.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: usage._replace(free=q8 + q6 - 1))
    with pytest.raises(WriteError, match=f"too little space: .* {q8 + q6 - 1} free"):
        ggufmix.convert_each(example, f"{tmp_path}/new/", ["q8_0", "q6_k"])
    assert list(tmp_path.iterdir()) == []
    ggufmix.convert_each(example, f"{tmp_path}/new/", ["q6_k"])


def test_an_output_that_is_there(example: Path, tmp_path: Path) -> None:
    """One that exists is refused before anything is written; or left out, or replaced."""
    template = tmp_path / "{recipe}.gguf"
    (tmp_path / "q6_k.gguf").write_bytes(b"precious")
    with pytest.raises(WriteError, match=r"q6_k\.gguf exists"):
        ggufmix.convert_each(example, template, ["q8_0", "q6_k"])
    assert [p.name for p in tmp_path.iterdir()] == ["q6_k.gguf"]
    both = ggufmix.convert_each(example, template, ["q8_0", "q6_k"], skip_existing=True)
    assert [result.skipped for result in both] == [False, True]
    assert both[0].paths == (tmp_path / "q8_0.gguf",)
    assert len(both[0].found) == len(both[0].plan.tensors)
    assert (tmp_path / "q6_k.gguf").read_bytes() == b"precious"
    both = ggufmix.convert_each(example, template, ["q8_0", "q6_k"], skip_existing=True)
    assert [result.skipped for result in both] == [True, True]
    ggufmix.convert_each(example, template, ["q8_0", "q6_k"], overwrite=True)
    assert gguf.GGUFReader(tmp_path / "q6_k.gguf").tensors


def test_what_is_said(example: Path, tmp_path: Path) -> None:
    """What goes for all is said once, what goes for some with their names."""
    recipes = [word for recipe in ("q8_0", "q4_k_m", "q6_k") for word in ("-r", recipe)]
    status, stdout, stderr = run("convert", example, "-o", tmp_path / "{recipe}.gguf", *recipes)
    assert status == 0
    assert len(stdout.splitlines()) == 3
    assert stderr.count("llama.cpp does not know this vocabulary") == 1
    assert "note: q4_k_m: 8 tensors have rows that do not fit" in stderr
    with pytest.raises(UsageError, match="--recipe: expected one, got 2"):
        run("plan", example, "-r", "q8_0", "-r", "q4_k_m")
