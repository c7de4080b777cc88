"""Tiny models of transformers, and the example calibrated once."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from checkpoints import CASES, noise, write

from ggufmix import tracing
from ggufmix.calibrating import Calibrated, Options, calibrate
from ggufmix.calibrating.assembling import Collected, collect
from ggufmix.calibrating.naming import parameters
from ggufmix.sources import open_checkpoint

N_TOKENS = 256  # longer than the original context of the scaled one
WINDOWS, CTX = 3, 128


@dataclass(frozen=True)
class Loaded:
    """A checkpoint, and the model that transformers makes of it in float32."""

    path: Path
    config: Mapping[str, Any]
    names: Sequence[str]
    model: Any
    origins: Mapping[str, tuple[tracing.Origin, ...]]

    def collect(self, *sequences: Sequence[int], **more: Any) -> Collected:
        """What calibration sees of token ids."""
        named = parameters(self.model, self.names)
        return collect(self.model, named, self.origins, sequences, len(sequences), **more)


def loaded(path: Path, hf_class: str) -> Loaded:
    """Open a checkpoint twice, as ggufmix and as transformers do."""
    import torch
    import transformers

    torch.set_num_threads(1)  # they are tiny, and test processes run beside each other
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = getattr(transformers, hf_class).from_pretrained(path, dtype=torch.float32).eval()
    with open_checkpoint(path) as checkpoint:
        origins = tracing.trace(checkpoint.config, checkpoint.tensors)
        origins.pop("output.weight", None)
        return Loaded(path, checkpoint.config, list(checkpoint.tensors), model, origins)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    """A case of tests/checkpoints.py by its name."""

    @cache
    def tiny(name: str) -> Loaded:
        case = CASES[name].plain()
        path = write(tmp_path_factory.mktemp(name), case.raw_config(), case.arrays())
        return loaded(path, case.hf_class)

    return tiny


@pytest.fixture(scope="session")
def trained(example: Path) -> Loaded:
    """The example model."""
    return loaded(example, "Qwen3_5MoeForCausalLM")


@pytest.fixture(scope="session")
def tokens() -> list[int]:
    """Tokens below 128."""
    return [int(128 * abs(u)) for u in noise("tokens", (N_TOKENS,))]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory, heldout: str) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(heldout[:20000])
    return path


@pytest.fixture(scope="session")
def calibrated(example: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """The example model over some windows of text, in float32."""
    out = tmp_path_factory.mktemp("calibrated") / "stats.gguf"
    options = Options(text=text, ctx=CTX, chunks=WINDOWS, dtype="f32", device_map="cpu")
    return calibrate(example, out, options)


@pytest.fixture(scope="session")
def ids(example: Path, text: Path) -> list[list[int]]:
    """The windows that `calibrated` has seen."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(example)
    every = tokenizer(text.read_text())["input_ids"]
    return [every[i * CTX : (i + 1) * CTX] for i in range(WINDOWS)]
