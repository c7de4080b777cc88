"""The rules from the outside: what plan shows, what convert refuses, what a file says of itself."""

# SPDX-License-Identifier: MIT

import json
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

import ggufmix
from ggufmix.errors import FormatError, ShapeError
from ggufmix.pipeline import Options


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ggufmix", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_plan_shows_what_was_asked_and_its_price(example: Path) -> None:
    """A row that does not fit is in the list with both types, bytes and bits, and in a note."""
    done = run("plan", example, "--recipe", "q4_k_m", "--fallback", "quality")
    line = next(x for x in done.stdout.splitlines() if x.startswith("blk.0.ffn_down_shexp"))
    assert "Q4_K" in line or "Q6_K" in line
    assert "bits)" in line
    assert "does not fit a row of 128" in line
    assert "tensors have rows that do not fit the type asked for" in done.stderr
    tensors = json.loads(run("plan", example, "-r", "q4_k_m", "--json").stdout)["tensors"]
    for t in tensors:
        assert (t["price_bytes"] != 0) == (t["asked"] is not None), t["name"]


def test_convert_refuses_what_only_ik_reads(example: Path, tmp_path: Path) -> None:
    """--mirror ik plans Q6_0; convert says why it cannot be written, and writes nothing."""
    options = Options(recipe="q5_k_m", mirror="ik")
    planned = ggufmix.plan(example, options=options)
    assert "Q6_0" in {t.encoder.name for t in planned.tensors}
    assert planned.total_bytes > len(planned.header) > 0
    with pytest.raises(FormatError, match=r"Q6_0 cannot be written .ik_llama\.cpp alone reads it"):
        ggufmix.convert(example, tmp_path / "x.gguf", options=options)
    assert list(tmp_path.iterdir()) == []


def test_fallback_error_stops_before_a_byte(example: Path, tmp_path: Path) -> None:
    """--fallback error names the first tensor whose rows do not fit."""
    with pytest.raises(ShapeError, match=r"ffn_down_exps\.weight: .* row of 128"):
        ggufmix.convert(
            example, tmp_path / "x.gguf", options=Options(recipe="q6_k", fallback="error")
        )
    assert list(tmp_path.iterdir()) == []


def test_a_file_says_how_it_was_made(example: Path, tmp_path: Path) -> None:
    """Recipe, file type and every choice stand in the header."""
    out = tmp_path / "x.gguf"
    options = Options(recipe="Q4_K_M", edges=("1=Q6_K",), fallback="llama.cpp")
    ggufmix.convert(example, out, options=options)
    fields = gguf.GGUFReader(out).fields
    assert fields["ggufmix.recipe"].contents() == "q4_k_m"
    assert fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_K_M
    chosen = fields["ggufmix.options"].contents()
    assert {"--edges 1=Q6_K", "--fallback llama.cpp"} <= set(chosen)


@pytest.mark.parametrize("name", ["q4_k_m", "Q3_K_L", "iq4_xs", "q2_k", "mxfp4_moe", "hq4_k"])
def test_recipes_make_files(example: Path, tmp_path: Path, name: str) -> None:
    """Recipes of K-quants and the others are written whole: types as planned, gates BF16."""
    out = tmp_path / "x.gguf"
    result = ggufmix.convert(example, out, name)
    stored = {t.name: t.tensor_type.name for t in gguf.GGUFReader(out).tensors}
    assert stored == {t.name: t.encoder.format.name for t in result.plan.tensors}
    assert {stored[n] for n in stored if "ssm_alpha" in n or "ssm_beta" in n} == {"BF16"}


def test_the_command_line_shows_a_recipe() -> None:
    """`recipes` lists, `recipes show` explains in words and TOML, a wrong name gets the nearest."""
    listed = run("recipes").stdout
    assert all(name in listed for name in ("q4_k_m", "hq4_k", "aes-q5_k_m", "q4_x", "q6_k_l"))
    shown = run("recipes", "show", "Q4_K_L").stdout
    assert "embeddings and head" in shown
    assert 'base = "q4_k_m"' in shown
    assert "[[tensor]]" in shown
    wrong = run("recipes", "show", "q4_k_n")
    assert wrong.returncode == 2
    assert "did you mean 'q4_k_" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--fallback", "best"), "quality, llama.cpp, ik, error"),
        (("--mirror", "exllama"), "llama.cpp, ik"),
        (("--mirror", "ik", "--fallback", "error"), "has its own fallback"),
        (("--edges", "Q6_K"), "N=TYPE"),
        (("--target", "vulcan"), "vulkan"),
    ],
)
def test_options_that_cannot_be_meant(example: Path, arguments: tuple[str, ...], says: str) -> None:
    """Usage errors end with 2 and say what there is."""
    done = run("plan", example, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
