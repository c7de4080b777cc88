"""The model card as the hub reads it."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ggufmix import publishing
from ggufmix.publishing import card
from ggufmix.publishing.facts import File

from . import hostile


def parts(text: str) -> tuple[dict[str, Any], str]:
    """Front matter and the rest, divided as the hub divides them: at the second line of dashes."""
    empty, front, rest = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(front), rest


def rendered(text: str) -> str:
    return str(MarkdownIt("commonmark").enable("table").render(text))


@pytest.fixture
def made(files: Path) -> list[File]:
    found, _ = publishing.gather(
        [files / "m-Q8_0.gguf", files / "m-Q4_K_M.gguf"],
        scores=publishing.read_eval(files / "eval.json"),
        verified=[publishing.read_verify(files / "verify.json")],
        made_from="Qwen/Qwen3.5-Tiny",
        quantized_by="someone",
    )
    return found


def with_model(files: list[File], **changes: Any) -> list[File]:
    return [replace(f, model=replace(f.model, **changes)) for f in files]


def test_front_matter(made: list[File]) -> None:
    """The hub lists the repository under the quantizations of what it was made from."""
    found = with_model(
        made, licenses=("Apache-2.0",), tags=("chat", "text-generation"), languages=("en", "zh")
    )
    front, _ = parts(card.made(found))
    assert front == {
        "license": "apache-2.0",
        "base_model": ["Qwen/Qwen3.5-Tiny"],
        "base_model_relation": "quantized",
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "language": ["en", "zh"],
        "tags": ["chat", "gguf", "llama.cpp"],
        "quantized_by": "someone",
    }


def test_the_hubs_own_library_reads_it(made: list[File], tmp_path: Path) -> None:
    """huggingface_hub finds the same in the card, also in that of a hostile file."""
    card_ = ModelCard(card.made(made))
    assert card_.data.base_model == ["Qwen/Qwen3.5-Tiny"]
    assert card_.data.library_name == "gguf"
    assert card_.data.to_dict()["base_model_relation"] == "quantized"
    assert card_.text.lstrip().startswith("# m GGUF")
    found, _ = publishing.gather([hostile.write(tmp_path / "evil.gguf")])
    text = card.made(found)
    assert ModelCard(text).data.to_dict() == parts(text)[0]


def test_what_is_not_known_is_left_out(made: list[File]) -> None:
    """No license, no base model, no task is made up."""
    found = with_model(made, made_from=None, quantized_by="")
    front, _ = parts(card.made(found))
    assert front == {"library_name": "gguf", "tags": ["gguf", "llama.cpp"]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"licenses": ("mit",)}, {"license": "mit"}),
        ({"licenses": ("apache-2.0", "MIT")}, {"license": ["apache-2.0", "mit"]}),
        (
            {
                "licenses": ("other",),
                "license_name": "Qwen License Agreement",
                "license_link": "https://x.example/L",
            },
            {
                "license": "other",
                "license_name": "qwen-license-agreement",
                "license_link": "https://x.example/L",
            },
        ),
        ({"licenses": ("My own terms!",)}, {"license": "other", "license_name": "my-own-terms"}),
        ({"licenses": ("<b>",)}, {"license": "other", "license_name": "b"}),
    ],
    ids=range(5),
)
def test_licenses(made: list[File], changes: dict[str, Any], expected: dict[str, Any]) -> None:
    """What has an identifier keeps it; the hub refuses others unless they are `other` with a
    name.
    """
    front, _ = parts(card.made(with_model(made, **changes)))
    assert {k: v for k, v in front.items() if k.startswith("license")} == expected


def test_words_that_look_like_numbers(made: list[File]) -> None:
    """The hub's reader of YAML takes 1e3 and 0o17 for numbers where Python's does not: a tag that
    is not quoted would be none.
    """
    tags = ("1e3", "0o17", "12:30:45", "2024-01-01", "no", "null", "3d", "chat")
    text = card.made(with_model(made, tags=tags, quantized_by="1e5"))
    assert parts(text)[0]["tags"][: len(tags)] == [*tags]
    for word in (*tags[:-1], "1e5"):
        assert f" '{word}'\n" in text
    assert "- chat\n" in text


def test_tables_have_their_cells(made: list[File]) -> None:
    """Every table is one, its rows as wide as its head, with the figures in it."""
    text = parts(card.made(made))[1]
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("| ---"):
            rows = [lines[i - 1], line]
            rows += [row for row in lines[i + 1 : lines.index("", i)] if row.startswith("|")]
            assert len({row.count("|") for row in rows}) == 1, rows
    html = rendered(text)
    assert html.count("<table>") == 4  # files, memory, scores, errors
    assert '<td style="text-align:right">0.004840 ± 0.001217</td>' in html
    assert "7.12 %" in html
    how = "over wiki.txt; KL divergence from m-BF16.gguf; perplexity of the base 4.6574 at 512"
    assert html.count(how) == 1
    assert "ggufmix convert hf://Qwen/Qwen3.5-Tiny -o m-Q8_0.gguf" in html


def test_memory_stands_under_its_context(made: list[File]) -> None:
    """Files of another context, as `meta` makes them, have their figures in their own columns."""
    other = tuple(replace(m, context=m.context // 2) for m in made[1].running.memory)
    found = [made[0], replace(made[1], running=replace(made[1].running, memory=other))]
    lines = card.made(found).splitlines()
    at = lines.index("| file | 2,048 | 4,096 | 8,192 |")
    rows = [[cell.strip() != "" for cell in row.split("|")[2:-1]] for row in lines[at + 2 : at + 4]]
    assert rows == [[False, True, True], [True, True, False]]


def test_not_measured_is_said(files: Path) -> None:
    """A card without measurements claims none."""
    found, _ = publishing.gather([files / "m-Q8_0.gguf"])
    text = card.made(found)
    assert text.count("Not measured.") == 2
    assert "SHA-256: not computed." in text
    assert "±" not in text


def test_hostile_words_are_text(tmp_path: Path) -> None:
    """Whatever a file says of itself, the card has the headings, links and tables that it has with
    any file, and no HTML.
    """
    path = hostile.write(tmp_path / "evil|`<b>.gguf")
    found, _ = publishing.gather([path])
    text = card.made(found)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert len(text) < 100_000
    front, rest = parts(text)
    assert front["license"] == "other"
    assert front["library_name"] == "gguf"
    assert "base_model" not in front
    assert front["tags"] == ["a: b", "gguf", "llama.cpp", "imatrix"]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(rest)
    inner = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inner)}
    assert not kinds & {"html_block", "html_inline", "image", "link_open", "hr", "strong_open"}
    heads = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    usual, _ = publishing.gather([hostile_free(tmp_path)])
    plain = MarkdownIt("commonmark").enable("table").parse(parts(card.made(usual))[1])
    assert len(heads) == sum(t.type == "heading_open" for t in plain)


def hostile_free(folder: Path) -> Path:
    """The same file without a word of its own."""
    path = folder / "plain.gguf"
    keys = hostile.values()
    for key, value in keys.items():
        if isinstance(value.data, str):
            keys[key] = replace(value, data="plain")
    return hostile.write(path, keys)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp", "Cs"))))
def test_escaped_text_comes_back(text: str) -> None:
    """Any line of text is shown as it is: in a table, and as code."""
    line = " ".join(text.split())
    html = MarkdownIt("commonmark", {"html": True}).enable("table")
    table = f"| a | b |\n| --- | --- |\n| x{card.escaped(line)}x | {card.code(line + 'y')} |\n"
    tokens = html.parse(table)
    cells = [t for t in tokens if t.type == "inline"]
    assert len(cells) == 4
    first = cells[2].children or []
    assert [t.type for t in first if t.type != "text_special"] in (["text"], [])
    assert "".join(t.content for t in first) == f"x{line}x"
    last = cells[3].children or []
    assert [t.type for t in last] == ["code_inline"]
    assert last[0].content.strip() == f"{line}y".strip()
