"""Convert the example model and run it in llama.cpp: what `make demo` shows.

Prints the plan, a continuation, and perplexity and KL divergence of the quantized file beside one
in the checkpoint's own precision.
"""

# SPDX-License-Identifier: MIT

import subprocess
import sys
from pathlib import Path

from ggufmix.runtime import Llama

HERE = Path(__file__).parent
MODEL = HERE / "tiny-qwen35moe"
OUT = HERE.parent / "demo"
PROMPT = "The film was released in"
FILES = "demo/tiny-BF16.gguf", "demo/tiny-SSM_BF16-Q8_0.gguf"
WINDOWS, NEW_TOKENS = 16, 32


def ggufmix(*arguments: str) -> None:
    """Run a command as a user would, and show it."""
    print("\n$ ggufmix", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "ggufmix", *arguments], check=True, cwd=HERE.parent)


def continuation(path: Path) -> str:
    """The most likely next tokens, one after another."""
    with Llama(path, n_ctx=256) as model:
        tokens = model.tokenize(PROMPT)
        for _ in range(NEW_TOKENS):
            tokens.append(int(model.logits(tokens)[-1].argmax()))
        return model.text(tokens)


def main() -> None:
    """The whole tour; about ten seconds."""
    OUT.mkdir(exist_ok=True)
    model = str(MODEL.relative_to(HERE.parent))
    ggufmix("plan", model)
    ggufmix("convert", model, "-o", FILES[0], "--recipe", "bf16", "--overwrite")
    ggufmix("convert", model, "-o", FILES[1], "--overwrite")
    said = continuation(HERE.parent / FILES[1])
    print(f"\nllama.cpp, {FILES[1]}, {NEW_TOKENS} tokens:\n  {said!r}")
    text = ("--text", "examples/wiki-heldout.txt", "--chunks", str(WINDOWS))
    ggufmix("eval", *FILES, *text, "--base", FILES[0])


if __name__ == "__main__":
    main()
