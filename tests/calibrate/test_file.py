"""The file: an importance matrix to llama.cpp and to `convert`, with maxima beside."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import oracle
import pytest
from calibrate.conftest import CTX, WINDOWS, Loaded
from imatrix import made

import ggufmix
from ggufmix import imatrix
from ggufmix.calibrating import Calibrated, Options, calibrate
from ggufmix.errors import SourceError
from ggufmix.pipeline import Options as Choices

DOWN = "blk.2.ffn_down_exps.weight"


def test_what_was_measured_is_what_is_read(
    calibrated: Calibrated, trained: Loaded, ids: list[list[int]]
) -> None:
    """Names, counts, sums and maxima of the file are those of a run of the same windows; it says
    what text it is of.
    """
    found = trained.collect(*ids)
    read = imatrix.read([calibrated.path])
    assert [e.name for e in found.entries] == list(read.entries)
    assert (read.datasets, read.chunk_count, read.chunk_size) == (("text.txt",), WINDOWS, CTX)
    assert (calibrated.sequences, calibrated.tokens) == (WINDOWS, WINDOWS * CTX)
    for entry in found.entries:
        stored, n = read.entries[entry.name], entry.n_values
        assert stored.has_maxima
        assert (stored.counts == entry.tokens).all()
        for mine, theirs in (
            (stored.sums(0, n), entry.sums(0, n)),
            (stored.maxima(0, n), entry.maxima(0, n)),
        ):  # one run had other threads than the other
            assert np.abs(mine - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_convert_finds_importance_for_every_tensor(example: Path, calibrated: Calibrated) -> None:
    """No tensor of a block lacks importance and no entry is left over."""
    options = Choices(tensor_types=[r"^blk.*\.weight=Q4_0"], imatrix=[calibrated.path])
    found = ggufmix.plan(example, options=options).imatrix
    assert found is not None
    assert [name for name in found["without"] if name.startswith("blk.")] == []
    assert (found["unmatched"], found["instead"], found["unrouted"]) == ([], {}, {})
    assert found["with"] > 40


def test_convert_takes_it(example: Path, calibrated: Calibrated, tmp_path: Path) -> None:
    """The weights of a tensor are what llama.cpp's encoder writes with the file's mean squares."""
    out, plain = tmp_path / "x.gguf", tmp_path / "f32.gguf"
    types = [r"^blk.*\.weight=Q4_0"]
    ggufmix.convert(example, out, options=Choices(tensor_types=types, imatrix=[calibrated.path]))
    ggufmix.convert(example, plain, "f32")
    x = {t.name: np.array(t.data) for t in gguf.GGUFReader(plain).tensors}
    entries = imatrix.read([calibrated.path]).entries
    for t in gguf.GGUFReader(out).tensors:
        if t.name in ("blk.0.ssm_out.weight", "blk.1.ffn_down_exps.weight"):
            cols = x[t.name].shape[-1]
            for m, matrix in enumerate(x[t.name].reshape(-1, *x[t.name].shape[-2:])):
                entry = entries[t.name]
                mean = entry.sums(m * cols, (m + 1) * cols) / np.float32(entry.counts[m])
                got = t.data.reshape(-1, matrix.shape[0], t.data.shape[-1])[m]
                assert (got == oracle.encode(matrix, "Q4_0", mean)).all()


def test_llama_cpp_opens_it(calibrated: Calibrated) -> None:
    """Its GGUF reader takes the file, and keeps every name whole. Its imatrix loader takes what
    ends in .in_sum2 and .counts, in pairs, and passes over the rest.
    """

    class Params(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))

    library = oracle.library()
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, Params]
    library.gguf_get_n_tensors.argtypes = library.gguf_free.argtypes = [ctypes.c_void_p]
    library.gguf_get_n_tensors.restype = ctypes.c_int64
    library.gguf_get_tensor_name.restype = ctypes.c_char_p
    library.gguf_get_tensor_name.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    file = library.gguf_init_from_file(str(calibrated.path).encode(), Params(True, None))
    assert file
    n = library.gguf_get_n_tensors(file)
    names = [library.gguf_get_tensor_name(file, i).decode() for i in range(n)]
    library.gguf_free(file)
    ends: dict[str, set[str]] = {}
    for name in names:
        stem, _, end = name.rpartition(".")
        ends.setdefault(stem, set()).add(end)
    assert len(ends) == calibrated.entries == 51
    assert all(each == {"in_sum2", "counts", "in_max"} for each in ends.values())


def test_merging_keeps_the_maxima(
    example: Path, calibrated: Calibrated, text: Path, tmp_path: Path
) -> None:
    """Two runs merged by `ggufmix imatrix --merge`: counts and sums are added, of maxima the larger
    one is kept; with a file of llama.cpp among them there are none.
    """
    short = Options(text=text, ctx=32, chunks=2, dtype="f32", device_map="cpu")
    other = calibrate(example, tmp_path / "b.gguf", short).path
    merged = tmp_path / "merged.gguf"
    imatrix.save(imatrix.read([calibrated.path, other]), merged)
    a, b, both = (imatrix.read([p]).entries for p in (calibrated.path, other, merged))
    louder = 0
    for name in a:
        n = a[name].n_values
        assert (both[name].counts == a[name].counts + b[name].counts).all()
        assert (both[name].sums(0, n) == a[name].sums(0, n) + b[name].sums(0, n)).all()
        larger = np.maximum(a[name].maxima(0, n), b[name].maxima(0, n))
        assert (both[name].maxima(0, n) == larger).all()
        louder += int((larger > a[name].maxima(0, n)).sum())
    assert louder
    theirs = made.write_gguf(tmp_path / "theirs.gguf", {DOWN: made.entry(DOWN, 128, [1] * 4)})
    mixed = imatrix.read([calibrated.path, theirs])
    assert not mixed.entries[DOWN].has_maxima
    imatrix.save(mixed, tmp_path / "mixed.gguf")
    again = imatrix.read([tmp_path / "mixed.gguf"]).entries
    assert not again[DOWN].has_maxima
    assert again["blk.0.ssm_out.weight"].has_maxima


def test_maxima_of_another_length_are_refused(tmp_path: Path) -> None:
    """A file that contradicts itself is named with its entry."""
    path = tmp_path / "bad.gguf"
    writer = gguf.GGUFWriter(path, "")
    writer.add_array("imatrix.datasets", ["x"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for end, n in (("in_sum2", 8), ("counts", 1), ("in_max", 7)):
        writer.add_tensor(f"{DOWN}.{end}", np.ones(n, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SourceError, match=rf"bad\.gguf: {DOWN}: 8 values, 7 of \.in_max"):
        imatrix.read([path])


def test_experts_that_no_token_reached(example: Path, text: Path, tmp_path: Path) -> None:
    """They have a count of zero in the file, and are told of; convert says it again, and takes
    ones for them.
    """
    options = Options(text=text, ctx=2, chunks=1, dtype="f32", device_map="cpu")
    found = calibrate(example, tmp_path / "x.gguf", options)
    assert found.unrouted
    [warning] = found.warnings
    assert "no token was routed to" in warning
    entries = imatrix.read([found.path]).entries
    for name, experts in found.unrouted.items():
        assert name.endswith("_exps.weight")
        assert np.flatnonzero(entries[name].counts == 0).tolist() == list(experts)
        assert entries[name].counts.sum() == 4
    choices = Choices(tensor_types=[r"_exps\.weight=Q4_0"], imatrix=[found.path])
    plan = ggufmix.plan(example, options=choices)
    assert any("no token was routed to" in w for w in plan.warnings)


def test_the_output_matrix_where_it_is_asked_for(
    example: Path, text: Path, calibrated: Calibrated, tmp_path: Path
) -> None:
    """As llama-imatrix: only with --process-output, and then of every token."""
    options = Options(
        text=text, ctx=32, chunks=2, dtype="f32", device_map="cpu", process_output=True
    )
    found = imatrix.read([calibrate(example, tmp_path / "x.gguf", options).path]).entries
    assert found["output.weight"].counts.tolist() == [64]
    assert "output.weight" not in imatrix.read([calibrated.path]).entries


def test_prompts_and_what_the_model_answers(example: Path, trained: Loaded, tmp_path: Path) -> None:
    """Each prompt is run with the tokens that the model continues it by, the likeliest each time:
    the same as picking them one by one, and then running the whole.
    """
    import torch
    import transformers

    lines = ["The castle was built in", "  ", "In the spring of 1918 the"]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(lines) + "\n")
    options = Options(prompts_file=prompts, max_tokens=5, dtype="f32", device_map="cpu")
    found = calibrate(example, tmp_path / "x.gguf", options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(example)
    sequences = []
    for line in (lines[0], lines[2]):
        ids = list(tokenizer(line)["input_ids"])
        with torch.no_grad():
            for _ in range(5):
                ids.append(int(trained.model(torch.tensor([ids])).logits[0, -1].argmax()))
        sequences.append(ids)
    want = trained.collect(*sequences)
    assert (found.sequences, found.tokens) == (2, sum(map(len, sequences)))
    read = imatrix.read([found.path])
    assert read.datasets == ("prompts.txt",)
    for entry in want.entries:
        mine = read.entries[entry.name].sums(0, entry.n_values)
        theirs = entry.sums(0, entry.n_values)
        assert np.abs(mine - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_a_chat_template_is_used(model: Path, tmp_path: Path) -> None:
    """Where the tokenizer has one, the model sees the prompt in its frame."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Why is that?\n")
    options = Options(prompts_file=prompts, max_tokens=0, dtype="f32", device_map="cpu")
    bare = calibrate(model, tmp_path / "bare.gguf", options).tokens
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}asked: {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %} answered: {% endif %}"
    )
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    want = len(tokenizer("asked: Why is that? answered: ")["input_ids"])
    assert calibrate(model, tmp_path / "framed.gguf", options).tokens == want > bare


def test_windows_begin_as_texts_do(trained: Loaded) -> None:
    """A tokenizer that begins each text with a token: it is put in place of each window's first."""
    from ggufmix.calibrating import texts

    class Tokenizer:
        bos_token_id = 7

        def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
            assert add_special_tokens
            return {"input_ids": [7, *map(int, text.split())]}

    tokenizer: Any = Tokenizer()
    text = " ".join(map(str, range(10, 20)))
    made = texts.windows(trained.model, tokenizer, text, "t", 4, None)
    assert made == [[7, 10, 11, 12], [7, 14, 15, 16]]


def test_progress(example: Path, text: Path, tmp_path: Path) -> None:
    """A text is told of in tokens, prompts are counted; never is nothing of something done, which
    has no rate.
    """
    said: list[tuple[int, int]] = []
    step = lambda _, done, n: said.append((done, n))  # noqa: E731
    options = Options(text=text, ctx=16, chunks=3, device_map="cpu")
    calibrate(example, tmp_path / "x.gguf", options, progress=step)
    assert said == [(16, 48), (32, 48), (48, 48)]
    said.clear()
    prompts = tmp_path / "p.txt"
    prompts.write_text("One.\nTwo.")
    options = Options(prompts_file=prompts, max_tokens=0, device_map="cpu")
    calibrate(example, tmp_path / "y.gguf", options, progress=step)
    assert said == [(1, 2), (2, 2)]


def test_built_in_prompts_cover_ground() -> None:
    """48 prompts, none twice; code, and several scripts."""
    from ggufmix.calibrating import texts

    found = texts.prompts(None)
    assert len(found) == len({*found}) == 48
    joined = "".join(found)
    for block in ("A", "я", "の", "请", "ا", "म", "한", "ü", "(", "{"):
        assert block in joined


def test_files_are_whole_or_not_there(
    example: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills leaves no output and no part of one."""
    from ggufmix.errors import WriteError
    from ggufmix.imatrix import saving

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving.os, "fsync", full)
    options = Options(text=text, ctx=32, chunks=1, dtype="f32", device_map="cpu")
    with pytest.raises(WriteError, match="No space left"):
        calibrate(example, tmp_path / "x.gguf", options)
    assert not list(tmp_path.iterdir())
