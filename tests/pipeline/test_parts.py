"""Parts of a model: the draft head as a file of its own, and experts with gate and up in one
tensor; from checkpoints, from GGUF files, from INT4, with an importance matrix, verified.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import CASES, noise, write
from drafting import drafted
from imatrix import made
from packed_models import PACKINGS
from remote.serving import serving
from safetensors.numpy import load_file, save_file
from sources import build
from sources.gguf_build import gguf_file
from tokenizer import ranks
from verify.files import anonymous, data_of, head_of, rebuilt

import ggufmix
from ggufmix import evaluating, outline, proof, review
from ggufmix.errors import UsageError
from ggufmix.inspection import inspect
from ggufmix.pipeline import Options
from ggufmix.runtime import Llama, kl
from ggufmix.splitting import Limits
from ggufmix.tensor import BF16

WITH = [name for name, case in CASES.items() if case.mtp]
HIDDEN = 256


@pytest.fixture(scope="module")
def drafting(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model with an MTP block: its last layer once more, and what joins in front."""
    folder = Path(shutil.copytree(example, tmp_path_factory.mktemp("drafting") / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mtp_num_hidden_layers": 1}))
    arrays = load_file(folder / "model.safetensors")
    last = "model.layers.3."
    more = {n.replace(last, "mtp.layers.0."): x for n, x in arrays.items() if n.startswith(last)}
    more["mtp.fc.weight"] = (noise("fc", (HIDDEN, 2 * HIDDEN)) / 16).astype(BF16)
    for norm in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        more[f"mtp.{norm}.weight"] = noise(norm, (HIDDEN,)).astype(BF16)
    save_file(arrays | more, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def halves(data: bytes, kind: str, name: str, head: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Rows of a stacked tensor as bytes, (experts, rows, bytes of a row)."""
    cols, rows, experts = head[name]
    size, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return np.frombuffer(data, np.uint8).reshape(experts, rows, cols // size * n_bytes)


def assert_fused(apart: Path, both: Path) -> None:
    """Every tensor the same, bytes of gate and up in front of each other."""
    one, two = data_of(apart), data_of(both)
    shapes = {t.name: t.shape for t in head_of(apart).tensors}
    kinds = {t.name: t.type.name for t in head_of(apart).tensors}
    pairs = 0
    for name, data in one.items():
        if ".ffn_gate_exps." in name:
            up, fused = (name.replace("gate", part) for part in ("up", "gate_up"))
            rows = [halves(one[n], kinds[n], n, shapes) for n in (name, up)]
            assert two.pop(fused) == np.concatenate(rows, axis=1).tobytes(), fused
            pairs += 1
        elif ".ffn_up_exps." not in name:
            assert two.pop(name) == data, name
    assert pairs
    assert not two


@pytest.mark.parametrize("recipe", ["f32", "q8_0", "q4_k_m"])
def test_fused_from_a_checkpoint(example: Path, heldout: str, tmp_path: Path, recipe: str) -> None:
    """The same blocks row by row, and the same logits; from a GGUF file of the halves too."""
    apart, both, again = (tmp_path / f"{n}.gguf" for n in ("apart", "both", "again"))
    ggufmix.convert(example, apart, recipe)
    ggufmix.convert(example, both, options=Options(recipe=recipe, fuse_gate_up_exps=True))
    assert_fused(apart, both)
    made = Options(recipe="q8_0", like=both, fuse_gate_up_exps=True)
    ggufmix.convert(apart, again, options=made)
    assert data_of(again) == data_of(both)
    with Llama(apart) as one, Llama(both) as two:
        tokens = one.tokenize(heldout[:2000])[:128]
        assert kl(one.logits(tokens), two.logits(tokens)) < 1e-6


def test_fused_from_int4(tmp_path: Path) -> None:
    """Kimi's INT4 experts keep every code and scale, and the proof counts them."""
    rows, case = ranks.N + 256, CASES["kimi-wrapped"]
    case = replace(case, config={**case.config, "vocab_size": rows, "eos_token_id": ranks.N + 2})
    config, arrays, _ = PACKINGS["kimi-k25"].checkpoint(case)
    folder = ranks.cases()["ranks-wrapped"].write(tmp_path / "kimi")
    build.write_json(folder / "config.json", config)
    build.weights(folder / "model.safetensors", arrays)
    apart, both = tmp_path / "apart.gguf", tmp_path / "both.gguf"
    ggufmix.convert(folder, apart, "q4_x")
    ggufmix.convert(folder, both, options=Options(recipe="q4_x", fuse_gate_up_exps=True))
    assert_fused(apart, both)
    report = proof.verify(both, folder)
    assert report.grade == "GOOD"
    found = [t for t in report.tensors if "gate_up_exps" in t.name]
    assert found
    for t in found:
        assert t.parts is not None
        assert t.parts.codes == t.parts.same_codes == t.measures.count


def test_importance_of_either_half(example: Path, tmp_path: Path) -> None:
    """An imatrix of the model with halves serves the fused one, and the reverse: they see the same
    input. A mirror of llama-quantize looks for the very name, and says what it misses.
    """
    apart, both, again = (tmp_path / f"{n}.gguf" for n in ("apart", "both", "again"))
    counts = [700, 0, 9, 40000]
    experts = {i: made.entry(f"experts {i}", HIDDEN, counts) for i in range(4)}
    entries = {
        f"blk.{i}.ffn_{part}_exps.weight": entry
        for i, entry in experts.items()
        for part in ("gate", "up")
    }
    merged = {f"blk.{i}.ffn_gate_up_exps.weight": entry for i, entry in experts.items()}
    files = [made.write_gguf(tmp_path / f"{i}.imatrix", e) for i, e in enumerate((entries, merged))]
    plain = Options(recipe="q4_k_s", imatrix=(files[0],))
    ggufmix.convert(example, apart, options=plain)
    ggufmix.convert(example, both, options=replace(plain, fuse_gate_up_exps=True))
    assert_fused(apart, both)
    ggufmix.convert(example, again, options=replace(plain, imatrix=(files[1],)))
    assert data_of(again) == data_of(apart)
    mirror = replace(plain, fuse_gate_up_exps=True, mirror="llama.cpp")
    plan = ggufmix.plan(example, options=mirror)
    assert not [t for t in plan.tensors if "gate_up" in t.name and t.importance]
    assert plan.imatrix is not None
    assert {f"blk.{i}.ffn_gate_up_exps.weight" for i in range(4)} <= set(plan.imatrix["without"])


def test_a_draft_head_that_runs(drafting: Path, tmp_path: Path) -> None:
    """The head of a real file drafts what the whole file drafts; taken out of a GGUF file it is the
    same; and a file without it has the rest.
    """
    whole, head, taken = (tmp_path / f"{n}.gguf" for n in ("whole", "head", "taken"))
    ggufmix.convert(drafting, whole)
    result = ggufmix.convert(drafting, head, options=Options(component="mtp"))
    names = {t.name for t in head_of(head).tensors}
    ends = {"token_embd.weight", "output_norm.weight", "output.weight"}
    assert names == {n for n in data_of(whole) if n.startswith("blk.4.")} | ends
    assert {n: data_of(whole)[n] for n in names} == data_of(head)
    assert "this is the draft head alone" in " ".join(result.plan.notes)
    one, two = (anonymous(dict(head_of(f).values)) for f in (whole, head))
    del one["general.size_label"], two["general.size_label"]
    assert one == two
    ggufmix.convert(whole, taken, options=Options(component="mtp"))
    assert data_of(taken) == data_of(head)
    tokens, hidden = list(range(5, 37)), noise("hidden", (32, HIDDEN))
    drafts = [drafted(f, tokens, hidden) for f in (whole, head, taken)]
    np.testing.assert_array_equal(drafts[0], drafts[1])
    np.testing.assert_array_equal(drafts[0], drafts[2])


def test_only_the_head_is_fetched(drafting: Path, tmp_path: Path) -> None:
    """Of a model that is elsewhere: the rows of the head and a header, not the model."""
    with serving(drafting) as server:
        head = Options(component="mtp")
        made = ggufmix.convert(server.url, tmp_path / "there.gguf", options=head)
        needed = sum(t.source_bytes for t in made.plan.tensors)
        assert needed < server.sent(".safetensors") < needed + 2**19
    whole = (drafting / "model.safetensors").stat().st_size
    assert needed + 2**19 < whole / 2
    ggufmix.convert(drafting, tmp_path / "here.gguf", options=head)
    assert data_of(tmp_path / "there.gguf") == data_of(tmp_path / "here.gguf")


def test_blocks_left_out_of_a_gguf_file(drafting: Path, tmp_path: Path) -> None:
    """As if the file had been converted without: key for key, byte for byte; and it verifies. Where
    there are none nothing happens, and of a draft head nothing would be left.
    """
    names = ("whole", "rest", "taken", "again", "head")
    whole, rest, taken, again, head = (tmp_path / f"{n}.gguf" for n in names)
    without = Options(mtp=False)
    ggufmix.convert(drafting, whole)
    ggufmix.convert(drafting, rest, options=without)
    made = ggufmix.convert(whole, taken, options=without)
    assert "left out 20 tensors of 1 MTP block, as asked" in made.plan.notes
    assert data_of(taken) == data_of(rest)
    one, two = (anonymous(dict(head_of(f).values)) for f in (rest, taken))
    del one["general.size_label"], two["general.size_label"]
    assert one == two
    assert proof.verify(taken, whole).grade == "GOOD"
    with Llama(taken, mtp=True) as llama:
        assert llama.n_vocab == 2048
    nothing = ggufmix.convert(rest, again, options=without)
    assert not nothing.plan.notes
    assert data_of(again) == data_of(rest)
    rebuilt(taken, tmp_path / "theirs.gguf", values=anonymous)
    for src in (whole, drafting):
        report = proof.verify(tmp_path / "theirs.gguf", src)
        assert (report.grade, report.problems) == ("GOOD", ())
    ggufmix.convert(drafting, head, options=Options(component="mtp"))
    with pytest.raises(UsageError, match="this is a draft head alone, nothing would be left"):
        ggufmix.plan(head, options=without)


@pytest.mark.parametrize("most", [1, 5, 8, 13])
def test_fused_in_as_many_parts(example: Path, tmp_path: Path, most: int) -> None:
    """Gate and up may lie in two parts of the source: the tensor that they become keeps its place
    in the order.
    """
    ggufmix.convert(example, tmp_path / "x.gguf", split=Limits(tensors=most))
    [first] = tmp_path.glob("x-00001-of-*.gguf")
    fuse = Options(fuse_gate_up_exps=True)
    made = ggufmix.convert(first, tmp_path / "y.gguf", options=fuse, keep_split=True)
    assert len(made.paths) == len(list(tmp_path.glob("x-*.gguf")))
    assert proof.verify(made.paths[0], first).grade == "GOOD"
    with Llama(made.paths[0]) as llama:
        assert llama.n_vocab == 2048


def test_a_draft_head_alone_is_not_evaluated(drafting: Path, heldout: str, tmp_path: Path) -> None:
    """llama.cpp loads it and dies; `eval` says what it is before that. The model with its head, and
    without, says the same.
    """
    whole, rest, head = (tmp_path / f"{n}.gguf" for n in ("whole", "rest", "head"))
    ggufmix.convert(drafting, whole)
    ggufmix.convert(drafting, rest, options=Options(mtp=False))
    ggufmix.convert(drafting, head, options=Options(component="mtp"))
    with pytest.raises(UsageError, match=r"head\.gguf: a draft head alone \(MTP\) says nothing"):
        evaluating.evaluate(head, heldout, 128)
    scores = evaluating.evaluate(whole, heldout, 128, base=rest, windows=2).summary()
    assert scores["kld"] < 1e-9
    assert scores["ppl"] == scores["base_ppl"]


@pytest.mark.parametrize("fuse", [False, True])
def test_verified_linted_and_shown(drafting: Path, tmp_path: Path, fuse: bool) -> None:
    """`verify` makes the plan of such a file again, be it ours or another tool's; damage is found;
    `lint`, `advise` and `inspect` read it.
    """
    out, theirs, bad = (tmp_path / f"{n}.gguf" for n in ("out", "theirs", "bad"))
    options = Options(recipe="q5_k_m", component="mtp", fuse_gate_up_exps=fuse)
    ggufmix.convert(drafting, out, options=options)
    stated = head_of(out).values["ggufmix.options"].data
    assert stated == [b"--mtp", *[b"--fuse-gate-up-exps"] * fuse]
    report = proof.verify(out, drafting)
    assert (report.grade, report.problems, report.warnings) == ("GOOD", (), ())
    assert "every byte of the header" in report.compared[0]
    rebuilt(out, theirs, values=anonymous)
    report = proof.verify(theirs, drafting)
    assert (report.grade, report.problems) == ("GOOD", ())
    assert all(t.same_bytes for t in report.tensors)
    name = "blk.4.nextn.eh_proj.weight"
    rebuilt(theirs, bad, tensors=lambda d: {n: x for n, x in d.items() if n != name})
    assert f"{name}: is missing, SRC has it" in proof.verify(bad, drafting).problems
    assert review.check(out) == []
    said = review.advise(out, 4096)
    assert said["layout"]["attention_layers"] == said["layout"]["mtp_layers"] == [4]
    of_2_heads = 2 * 64 * 2  # values of 2 bytes
    assert said["cache"]["f16"]["bytes"] == 4096 * 2 * of_2_heads
    assert "-m MODEL.gguf -md out.gguf --spec-type draft-mtp" in said["run"]
    assert any("a draft head (MTP) alone" in note for note in said["notes"])
    bare = sum(t.bytes for t in review.look(out).tensors if t.name != "token_embd.weight")
    active = outline.active(review.look(out))
    assert bare * 0.5 < active["bytes"] < bare
    assert inspect(out)["mtp_layers"] == inspect(drafting)["mtp_layers"] == "4"


def test_every_mtp_block_is_shown(tmp_path: Path) -> None:
    """Of several blocks only the first has tensors that name it; all are shown, and none in a model
    without.
    """
    row = ("F32", np.ones((2, 32), np.float32))
    names = [f"blk.{i}.attn_k.weight" for i in range(4)]
    file = gguf_file(tmp_path / "x.gguf", dict.fromkeys(names, row))
    assert "mtp_layers" not in inspect(file)
    names.append("blk.2.nextn.eh_proj.weight")
    file = gguf_file(tmp_path / "y.gguf", dict.fromkeys(names, row))
    assert inspect(file)["mtp_layers"] == "2-3"
    assert inspect(file)["attention_layers"] == "0-3"
    found = review.look(file)
    assert found.mtp_layers == found.passed_over == {2, 3}
    assert not found.is_draft


@pytest.mark.parametrize("name", WITH)
def test_every_family(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft head of every family that has one is written, verified, and recognised when it
    does not say what it is.
    """
    from ggufmix import placing, tokenizer

    nothing = tokenizer.Tokenizer({}, [])
    monkeypatch.setattr(placing.tokenizer, "load", lambda *_, **__: nothing)
    case = CASES[name]
    folder = write(tmp_path / "model", case.raw_config(), case.arrays())
    out = tmp_path / "x.gguf"
    ggufmix.convert(folder, out, options=Options(recipe="q5_0", component="mtp"))
    report = proof.verify(out, folder)
    assert (report.grade, report.problems, report.warnings) == ("GOOD", (), ())
    rebuilt(out, tmp_path / "y.gguf", values=anonymous)
    report = proof.verify(tmp_path / "y.gguf", folder)
    assert (report.grade, report.problems) == ("GOOD", ())


def test_what_cannot_be_meant(example: Path, drafting: Path, tmp_path: Path) -> None:
    """A checkpoint without MTP, both of --mtp and --no-mtp, experts that are fused already: said by
    name, and nothing is written.
    """
    out = tmp_path / "x.gguf"

    def refused(src: Path, *options: str) -> str:
        words = [sys.executable, "-m", "ggufmix", "convert", str(src), "-o", str(out), *options]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert not out.exists()
        return done.stderr

    assert "--mtp: there is no block of multi-token prediction to write" in refused(
        example, "--mtp"
    )
    assert "--mtp writes the blocks that --no-mtp leaves out" in refused(
        drafting, "--mtp", "--no-mtp"
    )
    both = tmp_path / "both.gguf"
    ggufmix.convert(example, both, options=Options(fuse_gate_up_exps=True))
    assert "this model has them fused" in refused(both, "--fuse-gate-up-exps")
    with pytest.raises(UsageError, match="there is no block of multi-token prediction"):
        ggufmix.plan(both, options=Options(component="mtp"))


def test_mtp_that_llama_cpp_has_not(tmp_path: Path) -> None:
    """DeepSeek-V3 has such a block, and llama.cpp nothing to run it: the refusal says so."""
    case = CASES["deepseek-v3"]
    folder = write(tmp_path / "model", case.raw_config(), case.arrays())
    with pytest.raises(UsageError, match="--mtp: there is no block") as refused:
        ggufmix.plan(folder, options=Options(component="mtp"))
    assert "of MTP blocks, which llama.cpp does not have" in str(refused.value.hint)


def test_halves_of_two_types(example: Path, tmp_path: Path) -> None:
    """A GGUF file with gate and up in different types is not fused: that would be quantizing
    again.
    """
    src = tmp_path / "src.gguf"
    mixed = Options(tensor_types=("blk.2.ffn_up_exps=q5_0",))
    ggufmix.convert(example, src, options=mixed)
    with pytest.raises(UsageError, match=r"blk\.2\.ffn_gate_exps.* as Q8_0, .* as Q5_0"):
        ggufmix.plan(src, options=Options(fuse_gate_up_exps=True))


def test_no_importance_in_the_draft_head(drafting: Path, tmp_path: Path) -> None:
    """An imatrix never covers it: the plan says so, and types that need one are replaced."""
    names = [f"blk.{i}.ffn_down_exps.weight" for i in range(4)]
    entries = {n: made.entry(n, 128, [700, 5, 9, 40000]) for n in names}
    file = made.write_gguf(tmp_path / "x.imatrix", entries)
    plan = ggufmix.plan(drafting, options=Options(recipe="q4_0", imatrix=(file,)))
    assert any("of MTP blocks, which llama-imatrix does not run" in n for n in plan.notes)
    assert not any("blk.4" in w for w in plan.warnings)
    plan = ggufmix.plan(drafting, options=Options(recipe="pure:iq3_xxs", component="mtp"))
    kinds = {t.name: t.encoder.name for t in plan.tensors}
    assert kinds["blk.4.attn_q.weight"] == "Q3_K"
    assert kinds["blk.4.nextn.eh_proj.weight"] == "Q8_0"
    assert any("get a type that needs no importance" in n for n in plan.notes)
