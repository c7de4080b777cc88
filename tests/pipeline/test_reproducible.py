"""One input, one output: every way that a file can be made, and the bytes that come out."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from remote.serving import serving
from safetensors.numpy import load_file, save_file

import ggufmix
from ggufmix import codecs
from ggufmix.fp8 import converting
from ggufmix.profiling import recorded
from ggufmix.splitting import Limits, merge
from ggufmix.writing import encoding, keeping, running

RECIPE = "q4_k_m"
"""K-quants, blocks of 32 where rows do not fit them, BF16 and F32: four families of kernels."""


@pytest.fixture(scope="module")
def reference(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of one thread, of the plainest kernels."""
    out = tmp_path_factory.mktemp("reference") / "one.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUFMIX_TIER", "base")
        ggufmix.convert(example, out, RECIPE, threads=1)
    return out


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Dask cluster with two workers."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        dashboard_address=None,
    ) as found:
        yield found.scheduler_address


def threads(n: int) -> Callable[[Path, Path], object]:
    return lambda src, out: ggufmix.convert(src, out, RECIPE, threads=n)


def tier(name: str) -> Callable[[Path, Path], object]:
    def make(src: Path, out: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GGUFMIX_TIER", name)
            ggufmix.convert(src, out, RECIPE)

    return make


def bands(n_bytes: int) -> Callable[[Path, Path], object]:
    """Other pieces, and hardly room for one."""

    def make(src: Path, out: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoding, "BAND_BYTES", n_bytes)
            patch.setattr(running, "UNDER_WAY_BYTES", n_bytes)
            ggufmix.convert(src, out, RECIPE, threads=3)

    return make


def split_and_merged(src: Path, out: Path) -> None:
    made = ggufmix.convert(src, out, RECIPE, split=Limits(tensors=20))
    assert len(made.paths) > 3
    merge(made.paths[2], out)


def stopped_and_resumed(src: Path, out: Path) -> None:
    def progress(_: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    ended = keeping.Keeper.ended

    def ended_and_on_disk(self: keeping.Keeper, *job: Any) -> None:
        ended(self, *job)
        self.flush()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping.Keeper, "ended", ended_and_on_disk)
        with pytest.raises(KeyboardInterrupt):
            ggufmix.convert(src, out, RECIPE, progress=progress)
    assert ggufmix.convert(src, out, RECIPE, resume=True).resumed > 0


def over_another_file(src: Path, out: Path) -> None:
    out.write_bytes(b"\xff" * 5_000_000)
    out.with_name(out.name + ".part").write_bytes(b"\xff" * 5_000_000)
    ggufmix.convert(src, out, RECIPE, overwrite=True)


def another_process(src: Path, out: Path) -> None:
    """Where strings hash otherwise, and the source has another path and time."""
    copy = Path(shutil.copytree(src, out.parent / "another name" / src.name))
    for path in copy.iterdir():
        os.utime(path, (1, 1))
    command = [sys.executable, "-m", "ggufmix", "convert", copy, "-o", out, "-r", RECIPE]
    env = {**os.environ, "PYTHONHASHSEED": "12345", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run(command, check=True, env=env, capture_output=True)


def measured_and_profiled(src: Path, out: Path) -> None:
    with recorded():
        ggufmix.convert(src, out, RECIPE, verify=True)


@pytest.mark.parametrize(
    "make",
    [
        *(pytest.param(threads(n), id=f"{n} threads") for n in (1, 2, 5, 16)),
        *(pytest.param(tier(name), id=name) for name in codecs.tiers()),
        *(pytest.param(bands(n), id=f"bands of {n}") for n in (1, 10_000, 1 << 30)),
        split_and_merged,
        stopped_and_resumed,
        over_another_file,
        another_process,
        measured_and_profiled,
    ],
)
def test_the_same_bytes(
    make: Callable[[Path, Path], object], example: Path, reference: Path, tmp_path: Path
) -> None:
    """However a file is made, whoever has its source and its options can make it again."""
    make(example, tmp_path / "x.gguf")
    assert (tmp_path / "x.gguf").read_bytes() == reference.read_bytes()


def test_the_same_bytes_from_a_cluster(
    cluster: str, example: Path, reference: Path, tmp_path: Path
) -> None:
    """On other machines too."""
    from ggufmix import clustering

    ggufmix.convert(example, tmp_path / "x.gguf", RECIPE, engine=clustering.on(cluster))
    assert (tmp_path / "x.gguf").read_bytes() == reference.read_bytes()


def said_of(path: Path) -> tuple[list[object], dict[str, object]]:
    """Tensors with their data, and keys."""
    read = gguf.GGUFReader(path)
    tensors: list[object] = [
        (t.name, t.tensor_type, list(t.shape), np.asarray(t.data).tobytes()) for t in read.tensors
    ]
    return tensors, {name: field.contents() for name, field in read.fields.items()}


def in_shards(src: Path, folder: Path) -> Path:
    """The same checkpoint, cut into three files in another order."""
    shutil.copytree(src, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = load_file(src / "model.safetensors")
    names = sorted(tensors, key=lambda name: name[::-1])
    where = {}
    for i in range(3):
        file = f"model-0000{i + 1}-of-00003.safetensors"
        where |= dict.fromkeys(names[i::3], file)
        save_file({name: tensors[name] for name in names[i::3]}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("source", ["shards", "an address"])
def test_the_same_but_what_names_the_source(
    source: str, example: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the source are named in the output, so other files make another header; every
    tensor, and every other key, is the same.
    """
    if source == "shards":
        ggufmix.convert(in_shards(example, tmp_path / "model"), tmp_path / "x.gguf", RECIPE)
    else:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with serving(example) as server:
            ggufmix.convert(server.url, tmp_path / "x.gguf", RECIPE)
    (ours, our_keys), (theirs, their_keys) = said_of(tmp_path / "x.gguf"), said_of(reference)
    assert ours == theirs
    differ = {k for k in our_keys.keys() | their_keys if our_keys.get(k) != their_keys.get(k)}
    about_files = {"ggufmix.header.xxh64", "GGUF.kv_count"}
    assert differ > {"ggufmix.header.xxh64"}
    assert {k for k in differ if not k.startswith("ggufmix.source.")} <= about_files


def test_the_same_fp8_checkpoint(example: Path, tmp_path: Path) -> None:
    """Every file of the folder, with any number of threads on every tier."""
    made = {}
    for n, name in enumerate(codecs.tiers()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GGUFMIX_TIER", name)
            converting.convert(example, tmp_path / name, how=converting.How(threads=2 * n + 1))
        made[name] = {p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir())}
    assert all(files == made["base"] for files in made.values())
    assert any(file.endswith(".safetensors") for file in made["base"])
