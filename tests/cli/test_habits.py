"""Flags of llama-quantize and of llama.cpp's converter on `convert` and `plan`: each is one way to
say what an option of ours says.
"""

# SPDX-License-Identifier: MIT

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

import ggufmix
from ggufmix.cli import app
from ggufmix.errors import UsageError
from ggufmix.pipeline import Options

Run = Callable[[str], str]


@pytest.fixture
def run(
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """What a command prints on stdout, in a folder of its own with the example beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SRC").symlink_to(example)

    def run(command: str) -> str:
        capsys.readouterr()
        app(shlex.split(command), standalone_mode=False)
        return capsys.readouterr().out

    return run


def types(run: Run, command: str) -> dict[str, str]:
    made: dict[str, Any] = json.loads(run(f"plan SRC {command} --json"))
    return {t["name"]: t["encoder"] for t in made["tensors"]}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--outtype f32", "--recipe f32 --mirror llama.cpp"),
        ("--outtype f16", "--recipe f16 --mirror llama.cpp"),
        ("--outtype BF16", "--recipe bf16 --mirror llama.cpp"),
        ("--outtype q8_0", "--recipe q8_0 --mirror llama.cpp"),
        ("--outtype auto", "--recipe bf16 --mirror llama.cpp"),
        ("--outtype q8_0 --mirror llama.cpp", "--recipe q8_0 --mirror llama.cpp"),
        ("--token-embedding-type q5_1", "--set token_embd=Q5_1"),
        ("--output-tensor-type q5_1 -r q4_k_m", "--set output=Q5_1 -r q4_k_m"),
        ("--leave-output-tensor -r q4_k_m", "--set output=BF16 -r q4_k_m"),
        ("--pure -r q4_k_m", "-r pure:q4_k"),
        ("--pure -r q6_k --mirror llama.cpp", "-r pure:q6_k --mirror llama.cpp"),
        ("--pure -r mxfp4_moe", "-r pure:mxfp4"),
        ("--pure --outtype auto", "-r bf16 --mirror llama.cpp"),
        ("--set head=q5_0", "--set output=Q5_0"),
        ("--set embeddings=q5_0", "--set token_embd=Q5_0"),
        ("--tensor-type ssm_out=source", "--set ssm_out=BF16"),
    ],
)
def test_another_way_to_say_it(run: Run, theirs: str, ours: str) -> None:
    """The same types, tensor by tensor."""
    assert types(run, theirs) == types(run, ours)


def test_gates_stay_protected_unless_the_other_tool_is_mirrored(run: Run) -> None:
    """--pure and --token-embedding-type are no --mirror; --outtype is one."""
    assert types(run, "--pure -r q4_k_m")["blk.0.ssm_alpha.weight"] == "BF16"
    assert types(run, "--token-embedding-type q4_k -r q4_k_m")["blk.0.ssm_beta.weight"] == "BF16"
    assert types(run, "--outtype q8_0")["blk.0.ssm_alpha.weight"] == "Q8_0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--outtype q4_k_m", "expected one of f32, f16, bf16, q8_0"),
        ("--outtype tq1_0", "no encoder of ternary types"),
        ("--outtype q8_0 --recipe q8_0", "leave those out"),
        ("--outtype q8_0 --mirror ik", "leave those out"),
        ("--pure --recipe my.toml", "my.toml says itself what it mixes"),
        ("--tensor-type nothing=q8_0", "matches no tensor"),
        ("--set head=Q8_0 --output-tensor-type Q6_K", "--set|head=Q8_0 comes before it|decides"),
        ("--edges 2=SOURCE", "expected a type to be the least"),
        ("--override-kv general.alignment=int:64", "cannot be another"),
        ("--override-kv general.architecture=str:llama", "cannot be another"),
        ("--override-kv split.count=int:2", "cannot be another"),
        ("--override-kv a=int:1 --override-kv a=int:2", "a is given twice"),
        ("--override-kv a", "expected KEY=TYPE:VALUE"),
        ("--metadata nowhere.json", "no such file"),
        ("--prune-layers 0-3", "leaves no block"),
        ("--prune-layers two", "expected layers such as"),
    ],
)
def test_what_cannot_be_meant(run: Run, options: str, message: str) -> None:
    """Said by name."""
    with pytest.raises(UsageError) as found:
        run(f"plan SRC {options}")
    assert any(part in str(found.value) for part in message.split("|"))


def test_mirrored_rules_are_read_as_there(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """With --mirror llama.cpp patterns are lower-cased, and one that matches nothing is said."""
    rules = "--tensor-type ATTN_V=q4_0 --tensor-type nothing=q4_0"
    made = types(run, f"{rules} --mirror llama.cpp")
    assert made["blk.3.attn_v.weight"] == "Q4_0"
    app(shlex.split(f"plan SRC {rules} --mirror llama.cpp"), standalone_mode=False)
    said = capsys.readouterr().err
    assert "--tensor-type: nothing=q4_0 decides nothing: it matches no tensor" in said
    assert types(run, "-r bf16 --mirror llama.cpp --tensor-type attn_v=q4_0") == types(
        run, "-r bf16 --mirror llama.cpp"
    )


def test_tied_embeddings_are_the_head(run: Run, tmp_path: Path) -> None:
    """Without an output matrix `head` speaks for the embeddings, and after rules by name where
    llama-quantize is mirrored, as there; not where it has no mixture.
    """
    listing = tmp_path / "tied.tsv"
    listing.write_text(
        "name\tshape\tdtype\n"
        "token_embd.weight\t512x1024\tBF16\nblk.0.attn_q.weight\t512x512\tBF16\n"
    )

    def embedding(**options: Any) -> str:
        made = ggufmix.plan(listing, options=Options(arch="llama", **options))
        return {t.name: t.encoder.name for t in made.tensors}["token_embd.weight"]

    assert embedding(set_roles=("head=Q5_0",)) == "Q5_0"
    typed = json.loads(run("plan tied.tsv --arch llama --output-tensor-type q5_1 --json"))
    assert [t["encoder"] for t in typed["tensors"]] == ["Q5_1", "Q8_0"]
    by_name = {"set_roles": ("head=Q5_0",), "tensor_types": ("token_embd=Q4_0",)}
    assert embedding(mirror="llama.cpp", **by_name) == "Q4_0"
    assert embedding(mirror="llama.cpp", set_roles=("head=Q5_0",)) == "Q5_0"
    assert embedding(mirror="llama.cpp", recipe="pure:q8_0", set_roles=("head=Q5_0",)) == "Q8_0"
    assert embedding(mirror="llama.cpp", recipe="bf16", set_roles=("head=Q5_0",)) == "BF16"
    assert embedding(mirror="llama.cpp", recipe="f16", set_roles=("embeddings=Q5_0",)) == "Q5_0"


def test_dry_run_is_plan(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same lines, and no file; of several recipes those that the run itself would print."""
    assert run("convert SRC -o x.gguf --dry-run -r q6_k") == run("plan SRC -r q6_k")
    app(shlex.split("convert SRC -o ./ --dry-run -r q6_k"), standalone_mode=False)
    assert "note: it would be SRC-4x2.9M-SSM_BF16-Q6_K.gguf" in capsys.readouterr().err
    several = "convert SRC -o '{tag}.gguf' -r q6_k -r q4_0 --split-max-size 2M"
    both = run(f"{several} --dry-run")
    assert [path.name for path in tmp_path.iterdir()] == ["SRC"]
    assert run(several) == both


def test_what_is_there_can_be_skipped(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left as it is, said, exit 0; the others are written."""
    (tmp_path / "Q8_0.gguf").write_bytes(b"mine")
    done = run("convert SRC -o '{recipe}.gguf' --skip-existing -r q6_k")
    assert done.startswith("q6_k.gguf: ")
    app(
        shlex.split("convert SRC -o '{recipe}.gguf' --skip-existing -r q6_k -r q5_0"),
        standalone_mode=False,
    )
    told = capsys.readouterr()
    assert told.out.startswith("q5_0.gguf: ")
    assert "note: q6_k.gguf: there already, left as it is" in told.err
    assert run("convert SRC -o Q8_0.gguf --skip-existing") == ""
    assert (tmp_path / "Q8_0.gguf").read_bytes() == b"mine"
    with pytest.raises(UsageError, match="expected one of them"):
        run("convert SRC -o Q8_0.gguf --skip-existing --overwrite")


def test_metadata_is_what_the_converter_writes(run: Run, tmp_path: Path, example: Path) -> None:
    """Keys of the file beat the model's, as gguf.Metadata has it; --model-name beats both."""
    stated = {
        "general.name": "Other",
        "general.author": "Somebody",
        "general.license": "mit",
        "general.tags": ["a", "b"],
        "general.base_models": [{"name": "Base", "organization": "Org", "version": "1"}],
        "general.sampling.temp": 0.5,
    }
    (tmp_path / "keys.json").write_text(json.dumps(stated))
    run("convert SRC -o x.gguf --metadata keys.json")
    run("convert x.gguf -o y.gguf --outtype q8_0 --metadata keys.json --model-name Third")
    writer = gguf.GGUFWriter(None, "llama")
    theirs = gguf.Metadata.load(tmp_path / "keys.json", example)
    theirs.set_gguf_meta_model(writer)
    for name in ("x", "y"):
        fields = gguf.GGUFReader(tmp_path / f"{name}.gguf").fields
        assert fields["general.license"].contents() == "mit"
        for key, value in writer.kv_data[0].items():
            if key.startswith("general.") and key not in (
                *("general.architecture", "general.size_label", "general.license"),
                *(("general.name",) if name == "y" else ()),
            ):
                assert fields[key].contents() == pytest.approx(value.value), key
    assert fields["general.name"].contents() == "Third"


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"general.autor": "x"}, "'general.autor'"),
        ({"general.tags": "x"}, "expected a list of texts"),
        ({"general.base_models": ["x"]}, "expected a list of objects"),
        ({"general.author": ["x"]}, "general.author: expected a text or number"),
        ({"general.sampling.temp": "warm"}, "general.sampling.temp"),
    ],
)
def test_metadata_that_is_wrong(
    run: Run, tmp_path: Path, stated: dict[str, Any], message: str
) -> None:
    """Named by file and key, not left out without a word as in the converter."""
    (tmp_path / "keys.json").write_text(json.dumps(stated))
    with pytest.raises(UsageError, match=r"keys\.json") as found:
        run("plan SRC --metadata keys.json")
    assert message in str(found.value)


def test_keys_are_set_over_all_others(run: Run, tmp_path: Path) -> None:
    """--override-kv beats checkpoint, card, imatrix and recipe; types as said or as they were."""
    keys = [
        "general.file_type=int:2",
        "qwen35moe.context_length=int:4096",
        "tokenizer.ggml.pre=str:other",
        "a.list=int16[]:[1,-2]",
        "qwen35moe.expert_count=uint64:4",
    ]
    run(f"convert SRC -o x.gguf {' '.join(f'--override-kv {key}' for key in keys)}")
    fields = gguf.GGUFReader(tmp_path / "x.gguf").fields
    made = {key: fields[key].contents() for key in (k.partition("=")[0] for k in keys)}
    assert [*made.values()] == [2, 4096, "other", [1, -2], 4]
    assert fields["qwen35moe.context_length"].types == [gguf.GGUFValueType.UINT32]
    assert fields["qwen35moe.expert_count"].types == [gguf.GGUFValueType.UINT64]
    listed = fields["ggufmix.options"].contents()
    assert [o for o in listed if "override-kv" in o] == [f"--override-kv {key}" for key in keys]


def test_importance_that_is_left_out_is_not_borrowed(tmp_path: Path, example: Path) -> None:
    """Ggufmix lets gate and up serve for each other; not where one was excluded by name. What no
    entry has in its name is a warning.
    """
    import struct

    import numpy as np

    raw = struct.pack("<i", 2)
    for part in ("up", "gate"):
        name = f"blk.0.ffn_{part}_shexp.weight".encode()
        raw += struct.pack(f"<i{len(name)}sii", len(name), name, 1, 256)
        raw += np.linspace(1, 2, 256, dtype=np.float32).tobytes()
    (tmp_path / "im.dat").write_bytes(raw)

    def served(**words: tuple[str, ...]) -> tuple[set[str], str]:
        options = Options(recipe="q4_0", imatrix=(tmp_path / "im.dat",), **words)  # type: ignore[arg-type]
        made = ggufmix.plan(example, options=options)
        told = " ".join((*made.notes, *made.warnings))
        return {t.name for t in made.tensors if t.importance is not None}, told

    up, gate = (f"blk.0.ffn_{part}_shexp.weight" for part in ("up", "gate"))
    assert served()[0] == {up, gate}
    found, told = served(exclude_weights=("up",))
    assert found == {gate}
    assert "without importance, as --exclude-weights says" in told
    assert served(include_weights=("gate",))[0] == {gate}
    assert "nobody" in served(exclude_weights=("nobody",))[1]
    with pytest.raises(UsageError, match="leaves no entry"):
        served(include_weights=("nobody",))
    with pytest.raises(UsageError, match="expected one"):
        served(include_weights=("up",), exclude_weights=("gate",))
