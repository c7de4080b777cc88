"""What a shell is told when a user presses Tab."""

# SPDX-License-Identifier: MIT

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufmix import codecs, rules

Ask = Callable[..., list[str]]
SHELL_IS_NAMED = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """`ggufmix` as it is installed: its name is part of what shells and typer agree upon."""
    made = tmp_path / "bin" / "ggufmix"
    made.parent.mkdir()
    made.write_text(f"#!{sys.executable}\nfrom ggufmix.cli import main\nmain()\n")
    made.chmod(0o755)
    return made


def script(program: Path, shell: str) -> str:
    done = subprocess.run(
        [program, "--show-completion", shell],
        env=os.environ | SHELL_IS_NAMED,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture
def ask(program: Path, tmp_path: Path) -> Ask:
    """Bash, with the function that `--show-completion` prints: the words as readline cuts them, the
    last one to be completed, and what the function answers.
    """
    call = (
        script(program, "bash")
        + '\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ggufmix_completion "$1"'
        + '\nprintf "%s\\n" "${COMPREPLY[@]}"'
    )

    def answer(*words: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-c", call, "bash", str(program), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert not done.stderr
        return done.stdout.split()

    return answer


def test_commands_and_options(ask: Ask) -> None:
    """Names of commands and options complete; one that was given is not offered again."""
    assert ask("con") == ["convert"]
    assert ask("recipes", "") == ["show"]
    assert ask("convert", "SRC", "--ga") == ["--gates"]
    assert ask("convert", "SRC", "--gates", "f32", "--ga") == []


def test_recipes(ask: Ask) -> None:
    """Every built-in recipe is offered, wherever one is asked for."""
    assert sorted(ask("plan", "SRC", "--recipe", "")) == sorted(rules.recipes())
    assert ask("plan", "SRC", "-r", "hq") == ["hq4_k"]
    assert ask("recipes", "show", "hq") == ["hq4_k"]
    assert ask("plan", "SRC", "--versus", "hq") == ["hq4_k"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("plan", "SRC", "--gates", ""), ["bf16", "f32", "recipe"]),
        (("plan", "SRC", "--gates", "="), ["bf16", "f32", "recipe"]),
        (("plan", "SRC", "--gates", "=", "f"), ["f32"]),
        (("plan", "SRC", "--mirror", ""), ["llama.cpp", "ik"]),
        (("plan", "SRC", "--target", ""), rules.targets()),
        (("plan", "SRC", "--export", "c"), ["custom-q"]),
        (("fp8", "SRC", "--device", ""), ["auto", "cpu", "cuda"]),
        (("fp8", "SRC", "--mode", "m"), ["max", "mse"]),
    ],
)
def test_words(ask: Ask, words: tuple[str, ...], offered: list[str]) -> None:
    """Options that take one of a few words say which, and no others."""
    assert ask(*words) == offered


def test_types(ask: Ask) -> None:
    """Behind ROLE=, REGEX= and N= come the types that can be written, in the letters one types;
    bash cuts such words at `=` and `:`, and gets the rest of the word only.
    """
    names = codecs.ENCODERS
    assert sorted(ask("plan", "SRC", "--set", "ffn_down_exp", "=")) == sorted(names)
    assert ask("plan", "SRC", "--set", "ffn_down_exp", "=", "q4_") == [
        "q4_0",
        "q4_1",
        "q4_k",
        "q4_x",
    ]
    assert ask("plan", "SRC", "--tensor-type", "a.*b", "=", "IQ4_X") == ["IQ4_XS"]
    assert ask("plan", "SRC", "--edges", "2", "=", "Q6") == ["Q6_K"]
    assert ask("plan", "SRC", "--recipe", "pure", ":", "Q6") == ["Q6_K"]
    assert "ffn_down_exp=" in ask("plan", "SRC", "--set", "ffn_d")
    assert ask("plan", "SRC", "--set", "SSM_AL") == [f"SSM_ALPHA={name}" for name in names]
    assert ask("plan", "SRC", "--recipe", "pur") == [f"pure:{name}" for name in names]


def test_roles_can_be_used(ask: Ask) -> None:
    """Each role that is offered is one that `--set` knows."""
    offered = ask("plan", "SRC", "--set", "")
    assert len(offered) > 20
    for role in offered:
        assert rules.override_by_role(f"{role}Q8_0").roles == {role.rstrip("=")}


def test_files(ask: Ask, tmp_path: Path) -> None:
    """Where a GGUF file is asked for, those are offered, and folders beside them; where there is
    none, nothing, so that the shell completes as it always does.
    """
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.gguf", "deep/b.gguf", "notes.txt"):
        (tmp_path / name).touch()
    assert ask("meta", "") == ["a.gguf", "bin/", "deep/"]
    assert ask("plan", "SRC", "--like", "deep/") == ["deep/b.gguf", "deep/er/"]
    assert ask("meta", "./a") == ["./a.gguf"]
    assert ask("eval", "a.gguf", "dee") == []
    assert ask("eval", "a.gguf", "deep/b") == ["deep/b.gguf"]
    assert ask("meta", "dee") == []
    assert ask("meta", "nowhere/") == []
    assert ask("convert", "") == []


def test_words_of_llama_quantize(ask: Ask, tmp_path: Path) -> None:
    """`quantize` takes files and types in a row: both are offered, and only types it can write."""
    (tmp_path / "model.gguf").touch()
    assert ask("quantize", "mod") == ["model.gguf"]
    assert ask("quantize", "model.gguf", "q4_k_") == ["q4_k_s", "q4_k_m"]
    assert ask("quantize", "model.gguf", "IQ2") == []
    assert ask("plan", "SRC", "--token-embedding-type", "Q6") == ["Q6_K"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(program: Path, shell: str) -> None:
    """Each shell reads the script that is printed for it, as far as it is there to be asked."""
    text = script(program, shell)
    assert "_GGUFMIX_COMPLETE" in text
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    check = "--no-execute" if shell == "fish" else "-n"
    done = subprocess.run([shell, check], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        (
            "zsh",
            '"hq4_k":"Large mixtures of experts with the experts in RAM and the rest on a GPU"',
        ),
        ("fish", "hq4_k\tLarge mixtures of experts with the experts in RAM and the rest on a GPU"),
    ],
)
def test_help_beside_values(program: Path, shell: str, line: str) -> None:
    """Zsh and fish show what a recipe is for."""
    asked = {
        "_GGUFMIX_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "ggufmix plan SRC --recipe hq",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run(
        [program], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert line in done.stdout


def test_nothing_heavy_is_loaded(program: Path) -> None:
    """A shell waits for the answer: numpy alone would take as long as all of it does."""
    asked = {
        "_GGUFMIX_COMPLETE": "complete_bash",
        "COMP_WORDS": "ggufmix\nplan\nSRC\n--set\nffn_down_exp\n=\nq4_k",
        "COMP_CWORD": "6",
        "PYTHONPROFILEIMPORTTIME": "1",
    }
    done = subprocess.run(
        [program], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["q4_k"]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert not loaded & {"numpy", "gguf", "torch", "transformers", "ggufmix.codecs"}
