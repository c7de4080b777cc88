"""The house rules that no type checker sees: who may import whom, and how large a file may grow."""

# SPDX-License-Identifier: MIT

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ggufmix"

LEAVES = {"errors", "tensor", "codecs", "int4", "measures", "container", "checksums", "_core"}
NOUNS = LEAVES | {"planning"}
MAY_IMPORT = {
    "errors": set(),
    "tensor": {"codecs", "errors"},
    "codecs": {"errors", "_core"},
    "int4": {"codecs", "errors", "_core"},
    "measures": {"codecs", "errors", "_core"},
    "container": {"errors"},
    "profiling": set(),
    "checksums": {"container", "errors"},
    "planning": LEAVES,
    "rules": NOUNS,
    "writing": NOUNS | {"profiling"},
    "general": NOUNS,
    "naming": NOUNS,
    "imatrix": NOUNS,
    "tokenizer": NOUNS,
    "fp8": NOUNS | {"imatrix", "rules", "sources", "tracing", "writing"},
    "sources": NOUNS | {"profiling"},
    "models": NOUNS,
    "report": {"errors"},
    "progress": {"errors", "report"},
    "runtime": {"errors"},
    "evaluating": {"container", "errors", "runtime"},
    "mending": {"checksums", "container", "errors", "rules", "sources", "writing"},
    "inspection": NOUNS | {"models", "sources"},
    "outline": LEAVES,
    "dialects": {"errors"},
    "placing": NOUNS | {"general", "models", "sources", "tokenizer"},
    "tracing": NOUNS | {"models"},
    "calibrating": NOUNS | {"imatrix", "sources", "tracing", "writing"},
    "overriding": NOUNS | {"mending"},
    "pruning": NOUNS | {"models", "placing", "rules"},
    "wishes": NOUNS | {"dialects", "outline", "rules", "sources"},
    "scanning": NOUNS | {"sources", "writing"},
    "fingerprints": {"sources"},
    "splitting": NOUNS | {"sources", "writing"},
    "sumfile": {"errors", "profiling", "writing"},
    "options": {"models", "rules", "sources"},
    "verifying": NOUNS | {"report", "rules", "sources", "writing"},
    "preparing": NOUNS
    | {"imatrix", "options", "overriding", "placing", "profiling", "pruning", "rules"}
    | {"scanning", "sources", "wishes", "writing"},
    "pipeline": NOUNS
    | {"fingerprints", "naming", "options", "outputs", "placing", "preparing", "profiling"}
    | {"reusing", "scanning", "splitting", "writing"},
    "reusing": NOUNS | {"sources", "splitting", "writing"},
    "outputs": NOUNS
    | {"naming", "options", "placing", "preparing", "reusing", "rules", "splitting"},
    "clustering": {"errors", "outputs", "splitting", "writing"},
    "proof": NOUNS | {"options", "preparing", "rules", "sources", "verifying", "writing"},
    "review": NOUNS | {"dialects", "models", "outline", "pipeline", "rules", "sources"},
    "publishing": NOUNS
    | {"inspection", "options", "outline", "report", "review", "rules", "sources", "sumfile"}
    | {"verifying", "writing"},
    "cli": {
        "_core",  # the names of types alone, for a shell that waits
        "calibrating",
        "clustering",
        "codecs",
        "dialects",
        "errors",
        "evaluating",
        "fp8",
        "imatrix",
        "inspection",
        "mending",
        "options",
        "review",
        "pipeline",
        "planning",
        "profiling",
        "progress",
        "proof",
        "publishing",
        "report",
        "rules",
        "sources",
        "splitting",
        "sumfile",
        "verifying",
    },
    "__init__": {"codecs", "errors", "options", "pipeline", "proof"},
    "__main__": {"cli"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The module or subpackage right under the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Rooms of the package that a module imports from, its own left out."""
    depth = len(path.relative_to(PACKAGE).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {node.module.split(".")[0]} if node.module else {a.name for a in node.names}
        elif (
            isinstance(node, ast.ImportFrom)
            and node.level == 0
            and (node.module or "").startswith("ggufmix")
        ):
            found |= (
                {node.module.split(".")[1]} if "." in node.module else {a.name for a in node.names}
            )
    return found - {room(path)}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_flow_one_way(path: Path) -> None:
    """A module imports only from the rooms below it: siblings meet in the pipeline."""
    assert imported(path) <= MAY_IMPORT[room(path)]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_python_fits_in_mind(path: Path) -> None:
    """No module outgrows about 400 lines."""
    assert len(path.read_text().splitlines()) <= 420


@pytest.mark.parametrize("path", sorted((ROOT / "ext").rglob("*.[ch]")), ids=lambda p: p.name)
def test_c_fits_in_mind(path: Path) -> None:
    """No C file outgrows about 300 lines."""
    assert len(path.read_text().splitlines()) <= 320


def test_every_package_is_shipped() -> None:
    """A folder of code that pyproject.toml does not name would be missing from the wheel."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    assert {*named} - {"ggufmix.rulebook"} == there
