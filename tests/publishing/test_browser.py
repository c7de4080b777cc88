"""The page in a real browser: on a desk and on a phone, light and dark."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ggufmix import publishing
from ggufmix.publishing import page

from . import browser, hostile

pytestmark = pytest.mark.skipif(not browser.INSTALLED, reason="no Chromium with its driver here")

SIZES = ("desk", 1280), ("phone", 360)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    with browser.opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of real files, measured; and of a hostile one."""
    folder = tmp_path_factory.mktemp("pages")
    found, _ = publishing.gather(
        [files / "m-Q8_0.gguf", files / "m-Q4_K_M.gguf"],
        scores=publishing.read_eval(files / "eval.json"),
        verified=[publishing.read_verify(files / "verify.json")],
    )
    publishing.publish(found, folder / "real")
    found, _ = publishing.gather([hostile.write(folder / f"{'long-' * 40}name.gguf")])
    publishing.publish(found, folder / "hostile")
    return {name: folder / name / "index.html" for name in ("real", "hostile")}


def colours(scheme: str) -> dict[str, tuple[int, ...]]:
    style = (Path(page.__file__).parent / "templates" / "page.css").read_text()
    blocks = style.split("prefers-color-scheme: dark")
    found = re.findall(r"--([a-z-]+): #([0-9a-f]{6});", blocks[scheme == "dark"].split("\n}\n")[0])
    return {name: tuple(bytes.fromhex(value)) for name, value in found}


@pytest.mark.parametrize("name", ["real", "hostile"])
@pytest.mark.parametrize(("place", "width"), SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_shows(
    window: browser.Browser,
    pages: dict[str, Path],
    name: str,
    place: str,
    width: int,
    scheme: str,
) -> None:
    """The page never scrolls sideways, wide tables and pictures scroll in their boxes, nothing is
    fetched, nothing complained of, and paper, ink and every type's colour are there.
    """
    window.show(pages[name], width, scheme)
    root = "document.documentElement"
    assert window.ask(f"return {root}.scrollWidth") <= window.ask(f"return {root}.clientWidth")
    assert window.ask(f"return {root}.clientWidth") in range(width - 20, width + 1)
    assert window.ask("return performance.getEntriesByType('resource').length") == 0
    assert window.complaints() == []
    boxes = "[...document.querySelectorAll('.scroll')]"
    wider = window.ask(f"return {boxes}.filter(b => b.scrollWidth > b.clientWidth).length")
    assert wider > 0 or place == "desk"
    assert window.ask(f"return {boxes}.every(b => b.getBoundingClientRect().right <= innerWidth)")
    sizes = window.ask(
        "return [...document.querySelectorAll('p, td, th, li')].map(e => parseFloat("
        "getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 12

    packed = np.unique(window.shot().astype(np.uint32) @ (1 << 16, 1 << 8, 1))
    seen = {tuple(int(c).to_bytes(3)) for c in packed}
    known = colours(scheme)
    assert {known["paper"], known["shade"]} <= seen
    assert len(seen) > 100  # letters and their edges
    fills = set(re.findall(r'fill="(#[0-9a-f]{6})"/>', pages[name].read_text()))
    assert len(fills) >= (6 if name == "real" else 1)
    assert {tuple(bytes.fromhex(fill[1:])) for fill in fills} <= seen


def test_hostile_words_do_nothing(window: browser.Browser, pages: dict[str, Path]) -> None:
    """No dialog opens, no script of a file runs, its title is text."""
    window.show(pages["hostile"], 1280, "light")
    assert "<script>alert(1)" in window.ask("return document.title")
    assert window.ask("return document.scripts.length") == 0


def test_details_open_without_script(window: browser.Browser, pages: dict[str, Path]) -> None:
    """The table that says what the picture shows opens on a click."""
    window.show(pages["real"], 1280, "light")
    shown = "return document.querySelector('details table').checkVisibility()"
    assert not window.ask(shown)
    window.ask("document.querySelector('details summary').click()")
    assert window.ask(shown)


def test_cells_are_where_geometry_says(window: browser.Browser, pages: dict[str, Path]) -> None:
    """Marks stand inside their cells and labels do not run into them."""
    window.show(pages["real"], 1280, "light")
    out = window.ask(
        "return [...document.querySelectorAll('svg g:has(> rect)')].filter(g => {"
        " const c = g.querySelector('rect').getBBox(), t = g.querySelector('text').getBBox();"
        " return t.width && (t.x < c.x - 1 || t.x + t.width > c.x + c.width + 1) }).length"
    )
    assert out == 0
    labels = window.ask(
        "return [...document.querySelectorAll('svg .label')].map(l => l.getBBox().x)"
    )
    assert min(labels) >= 0
