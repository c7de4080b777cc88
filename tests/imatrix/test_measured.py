"""A real imatrix of the example model: its names fit ours, and it is worth something."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from pathlib import Path

import pytest
from imatrix import made, measured

import ggufmix
from ggufmix import evaluating, runtime
from ggufmix.pipeline import Options

CHUNKS = 10


@pytest.fixture(scope="module")
def base(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("measured") / "base.gguf"
    ggufmix.convert(example, path, "bf16")
    return path


@pytest.fixture(scope="module")
def tokens(base: Path, heldout: str) -> list[int]:
    with runtime.Llama(base) as model:
        return model.tokenize(heldout)


@pytest.fixture(scope="module")
def file(base: Path, tokens: list[int]) -> Path:
    """Measured on the first chunks of the text."""
    entries = measured.measure(base, tokens[: 512 * CHUNKS])
    return made.write_gguf(base.parent / "imatrix.gguf", entries, chunks=CHUNKS)


def test_every_name_fits(example: Path, file: Path) -> None:
    """What llama.cpp measures has our names and sizes: no tensor of a block lacks importance, no
    entry is left over.
    """
    options = Options(tensor_types=[r"^blk.*\.weight=Q4_0"], imatrix=[file])
    found = ggufmix.plan(example, options=options).imatrix
    assert found is not None
    assert [name for name in found["without"] if name.startswith("blk.")] == []
    assert (found["unmatched"], found["instead"], found["unrouted"]) == ([], {}, {})
    assert found["with"] > 40


@pytest.mark.parametrize(("kind", "better"), [("Q2_K", 0.9), ("Q4_0", 0.95)])
def test_importance_brings_the_model_nearer(
    example: Path,
    base: Path,
    file: Path,
    heldout: str,
    tmp_path: Path,
    kind: str,
    better: float,
) -> None:
    """On text that was not measured, the KL divergence from BF16 is smaller with the imatrix than
    without.
    """
    found = []
    for files in ([], [file]):
        options = Options(mirror="llama.cpp", tensor_types=[rf"^blk.*weight={kind}"], imatrix=files)
        out = tmp_path / f"{len(files)}.gguf"
        ggufmix.convert(example, out, options=options)
        scores = evaluating.evaluate(out, heldout[-12_000:], 512, base=base)
        found.append(scores.summary()["kld"])
    assert found[1] < better * found[0], found
