"""Whole files: under --mirror llama.cpp every recipe of llama.cpp's gives what llama-quantize wrote
from the same model, byte for byte.
"""

# SPDX-License-Identifier: MIT

import importlib.util
from pathlib import Path

import pytest
from listings import GOLDEN

import ggufmix
from ggufmix.pipeline import Options

SPEC = importlib.util.spec_from_file_location(
    "llama_quantize", GOLDEN / "plans" / "llama_quantize.py"
)
assert SPEC is not None
assert SPEC.loader is not None
MADE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MADE)
LINES = (GOLDEN / "plans" / "llama-quantize.tsv").read_text().splitlines()
DIGESTS = dict(line.split("\t") for line in LINES if not line.startswith("#"))


@pytest.mark.parametrize("recipe", MADE.NAMES)
def test_the_file_is_the_one_llama_quantize_writes(
    example: Path, tmp_path: Path, recipe: str
) -> None:
    """Order, names, types and bytes of all tensors, and the file type."""
    out = tmp_path / "ours.gguf"
    ggufmix.convert(example, out, options=Options(recipe=recipe, mirror="llama.cpp"))
    assert MADE.digest(out) == DIGESTS[recipe]
