"""What the documents say is so."""

# SPDX-License-Identifier: MIT

import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_output_is_real() -> None:
    """Each command of the README prints what the README shows, and its tables are current."""
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
    assert spec is not None
    assert spec.loader is not None
    refresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(refresh)
    assert refresh.refreshed(README) == README


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
def help_of(name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ggufmix", name, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("name", commands())
def test_every_command_is_documented(name: str) -> None:
    """A command has help of its own and stands in the README."""
    assert f"ggufmix {name}" in README
    assert len(help_of(name).splitlines()) > 5


@pytest.mark.parametrize("option", sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))))
def test_every_option_exists(option: str) -> None:
    """An option that the README names is one of ours, or stands in a table as another tool's."""
    ours = "".join(help_of(name) for name in commands())
    theirs = "".join(
        cells[0] for row in README.splitlines() if len(cells := row.strip("| ").split(" | ")) == 2
    )
    assert re.search(rf"{option}\b", ours) or option in theirs
