"""Files that nobody made on purpose: a clear error or a right answer, soon, in little memory.

Here every file of the corpus is tried, whole and damaged; `make fuzz` goes on from there.
"""

# SPDX-License-Identifier: MIT

from pathlib import Path

import pytest
from fuzz.targets import CORPUS, TARGETS, prepare, tried


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What lies beside the files."""
    prepare(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str, folder: Path) -> None:
    """Every file that is kept, sound ones and finds, is read or refused with an error of ours."""
    seeds = sorted((CORPUS / name).iterdir())
    assert seeds
    for seed in seeds:
        tried(name, seed.read_bytes(), folder)


@pytest.mark.parametrize("name", TARGETS)
def test_cut_and_flipped(name: str, folder: Path) -> None:
    """So is every seed cut at any of some places, and with any of some bits flipped."""
    for seed in sorted((CORPUS / name).iterdir()):
        data = seed.read_bytes()
        step = max(len(data) // 60, 1)
        for at in range(0, len(data), step):
            tried(name, data[:at], folder)
            tried(name, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :], folder)
