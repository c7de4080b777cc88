"""Plans of listings and of GGUF files: exact where they can be, and quick."""

# SPDX-License-Identifier: MIT

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from unfold import unfold

import ggufmix
from ggufmix import review
from ggufmix.errors import SourceError, UsageError
from ggufmix.outline import active
from ggufmix.pipeline import Options
from ggufmix.sources import read_listing

HEAD = "name\tshape\tdtype\n"

KIMI = {
    "architectures": ["KimiK2ForConditionalGeneration"],
    "text_config": {"num_experts_per_tok": 8, "num_attention_heads": 64},
}
QWEN = {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "text_config": {
        "num_experts_per_tok": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
}


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "ggufmix", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def config(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


def test_a_trillion_weights_in_two_seconds(tmp_path: Path) -> None:
    """The whole process plans Kimi-K2-Thinking, 1096 tensors, in less than two seconds of one core.

    Time of the processor: others may be busy on the machine that tests run on.
    """
    listing, stated = unfold("Kimi-K2-Thinking", tmp_path), config(tmp_path, KIMI)
    arguments = ("plan", listing, "--recipe", "q4_x", "--config", stated)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = command(*arguments, "--json")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == 0
    assert took < 2
    made = json.loads(done.stdout)
    assert (len(made["tensors"]), made["architecture"]) == (1096, "deepseek2")
    assert made["weights"] == 1_026_408_232_448


def test_data_is_exact_and_the_header_unknown(tmp_path: Path) -> None:
    """In BF16 a listing's data has the bytes that its credit line states; no header is claimed."""
    listing = unfold("GLM-4.5-Air", tmp_path)
    made = ggufmix.plan(listing, options=Options("bf16"))
    assert sum(t.n_bytes for t in made.tensors) == 220_988_046_336
    described = review.described(made)
    assert (described["total_bytes"], described["header_bytes"]) == (None, None)
    assert described["data_bytes"] == made.data_bytes
    done = command("plan", listing, "--summary")
    assert "the header in front of it is unknown" in done.stdout.splitlines()[-1]


def test_what_one_token_reads(tmp_path: Path) -> None:
    """Of experts the share that is used, of embeddings one row, all else whole: by hand."""
    listing, stated = unfold("Qwen3.5-35B-A3B", tmp_path), config(tmp_path, QWEN)
    made = ggufmix.plan(listing, options=Options("bf16", gates="recipe", config=stated))
    experts = sum(t.n_bytes for t in made.tensors if t.placed.role.endswith("_EXP"))
    embeddings = sum(t.n_bytes for t in made.tensors if t.placed.role == "TOKEN_EMBD")
    rest = sum(t.n_bytes for t in made.tensors) - experts - embeddings
    found = review.described(made)["active"]
    assert found["bytes"] == experts * 8 // 256 + 2048 * 2 + rest
    assert sum(found["types"].values()) == found["bytes"]
    assert (found["experts_used"], found["experts"]) == (8, 256)
    assert 2.9e9 < found["weights"] < 3.6e9  # the A3B of its name


def test_without_a_config_it_says_what_is_missing(tmp_path: Path) -> None:
    """How many experts are used follows from no shape."""
    listing = unfold("Qwen3.5-35B-A3B", tmp_path)
    found = active(review.of_plan(ggufmix.plan(listing), "x"))
    assert found["bytes"] is None
    assert found["least"] > 0
    assert "--config config.json says it" in command("plan", listing, "--summary").stdout


def test_a_tied_embedding_is_read_whole(example: Path, tmp_path: Path) -> None:
    """Without output.weight the embedding is the output matrix: every token reads it."""
    tied = ggufmix.plan(unfold("Qwen3.5-0.8B", tmp_path), "bf16")
    found = active(review.of_plan(tied, "x"))
    assert found["bytes"] == sum(t.n_bytes for t in tied.tensors)
    apart = ggufmix.plan(example)
    assert active(review.of_plan(apart, "x"))["bytes"] < sum(t.n_bytes for t in apart.tensors)


def test_heads_come_from_shapes(tmp_path: Path) -> None:
    """A mixture that asks for grouped heads gets them from a listing as from a config."""
    listing = unfold("Qwen3-4B-Instruct-2507", tmp_path)
    stated = config(tmp_path, {"num_attention_heads": 32, "num_key_value_heads": 8})
    bare, told = (ggufmix.plan(listing, options=Options("q2_k", config=c)) for c in (None, stated))
    assert [t.encoder for t in bare.tensors] == [t.encoder for t in told.tensors]
    assert {t.encoder.name for t in bare.tensors if t.placed.role == "ATTN_V"} == {"Q4_K"}


def test_names_of_hugging_face_need_a_config(example: Path, tmp_path: Path) -> None:
    """Listed under the checkpoint's own names a model is placed by its config: the same plan."""
    lines = [
        f"{t.name}\t{'x'.join(map(str, t.shape)) or '1'}\t{t.stored}" for t in _stored(example)
    ]
    listing = tmp_path / "example.tsv"
    listing.write_text(HEAD + "\n".join(lines) + "\n")
    with pytest.raises(UsageError, match="lists names of Hugging Face"):
        ggufmix.plan(listing)
    made = ggufmix.plan(listing, options=Options(config=example / "config.json"))
    whole = ggufmix.plan(example)
    assert [(t.name, t.shape, t.encoder, t.offset) for t in made.tensors] == [
        (t.name, t.shape, t.encoder, t.offset) for t in whole.tensors
    ]
    assert review.described(made)["active"] == review.described(whole)["active"]


def _stored(example: Path) -> list[Any]:
    from ggufmix.sources import open_checkpoint

    with open_checkpoint(example) as checkpoint:
        return list(checkpoint.tensors.values())


def test_a_gguf_file_is_a_source_of_plans(example: Path, tmp_path: Path) -> None:
    """From a BF16 file the same types as from its checkpoint."""
    file = tmp_path / "bf16.gguf"
    ggufmix.convert(example, file, "bf16")
    made, whole = (ggufmix.plan(src, "q4_k_m") for src in (file, example))
    assert [(t.name, t.encoder.name, t.offset) for t in made.tensors] == [
        (t.name, t.encoder.name, t.offset) for t in whole.tensors
    ]
    assert made.whole
    assert review.described(made)["active"] == review.described(whole)["active"]


def test_a_quantized_source_is_said(example: Path, tmp_path: Path) -> None:
    """What is made of blocks adds to their error: the plan says how many tensors that is."""
    file = tmp_path / "q8.gguf"
    ggufmix.convert(example, file)
    made = ggufmix.plan(file, options=Options("q4_0", allow_requantize=True))
    assert any(n.startswith("39 tensors quantized a second time") for n in made.notes)


def test_the_architecture_is_a_guess_that_can_be_corrected(tmp_path: Path) -> None:
    """Names that fit several architectures are said; --arch decides."""
    listing = unfold("Kimi-K2-Thinking", tmp_path)
    [note] = [n for n in ggufmix.plan(listing).notes if "architecture" in n]
    assert "deepseek2, by its tensors (it could be deepseek2-ocr, mistral4 too)" in note
    told = ggufmix.plan(listing, options=Options(arch="mistral4"))
    assert told.architecture == "mistral4"
    assert not [n for n in told.notes if "--arch" in n]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has none"),
        ("a\t2\tF32\n", "x.tsv:1: expected name, shape and dtype"),
        (HEAD + "a\t2\n", "x.tsv:2: expected name, shape and dtype"),
        (HEAD + "a\t2y3\tF32\n", "x.tsv:2: expected a shape"),
        (HEAD + "a\t0\tF32\n", "x.tsv:2: expected a shape"),
        (HEAD + "a\t1x1x1x1x1\tF32\n", "x.tsv:2: expected a shape"),
        (HEAD + "a\t99999999999x99999999999\tF32\n", "too large"),
        (HEAD + "a\t2\tF32\na\t2\tF32\n", "x.tsv:3: a is listed twice"),
    ],
)
def test_a_listing_that_is_wrong(tmp_path: Path, content: str, says: str) -> None:
    """The error names file and line, what was expected and what came."""
    path = tmp_path / "x.tsv"
    path.write_text(content)
    with pytest.raises(SourceError, match=says.replace("(", r"\(")):
        read_listing(path)


def test_what_belongs_to_listings_only(example: Path, tmp_path: Path) -> None:
    """--config and --arch beside a checkpoint cannot be meant; nor can a config that is none."""
    with pytest.raises(UsageError, match="are for listings"):
        ggufmix.plan(example, options=Options(arch="qwen35"))
    listing = unfold("Qwen3.5-0.8B", tmp_path)
    with pytest.raises(UsageError, match="No such file"):
        ggufmix.plan(listing, options=Options(config=tmp_path / "none.json"))
    wrong = tmp_path / "wrong.json"
    wrong.write_text("[]")
    with pytest.raises(SourceError, match="expected an object, got list"):
        ggufmix.plan(listing, options=Options(config=wrong))
    with pytest.raises(UsageError, match="is no file"):
        ggufmix.plan(tmp_path / "none.tsv")


def test_two_plans_compared(tmp_path: Path) -> None:
    """--versus: what changes, grouped; the bytes of the changes are the difference of the sums."""
    listing, stated = unfold("Qwen3.5-35B-A3B", tmp_path), config(tmp_path, QWEN)
    done = command(
        "plan", listing, "-r", "q8_0", "--versus", "Q4_K_M", "--config", stated, "--json"
    )
    found = json.loads(done.stdout)
    assert found["titles"] == ["q8_0", "q4_k_m"]
    assert sum(c["bytes"] for c in found["changes"]) == found["bytes"][1] - found["bytes"][0]
    assert found["bits_per_weight"][1] < found["bits_per_weight"][0]
    assert found["active_bytes"][1] < found["active_bytes"][0]
    assert {c["role"] for c in found["changes"]}.isdisjoint({"SSM_ALPHA", "FFN_NORM"})
    text = command("plan", listing, "-r", "q8_0", "--versus", "q4_k_m").stdout
    assert "Q8_0 -> Q4_K" in text
    same = json.loads(command("plan", listing, "--versus", "q8_0", "--json").stdout)
    assert same["changes"] == []


def test_exclusive_ways_to_look(tmp_path: Path) -> None:
    """A comparison has nothing to export; an unknown tool is named with those that are known."""
    listing = unfold("Qwen3.5-0.8B", tmp_path)
    both = command("plan", listing, "--versus", "q4_0", "--export", "thireus")
    assert (both.returncode, both.stdout) == (2, "")
    other = command("plan", listing, "--export", "ollama")
    assert other.returncode == 2
    assert "llama-quantize, custom-q, thireus" in other.stderr


@pytest.mark.parametrize(
    "options", [Options(mtp=False), Options(tokenizer_pre="qwen2"), Options(model_name="x")]
)
def test_what_belongs_to_checkpoints_only(options: Options, tmp_path: Path) -> None:
    """Nothing that is asked for is dropped silently."""
    with pytest.raises(UsageError, match="for checkpoints"):
        ggufmix.plan(unfold("GLM-4.5-Air", tmp_path), options=options)
