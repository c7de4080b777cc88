"""`verify` on whole files: what is right is GOOD, and damage of every kind is found."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import oracle
import pytest
from safetensors.numpy import load_file, save_file
from verify.files import (
    anonymous,
    data_of,
    head_of,
    put_together,
    rebuilt,
    regions,
    sealed,
    size_of,
)
from whole_file import described

import ggufmix
from ggufmix import codecs, proof
from ggufmix.container import Value, text, u32
from ggufmix.errors import GgufmixError, SourceError, UsageError
from ggufmix.models import block, delta_net, qwen35
from ggufmix.pipeline import Options
from ggufmix.verifying import Report
from ggufmix.writing import encoding

GOLDEN = Path(__file__).parents[1] / "golden"
MIXED = "q4_k_m"
"""A recipe whose file has six types."""

Made = Callable[..., Path]


@pytest.fixture(scope="module")
def made(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The example model by a recipe; each file is made once, and is not to be changed."""

    @cache
    def made(recipe: str = MIXED, mirror: str | None = None) -> Path:
        out = tmp_path_factory.mktemp("made") / f"{recipe.replace(':', '-')}.gguf"
        ggufmix.convert(example, out, options=Options(recipe=recipe, mirror=mirror))
        return out

    return made


@pytest.mark.parametrize(
    "recipe", ["q8_0", MIXED, "hq4_k", "q4_x", "f32", "f16", "bf16", "pure:Q2_K", "mxfp4_moe"]
)
def test_what_convert_writes_is_good(made: Made, example: Path, recipe: str) -> None:
    """Every tensor has the bytes that convert writes, and an error within its type's band; norms
    plus one and reordered heads are no damage.
    """
    report = proof.verify(made(recipe), example)
    assert report.grade == "GOOD"
    assert not report.problems
    assert not report.warnings
    assert all(t.same_bytes for t in report.tensors)
    assert len(report.tensors) == report.n_all == len(head_of(made(recipe)).tensors)
    assert "every byte" in report.compared[0]
    assert proof.verify_sums(made(recipe)).grade == "GOOD"


@pytest.mark.parametrize(
    "options",
    [
        Options(mirror="llama.cpp"),
        Options(gates="f32", set_roles=("ffn_down_exps=Q4_0", "attn_k=F16")),
        Options(tensor_types=(r"blk\.0\..*_exps=BF16",), edges=("1=Q6_K",), recipe="q5_0"),
        Options(model_name="A name of one's own", tokenizer_pre="qwen2"),
    ],
    ids=["mirror", "set", "patterns", "names"],
)
def test_options_are_taken_from_the_file(example: Path, tmp_path: Path, options: Options) -> None:
    """Nobody has to remember what a file was made with."""
    ggufmix.convert(example, tmp_path / "x.gguf", options=options)
    report = proof.verify(tmp_path / "x.gguf", example)
    assert (report.grade, report.warnings) == ("GOOD", ())
    assert "every byte" in report.compared[0]


def test_a_recipe_of_ones_own(example: Path, tmp_path: Path) -> None:
    """Its name is not enough: values are compared, and the report says what is not; with the file
    every byte is.
    """
    recipe = tmp_path / "mine.toml"
    recipe.write_text('schema = 1\nname = "mine"\nwhy = "a test"\nbase = "q5_0"\n')
    ggufmix.convert(example, tmp_path / "x.gguf", str(recipe))
    report = proof.verify(tmp_path / "x.gguf", example)
    assert report.grade == "GOOD"
    assert "by value" in report.compared[0]
    assert "--recipe FILE" in report.compared[0]
    report = proof.verify(tmp_path / "x.gguf", example, recipe=str(recipe))
    assert report.grade == "GOOD"
    assert "every byte" in report.compared[0]
    raw = (tmp_path / "x.gguf").read_bytes()
    at = raw.index(b"general.file_type") + 22
    (tmp_path / "x.gguf").write_bytes(raw[:at] + b"\x01" + raw[at + 1 :])
    assert proof.verify(tmp_path / "x.gguf", example).grade == "FAIL"


def test_any_number_of_threads_says_the_same(made: Made, example: Path) -> None:
    """To the last digit."""
    one, five = (proof.verify(made(), example, threads=n).as_dict() for n in (1, 5))
    assert one == five


def test_one_flipped_byte_anywhere(made: Made, example: Path, tmp_path: Path) -> None:
    """Header, padding, data of every type: whatever byte it is, both ways to verify fail or refuse
    the file.
    """
    rng = np.random.default_rng(3)
    raw = made().read_bytes()
    places: dict[str, list[tuple[int, int]]] = {}
    for what, start, stop in regions(made()):
        places.setdefault(what, []).append((start, stop))
    assert {"data of F32", "data of Q4_K", "data of BF16", "data of Q6_K"} < set(places)
    bad = tmp_path / "bad.gguf"

    def found(check: Callable[[], object]) -> bool:
        try:
            return check().grade == "FAIL"  # type: ignore[attr-defined]
        except GgufmixError as error:
            return error.exit_code == 1

    for what, spans in places.items():
        for turn in range(6):
            start, stop = spans[rng.integers(len(spans))]
            at = int(rng.integers(start, stop))
            flipped = bytearray(raw)
            flipped[at] ^= 1 << int(rng.integers(8))
            bad.write_bytes(flipped)
            assert found(lambda: proof.verify_sums(bad)), (what, at)
            if turn < 2:
                assert found(lambda: proof.verify(bad, example)), (what, at)


@pytest.mark.parametrize("key", ["ggufmix.header.xxh64", "ggufmix.tensor.xxh64"])
def test_a_flipped_byte_in_the_name_of_a_checksum(
    made: Made, example: Path, tmp_path: Path, key: str
) -> None:
    """It does not make the check go away."""
    raw, bad = made().read_bytes(), tmp_path / "bad.gguf"
    at = raw.index(key.encode()) + 10
    bad.write_bytes(raw[:at] + b"\x01" + raw[at + 1 :])
    assert proof.verify_sums(bad).grade == "FAIL"
    assert proof.verify(bad, example).grade == "FAIL"


def test_damaged_data_is_found_without_checksums(made: Made, example: Path, tmp_path: Path) -> None:
    """The bytes are held against those that are encoded again, not against checksums alone, and the
    tensor is named with the row.
    """
    path = tmp_path / "x.gguf"
    name = "blk.1.ffn_gate_exps.weight"

    def change(data: dict[str, bytes]) -> dict[str, bytes]:
        one = bytearray(data[name])
        one[144 * 77] ^= 1
        return data | {name: bytes(one)}

    rebuilt(
        made(),
        path,
        tensors=change,
        values=lambda v: {k: x for k, x in v.items() if not k.endswith("xxh64")},
    )
    report = proof.verify(path, example)
    [failed] = [t for t in report.tensors if t.verdict.grade == "FAIL"]
    assert failed.name == name
    assert "row 77 " in failed.verdict.why
    with pytest.raises(UsageError, match="no checksums"):
        proof.verify_sums(path)


@pytest.mark.parametrize("keep", [10, 3000, -33, -100_000])
def test_truncated(made: Made, example: Path, tmp_path: Path, keep: int) -> None:
    """A download that broke off is an error that says so."""
    bad = tmp_path / "x.gguf"
    bad.write_bytes(made().read_bytes()[:keep])
    for check in (lambda: proof.verify(bad, example), lambda: proof.verify_sums(bad)):
        with pytest.raises(SourceError, match=r"truncated|cannot fit|needs"):
            check()


def test_bytes_behind_the_end(made: Made, example: Path, tmp_path: Path) -> None:
    """Nothing may be appended."""
    bad = tmp_path / "x.gguf"
    bad.write_bytes(made().read_bytes() + b"more")
    report = proof.verify(bad, example)
    assert report.grade == "FAIL"
    assert any("4 bytes follow" in p for p in report.problems)


@pytest.mark.parametrize("known", [True, False], ids=["ours", "foreign"])
def test_two_tensors_exchanged(made: Made, example: Path, tmp_path: Path, known: bool) -> None:
    """Same shape and type, other weights: caught whether the file says who made it or not."""
    gate, up = "blk.2.ffn_gate_exps.weight", "blk.2.ffn_up_exps.weight"
    path = rebuilt(
        made(),
        tmp_path / "x.gguf",
        tensors=lambda d: d | {gate: d[up], up: d[gate]},
        values=dict if known else anonymous,
    )
    report = proof.verify(path, example)
    assert {t.name for t in report.tensors if t.verdict.grade == "FAIL"} == {gate, up}
    [why] = {t.verdict.why for t in report.tensors if t.name == gate}
    assert "these are other weights" in why


def test_two_experts_exchanged_in_a_foreign_file(made: Made, example: Path, tmp_path: Path) -> None:
    """Two of the experts in a stack, with nothing known of the file."""
    name = "blk.2.ffn_gate_exps.weight"

    def change(data: dict[str, bytes]) -> dict[str, bytes]:
        n = len(data[name]) // 4
        parts = [data[name][i * n : (i + 1) * n] for i in range(4)]
        return data | {name: b"".join([parts[0], parts[2], parts[1], parts[3]])}

    path = rebuilt(made(), tmp_path / "x.gguf", tensors=change, values=anonymous)
    report = proof.verify(path, example)
    assert [t.name for t in report.tensors if t.verdict.grade == "FAIL"] == [name]


def test_a_few_rows_of_a_large_tensor(
    made: Made, example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of 2048 exchanged: lost in the sums of the tensor, not in those of its band."""
    monkeypatch.setattr(encoding, "BAND_BYTES", 8192)
    name = "output.weight"
    rows = len(data_of(made())[name]) // 210

    def change(data: dict[str, bytes]) -> dict[str, bytes]:
        one = bytearray(data[name])
        one[1000 * 210 : 1001 * 210] = one[4 * 210 : 5 * 210]
        return data | {name: bytes(one)}

    path = rebuilt(made(), tmp_path / "x.gguf", tensors=change, values=anonymous)
    [failed] = [t for t in proof.verify(path, example).tensors if t.verdict.grade == "FAIL"]
    assert rows == 2048
    assert failed.name == name
    assert re.search(r"around row 1000,", failed.verdict.why)


def fine_tuned(model: Path, by: float) -> Path:
    """Another model of the same shapes: every weight a little further."""
    file = model / "model.safetensors"
    tensors = load_file(file)
    rng = np.random.default_rng(0)
    for name, values in tensors.items():
        x = values.view(ml_dtypes.bfloat16) if values.dtype.itemsize == 2 else values
        moved = x.astype(np.float32) * (1 + by * rng.standard_normal(x.shape))
        tensors[name] = moved.astype(x.dtype)
    save_file(tensors, file, {"format": "pt"})
    return model


@pytest.mark.parametrize("known", [True, False], ids=["ours", "foreign"])
@pytest.mark.parametrize("by", [0.02, 1.0])
def test_another_fine_tune(made: Made, model: Path, tmp_path: Path, known: bool, by: float) -> None:
    """SRC has the same shapes and names and is another model."""
    path = made() if known else rebuilt(made(), tmp_path / "x.gguf", values=anonymous)
    report = proof.verify(path, fine_tuned(model, by))
    assert report.grade == "FAIL"
    failed = {t.name: t.verdict for t in report.tensors if t.verdict.grade == "FAIL"}
    assert "output_norm.weight" in failed
    if known:
        assert len(failed) == len(report.tensors)
        assert "not what it was made from" in failed["output.weight"].advice


def test_quantized_twice(made: Made, example: Path, tmp_path: Path) -> None:
    """A Q8_0 file of what went through Q4_0 first, as another tool may have made it."""
    q4 = tmp_path / "q4.gguf"
    ggufmix.convert(example, q4, "q4_0")
    ggufmix.convert(q4, tmp_path / "q8.gguf", options=Options(allow_requantize=True))
    stripped = rebuilt(tmp_path / "q8.gguf", tmp_path / "x.gguf", values=anonymous)
    report = proof.verify(stripped, example)
    assert report.grade == "FAIL"
    bad = [t for t in report.tensors if t.verdict.grade == "FAIL"]
    assert len(bad) > 20
    assert any("fewer bits" in t.verdict.advice for t in bad)
    assert proof.verify(tmp_path / "q8.gguf", q4).grade == "GOOD"  # of that file it is the image


def test_a_gguf_source(made: Made, example: Path, tmp_path: Path) -> None:
    """Blocks that were copied are counted, groups, codes and scales; one code that differs is."""
    source = tmp_path / "q4.gguf"
    ggufmix.convert(example, source, "pure:Q4_0")
    ggufmix.convert(source, tmp_path / "copy.gguf", "pure:Q4_0")
    report = proof.verify(tmp_path / "copy.gguf", source)
    assert report.grade == "GOOD"
    parts = [t.parts for t in report.tensors if t.parts is not None]
    assert parts
    assert all(p.same_groups == p.groups == p.same_scales for p in parts)
    assert all(p.same_codes == p.codes == 32 * p.groups for p in parts)
    name = next(t.name for t in report.tensors if t.parts is not None)

    def change(data: dict[str, bytes]) -> dict[str, bytes]:
        one = bytearray(data[name])
        one[18 * 5 + 9] ^= 0x30  # a code of block 5
        one[18 * 9] ^= 1  # the scale of block 9
        return data | {name: bytes(one)}

    bad = rebuilt(tmp_path / "copy.gguf", tmp_path / "bad.gguf", tensors=change)
    [failed] = [t for t in proof.verify(bad, source).tensors if t.verdict.grade == "FAIL"]
    p = failed.parts
    assert p is not None
    assert (p.groups - p.same_groups, p.codes - p.same_codes, p.groups - p.same_scales) == (2, 1, 1)


@pytest.mark.parametrize("known", [True, False], ids=["ours", "foreign"])
def test_a_tensor_is_missing(made: Made, example: Path, tmp_path: Path, known: bool) -> None:
    """In the file, or in the source: named."""
    lost = "blk.1.ssm_norm.weight"
    path = rebuilt(
        made(),
        tmp_path / "x.gguf",
        tensors=lambda d: {k: v for k, v in d.items() if k != lost},
        values=dict if known else anonymous,
    )
    report = proof.verify(path, example)
    assert report.grade == "FAIL"
    assert any(p == f"{lost}: is missing, SRC has it" for p in report.problems)


def test_a_tensor_too_many(made: Made, example: Path, tmp_path: Path) -> None:
    """What nothing in the source becomes."""

    def with_another(path: Path, out: Path) -> Path:
        head, data = head_of(path), data_of(path)
        extra = replace(head.tensors[0], name="blk.0.extra.weight")
        data |= {extra.name: data[head.tensors[0].name]}
        return put_together(out, anonymous(dict(head.values)), [*head.tensors, extra], data)

    report = proof.verify(with_another(made(), tmp_path / "x.gguf"), example)
    assert report.grade == "FAIL"
    assert "blk.0.extra.weight: SRC has nothing that becomes it" in report.problems


@pytest.mark.parametrize("outtype", ["f32", "bf16", "q8_0"])
def test_the_file_of_llama_cpps_converter(
    made: Made, example: Path, tmp_path: Path, outtype: str
) -> None:
    """Every tensor is as llama.cpp's own converter writes it (golden/make_example.py), and the file
    says nothing of ggufmix: GOOD, and bit for bit what convert writes.
    """
    mirror = "llama.cpp" if outtype == "q8_0" else None
    path = rebuilt(made(outtype, mirror), tmp_path / "x.gguf", values=anonymous)
    golden = json.loads((GOLDEN / f"example-{outtype}.json").read_text())
    theirs = {n: t for n, t in golden["tensors"].items() if not n.endswith("ssm_a")}
    assert theirs.items() <= described(path)["tensors"].items()
    report = proof.verify(path, example)
    assert report.grade == "GOOD"
    assert "not made by ggufmix" in report.compared[0]
    assert all(t.same_bytes for t in report.tensors)


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_0", "IQ4_NL", "IQ3_S", "IQ2_S", "TQ2_0"])
def test_the_encoders_of_llama_cpp(made: Made, example: Path, tmp_path: Path, kind: str) -> None:
    """A file of llama.cpp's quantizer, types that are not written here included: GOOD; where they
    are, bit for bit.
    """
    head = head_of(made("f32"))
    large = [
        t.name
        for t in head.tensors
        if len(t.shape) == 2 and t.shape[0] == 256 and t.shape[1] >= 256 and "ffn" in t.name
    ]

    def encode(data: dict[str, bytes]) -> dict[str, bytes]:
        found = dict(data)
        for t in head.tensors:
            if t.name in large:
                x = np.frombuffer(data[t.name], np.float32).reshape(-1, t.shape[0])
                found[t.name] = oracle.encode(x, kind).tobytes()
        return found

    large = large or [t.name for t in head.tensors if t.name == "output.weight"]
    path = rebuilt(
        made("f32"),
        tmp_path / "x.gguf",
        values=anonymous,
        tensors=encode,
        types=dict.fromkeys(large, kind),
    )
    report = proof.verify(path, example)
    found = [t for t in report.tensors if t.kind.name == kind]
    assert len(found) == len(large)
    assert report.grade == "GOOD"
    if codecs.FORMATS[kind].encodes:
        assert all(t.same_bytes for t in found)


UP_GATE_DOWN = ("up_proj", "gate_proj", "down_proj")
MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "heads": lambda p: p.setattr(delta_net.DeltaNet, "moves", delta_net.Moves()),
    "plus one": lambda p: p.setattr(qwen35, "NORM", ()),
    "gate and up": lambda p: p.setattr(
        block, "GATE_UP_DOWN", ("up_proj", "gate_proj", "down_proj")
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_verify_cannot_see(
    made: Made, example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    """A converter with a fault in a transform verifies its own files as GOOD, and says that this
    proves nothing about transforms. A file of another converter shows the fault.
    """
    theirs = rebuilt(made("bf16"), tmp_path / "theirs.gguf", values=anonymous)
    golden = json.loads((GOLDEN / "example-bf16.json").read_text())["tensors"]
    same = {n: t for n, t in described(theirs)["tensors"].items() if golden[n] == t}
    assert len(golden) - len(same) <= 3  # ssm_a, by last places
    MUTANTS[mutant](monkeypatch)
    ggufmix.convert(example, tmp_path / "x.gguf", "bf16")
    changed = described(tmp_path / "x.gguf")["tensors"]
    assert any(changed[n] != t for n, t in same.items()), "the mutant changes nothing"
    report = proof.verify(tmp_path / "x.gguf", example)
    assert report.grade == "GOOD"
    assert "a fault in those does not show" in report.unproven[0]
    report = proof.verify(theirs, example)
    assert report.grade == "FAIL"
    assert {t.name for t in report.tensors if t.verdict.grade == "FAIL"} == {
        n for n, t in same.items() if changed[n] != t
    }


def test_a_key_that_was_edited(made: Made, example: Path, tmp_path: Path) -> None:
    """Edited in good order (the header's checksum is right): named as a warning. Damaged: fails."""
    key = "qwen35moe.context_length"
    longer = u32(head_of(made()).values[key].data * 2)
    more = {"tokenizer.chat_template": text("{{ other }}"), key: longer}
    path = rebuilt(made(), tmp_path / "x.gguf", values=lambda v: v | more)
    report = proof.verify(path, example)
    assert report.grade == "FAIL"
    report = proof.verify(sealed(path), example)
    assert report.grade == "WARN"
    assert [w.split(":")[0] for w in report.warnings] == [f"key {k}" for k in (key, *more)[:2]]
    assert proof.verify_sums(path).grade == "GOOD"


def test_a_type_that_the_recipe_does_not_say(made: Made, example: Path, tmp_path: Path) -> None:
    """Rules are part of what a file says of itself."""
    name = "output.weight"
    head = head_of(made("f32"))
    info = next(t for t in head.tensors if t.name == name)
    x = np.frombuffer(data_of(made("f32"))[name], np.float32).reshape(-1, info.shape[0])
    path = rebuilt(
        made(),
        tmp_path / "x.gguf",
        tensors=lambda d: d | {name: codecs.encode(x, "Q4_0").tobytes()},
        types={name: "Q4_0"},
    )
    report = proof.verify(sealed(path), example)
    assert report.grade == "FAIL"
    assert f"{name}: is Q4_0, recipe {MIXED} makes it Q6_K" in report.problems


def test_a_sample(made: Made, example: Path) -> None:
    """Always the same tensors, of the heaviest kinds first; all of them where there are fewer."""
    one, two = (proof.verify(made(), example, sample=7) for _ in range(2))
    names = [t.name for t in one.tensors]
    assert names == [t.name for t in two.tensors]
    assert len(set(names)) == 7
    kinds = {t.role for t in one.tensors}
    assert {"OUTPUT", "TOKEN_EMBD", "FFN_DOWN_EXP"} <= kinds
    assert "7 of 76 tensors" in one.compared[0]
    assert len(proof.verify(made(), example, sample=1000).tensors) == 76


def test_json_is_plain(made: Made, example: Path) -> None:
    """For machines: every field is there, and NaN is null."""
    said = json.loads(json.dumps(proof.verify(made(), example).as_dict(), allow_nan=False))
    assert said["verdict"] == "GOOD"
    assert said["counts"] == {"GOOD": 76, "WARN": 0, "FAIL": 0}
    [row] = [t for t in said["tensors"] if t["name"] == "output.weight"]
    assert row["type"] == "Q6_K"
    assert 0.01 < row["rrmse"] < 0.02
    assert row["same_bytes"] is True
    assert sum(size_of(t) for t in head_of(made()).tensors) > 0


def bare(values: dict[str, Value]) -> dict[str, Value]:
    """Without checksums, as a file of an early ggufmix."""
    return {k: v for k, v in values.items() if not k.endswith("xxh64")}


def test_another_order_of_tensors(made: Made, example: Path, tmp_path: Path) -> None:
    """Every tensor is right, and the file is not the one that convert writes."""
    head = head_of(made())
    path = put_together(
        tmp_path / "x.gguf", bare(dict(head.values)), head.tensors[::-1], data_of(made())
    )
    report = proof.verify(path, example)
    assert all(t.same_bytes for t in report.tensors)
    assert "its tensors are in another order than convert writes them" in report.problems


def test_another_order_of_keys(made: Made, example: Path, tmp_path: Path) -> None:
    """Every value is right and the checksum is, and the bytes are others."""
    path = rebuilt(
        made(), tmp_path / "x.gguf", values=lambda v: dict(sorted(v.items(), reverse=True))
    )
    report = proof.verify(sealed(path), example)
    assert [p.split(": ")[1] for p in report.problems] == [
        "its header has other bytes than convert writes"
    ]


def test_a_header_without_checksum(made: Made, example: Path, tmp_path: Path) -> None:
    """Its bytes are held against what its content is written as: version 2 is read like version 3,
    and bytes that are not zero in front of the data hide nowhere.
    """
    path = rebuilt(made(), tmp_path / "x.gguf", values=bare)
    raw = bytearray(path.read_bytes())
    last = head_of(path).data_at - 1
    for at, byte in ((4, 2), (last, 7)):
        bad = raw[:at] + bytes([byte]) + raw[at + 1 :]
        path.write_bytes(bad)
        report = proof.verify(path, example)
        assert any("than its content is written as" in p for p in report.problems), at


def test_quantized_by_llama_cpp_from_a_file_of_ours(
    made: Made, example: Path, tmp_path: Path
) -> None:
    """llama-quantize keeps keys that it does not know, so our recipe and checksums stand in a file
    they do not fit: it is compared by value, and that is said; a tensor that it took over is still
    held against its checksum.
    """
    head, large = head_of(made("f32")), "blk.1.attn_qkv.weight"
    cols = next(t.shape[0] for t in head.tensors if t.name == large)

    def encode(data: dict[str, bytes]) -> dict[str, bytes]:
        x = np.frombuffer(data[large], np.float32).reshape(-1, cols)
        return data | {large: oracle.encode(x, "Q4_K").tobytes()}

    def build(more: dict[str, bytes]) -> Report:
        path = rebuilt(
            made("f32"),
            tmp_path / "x.gguf",
            tensors=lambda d: encode(d) | more,
            types={large: "Q4_K"},
            values=lambda v: v | {"general.file_type": u32(15)},
        )
        return proof.verify(path, example)

    report = build({})
    assert (report.grade, report.problems) == ("WARN", ())
    assert "another tool" in report.warnings[0]
    assert "by value" in report.compared[0]
    norm = "output_norm.weight"
    data = data_of(made("f32"))[norm]
    report = build({norm: data[:9] + bytes([data[9] ^ 1]) + data[10:]})
    assert report.grade == "FAIL"
    assert f"{norm}: its bytes are not those its checksum says: damaged" in report.problems


def test_another_model(made: Made, example: Path, tmp_path: Path) -> None:
    """SRC has other shapes throughout, as a larger model of the family: all of it is named."""
    from checkpoints import CASES, write

    case = replace(CASES["moe-fused"], config={**CASES["moe-fused"].config, "vocab_size": 2048})
    folder = write(tmp_path / "other", case.raw_config(), case.arrays())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((example / name).read_bytes())
    report = proof.verify(made(), folder)
    assert report.grade == "FAIL"
    assert any(p.startswith("output.weight: is [256, 2048], of SRC") for p in report.problems)
    assert any(p.endswith("is missing, SRC has it") for p in report.problems)
