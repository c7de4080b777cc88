"""What the documents say is so."""

# SPDX-License-Identifier: MIT

import re
import shlex
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import refresh

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = [str(page.relative_to(ROOT)) for page in refresh.PAGES if page != ROOT / "README.md"]
PAGES = README + "".join((ROOT / page).read_text() for page in DOCS)
WRITTEN = README + "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
"""What is written by hand, of which nothing is there because the code has it."""


@pytest.mark.parametrize("page", ["README.md", *DOCS])
def test_every_output_is_real(page: str) -> None:
    """Each command of a page prints what the page shows, and its tables are current."""
    text = (ROOT / page).read_text()
    assert refresh.refreshed(text) == text


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    """The Python example works as printed."""
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            code + "\nassert error < 0.02 and blocks.shape == (4, 272)",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def commands() -> list[str]:
    from ggufmix.cli import app

    return [command.name or command.callback.__name__ for command in app.registered_commands]


@cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ggufmix", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("name", commands())
def test_every_command_is_documented(name: str) -> None:
    """A command has help of its own and stands in the README or the guide."""
    assert f"ggufmix {name}" in WRITTEN
    assert len(help_of(name).splitlines()) > 5


@pytest.mark.parametrize("option", sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", PAGES))))
def test_every_option_exists(option: str) -> None:
    """An option that a page names is one of ours, or is shown as another tool's."""
    ours = help_of() + "".join(help_of(name) for name in commands())
    others = re.findall(r"`((?:hf|llama-\w+|pip) [^`]*)`", PAGES)
    theirs = "".join(others) + "".join(
        cells[0]
        for row in PAGES.splitlines()
        if row.startswith("|") and len(cells := row.strip("| ").split(" | ")) == 2
    )
    assert re.search(rf"{option}\b", ours) or option in theirs


def typed() -> list[str]:
    """Every command of ours in the table of what people type today; options alone go to `plan`."""
    table = README.split("## What you type today")[1].split("\n## ")[0]
    cells = [row.split(" | ")[1] for row in table.splitlines() if row.startswith("| `")]
    found = [re.findall(r"`([^`]+)`", cell)[0] for cell in cells]
    return [text if text.startswith("ggufmix") else f"ggufmix plan SRC {text}" for text in found]


@pytest.mark.parametrize("command", ["ggufmix convert SRC -o OUT", *typed()])
def test_every_command_of_the_table_runs(command: str, example: Path, tmp_path: Path) -> None:
    """What the README tells users of other tools to type works as it stands."""
    import ggufmix

    given, made = tmp_path / "in.gguf", tmp_path / "out.gguf"
    kind = "q8_0" if "--allow-requantize" in command else "bf16"
    if re.search(r"IN\.gguf|OTHER\.gguf", command):
        ggufmix.convert(example, given, kind)
    (tmp_path / "rules").write_text("ffn_down_exps=q5_0")
    (tmp_path / "keys.json").write_text('{"general.author": "Name"}')
    (tmp_path / "importance").write_bytes(importance("blk.0.ffn_down_exps.weight", 4 * 128))
    values = {
        "SRC": example,
        "IN.gguf": given,
        "OTHER.gguf": given,
        "OUT.gguf": made,
        "OUT": made,
        "STR": "ffn_down_exps=q5_0",
        "F": tmp_path / "rules",
        "X": "Name",
        "M.json": tmp_path / "keys.json",
        "I": tmp_path / "importance",
    }
    words = [str(values.get(word, word)) for word in shlex.split(command)[1:]]
    done = subprocess.run(
        [sys.executable, "-m", "ggufmix", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert made.exists() == (str(made) in words and "--dry-run" not in words)


def importance(name: str, n: int) -> bytes:
    """A legacy imatrix of one entry: entries; length, name, calls, values; no trailer."""
    raw = name.encode()
    return struct.pack(f"<ii{len(raw)}sii{n}f", 1, len(raw), raw, 1, n, *[1.0] * n)
