"""The main promise, end to end: what `convert` writes is what llama.cpp's own tools write, and it
runs.
"""

# SPDX-License-Identifier: MIT

import json
from pathlib import Path

import numpy as np
import pytest
from whole_file import described

import ggufmix
from ggufmix import evaluating
from ggufmix.pipeline import Options
from ggufmix.runtime import Llama, kl

GOLDEN = Path(__file__).parents[1] / "golden"
TOKENS = 256


@pytest.fixture(scope="module")
def files(example: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example model by every recipe, and as llama.cpp's tools would write it."""
    folder = tmp_path_factory.mktemp("converted")
    made = {}
    for name in ("f32", "bf16", "f16", "q8_0", "q4_0"):
        made[name] = folder / f"{name}.gguf"
        ggufmix.convert(example, made[name], name)
    made["mirror"] = folder / "mirror.gguf"
    ggufmix.convert(example, made["mirror"], options=Options(mirror="llama.cpp"))
    return made


@pytest.fixture(scope="module")
def tokens(files: dict[str, Path], heldout: str) -> list[int]:
    """Held-out text in llama.cpp's tokens."""
    with Llama(files["f32"]) as model:
        return model.tokenize(heldout[:20000])


@pytest.fixture(scope="module")
def theirs(example: Path, tokens: list[int]) -> np.ndarray:
    """Logits of transformers in float32, before any conversion."""
    import torch
    import transformers

    model = transformers.Qwen3_5MoeForCausalLM.from_pretrained(example, dtype=torch.float32)
    with torch.no_grad():
        return np.asarray(model.eval()(torch.tensor([tokens[:TOKENS]])).logits[0])


@pytest.mark.parametrize(
    ("recipe", "golden"), [("f32", "f32"), ("bf16", "bf16"), ("mirror", "q8_0")]
)
def test_equal_to_the_converter(files: dict[str, Path], recipe: str, golden: str) -> None:
    """Every tensor has the bytes, and every key the value, that llama.cpp's own converter wrote for
    the same checkpoint; besides, only keys of our own.
    """
    want = json.loads((GOLDEN / f"example-{golden}.json").read_text())
    made = json.loads(json.dumps(described(files[recipe])))
    assert {k: v for k, v in made["values"].items() if not k.startswith("ggufmix.")} == want[
        "values"
    ]
    decay = [name for name in want["tensors"] if name.endswith("ssm_a")]  # exp is not exact
    assert [made["tensors"].pop(n)[:2] for n in decay] == [
        want["tensors"].pop(n)[:2] for n in decay
    ]
    assert made["tensors"] == want["tensors"]


@pytest.mark.parametrize(
    ("recipe", "bound"), [("f32", 1e-6), ("bf16", 5e-3), ("q8_0", 0.05), ("q4_0", 0.5)]
)
def test_divergence_from_transformers(
    files: dict[str, Path], tokens: list[int], theirs: np.ndarray, recipe: str, bound: float
) -> None:
    """Mean KL from transformers' float32 logits, nats per token, stays below what was promised."""
    with Llama(files[recipe]) as model:
        assert kl(theirs, model.logits(tokens[:TOKENS])) < bound


def test_it_knows_its_text(files: dict[str, Path], heldout: str) -> None:
    """The quantized file predicts held-out text about as well as the checkpoint; a broken one would
    be in the thousands.
    """
    measured = {
        name: evaluating.evaluate(files[name], heldout, 512, windows=4).summary()["ppl"]
        for name in ("f32", "q8_0")
    }
    assert measured["f32"] < 120
    assert abs(measured["q8_0"] / measured["f32"] - 1) < 0.02


def test_the_same_tokens(example: Path, files: dict[str, Path], heldout: str) -> None:
    """llama.cpp cuts text, code, other scripts and control tokens as the tokenizer does."""
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_file(str(example / "tokenizer.json"))
    texts = [
        heldout,
        "def f(x):\n\treturn x ** 2  # 1234567 !!\r\n\n   end",
        "naïve façade; 東京タワー, Привет мир, ไทย नमस्ते é e\u0301 🙂🙃",
        "<|im_start|>user\nHello<|im_end|>\n<|endoftext|>",
    ]
    with Llama(files["q8_0"]) as model:
        for text in texts:
            assert model.tokenize(text) == theirs.encode(text, add_special_tokens=False).ids
