"""What every room of the tests may use."""

# SPDX-License-Identifier: MIT

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def example() -> Path:
    """The trained Qwen3.5-MoE hybrid of four million weights."""
    return ROOT / "examples" / "tiny-qwen35moe"


@pytest.fixture(scope="session")
def heldout() -> str:
    """Text that the example model has not seen."""
    return (ROOT / "examples" / "wiki-heldout.txt").read_text()


@pytest.fixture
def model(example: Path, tmp_path: Path) -> Path:
    """A copy of the example model that a test may damage."""
    return Path(shutil.copytree(example, tmp_path / "model"))
