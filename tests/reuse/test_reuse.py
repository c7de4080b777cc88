"""`convert --reuse`: what a file has already is copied, and the result is that of a fresh run."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import xxhash
from imatrix.made import entry, write_gguf
from safetensors.numpy import load_file, save_file
from verify.files import head_of, size_of

import ggufmix
from ggufmix import checksums, mending, proof, reusing, splitting
from ggufmix.container import Value, text
from ggufmix.errors import NotFiniteError, SourceError, UsageError, WriteError
from ggufmix.pipeline import Options, Result
from ggufmix.splitting import Limits
from ggufmix.writing import encoding, keeping, places

ROLE = "ffn_down_shexp"
DOWN = "blk.1.ffn_down_shexp.weight"
RECIPE = Options("q4_k_m")


@pytest.fixture(scope="module")
def old(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an earlier run has written."""
    out = tmp_path_factory.mktemp("old") / "old.gguf"
    ggufmix.convert(example, out, options=RECIPE)
    return out


def assert_fresh(
    src: Path, folder: Path, old: Path | Sequence[Path], options: Options = RECIPE, **how: Any
) -> Result:
    """The result of a run that reuses files, which has left the bytes of one that does not."""
    olds = [old] if isinstance(old, Path) else old
    out, fresh = folder / "new.gguf", folder / "fresh.gguf"
    result = ggufmix.convert(src, out, options=options, reuse=olds, **how)
    ggufmix.convert(src, fresh, options=options)
    assert out.read_bytes() == fresh.read_bytes()
    return result


def encoded(result: Result) -> set[str]:
    """Names of the tensors that were not copied."""
    return {t.name for t in result.plan.tensors} - result.copied.keys()


@pytest.mark.parametrize("threads", [1, 4])
def test_nothing_has_changed(example: Path, old: Path, tmp_path: Path, threads: int) -> None:
    """All is copied, and no encoder is called but for a row here and there."""
    result = assert_fresh(example, tmp_path, old, threads=threads)
    assert encoded(result) == set()
    n = len(result.plan.tensors)
    assert list(result.reuse) == [f"{n} of {n} tensors copied from {old}"]


def test_a_recipe_that_differs_in_a_few_tensors(example: Path, old: Path, tmp_path: Path) -> None:
    """Those are encoded, the others copied."""
    options = replace(RECIPE, set_roles=[f"{ROLE}=Q6_K"])
    before, after = (
        {t.name: t.encoder.name for t in ggufmix.plan(example, options=o).tensors}
        for o in (RECIPE, options)
    )
    result = assert_fresh(example, tmp_path, old, options)
    others = {name for name in before if before[name] != after[name]}
    assert encoded(result) == others != set()
    assert result.reuse[-1].endswith(f"{len(others)} encoded: {len(others)} of another type")


def of_source(name: str, value: Callable[[np.ndarray], None], model: Path) -> None:
    """Change one tensor of a checkpoint."""
    path = model / "model.safetensors"
    arrays = load_file(path)
    value(arrays[name])
    save_file(arrays, path, metadata={"format": "pt"})


def flip(x: np.ndarray) -> None:
    """The lowest bit of the last value."""
    x.view(np.uint16).reshape(-1)[-1] ^= 1


@pytest.mark.parametrize("band_bytes", [encoding.BAND_BYTES, 4096])
@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("model.layers.1.mlp.shared_expert.down_proj.weight", DOWN),
        ("model.layers.2.mlp.experts.3.down_proj.weight", "blk.2.ffn_down_exps.weight"),
        ("model.layers.0.linear_attn.in_proj_qkv.weight", "blk.0.attn_qkv.weight"),
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ],
)
def test_one_bit_of_the_source(
    name: str,
    becomes: str,
    band_bytes: int,
    model: Path,
    old: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lowest bit of the last value of one tensor, which may change no byte of the output: it is
    encoded, and it alone, in however many bands.
    """
    monkeypatch.setattr(encoding, "BAND_BYTES", band_bytes)
    of_source(name, flip, model)
    result = assert_fresh(model, tmp_path, old)
    assert encoded(result) == {becomes}
    assert result.reuse[-1].endswith("1 encoded: 1 of other values")


def test_rows_in_another_order(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bands, two of them having changed places, are another tensor; so are two values that
    have in one row.
    """
    monkeypatch.setattr(encoding, "BAND_BYTES", 4096)  # eight rows of 256 values

    def bands(x: np.ndarray) -> None:
        x[8:16], x[32:40] = x[32:40].copy(), x[8:16].copy()

    def values(x: np.ndarray) -> None:
        x[9, [3, 5]] = x[9, [5, 3]]

    for number, change in enumerate((bands, values)):
        ggufmix.convert(model, tmp_path / f"{number}.gguf", options=RECIPE)
        of_source("model.embed_tokens.weight", change, model)
        folder = tmp_path / str(number)
        folder.mkdir()
        result = assert_fresh(model, folder, tmp_path / f"{number}.gguf")
        assert encoded(result) == {"token_embd.weight"}
        assert result.reuse[-1].endswith("1 encoded: 1 of other values")


@pytest.mark.parametrize("what", ["value", "all", "none"])
def test_another_importance(example: Path, tmp_path: Path, what: str) -> None:
    """One value of one vector, another matrix altogether, or none: what was encoded with it is
    encoded again, and what takes no importance is copied.
    """
    tensors = [t for t in ggufmix.plan(example, options=RECIPE).tensors if len(t.shape) == 2]
    served = [t for t in tensors if t.encoder.importance != "NONE"]
    entries = {t.name: entry(t.name, t.shape[0], [7]) for t in served}
    first = write_gguf(tmp_path / "first.gguf", entries)
    options = replace(RECIPE, imatrix=[first])
    before = ggufmix.convert(example, tmp_path / "old.gguf", options=options)
    used = {t.name for t in before.plan.tensors if t.importance is not None}
    if what == "value":
        entries[DOWN][0][0, -1] *= 2
    elif what == "all":
        entries = {t.name: entry(f"{t.name} again", t.shape[0], [7]) for t in served}
    second = [write_gguf(tmp_path / "first.gguf", entries)] if what != "none" else []
    result = assert_fresh(example, tmp_path, tmp_path / "old.gguf", replace(RECIPE, imatrix=second))
    assert encoded(result) == (used & {DOWN} if what == "value" else used) != set()
    n = len(encoded(result))
    assert result.reuse[-1].endswith(
        f"{n} encoded: {n} by another encoder or with another importance"
    )


def test_another_encoder_of_the_same_type(example: Path, tmp_path: Path) -> None:
    """Q4_X and Q4_0 write the same type and other bytes."""
    old = tmp_path / "old.gguf"
    ggufmix.convert(example, old, "q4_x")
    options = Options("q4_x", tensor_types=["ffn_down_exps=Q4_0"])
    result = assert_fresh(example, tmp_path, old, options)
    others = {t.name for t in result.plan.tensors if t.encoder.name == "Q4_0"}
    assert encoded(result) == others != set()
    assert " by another encoder " in result.reuse[-1]


def place_of(path: Path, name: str) -> tuple[int, int]:
    """First byte of a tensor, and how many it has."""
    head = head_of(path)
    [info] = [t for t in head.tensors if t.name == name]
    return head.data_at + info.offset, size_of(info)


def flip_at(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def set_key(path: Path, key: str, value: Value) -> None:
    """As `ggufmix meta` does it, the header's checksum included."""
    mending.apply(mending.prepare(path, mending.Edit({key: value})))


def foreign(path: Path) -> None:
    """A file of another program."""
    writer = gguf.GGUFWriter(path, "qwen35moe")
    writer.add_tensor(DOWN, np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def without(key: str) -> Callable[[Path], None]:
    return lambda path: mending.apply(mending.prepare(path, mending.Edit({}, (key,))))


USELESS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit of the header": (
        lambda path: flip_at(path, path.read_bytes().index(b"general.file_type") + 21),
        "is not what its checksum says",
    ),
    "cut short": (lambda path: os.truncate(path, path.stat().st_size - 64), "truncated"),
    "empty": (lambda path: os.truncate(path, 0), "truncated"),
    "no GGUF": (lambda path: path.write_bytes(b"PK\3\4" * 100), "magic"),
    "another version": (
        lambda path: set_key(path, "ggufmix.version", text("0.0.1")),
        "was written by ggufmix 0.0.1, this is",
    ),
    "no header checksum": (without(checksums.HEADER), "has no checksum"),
    "no checksums": (without(checksums.TENSORS), "does not say what its tensors were made from"),
    "no sources": (without(checksums.SOURCES), "does not say what its tensors were made from"),
    "too few methods": (
        lambda path: set_key(
            path,
            checksums.METHODS,
            Value(gguf.GGUFValueType.ARRAY, [1, 2], gguf.GGUFValueType.UINT64),
        ),
        "does not say what its tensors were made from",
    ),
    "foreign": (foreign, "was not written by ggufmix"),
}


@pytest.mark.parametrize("name", USELESS)
def test_a_file_that_is_no_good(name: str, example: Path, old: Path, tmp_path: Path) -> None:
    """It is said why, and all is encoded: damaged or foreign files are no errors."""
    spoil, why = USELESS[name]
    bad = Path(shutil.copy(old, tmp_path / "bad.gguf"))
    spoil(bad)
    result = assert_fresh(example, tmp_path, bad)
    assert result.copied == {}
    assert result.reuse[0].startswith(f"{bad} is not reused: ")
    assert why in result.reuse[0]


def test_a_file_that_is_not_there(example: Path, tmp_path: Path) -> None:
    """That is a slip of the pen, said before anything is done."""
    with pytest.raises(UsageError, match=r"nothing\.gguf is no file"):
        ggufmix.convert(example, tmp_path / "x.gguf", reuse=[tmp_path / "nothing.gguf"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", [0, -1])
def test_a_damaged_tensor(where: int, example: Path, old: Path, tmp_path: Path) -> None:
    """One bit of its data, at the beginning or at the end: it is encoded, the others are copied."""
    bad = Path(shutil.copy(old, tmp_path / "bad.gguf"))
    at, size = place_of(bad, DOWN)
    flip_at(bad, at + where % size)
    result = assert_fresh(example, tmp_path, bad)
    assert encoded(result) == {DOWN}
    assert result.reuse[-1].endswith("1 encoded: 1 damaged in it")


def forge(path: Path, name: str, change: Callable[[bytearray], None]) -> None:
    """Other data of a tensor, with checksums that say that it is so."""
    head, raw = head_of(path), bytearray(path.read_bytes())
    at, size = place_of(path, name)
    data = raw[at : at + size]
    change(data)
    raw[at : at + size] = data
    sums = list(head.values[checksums.TENSORS].data)
    sums[[t.name for t in head.tensors].index(name)] = xxhash.xxh64_intdigest(bytes(data))
    values = head.values
    raw[: head.data_at] = checksums.sealed(
        bytes(raw[: head.data_at]), values, {checksums.TENSORS: sums}
    )
    path.write_bytes(raw)


def test_a_file_that_lies(example: Path, old: Path, tmp_path: Path) -> None:
    """Right sources and methods beside other data with right checksums: a row of each band is
    encoded again, so data of another tensor are found out.
    """
    bad = Path(shutil.copy(old, tmp_path / "bad.gguf"))
    forge(bad, DOWN, bytearray.reverse)
    result = assert_fresh(example, tmp_path, bad)
    assert encoded(result) == {DOWN}
    assert result.reuse[-1].endswith("1 encoded: 1 not as this encoder writes them")


def test_a_nan_is_an_error_as_ever(model: Path, old: Path, tmp_path: Path) -> None:
    """A value that cannot be encoded is named as without the option, also where it lies in the row
    that is tried.
    """

    def spoil(x: np.ndarray) -> None:
        x[0, 3] = np.nan

    of_source("model.layers.1.mlp.shared_expert.down_proj.weight", spoil, model)
    with pytest.raises(NotFiniteError, match=rf"{DOWN}: row 0, column 3"):
        ggufmix.convert(model, tmp_path / "x.gguf", options=RECIPE, reuse=[old])


def test_a_file_that_changes_while_it_is_copied(
    example: Path, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen is not what is copied: an error, and nothing that looks finished."""
    moving = Path(shutil.copy(old, tmp_path / "old.gguf"))
    compared = reusing.compared

    def then_changed(*args: Any, **more: Any) -> Any:
        found = compared(*args, **more)
        flip_at(moving, sum(place_of(moving, DOWN)) - 1)
        return found

    monkeypatch.setattr(reusing, "compared", then_changed)
    with pytest.raises(SourceError, match=rf"{DOWN}: changed while it was copied"):
        ggufmix.convert(example, tmp_path / "x.gguf", options=RECIPE, reuse=[moving])
    assert not (tmp_path / "x.gguf").exists()


def test_parts_and_back(example: Path, old: Path, tmp_path: Path) -> None:
    """Files that `split`, `merge` and `meta` have made can be reused, and parts be written."""
    parts = splitting.split(old, Limits(tensors=20), tmp_path / "parts.gguf")
    assert encoded(assert_fresh(example, tmp_path, parts[1])) == set()
    merged = splitting.merge(parts[0], tmp_path / "merged.gguf")
    assert merged.read_bytes() == old.read_bytes()
    set_key(merged, "general.name", text("a name that takes more room than the one it had before"))
    set_key(parts[0], "general.author", text("who"))
    for number, there in enumerate((merged, parts[2])):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert encoded(assert_fresh(example, folder, there)) == set()
    result = ggufmix.convert(
        example, tmp_path / "x.gguf", options=RECIPE, split=Limits(tensors=20), reuse=[merged]
    )
    assert [p.name for p in result.paths] == [p.name.replace("parts", "x") for p in parts]
    for number, path in enumerate(result.paths[1:], 1):
        assert path.read_bytes() == parts[number].read_bytes()
    assert encoded(result) == set()


def test_damaged_parts(example: Path, old: Path, tmp_path: Path) -> None:
    """A bit in the header of the last part, and a part that is missing: nothing is taken."""
    parts = splitting.split(old, Limits(tensors=20), tmp_path / "parts.gguf")
    flip_at(parts[-1], parts[-1].read_bytes().index(b"split.count") + 15)
    for number, there in enumerate((parts[0], parts[0])):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert assert_fresh(example, folder, there).copied == {}
        parts[-1].unlink(missing_ok=True)


def test_several_files_for_several_recipes(example: Path, old: Path, tmp_path: Path) -> None:
    """Each tensor comes from the first file that has it, for each recipe that wants it so."""
    recipes = ["q8_0", "q4_k_m", "q6_k"]
    q8 = tmp_path / "q8.gguf"
    ggufmix.convert(example, q8, "q8_0")
    damaged = Path(shutil.copy(old, tmp_path / "damaged.gguf"))
    flip_at(damaged, place_of(damaged, DOWN)[0])
    results = ggufmix.convert_each(
        example, tmp_path / "new" / "{recipe}.gguf", recipes, reuse=[damaged, q8, old]
    )
    ggufmix.convert_each(example, tmp_path / "fresh" / "{recipe}.gguf", recipes)
    for recipe in recipes:
        new, fresh = (tmp_path / f / f"{recipe}.gguf" for f in ("new", "fresh"))
        assert new.read_bytes() == fresh.read_bytes()
    assert encoded(results[0]) == encoded(results[1]) == set()
    assert results[1].copied[DOWN] == str(old)
    assert results[1].copied["blk.0.ffn_down_shexp.weight"] == str(damaged)
    from_q8 = {name for name, path in results[0].copied.items() if path == str(q8)}
    kinds = {t.name: t.encoder.name for t in results[1].plan.tensors}
    assert from_q8 == {t.name for t in results[0].plan.tensors if t.encoder.name != kinds[t.name]}
    assert encoded(results[2]) == {
        t.name for t in results[2].plan.tensors if t.encoder.name == "Q6_K"
    } - {name for name, kind in kinds.items() if kind == "Q6_K"}


def test_over_itself(example: Path, tmp_path: Path) -> None:
    """The file that is replaced may be the one that is reused: it is read until its name goes. So
    may be parts; and without --overwrite it is refused.
    """
    out = tmp_path / "x.gguf"
    options = replace(RECIPE, set_roles=[f"{ROLE}=Q6_K"])
    ggufmix.convert(example, out, options=options)
    with pytest.raises(WriteError, match="exists"):
        ggufmix.convert(example, out, options=RECIPE, reuse=[out])
    fresh = tmp_path / "fresh.gguf"
    ggufmix.convert(example, fresh, options=RECIPE)
    result = ggufmix.convert(example, out, options=RECIPE, reuse=[out], overwrite=True)
    assert out.read_bytes() == fresh.read_bytes()
    assert encoded(result)
    split = Limits(tensors=20)
    [*parts] = ggufmix.convert(example, out, options=options, split=split).paths
    ggufmix.convert(example, out, options=RECIPE, split=split, reuse=parts[:1], overwrite=True)
    for path, want in zip(
        parts, splitting.split(fresh, split, tmp_path / "want.gguf"), strict=True
    ):
        assert path.read_bytes() == want.read_bytes()


def test_a_stopped_run_is_continued(
    example: Path, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the option, without it, or with it only then: the bytes are those of a fresh run."""
    ended, put = keeping.Keeper.ended, places.put

    def then_flush(self: keeping.Keeper, *args: Any) -> None:
        ended(self, *args)
        self.flush()

    monkeypatch.setattr(keeping.Keeper, "ended", then_flush)
    options = replace(RECIPE, set_roles=[f"{ROLE}=Q6_K"])
    fresh = tmp_path / "fresh.gguf"
    ggufmix.convert(example, fresh, options=options)
    for before, after in (([old], [old]), ([old], []), ([], [old])):
        out = tmp_path / "x.gguf"
        left = 60

        def dies(*args: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt
            put(*args)

        monkeypatch.setattr(places, "put", dies)
        with pytest.raises(KeyboardInterrupt):
            ggufmix.convert(example, out, options=options, reuse=before, threads=1)
        monkeypatch.setattr(places, "put", put)
        result = ggufmix.convert(example, out, options=options, reuse=after, resume=True)
        assert 0 < result.resumed < len(result.plan.tensors)
        assert out.read_bytes() == fresh.read_bytes()
        out.unlink()


def test_what_is_copied_is_measured(example: Path, old: Path, tmp_path: Path) -> None:
    """--verify says of a copied tensor what it says of one that was encoded."""
    fresh = ggufmix.convert(example, tmp_path / "fresh.gguf", options=RECIPE, verify=True)
    result = ggufmix.convert(example, tmp_path / "x.gguf", options=RECIPE, reuse=[old], verify=True)
    assert encoded(result) == set()
    assert result.measured == fresh.measured


def test_from_a_gguf_file(example: Path, tmp_path: Path) -> None:
    """Blocks that the source has as they are wanted come from there; the others may be copied."""
    source = tmp_path / "source.gguf"
    ggufmix.convert(example, source, options=Options("bf16", set_roles=[f"{ROLE}=Q8_0"]))
    old = tmp_path / "old.gguf"
    ggufmix.convert(source, old, "q8_0")
    result = assert_fresh(source, tmp_path, old, Options("q8_0"))
    stored = {t.name for t in result.plan.tensors if t.copied}
    assert encoded(result) == stored != set()
    assert result.reuse[-1].endswith(f", {len(stored)} moved from the source as they are")
    from_checkpoint = ggufmix.convert(example, tmp_path / "y.gguf", "q8_0", reuse=[old])
    assert encoded(from_checkpoint) >= stored


def test_the_numbers_of_a_file(example: Path, tmp_path: Path) -> None:
    """They are as the documents state them, computed here from the source's rows."""
    out = tmp_path / "x.gguf"
    ggufmix.convert(example, out, "q8_0")
    head = head_of(out)
    sources, methods = (head.values[key].data for key in (checksums.SOURCES, checksums.METHODS))
    names = [t.name for t in head.tensors]
    arrays = load_file(example / "model.safetensors")
    rows = arrays["model.layers.1.mlp.shared_expert.down_proj.weight"]
    version = head.values["ggufmix.version"].data
    at = names.index(DOWN)
    assert sources[at] == xxhash.xxh3_64_intdigest(rows.tobytes())
    assert methods[at] == xxhash.xxh3_64_intdigest(f"{version} Q8_0 BF16".encode())
    experts = names.index("blk.1.ffn_down_exps.weight")
    each = [xxhash.xxh3_64_intdigest(f"{version} Q8_0 BF16".encode(), i) for i in range(4)]
    assert methods[experts] == sum(each) % 2**64
    parts = [f"model.layers.1.mlp.experts.{i}.down_proj.weight" for i in range(4)]
    groups = [xxhash.xxh3_64_intdigest(arrays[p].tobytes(), 256 * i) for i, p in enumerate(parts)]
    assert sources[experts] == sum(groups) % 2**64


def test_the_command(example: Path, old: Path, tmp_path: Path) -> None:
    """It says how many were copied, on stderr; a file that is not there is 2, a useless one not."""

    def run(*arguments: object) -> tuple[int, str]:
        command = [sys.executable, "-m", "ggufmix", "convert", example, *arguments]
        found = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        return found.returncode, found.stderr

    status, said = run("-o", tmp_path / "a.gguf", "--reuse", old)
    assert status == 0
    assert re.search(
        rf"^note: \d+ of 76 tensors copied from {old}, \d+ encoded: .*type$", said, re.MULTILINE
    )
    status, said = run("-o", tmp_path / "b.gguf", "--reuse", example / "config.json")
    assert status == 0
    assert re.search(r"^note: .*config.json is not reused: .*GGUF", said, re.MULTILINE)
    assert "note: 0 of 76 tensors copied, 76 encoded\n" in said
    assert run("-o", tmp_path / "c.gguf", "--reuse", tmp_path / "d.gguf")[0] == 2


def test_a_record_that_is_not_true(example: Path, old: Path, tmp_path: Path) -> None:
    """`verify --against` says so of a file whose bytes are right: a later run would be misled."""
    bad = Path(shutil.copy(old, tmp_path / "bad.gguf"))
    numbers = list(head_of(bad).values[checksums.SOURCES].data)
    numbers[5] ^= 1
    u64 = gguf.GGUFValueType.UINT64
    set_key(bad, checksums.SOURCES, Value(gguf.GGUFValueType.ARRAY, numbers, u64))
    assert not proof.verify(old, example).warnings
    report = proof.verify(bad, example)
    [warning] = report.warnings
    name = head_of(bad).tensors[5].name
    assert warning.startswith(f"{name} has the right bytes, but the file says that they were made")
    assert encoded(assert_fresh(example, tmp_path, bad)) == {name}
