"""The site: what it is made of, and what is looked through when it is built (`make docs`)."""

# SPDX-License-Identifier: MIT

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import check
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def in_nav(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from in_nav(entry)


def test_every_page_can_be_found() -> None:
    """Each page of the docs is in the navigation, once."""
    nav = tomllib.loads((DOCS / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(in_nav(nav)) == sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))


@pytest.mark.parametrize("name", [p.relative_to(DOCS) for p in DOCS.rglob("*.md")], ids=str)
def test_included_parts_of_the_readme_exist(name: Path) -> None:
    """A page that includes a part of the README gets one; links in it would lead elsewhere."""
    readme = (ROOT / "README.md").read_text()
    for part in re.findall(r'^--8<-- "README.md:(\w+)"$', (DOCS / name).read_text(), re.MULTILINE):
        start, end = (f"<!-- --8<-- [{word}:{part}] -->" for word in ("start", "end"))
        assert readme.count(start) == readme.count(end) == 1
        inside = readme.split(start)[1].split(end)[0]
        assert inside.strip()
        assert "](" not in re.sub(r"```.*?```|`[^`]*`", "", inside, flags=re.DOTALL)


SOUND = '<h1 id="top">x</h1><a href="b.html#there">b</a><link rel="stylesheet" href="s.css">'


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        (SOUND, None),
        (SOUND + '<a href="https://example.com/x">out</a><a href="#top">up</a>', None),
        (SOUND + '<a href="c.html">c</a>', "c.html: there is no such file"),
        (SOUND + '<a href="b.html#here">b</a>', "b.html#here: there is no such place"),
        (SOUND + '<a href="#bottom">b</a>', "#bottom: there is no such place"),
        (SOUND + '<script src="https://cdn.example.com/x.js"></script>', "loads https://cdn"),
        (SOUND + '<img src="//cdn.example.com/x.png">', "loads //cdn"),
        (SOUND + '<img src="x.png">', "x.png: there is no such file"),
        (SOUND + "<link rel=stylesheet href=http://fonts.example.com>", "loads http://fonts"),
    ],
)
def test_faults_of_a_site(tmp_path: Path, page: str, fault: str | None) -> None:
    """Links into nothing and whatever is fetched from elsewhere are found, and nothing else."""
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "b.html").write_text("<p id=there>")
    (tmp_path / "s.css").write_text("p { background: url(data:image/png;base64,AA) }")
    found = check.faults(tmp_path)
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]


def test_styles_from_elsewhere(tmp_path: Path) -> None:
    """A style sheet that fetches fonts is a fault; so is a site of no pages."""
    assert check.faults(tmp_path)
    (tmp_path / "a.html").touch()
    (tmp_path / "s.css").write_text("@import 'https://fonts.example.com/x.css';")
    assert len(check.faults(tmp_path)) == 1
