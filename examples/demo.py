"""Convert the example model and run it in llama.cpp: what `make demo` shows.

Prints the plan, a continuation, and the perplexity of the source-precision file beside that of the
quantized one.
"""

# SPDX-License-Identifier: MIT

import subprocess
import sys
from pathlib import Path

from ggufmix.runtime import Llama, perplexity

HERE = Path(__file__).parent
MODEL = HERE / "tiny-qwen35moe"
OUT = HERE.parent / "demo"
PROMPT = "The film was released in"
WINDOW, WINDOWS, NEW_TOKENS = 512, 16, 32


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
    source, quantized = OUT / "tiny-BF16.gguf", OUT / "tiny-SSM_BF16-Q8_0.gguf"
    model = str(MODEL.relative_to(HERE.parent))
    ggufmix("plan", model)
    ggufmix("convert", model, "-o", "demo/tiny-BF16.gguf", "--recipe", "bf16", "--overwrite")
    ggufmix("convert", model, "-o", "demo/tiny-SSM_BF16-Q8_0.gguf", "--overwrite")
    print(f"\nllama.cpp, {quantized.name}, {NEW_TOKENS} tokens:\n  {continuation(quantized)!r}")
    with Llama(source) as loaded:
        tokens = loaded.tokenize((HERE / "wiki-heldout.txt").read_text())[: WINDOW * WINDOWS]
    print(f"\nPerplexity on {len(tokens)} held-out tokens, windows of {WINDOW}:")
    for path in (source, quantized):
        measured = perplexity(path, tokens, WINDOW)
        print(f"  {path.name:26} {path.stat().st_size:>10,} bytes  {measured:8.3f}", flush=True)


if __name__ == "__main__":
    main()
