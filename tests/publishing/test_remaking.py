"""The command that a report shows: it makes the file, and nothing else."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ggufmix
from ggufmix import mending, rules
from ggufmix.cli import app
from ggufmix.container import text, texts
from ggufmix.publishing import facts


def run(command: str, source: Path, folder: Path) -> Path:
    """What the pasted command writes, with the source in place of SRC."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "ggufmix"
    place = words.index("-o") + 1
    words[place] = str(folder / f"again-{words[place]}")
    words = [str(source) if word == "SRC" else word for word in words]
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output
    return Path(words[place])


CHOSEN = [
    ggufmix.Options(recipe="q4_k_m"),
    ggufmix.Options(recipe="Q8_0", gates="f32", edges=("1=F16",)),
    ggufmix.Options(
        recipe="pure:q5_0",
        set_roles=("ffn_down_exps=Q8_0",),
        tensor_types=(
            r"^blk\.[02]\.attn_(gate|qkv)\.weight$=BF16",
            r"blk\.1\.(ssm_out|it's\x20not)=F16",
        ),
        model_name="A name; with 'quotes' $HOME",
    ),
]


@pytest.mark.parametrize("chosen", CHOSEN, ids=lambda o: o.recipe)
def test_the_command_makes_the_same_bytes(
    chosen: ggufmix.Options, example: Path, tmp_path: Path
) -> None:
    """Whoever pastes the command gets the published file, byte for byte."""
    made = tmp_path / "m.gguf"
    ggufmix.convert(example, made, options=chosen)
    making = facts.of_file(made).making
    assert making.toml == ""
    assert run(making.command, example, tmp_path).read_bytes() == made.read_bytes()


def types_of(path: Path) -> dict[str, str]:
    return {t.name: t.type for t in facts.of_file(path).outline.tensors}


@pytest.mark.parametrize("name", ["q2_k", "q3_k_m", "q4_k_m", "iq4_xs", "hq4_k", "q8_0", "bf16"])
@pytest.mark.parametrize("mirror", [None, "llama.cpp"])
def test_the_recipe_of_a_foreign_file_has_its_types(
    name: str, mirror: rules.Mirror | None, example: Path, tmp_path: Path
) -> None:
    """A file that does not say how it was made is read off, tensor by tensor."""
    made = tmp_path / "theirs.gguf"
    ggufmix.convert(example, made, options=ggufmix.Options(recipe=name, mirror=mirror))
    forget = tuple(f"ggufmix.{key}" for key in ("recipe", "version", "options"))
    mending.apply(mending.prepare(made, mending.Edit({}, forget)))
    making = facts.of_file(made).making
    (tmp_path / making.recipe_name).write_text(making.toml)
    command = making.command.replace(
        f"--recipe {making.recipe_name}", f"--recipe {tmp_path / making.recipe_name}"
    )
    assert types_of(run(command, example, tmp_path)) == types_of(made)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("q8_0", ["--out /etc/passwd"]),
        ("q8_0", ["--set x=Q8_0", "; rm -rf /"]),
        ("q8_0", ["--set a=Q8_0\nrm -rf /"]),
        ("q8_0", ["--no-mtp --overwrite"]),
        ("q8_0", ["--set"]),
        ("q8_0'; touch owned; '", []),
        ("/etc/passwd.toml", []),
        ("mine.toml", []),
    ],
)
def test_a_file_cannot_say_what_is_pasted(
    recipe: str,
    words: list[str],
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The header of a stranger's file becomes no other option, program or path in a command."""
    monkeypatch.chdir(tmp_path)
    [(_, recipe_text)] = rules.texts_of("q8_0")
    (tmp_path / "mine.toml").write_text(recipe_text)
    made = tmp_path / "m.gguf"
    ggufmix.convert(example, made, "q8_0")
    edit = mending.Edit({"ggufmix.recipe": text(recipe), "ggufmix.options": texts(words)})
    mending.apply(mending.prepare(made, edit))
    making = facts.of_file(made).making
    pasted = shlex.split(making.command.replace("\\\n", " "))
    asked = ["--recipe", making.recipe_name, "--gates", "recipe"]
    assert pasted == ["ggufmix", "convert", "SRC", "-o", "m.gguf", *asked]
    assert making.recipe_name == "m.toml"


def test_files_that_the_command_takes_are_named(example: Path, tmp_path: Path) -> None:
    """A file keeps only the names of rule files and of the imatrix: the reader is told."""
    like = tmp_path / "like this.gguf"
    ggufmix.convert(example, like, "q8_0")
    made = tmp_path / "m.gguf"
    ggufmix.convert(example, made, options=ggufmix.Options(recipe="q4_0", like=like))
    making = facts.of_file(made).making
    assert "--like 'like this.gguf'" in making.command
    assert any("like this.gguf" in need for need in making.needs)
