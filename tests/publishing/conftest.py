"""Files to publish: the example model in a few recipes, and what was measured of one."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ggufmix
from ggufmix import proof

EVAL = [
    {
        "file": "somewhere/m-Q8_0.gguf",
        "ctx": ctx,
        "windows": 8,
        "tokens": 2040,
        "ppl": 4.643550465077349 + ctx,  # no two alike
        "ppl_spread": 0.18124274654498101,
        "base_ppl": 4.657377857896244,
        "kld": 0.004839885534896786,
        "kld_spread": 0.0012166458025922896,
        "kld_999": 0.37862061089571375,
        "kld_max": 2.08,
        "same_top": 0.9764705882352941,
        "same_top_spread": 0.003356808030022442,
        "p_change_rms": 0.024684714121789384,
        "text": "wiki.txt",
        "base": "m-BF16.gguf",
        "kld_by_position": [{"position": p, "kld": 0.0005 * (p + 1)} for p in (0, 1, 7, ctx - 2)],
    }
    for ctx in (512, 2048)
]
"""As `eval --json` prints it, of files that need not be there."""


@pytest.fixture(scope="session")
def files(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with m-Q8_0.gguf, m-Q4_K_M.gguf, eval.json and verify.json of the latter."""
    folder = tmp_path_factory.mktemp("publishing")
    ggufmix.convert(example, folder / "m-Q8_0.gguf", "q8_0")
    ggufmix.convert(example, folder / "m-Q4_K_M.gguf", "q4_k_m")
    report = proof.verify(folder / "m-Q4_K_M.gguf", example)
    document = {"file": "m-Q4_K_M.gguf", **report.as_dict()}
    (folder / "verify.json").write_text(json.dumps(document))
    (folder / "eval.json").write_text(json.dumps(EVAL))
    return folder
