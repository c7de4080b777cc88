"""`ggufmix meta`: key-values change, tensors stay where they are."""

# SPDX-License-Identifier: MIT

import ctypes
import errno
import hashlib
import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf import GGUFValueType as T
from typer.testing import CliRunner

import ggufmix
from ggufmix import checksums, mending, runtime, sumfile
from ggufmix.cli import app
from ggufmix.container import Value, array, text
from ggufmix.errors import GgufmixError, UsageError, WriteError
from ggufmix.mending import Edit, editing
from ggufmix.mending.values import TYPES


@pytest.fixture(scope="module")
def converted(example: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The example model in Q4_0: the smallest whole file there is."""
    out = tmp_path_factory.mktemp("meta") / "m.gguf"
    ggufmix.convert(example, out, "q4_0")
    return out.read_bytes()


@pytest.fixture
def file(converted: bytes, tmp_path: Path) -> Path:
    """A file that a test may edit."""
    path = tmp_path / "m.gguf"
    path.write_bytes(converted)
    return path


def data_of(path: Path) -> bytes:
    """All tensor data, found by another reader."""
    reader = gguf.GGUFReader(path)
    return path.read_bytes()[reader.data_offset :]


def values_of(path: Path) -> dict[str, Any]:
    """Key-values as another reader sees them."""
    found = {}
    for key, field in gguf.GGUFReader(path).fields.items():
        if not key.startswith("GGUF."):
            found[key] = (field.types, field.contents())
    return found


def random_value(rng: random.Random) -> Value:
    kind = rng.choice(list(TYPES.values()))

    def item() -> Any:
        if kind is T.STRING:
            return "".join(rng.choices("aé漢 \n", k=rng.randrange(40)))
        if kind is T.BOOL:
            return rng.random() < 0.5
        if kind in (T.FLOAT32, T.FLOAT64):
            return struct.unpack("<f", struct.pack("<f", rng.gauss(0, 1e6)))[0]
        bits = int(kind.name.removeprefix("U").removeprefix("INT"))
        low = -(1 << bits - 1) if kind.name.startswith("INT") else 0
        return rng.choice([low, low + (1 << bits) - 1, low + rng.getrandbits(bits)])

    if rng.random() < 0.4:
        return array(kind, [item() for _ in range(rng.randrange(1, 30))])
    return Value(kind, item())


def test_a_hundred_edits(file: Path) -> None:
    """Whatever is set and taken away, another reader finds the values with their types, the data
    are where and what they were, and the header's own checksum is right.
    """
    rng = random.Random(5)
    before = hashlib.sha256(data_of(file)).digest()
    kept = values_of(file)
    wanted: dict[str, Value] = {}
    places = []
    for _ in range(100):
        keys = [f"test.{rng.randrange(12)}" for _ in range(rng.randrange(1, 3))]
        edit = {key: random_value(rng) for key in keys}
        gone = [k for k in wanted if k not in edit and rng.random() < 0.3]
        change = mending.prepare(file, Edit(edit, tuple(gone)))
        mending.apply(change)
        places.append(change.in_place)
        wanted = {k: v for k, v in (wanted | edit).items() if k not in gone}
        found = values_of(file)
        for key, value in wanted.items():
            types, contents = found.pop(key)
            expected = [value.type] if value.item is None else [T.ARRAY, value.item]
            assert types[: len(expected)] == expected
            assert contents == value.data, key
        found.pop(editing.PADDING, None)
        assert found.keys() == kept.keys()
        changed = {key for key in kept if found[key] != kept[key]}
        assert changed <= {checksums.HEADER}
        head, raw = mending.read(file)
        assert head.values[checksums.HEADER].data == checksums.of_header(raw, head.values)
    assert hashlib.sha256(data_of(file)).digest() == before
    assert {True, False} == {*places}
    assert sum(places) > 50  # what an edit leaves free the next ones use


def test_in_place_moves_nothing(file: Path) -> None:
    """An edit that takes no more room writes the header alone: same file, same size."""
    there = file.stat()
    change = mending.prepare(file, Edit({"qwen35moe.context_length": Value(T.UINT32, 4096)}))
    assert change.in_place
    mending.apply(change)
    assert (file.stat().st_ino, file.stat().st_size) == (there.st_ino, there.st_size)
    assert not list(file.parent.glob("*.header*"))


def test_a_damaged_header_does_not_become_a_sound_one(file: Path) -> None:
    """A letter of the vocabulary is wrong: an edit of the name gives it no new checksum."""
    from ggufmix import proof

    raw = bytearray(file.read_bytes())
    raw[raw.index("\u0120the".encode()) + 2] ^= 1
    file.write_bytes(raw)
    assert proof.verify_sums(file).grade == "FAIL"
    editing.apply(editing.prepare(file, Edit({"general.name": text("other")})))
    assert proof.verify_sums(file).grade == "FAIL"


def test_removed_and_set_again_is_the_same_file(file: Path, converted: bytes) -> None:
    """Padding comes and goes: a key at the end that is taken away and set again leaves no trace."""
    last = [*mending.read(file)[0].values][-1]
    value = mending.read(file)[0].values[last]
    mending.apply(mending.prepare(file, Edit({"a.key": text("x" * 200)})))
    mending.apply(mending.prepare(file, Edit({}, ("a.key",))))
    assert editing.PADDING in values_of(file)
    assert last != editing.PADDING
    assert mending.read(file)[0].values[last].type == value.type
    assert data_of(file) == converted[-len(data_of(file)) :]


def meta_of(model: runtime.Llama, key: str) -> str:
    """What llama.cpp itself has read."""
    ask = runtime._function(
        "llama_model_meta_val_str",
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
    )
    out = ctypes.create_string_buffer(1000)
    assert ask(model._model, key.encode(), out, len(out)) >= 0
    return out.value.decode()


def test_llama_cpp_shows_the_new_values(file: Path) -> None:
    """llama.cpp loads an edited file, shows the values (a negative one is negative) and computes
    what it did.
    """
    with runtime.Llama(file) as model:
        before = model.logits([1, 2, 3])
    edit = Edit(
        {
            "general.name": text("Another name, rather longer than the one before"),
            "test.small": Value(T.INT32, -5),
            "test.large": Value(T.INT64, -(1 << 62)),
            "test.huge": Value(T.UINT64, (1 << 64) - 1),
        },
        ("tokenizer.ggml.padding_token_id",),
    )
    mending.apply(mending.prepare(file, edit))
    with runtime.Llama(file) as model:
        assert meta_of(model, "general.name").startswith("Another name")
        assert meta_of(model, "test.small") == "-5"
        assert meta_of(model, "test.large") == str(-(1 << 62))
        assert meta_of(model, "test.huge") == str((1 << 64) - 1)
        assert (model.logits([1, 2, 3]) == before).all()


def test_first_part_alone(tmp_path: Path) -> None:
    """Of a split file any part may be named; the first is edited, the others are not touched."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=1)
    import numpy as np

    for i in range(3):
        writer.add_tensor(f"t{i}", np.full((4, 32), i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) == 3
    before = [p.read_bytes() for p in parts]
    code, _ = run(parts[2], "--model-name", "A name for the first part")
    assert code == 0
    assert [p.read_bytes() for p in parts[1:]] == before[1:]
    assert values_of(parts[0])["general.name"][1] == "A name for the first part"
    assert data_of(parts[0]) == before[0][-len(data_of(parts[0])) :]


def test_interrupted_in_place(
    file: Path, converted: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit that dies half-way leaves the old header on disk: the next run says so, and restore
    gives every byte back.
    """

    def half(out: int, head: bytes) -> None:
        os.pwrite(out, head[: len(head) // 2].replace(b"general", b"GENERAL"), 0)
        raise KeyboardInterrupt

    change = mending.prepare(file, Edit({"qwen35moe.context_length": Value(T.UINT32, 1)}))
    with monkeypatch.context() as patch:
        patch.setattr(editing, "_put", half)
        with pytest.raises(KeyboardInterrupt):
            mending.apply(change)
    assert file.read_bytes() != converted
    with pytest.raises(UsageError, match="an earlier edit was interrupted"):
        mending.prepare(file, Edit({"a.b": text("c")}))
    assert run(file, "--restore")[0] == 0
    assert file.read_bytes() == converted
    with pytest.raises(UsageError, match="no edit was interrupted"):
        mending.restore(file)


def test_two_at_once(file: Path) -> None:
    """Of two edits that were prepared from the same header one is done, the other refused."""
    first = mending.prepare(file, Edit({"qwen35moe.context_length": Value(T.UINT32, 1)}))
    second = mending.prepare(file, Edit({"qwen35moe.block_count": Value(T.UINT32, 2)}))
    mending.apply(first)
    done = file.read_bytes()
    with pytest.raises(WriteError, match="another run is editing it"):
        mending.apply(second)
    assert file.read_bytes() == done


def test_disk_full(file: Path, converted: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that fails leaves the file as it was, and nothing beside it."""

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    change = mending.prepare(file, Edit({"a.b": text("x" * 1000)}))
    assert not change.in_place
    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(WriteError, match="No space left"):
        mending.apply(change)
    assert [p.name for p in file.parent.iterdir()] == ["m.gguf"]
    assert file.read_bytes() == converted


def test_copied_by_hand(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel cannot copy between two files, the data arrive all the same."""

    def cannot(*_: object, **__: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    before = data_of(file)
    monkeypatch.setattr(os, "copy_file_range", cannot)
    mending.apply(mending.prepare(file, Edit({"a.b": text("x" * 1000)})))
    assert data_of(file) == before


def test_through_a_link(file: Path, tmp_path: Path) -> None:
    """A link stays one, and what it points to is edited."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    link = folder / "link.gguf"
    link.symlink_to(file)
    assert run(link, "--set-kv", "a.b=str:" + "x" * 500)[0] == 0
    assert link.is_symlink()
    assert values_of(file)["a.b"][1] == "x" * 500
    assert [p.name for p in folder.iterdir()] == ["link.gguf"]


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and stdout of a command; its error where it has one."""
    result = CliRunner().invoke(app, ["meta", *map(str, arguments)])
    if isinstance(result.exception, GgufmixError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.stdout


def test_shown(file: Path) -> None:
    """Every key with its type; one value whole and bare, as text to be edited and put back."""
    code, said = run(file)
    assert code == 0
    assert "qwen35moe.rope.dimension_sections" in said
    assert "int32[]" in said
    assert json.loads(run(file, "--json")[1])["general.file_type"]["type"] == "uint32"
    assert run(file, "--get", "general.architecture") == (0, "qwen35moe")
    assert json.loads(run(file, "--get", "qwen35moe.rope.dimension_sections")[1]) == [3, 3, 2, 0]


def test_template_from_a_file(file: Path, tmp_path: Path) -> None:
    """A chat template is set from a file, line ends and all, and comes out as it went in."""
    template = "{% for m in messages %}\n{{ m['content'] }}\r\n[tag]{% endfor %}"
    (tmp_path / "t.jinja").write_bytes(template.encode())
    code, said = run(file, "--chat-template-file", tmp_path / "t.jinja", "--tokenizer-pre", "gpt-2")
    assert code == 0
    assert "tokenizer.ggml.pre: qwen35 -> gpt-2" in said
    assert values_of(file)["tokenizer.chat_template"][1] == template


def test_dry_run(file: Path, converted: bytes) -> None:
    """A dry run says what would change and changes nothing."""
    code, said = run(file, "--set-kv", "general.file_type=int32:-5", "--dry-run")
    assert (code, said) == (0, "general.file_type: 2 -> -5\n")
    assert file.read_bytes() == converted


def test_digest_of_the_whole_file(file: Path) -> None:
    """SHA256SUMS is of the file before the edit: said where it has a line of it, else not."""
    edit = ["meta", str(file), "--model-name"]
    assert "SHA256SUMS" not in CliRunner().invoke(app, [*edit, "a"]).stderr
    sumfile.record([file])
    assert "digest of m.gguf from before" in CliRunner().invoke(app, [*edit, "b"]).stderr
    assert sumfile.stated(file) is None


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--remove-kv", "no.such"), 2, "has no key no.such"),
        (("--get", "no.such"), 2, "has no key no.such"),
        (("--set-kv", "general.alignment=uint32:64"), 2, "cannot be edited"),
        (("--remove-kv", "general.alignment"), 2, "cannot be edited"),
        (("--set-kv", "a=int8:1", "--set-kv", "a=int8:2"), 2, "set twice"),
        (("--dry-run",), 2, "expected something to change"),
        (("--chat-template-file", "/nowhere"), 1, "cannot be read as text"),
    ],
)
def test_refused(
    arguments: tuple[str, ...], code: int, part: str, file: Path, converted: bytes
) -> None:
    """What cannot be meant changes nothing."""
    found, said = run(file, *arguments)
    assert (found, part in said) == (code, True)
    assert file.read_bytes() == converted


def test_no_gguf(tmp_path: Path) -> None:
    """Another file is an error, and is not touched."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 16)
    assert run(path, "--model-name", "x")[0] == 1
    assert path.stat().st_size == 24
    assert run(tmp_path / "none.gguf")[0] == 2
