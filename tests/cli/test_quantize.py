"""`ggufmix quantize`: what people type for llama-quantize does what it does there."""

# SPDX-License-Identifier: MIT

import importlib.util
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from listings import GOLDEN

from ggufmix import dialects, mending, pipeline
from ggufmix.cli import app
from ggufmix.errors import GgufmixError, UsageError, WriteError

SPEC = importlib.util.spec_from_file_location(
    "make_quantize", GOLDEN / "quantize" / "make_quantize.py"
)
assert SPEC is not None
assert SPEC.loader is not None
MADE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MADE)
LINES = (GOLDEN / "quantize" / "commands.tsv").read_text().splitlines()
DIGESTS = dict(line.split("\t") for line in LINES if not line.startswith("#"))

Quantize = Callable[[str], None]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the commands name."""
    folder = tmp_path_factory.mktemp("prepared")
    MADE.prepare(folder)
    return folder


@pytest.fixture
def quantize(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quantize:
    """Run a command line in a folder of its own."""
    for path in prepared.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> None:
        app(["quantize", *shlex.split(command)], standalone_mode=False)

    return run


@pytest.mark.parametrize("command", DIGESTS)
def test_it_writes_what_llama_quantize_wrote(
    quantize: Quantize, tmp_path: Path, command: str
) -> None:
    """The same command gave the same tensors, bytes, shapes, order and key-values there."""
    quantize(command)
    assert MADE.digest(tmp_path) == DIGESTS[command]


def test_every_command_was_run() -> None:
    """The file has a digest for each command, and most of them differ."""
    assert tuple(DIGESTS) == MADE.COMMANDS
    assert len(set(DIGESTS.values())) > 40


def test_every_flag_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """No flag of llama-quantize goes without a comparison; --dry-run writes nothing."""
    with pytest.raises(SystemExit):
        app(["quantize", "--help"])
    known = {word.strip("-[],") for word in capsys.readouterr().out.split() if word[:2] == "--"}
    ours = {"help", "overwrite", "resume"}
    used = " ".join(DIGESTS)
    assert {flag for flag in known - ours - {"dry-run"} if f"--{flag} " not in used} == set()


@pytest.mark.parametrize(
    ("kind", "name"), [("q8_0", "Q8_0"), ("q4_k", "Q4_K"), ("15", "Q4_K"), ("2", "Q4_0")]
)
def test_the_output_has_a_name_without_one(
    quantize: Quantize, tmp_path: Path, kind: str, name: str
) -> None:
    """ggml-model-TYPE.gguf beside the input; of a number the first name that has it."""
    quantize(f"bf16.gguf {kind} 2")
    assert (tmp_path / f"ggml-model-{name}.gguf").is_file()


def test_no_threads_are_all_of_them(quantize: Quantize, monkeypatch: pytest.MonkeyPatch) -> None:
    """N as there: 0 is not none, but as many as there are cores; another number is taken."""
    asked = []
    real = pipeline.convert

    def convert(*args: Any, **how: Any) -> Any:
        asked.append(how["threads"])
        return real(*args, **how)

    monkeypatch.setattr(pipeline, "convert", convert)
    for word in ("", "0", "3"):
        quantize(f"--overwrite bf16.gguf out.gguf Q8_0 {word}")
    assert asked == [None, None, 3]


def test_it_lies_beside_the_input(quantize: Quantize, tmp_path: Path) -> None:
    """Of an input elsewhere the output is there too, and parts are numbered."""
    (tmp_path / "there").mkdir()
    for part in tmp_path.glob("split-*.gguf"):
        part.rename(tmp_path / "there" / part.name)
    quantize("--keep-split there/split-00001-of-00003.gguf Q8_0")
    assert len([*(tmp_path / "there").glob("ggml-model-Q8_0-0000?-of-00003.gguf")]) == 3


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("bf16.gguf Q9_K", "Q9_K: no type of llama-quantize; if it is the output"),
        ("bf16.gguf out.gguf Q9_K", "Q9_K: no type of llama-quantize"),
        ("bf16.gguf out.gguf IQ2_XS", "IQ2_XS: llama-quantize writes it, ggufmix cannot yet"),
        ("bf16.gguf out.gguf Q8_0 many", "'many' for N, the number of threads"),
        ("bf16.gguf out.gguf Q8_0 2 3", "got 3 behind it"),
        ("bf16.gguf 8-bit", "8-bit: no type"),
        ("bf16.gguf '' Q8_0", "got nothing for OUT.gguf"),
        ("model Q8_0", "model: expected a .gguf file"),
        ("nowhere.gguf Q8_0", "nowhere.gguf"),
        ("bf16.gguf bf16.gguf Q8_0 --overwrite", "expected another file than the source"),
        ("bf16.gguf out.gguf Q2_K_S", "needs an --imatrix"),
        ("q8_0.gguf out.gguf Q4_K_M", "would be decoded and written as"),
        ("--tensor-type attn_v bf16.gguf out.gguf Q8_0", "expected regex=type"),
        ("--tensor-type attn_v=q9 bf16.gguf out.gguf Q8_0", "q9"),
        ("--token-embedding-type q9 bf16.gguf out.gguf Q8_0", "q9"),
        ("--override-kv a=int:x bf16.gguf out.gguf Q8_0", "'x'"),
        ("--prune-layers 7 bf16.gguf out.gguf Q8_0", "has 0 to 3; got 7"),
        ("--include-weights a bf16.gguf out.gguf Q4_0", "choose of an --imatrix"),
        ("--keep-split bf16.gguf out.gguf Q8_0", "--keep-split"),
        ("https://host/x.gguf Q8_0", "expected OUT.gguf in front of Q8_0"),
    ],
)
def test_what_cannot_be_meant(
    quantize: Quantize, tmp_path: Path, command: str, message: str
) -> None:
    """A usage error that says which word is wrong; nothing is written."""
    before = set(tmp_path.iterdir())
    with pytest.raises(UsageError) as found:
        quantize(command)
    assert message in str(found.value)
    assert found.value.exit_code == 2
    assert set(tmp_path.iterdir()) == before


def test_an_unknown_type_lists_the_types(quantize: Quantize) -> None:
    """All that can be written, none that cannot."""
    with pytest.raises(UsageError) as found:
        quantize("bf16.gguf out.gguf Q4")
    assert found.value.hint is not None
    listed = set(found.value.hint.removeprefix("types are ").split(", "))
    assert {"Q4_K", "Q4_K_M", "BF16", "COPY"} < listed < set(dialects.FILE_TYPES)


def test_an_output_that_exists_is_kept(quantize: Quantize, tmp_path: Path) -> None:
    """llama-quantize writes over it; here that is asked for."""
    out = tmp_path / "out.gguf"
    out.write_bytes(b"mine")
    with pytest.raises(WriteError, match="exists"):
        quantize("bf16.gguf out.gguf Q8_0")
    assert out.read_bytes() == b"mine"
    quantize("--overwrite bf16.gguf out.gguf Q8_0")
    assert out.stat().st_size > 1000


def test_what_is_no_gguf_file(quantize: Quantize, tmp_path: Path) -> None:
    """Exit 1, with the file's name."""
    (tmp_path / "no.gguf").write_bytes(b"something else, and long enough to be read" * 10)
    with pytest.raises(GgufmixError, match=r"no\.gguf") as found:
        quantize("no.gguf out.gguf Q8_0")
    assert found.value.exit_code == 1


def test_one_note_says_what_is_forgone(
    quantize: Quantize, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gates that convert would keep, and what that costs; nothing where they are kept."""
    quantize("bf16.gguf out.gguf Q8_0")
    [said] = [line for line in capsys.readouterr().err.splitlines() if "SSM gates" in line]
    assert "6 SSM gates (ssm_alpha and ssm_beta) become Q8_0" in said
    assert said.endswith("without --mirror keeps them in BF16, 5.8 kB more")
    for kept in ("bf16.gguf out.gguf BF16", "--allow-requantize q8_0.gguf out.gguf Q4_K_M"):
        quantize(f"--overwrite {kept}")
        assert "SSM gates" not in capsys.readouterr().err


def test_a_dry_run_is_a_plan(
    quantize: Quantize, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Types and sizes on stdout, to the byte what is written without it; no file."""
    quantize("--dry-run --pure bf16.gguf Q4_K_M")
    shown = capsys.readouterr().out.splitlines()
    assert not [*tmp_path.glob("ggml-model*")]
    quantize("--pure bf16.gguf Q4_K_M")
    assert f"{(tmp_path / 'ggml-model-Q4_K_M.gguf').stat().st_size:,} bytes" in shown[-1]


@pytest.mark.parametrize(
    "rule", ["--tensor-type nothing=q8_0", "--tensor-type '^output.weight=q8_0'"]
)
def test_rules_that_decide_nothing_are_said(
    quantize: Quantize, capsys: pytest.CaptureFixture[str], rule: str
) -> None:
    """llama-quantize says nothing; here a warning names the rule, and the run goes on."""
    quantize(f"--output-tensor-type q6_k {rule} bf16.gguf out.gguf Q8_0")
    assert "warning: --tensor-type: " in capsys.readouterr().err


def test_numbers_keep_sign_and_size(quantize: Quantize, tmp_path: Path) -> None:
    """Where llama-quantize writes 5 and 705032704; of keys that are there the type stays."""
    keys = "a.i=int:-5", "a.long=int:5000000000", "qwen35moe.rope.freq_base=float:1e7"
    quantize(f"{' '.join(f'--override-kv {key}' for key in keys)} bf16.gguf out.gguf Q8_0")
    values = mending.read(tmp_path / "out.gguf")[0].values
    assert [(mending.type_name(values[k]), values[k].data) for k in ("a.i", "a.long")] == [
        ("int32", -5),
        ("uint64", 5_000_000_000),
    ]
    assert mending.type_name(values["qwen35moe.rope.freq_base"]) == "float32"


def test_braces_in_a_name_are_no_template(quantize: Quantize, tmp_path: Path) -> None:
    """A path is taken as it stands."""
    quantize("bf16.gguf '{name}.gguf' Q8_0")
    assert (tmp_path / "{name}.gguf").is_file()


def test_it_is_verified_like_any_file(
    quantize: Quantize, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file says how it was made, so that verify makes every byte again."""
    flags = "--pure --token-embedding-type q8_0 --leave-output-tensor --prune-layers 1"
    more = "--override-kv a=int:-5 --imatrix im.gguf --include-weights attn --tensor-type gate=q5_0"
    quantize(f"{flags} {more} bf16.gguf out.gguf Q4_K_M")
    capsys.readouterr()
    verify = "verify out.gguf --against bf16.gguf --imatrix im.gguf --json"
    app(verify.split(), standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert "made again as the file says" in " ".join(found["compared"])
    assert gguf.GGUFReader(tmp_path / "out.gguf").fields["ggufmix.recipe"].contents() == (
        "pure:q4_k_m"
    )
    assert found["verdict"] == "GOOD"
