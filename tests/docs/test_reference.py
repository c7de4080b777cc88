"""The reference is what the code says."""

# SPDX-License-Identifier: MIT

import re
import tomllib
from pathlib import Path

import generated
import pytest
import refresh

import ggufmix
from ggufmix import mending, models, rules

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


def documented_keys() -> dict[str, str]:
    """Type by key."""
    return dict(re.findall(r"^\| `(ggufmix\.[\w.]+)` \| `(\S+)` \|", page("keys"), re.MULTILINE))


def test_every_key_is_documented() -> None:
    """Whoever finds a key of ours in a file can look it up: all that the code names are there."""
    code = "".join(path.read_text() for path in (ROOT / "ggufmix").rglob("*.py"))
    named = set(re.findall(r'"(ggufmix\.[a-z0-9_.]+[a-z0-9])"', code))
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]
    assert named - set(packages) == documented_keys().keys()


def test_keys_have_the_types_that_are_said(example: Path, tmp_path: Path) -> None:
    """A file holds the keys with these types."""
    ggufmix.convert(example, tmp_path / "made.gguf")
    values = mending.read(tmp_path / "made.gguf")[0].values
    ours = {key: mending.type_name(v) for key, v in values.items() if key.startswith("ggufmix.")}
    assert ours.items() <= documented_keys().items()
    assert len(ours) >= 8


@pytest.mark.parametrize("part", generated.PARTS)
def test_every_part_has_a_place(part: str) -> None:
    """What is generated stands on some page, once, and is not empty."""
    places = [p for p in refresh.PAGES if f"<!-- {part} -->" in p.read_text()]
    assert len(places) == 1
    assert len(generated.PARTS[part]()) > 500


def test_nothing_is_left_out() -> None:
    """Recipes, model classes, commands with their options, and the Python names are all there."""
    assert set(re.findall(r"^## (\S+)$", page("recipes"), re.MULTILINE)) == set(rules.recipes())
    assert set(re.findall(r"`(\w+)`", page("architectures"))) >= set(models.CLASSES)
    assert set(re.findall(r"^## (\w+)$", page("python"), re.MULTILINE)) == set(ggufmix.__all__)
    assert "## ggufmix recipes show" in page("commands")
    assert re.search(
        r"^\| `--gates` `bf16` \\\| `f32`.* Default: `bf16`", page("commands"), re.MULTILINE
    )
    assert "None" not in page("commands")


def test_a_bar_is_no_column() -> None:
    """Tables keep their columns, whatever their cells hold."""
    made = generated.table(("a", "b"), [["x|y", "z"]])
    assert made == "| a | b |\n| --- | --- |\n| x\\|y | z |"


def test_figures_of_a_machine_may_differ() -> None:
    """Below <!-- measured --> other figures leave a page as it is, other words do not."""
    shown = "<!-- measured -->\n```console\n$ echo file 1.5 s\nfile {} s\n```"
    assert refresh.refreshed(shown.format("22.25")) == shown.format("22.25")
    assert refresh.refreshed(shown.format("slow")) == shown.format("1.5")
    plain = "```console\n$ echo 1\n2\n```"
    assert refresh.refreshed(plain) == plain.replace("2", "1")


def test_a_command_that_fails_is_noticed() -> None:
    """A page with a command or with Python that does not run cannot be refreshed."""
    for text in ("```console\n$ ggufmix nothing\n```", "```python\n1 / 0\n```"):
        with pytest.raises(SystemExit, match=r"exit code [12]$"):
            refresh.refreshed(text)
