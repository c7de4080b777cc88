"""The page: whole, readable, and deaf to what files say."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from gguf import GGUFValueType

from ggufmix import publishing
from ggufmix.container import Value, text
from ggufmix.publishing import measurements, page, picturing, plotting, words

from . import hostile

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Tree(HTMLParser):
    """Elements with their attributes and the text in them; raises where tags are not balanced."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(document)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def said(self) -> str:
        return "\n".join(data for tag, data in self.texts if tag != "style")


@pytest.fixture(scope="module")
def document(files: Path) -> str:
    """The page of two files, one with scores, one with errors."""
    found, _ = publishing.gather(
        [files / "m-Q8_0.gguf", files / "m-Q4_K_M.gguf"],
        scores=publishing.read_eval(files / "eval.json"),
        verified=[publishing.read_verify(files / "verify.json")],
        made_from="Qwen/Qwen3.5-Tiny",
    )
    return page.made(found)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a file of hostile words, measured with hostile words."""
    path = hostile.write(tmp_path_factory.mktemp("hostile") / "evil <b>'\"&.gguf")
    scores = [publishing.Scored(file=path.name, ctx=512, ppl=float("nan"), text=hostile.WORDS)]
    verified = publishing.of_report(
        {
            "file": path.name,
            "verdict": "FAIL",
            "tensors": [
                {"name": "blk.1.attn_q.weight", "type": "F32", "verdict": "FAIL", "rrmse": 1e300}
            ],
            "types": {hostile.SCRIPT: {"tensors": 1, "rrmse": 1.0}},
            "problems": [hostile.WORDS],
            "unproven": [hostile.LONG],
        }
    )
    found, _ = publishing.gather([path], scores=scores, verified=[verified])
    return page.made(found)


def addresses(tree: Tree) -> Iterator[tuple[str, str]]:
    for tag, attrs in tree.elements:
        for name in ("href", "src", "srcset", "action", "data", "poster", "xlink:href"):
            if attrs.get(name):
                yield tag, str(attrs[name])


@pytest.mark.parametrize("which", ["document", "attacked"])
def test_it_needs_nothing_else(which: str, request: pytest.FixtureRequest) -> None:
    """No script, no picture, font or style from elsewhere: links go to the page itself or to pages
    of the hub, and the browser is told to load nothing.
    """
    whole = request.getfixturevalue(which)
    tree = Tree(whole)
    assert whole.startswith("<!DOCTYPE html>")
    ids = {attrs["id"] for _, attrs in tree.elements if "id" in attrs}
    for tag, address in addresses(tree):
        assert tag == "a"
        assert address[1:] in ids or re.fullmatch(
            r"https://huggingface\.co/[\w.-]+/[\w.-]+", address
        )
    for tag in ("script", "img", "link", "iframe", "object", "form", "base", "embed"):
        assert not tree.of(tag)
    for _, attrs in tree.elements:
        assert not [name for name in attrs if name.startswith("on")]
    style = whole.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    [policy] = [a["content"] for a in tree.of("meta") if "http-equiv" in a]
    assert policy is not None
    allowed = {part.split()[0]: part.split()[1:] for part in policy.split("; ")}
    assert allowed.pop("style-src") == ["'unsafe-inline'"]
    assert set(map(tuple, allowed.values())) == {("'none'",)}
    assert "default-src" in allowed


def test_it_reads_well_aloud(document: str) -> None:
    """Headings go down by one, tables have heads with a scope, pictures title and description, and
    every id stands once.
    """
    tree = Tree(document)
    levels = [int(tag[1]) for tag, _ in tree.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert all(attrs.get("scope") in {"col", "row"} for attrs in tree.of("th"))
    ids = [attrs["id"] for _, attrs in tree.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    pictures = tree.of("svg")
    assert len(pictures) == 4  # types of two, errors and positions of one
    for attrs in pictures:
        assert attrs["role"] == "img"
        assert set(str(attrs["aria-labelledby"]).split()) <= set(ids)
    [html] = tree.of("html")
    assert html["lang"] == "en"
    assert any(a.get("name") == "viewport" for a in tree.of("meta"))


def test_svgs_are_xml(document: str, attacked: str) -> None:
    """The pictures can be taken out of the page and opened on their own."""
    for whole in (document, attacked):
        for drawing in re.findall(r"<svg.*?</svg>", whole, re.DOTALL):
            ElementTree.fromstring(drawing)


def test_figures_stand_in_it(document: str) -> None:
    """Scores as llama-perplexity prints them, errors as verify does; nothing else is claimed."""
    said = Tree(document).said
    for figure in ("516.6436 ± 0.1812", "0.004840 ± 0.001217", "97.65 ± 0.34 %", "2.468 %"):
        assert figure in said
    assert "over wiki.txt; KL divergence from m-BF16.gguf" in said
    assert "7.12 %" in said  # relative RMSE of Q4_K
    assert "every byte of the header and of 76 tensors" in said
    assert said.count("Not measured.") == 2  # errors of the one, scores of the other
    assert said.splitlines().count("not measured") == 3  # perplexity, KLD, same top of the other
    assert "None was used, as far as the file says." in said


def test_nothing_measured_nothing_said(files: Path) -> None:
    """Without measurements the page has no figure that looks like one."""
    found, _ = publishing.gather([files / "m-Q8_0.gguf"])
    said = Tree(page.made(found)).said
    assert said.count("Not measured.") == 2
    assert "Perplexity, KL divergence: not measured." in said
    assert "±" not in said
    assert "RMSE" not in said


def test_every_tensor_is_drawn(files: Path) -> None:
    """The picture has each matrix under its block, in its type; text says the same as colour."""
    [found], _ = publishing.gather([files / "m-Q4_K_M.gguf"])
    keys = picturing.legend([found.outline])
    made = picturing.of_types(found.outline, keys)
    drawn = {
        (row.label, round((cell.x - made.left) / picturing.WIDE)): cell.mark
        for row in made.rows
        for cell in row.cells
    }
    for t in found.outline.tensors:
        if t.dims > 1:
            label = t.name.removesuffix(".weight").split(".")[-1]
            assert drawn[label, t.layer or 0] == t.type
    told = {row.label: row.summary for row in made.rows}
    assert next(iter(told)) == "token_embd"
    assert [*told][-2:] == ["output", "vectors"]
    assert told["ffn_down_exps"] == "Q5_0; Q8_0 in 2-3"
    assert "ffn_down_exps: Q5_0; Q8_0 in 2-3" in made.told


def test_many_blocks_share_the_room() -> None:
    """A file of 94 blocks fits a desktop page; one of a million names says what is left out."""
    from ggufmix.outline import Entry, Outline

    def outline(layers: range, label: str = "attn_q") -> Outline:
        made = (
            Entry(f"blk.{i}.{label}.weight", (256, 256), "ATTN_Q", i, "Q4_K", 36864) for i in layers
        )
        return Outline("x", "llama", tuple(made))

    found = outline(range(94))
    made = picturing.of_types(found, picturing.legend([found]))
    assert made.width < 1140
    assert {c.mark for c in made.rows[0].cells} == {"a"}
    found = outline(range(0, 10**15, 10**12))
    made = picturing.of_types(found, picturing.legend([found]))
    assert len(made.rows[0].cells) == picturing.MOST_COLUMNS
    assert made.left_out == "744 of 1000 blocks"
    assert len(picturing.of_errors(found, {}) or ()) == 0


def test_positions_are_plotted() -> None:
    """Each context is a line that rises where the divergence does, named at its end; a point that
    a logarithm does not have is none.
    """
    points = [(0, 0.001), (1, 0.01), (3, 0.0), (7, 0.1), (9, float("nan")), (9, 1e308)]
    points += [(10**400, 0.1), (-5, 0.1), (9, 5e-324)]
    made = tuple(measurements.Point(*p) for p in points)
    rows = [publishing.Scored(file="x", ctx=n, kld_by_position=made) for n in (512, 4096)]
    plot = plotting.of_scores(rows)
    assert plot is not None
    assert [line.name for line in plot.lines] == ["512 tokens", "4096 tokens"]
    assert abs(plot.lines[0].y - plot.lines[1].y) >= 13  # their names
    assert plot.lines[0].dash != plot.lines[1].dash
    top, bottom = plotting.TOP, plotting.HEIGHT - plotting.BOTTOM
    right = plotting.WIDTH - plotting.RIGHT
    third = (right - plotting.LEFT) / 3
    assert plot.lines[0].path.split() == [
        f"{plotting.LEFT:.1f},{bottom:.1f}",
        f"{plotting.LEFT + third:.1f},{(top + bottom) / 2:.1f}",
        f"{right:.1f},{top:.1f}",
    ]
    assert [text for _, text in plot.across] == ["1", "2", "4", "8"]
    ups = ["0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1"]
    assert [text for _, text in plot.up] == ups
    heights = [y for y, _ in plot.up]
    assert (heights[0], heights[3], heights[-1]) == pytest.approx((bottom, (top + bottom) / 2, top))
    assert "512 tokens: 0.001 at position 1, 0.1 at position 8" in plot.told
    assert plotting.of_scores([publishing.Scored(file="x", kld_by_position=made[:1])]) is None


def test_colours_can_be_read() -> None:
    """Letters on cells reach 4.5 to 1, and lightness falls from few bits to many: the picture is
    read without colour too.
    """
    from ggufmix.codecs import FORMATS
    from ggufmix.outline import Entry, Outline

    for kinds in (["Q4_K", "F32"], ["Q4_K", "Q6_K", "F32"], [*FORMATS][:12], [*FORMATS]):
        tensors = tuple(Entry(k, (256, 2), "X", 0, k, 1) for k in kinds)
        keys = picturing.legend([Outline("x", "x", tensors)])
        light = [picturing._luminance(key.fill) for key in keys.values()]
        assert light == sorted(light, reverse=True)
        assert len(set(light)) == len(kinds)
        for key in keys.values():
            pair = sorted((picturing._luminance(key.fill), picturing._luminance(key.ink)))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(scheme: str) -> None:
    """Every colour of text reaches 4.5 to 1 on paper and shade, in both schemes."""
    style = (Path(page.__file__).parent / "templates" / "page.css").read_text()
    blocks = style.split("prefers-color-scheme: dark")
    chosen = blocks[0] if scheme == "light" else blocks[1].split("\n}\n")[0]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", chosen))
    for ink in ("ink", "soft", "link", "warn", "fail"):
        for ground in ("paper", "shade"):
            pair = sorted(picturing._luminance(colours[name]) for name in (ink, ground))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (ink, ground)
    for ground in ("warn-fill", "fail-fill"):
        pair = sorted(picturing._luminance(colours[name]) for name in ("ink", ground))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, ground


def test_hostile_words_are_text(attacked: str) -> None:
    """Markup in names and values comes out as the text that it is, short, and without control
    characters.
    """
    assert "<script" not in attacked
    assert len(attacked) < 200_000
    assert all(c.isprintable() or c == "\n" for c in attacked)
    tree = Tree(attacked)
    assert "</title></style><script>alert(1)" in tree.said
    assert "not finite" in tree.said
    assert "FAIL" in tree.said


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("a \n\t b\u2028c", "a b c"),
        (b"\xffx", "\ufffdx"),
        ("\x1b[31mred\u202e\x9b\ud800", "\ufffd[31mred\ufffd\ufffd\ufffd"),
        ("ä" * 300, "ä" * 300),
        ("ä" * 301, "ä" * 299 + "…"),
        (" " * 10**7 + "x", ""),
        (12, "12"),
    ],
    ids=range(7),
)
def test_text_is_cleaned(data: object, shown: str) -> None:
    """Any value becomes one printable line, and not a long one."""
    assert words.clean(data) == shown


def test_hostile_words_can_be_repeated(tmp_path: Path) -> None:
    """A value of a wrong type, or no architecture at all, is no crash."""
    path = hostile.write(tmp_path / "x.gguf", {"general.name": text(b"\xff\xfe")})
    found, _ = publishing.gather([path])
    assert "\ufffd" in page.made(found)


@pytest.mark.parametrize("key", ["general.file_type", "llama.context_length", "general.tags"])
def test_lists_where_numbers_belong(tmp_path: Path, key: str) -> None:
    """The same of a list, which no table can look up."""
    wrong = Value(GGUFValueType.ARRAY, [2**64 - 1], GGUFValueType.UINT64)
    more = {"general.architecture": text("llama"), key: wrong}
    found, _ = publishing.gather([hostile.write(tmp_path / "x.gguf", more)])
    assert "x.gguf" in page.made(found)
