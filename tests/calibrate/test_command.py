"""`ggufmix calibrate`: its flags, those of the seed's collector, and what cannot be run."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import CASES, write

from ggufmix import imatrix
from ggufmix.calibrating import Options, calibrate
from ggufmix.errors import GgufmixError, ModelError, SourceError, UsageError, WriteError


def ggufmix(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ggufmix", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_flags_of_the_collector(example: Path, tmp_path: Path) -> None:
    """Someone who comes with the seed's command line changes its first word."""
    prompts, out = tmp_path / "p.txt", tmp_path / "x.gguf"
    prompts.write_text("One prompt.\n\nAnother one.\n")
    done = ggufmix(
        "calibrate",
        *("--model_dir", example, "--output", out, "--prompts_file", prompts),
        *("--max_tokens", 3, "--device_map", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 51 entries of ")
    assert done.stdout.endswith("tokens, 2 prompts\n")
    assert "\x1b" not in done.stderr
    assert imatrix.read([out]).datasets == ("p.txt",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "x.gguf"], "expected one checkpoint"),
        (["{src}", "--model-dir", "{src}", "-o", "x.gguf"], "expected one checkpoint"),
        (["{src}"], "--out"),
        (["nowhere", "-o", "x.gguf"], "nowhere"),
        (["hf://a/b", "-o", "x.gguf"], "hf://a/b: `calibrate` takes a folder of this machine"),
        (["{src}", "-o", "x.gguf", "--dtype", "f8"], "--dtype: expected one of auto, bf16"),
        (["{src}", "-o", "x.gguf", "--ctx", "1"], "--ctx"),
        (["{src}", "-o", "x.gguf", "--chunks", "2"], "--chunks counts windows of a text"),
        (["{src}", "-o", "x.gguf", "--text", "t", "--prompts-file", "p"], "expected one of them"),
        (["{src}", "-o", "x.gguf", "--text", "t", "--max-tokens", "2"], "--max-tokens is for"),
        (["{src}", "-o", "x.gguf", "--text", "nowhere"], "nowhere: No such file"),
        (["{src}", "-o", "x.gguf", "--prompts-file", "nowhere"], "nowhere: No such file"),
        (["{src}", "-o", "x.gguf", "--prompts-file", "{src}"], "Is a directory"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_what_cannot_be_meant_is_exit_2(example: Path, arguments: list[str], said: str) -> None:
    """Refused before anything is loaded, in a sentence."""
    done = ggufmix("calibrate", *(str(example) if a == "{src}" else a for a in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_without_the_extra(example: Path, tmp_path: Path, package: str) -> None:
    """Where torch or transformers are not installed, the error names what to install."""
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from ggufmix.cli import main\n"
        f"sys.argv = ['ggufmix', 'calibrate', {str(example)!r}, '-o', {str(tmp_path / 'x')!r}]\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"error: {package} is not installed here" in done.stderr
    assert "hint: pip install 'ggufmix[calibrate]'" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_prompts_that_are_none(example: Path, tmp_path: Path, content: str) -> None:
    """An empty file of prompts, or of text, is refused by name."""
    path = tmp_path / "empty.txt"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"empty\.txt: expected prompts"):
        calibrate(example, tmp_path / "x.gguf", Options(prompts_file=path))
    with pytest.raises(UsageError, match=r"empty\.txt: expected text"):
        calibrate(example, tmp_path / "x.gguf", Options(text=path))


def test_a_text_in_another_encoding(example: Path, tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are said to be that."""
    path = tmp_path / "latin.txt"
    path.write_bytes("Größe".encode("latin-1"))
    with pytest.raises(SourceError, match=r"latin\.txt: expected text in UTF-8"):
        calibrate(example, tmp_path / "x.gguf", Options(prompts_file=path))


def test_a_text_that_fills_no_window(example: Path, tmp_path: Path) -> None:
    """It is told how long it is."""
    path = tmp_path / "short.txt"
    path.write_text("Three words only")
    with pytest.raises(UsageError, match=r"short\.txt: expected at least 512 tokens, got \d+\b"):
        calibrate(example, tmp_path / "x.gguf", Options(text=path, device_map="cpu"))


def test_an_output_that_is_there(example: Path, tmp_path: Path, text: Path) -> None:
    """It is not replaced unless that is asked for, and that is known before the model runs."""
    out = tmp_path / "x.gguf"
    out.write_text("precious")
    options = Options(text=text, ctx=16, chunks=1, device_map="cpu")
    with pytest.raises(WriteError, match=r"x\.gguf exists"):
        calibrate(example, out, options)
    assert out.read_text() == "precious"
    with pytest.raises(WriteError, match="is no directory"):
        calibrate(example, tmp_path / "no" / "x.gguf", options)
    calibrate(example, out, options, overwrite=True)
    assert len(imatrix.read([out]).entries) == 51


def quantized(config: dict[str, object]) -> None:
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def unknown(config: dict[str, object]) -> None:
    config["architectures"] = ["NobodysForCausalLM"]


def renamed(config: dict[str, object]) -> None:
    config["model_type"] = "nobodys"


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (quantized, SourceError, r"expected weights in BF16.* quantized \(fp8\)"),
        (unknown, ModelError, "architecture 'NobodysForCausalLM' is not known"),
        (renamed, SourceError, "transformers cannot load it"),
    ],
)
def test_checkpoints_that_are_not_run(
    model: Path,
    tmp_path: Path,
    change: Callable[[dict[str, object]], None],
    kind: type[GgufmixError],
    said: str,
) -> None:
    """Quantized weights, a class that GGUF has no place for, one that transformers does not know:
    an error that says so, and no file.
    """
    config = json.loads((model / "config.json").read_text())
    change(config)
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(kind, match=said):
        calibrate(model, tmp_path / "x.gguf", Options(device_map="cpu"))
    assert not (tmp_path / "x.gguf").exists()


def test_a_checkpoint_without_a_tokenizer(tmp_path: Path) -> None:
    """Transformers makes up an empty one: prompts are no tokens at all, which is an error."""
    case = CASES["qwen3"]
    path = write(tmp_path / "m", case.raw_config(), case.arrays())
    with pytest.raises(SourceError, match="the tokenizer makes no token of 'Explain why"):
        calibrate(path, tmp_path / "x.gguf", Options(device_map="cpu"))


def test_weights_that_would_be_random(model: Path, tmp_path: Path) -> None:
    """Where transformers would make weights up, nothing is measured."""
    from ggufmix.calibrating import loading

    file = model / "model.safetensors"
    name = b'"model.layers.1.linear_attn.out_proj.weight"'
    data = file.read_bytes()
    assert data.count(name) == 1
    file.write_bytes(data.replace(name, name.replace(b"out_proj", b"xut_proj")))
    with pytest.raises(ModelError, match=r"no weights for .*layers\.1\.linear_attn\.out_proj"):
        loading.load(model, "auto", "cpu")
    with pytest.raises(ModelError, match="xut_proj"):
        calibrate(model, tmp_path / "x.gguf", Options(device_map="cpu"))


def test_a_device_that_is_not_there(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that torch does not know, a device that it has not, and accelerate that is not
    installed are refused before the weights are read.
    """
    from ggufmix.calibrating import loading

    find = loading.importlib.util.find_spec
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: name or find(name))
    for device in ("nonsense", "xpu:7"):
        with pytest.raises(UsageError, match=f"--device-map {device}: "):
            loading.load(example, "auto", device)
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="--device-map cuda needs accelerate") as error:
        loading.load(example, "auto", "cuda")
    assert "calibrate" in str(error.value.hint)


def test_a_gguf_is_no_checkpoint(tmp_path: Path) -> None:
    """Someone who gives a GGUF file is told what is wanted."""
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    done = ggufmix("calibrate", path, "-o", tmp_path / "y.gguf")
    assert done.returncode in (1, 2)
    assert "x.gguf" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_source_stays_as_it_is(example: Path, tmp_path: Path, text: Path) -> None:
    """Nothing is written into the checkpoint's folder."""
    copy = Path(shutil.copytree(example, tmp_path / "m"))
    before = {p: p.read_bytes() for p in copy.rglob("*")}
    calibrate(copy, tmp_path / "x.gguf", Options(text=text, ctx=16, chunks=1, device_map="cpu"))
    assert {p: p.read_bytes() for p in copy.rglob("*")} == before
