"""Make the seeds of the corpus: one sound small file of every kind, or a few.

python tests/fuzz/make_corpus.py

What a fuzzer has found since lies beside them under names of its own.
"""

# SPDX-License-Identifier: MIT

import json
import shutil
import struct
import sys
import tempfile
from base64 import b64encode
from pathlib import Path

import gguf
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from imatrix.made import entry, legacy, write_gguf  # noqa: E402
from targets import CORPUS, EXAMPLE, _tensors  # noqa: E402
from tokenizer import cases, pieces  # noqa: E402


def keep(kind: str, name: str, data: bytes) -> None:
    """Put a seed in its place."""
    (CORPUS / kind).mkdir(parents=True, exist_ok=True)
    (CORPUS / kind / name).write_bytes(data)


def as_bytes(value: object) -> bytes:
    """A value as JSON."""
    return json.dumps(value).encode()


def typed(entries: dict[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """A safetensors file of zeros in any dtype; bits of a value are given."""
    at, made = 0, {}
    for name, (dtype, shape, bits) in entries.items():
        n = int(np.prod(shape)) * bits // 8
        made[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n]}
        at += n
    head = as_bytes(made)
    return struct.pack("<Q", len(head)) + head + b"\x01" * at


def small_gguf(folder: Path) -> bytes:
    """Key-values and tensors of many types."""
    writer = gguf.GGUFWriter(folder / "s.gguf", "llama")
    writer.add_uint32("llama.block_count", 1)
    writer.add_int64("test.i64", -5)
    writer.add_float64("test.f64", 0.5)
    writer.add_bool("test.bool", True)
    writer.add_array("test.texts", ["a", "bc", ""])
    writer.add_array("test.numbers", [1, 2, 3])
    ones = np.ones((2, 32), np.float32)
    writer.add_tensor("token_embd.weight", ones)
    for kind in ("Q8_0", "Q4_0", "BF16", "MXFP4"):
        type_ = gguf.GGMLQuantizationType[kind]
        data = gguf.quants.quantize(ones, type_)
        writer.add_tensor(f"blk.0.{kind}.weight", data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (folder / "s.gguf").read_bytes()


def main() -> None:
    """Write every seed."""
    keep("safetensors", "bf16", _tensors({"model.embed_tokens.weight": (4, 8), "b": ()}))
    keep(
        "safetensors",
        "fp8",
        typed({"a.weight": ("F8_E4M3", (4, 8), 8), "a.weight_scale_inv": ("BF16", (1, 1), 16)}),
    )
    keep(
        "safetensors",
        "int4",
        typed(
            {
                "a.weight_packed": ("I32", (4, 4), 32),
                "a.weight_scale": ("BF16", (4, 1), 16),
                "a.weight_shape": ("I64", (2,), 64),
            }
        ),
    )
    keep(
        "safetensors",
        "gptq",
        typed(
            {
                "a.qweight": ("I32", (4, 8), 32),
                "a.qzeros": ("I32", (1, 1), 32),
                "a.scales": ("F16", (1, 8), 16),
                "a.g_idx": ("I32", (32,), 32),
            }
        ),
    )
    shards = {f"t{i}": f"model-{i:05}-of-00002.safetensors" for i in (1, 2)}
    keep("index", "two", as_bytes({"metadata": {"total_size": 32}, "weight_map": shards}))
    keep("index", "away", as_bytes({"weight_map": {"t1": "../../x", "t2": "/etc/passwd"}}))
    config = json.loads((EXAMPLE / "config.json").read_text())
    keep("config", "qwen", as_bytes(config))
    int4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    packed = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    packed |= {"config_groups": {"g": {"weights": int4, "targets": ["Linear"]}}}
    keep("config", "int4", as_bytes(config | {"quantization_config": packed}))
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}
    keep("config", "gptq", as_bytes(config | {"quantization_config": gptq}))
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    keep("config", "fp8", as_bytes(config | {"quantization_config": fp8}))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        keep("gguf", "small", small_gguf(folder))
        entries = {name: entry(name, 8, [3.0, 0.0]) for name in ("a.weight", "b.weight")}
        keep("importance", "gguf", write_gguf(folder / "i.gguf", entries).read_bytes())
    old = {name: (sums.ravel(), 4) for name, (sums, _) in entries.items()}
    keep("importance", "dat", legacy(old))
    words = cases.tokenizer(tokens=[cases.added("<s>", cases.N)])
    keep("tokenizer_json", "small", as_bytes(words))
    keep("tokenizer_json", "fast", as_bytes(pieces.fast([])))
    keep(
        "tokenizer_config",
        "usual",
        as_bytes(
            {
                "add_bos_token": True,
                "bos_token": {"content": "<s>", "lstrip": False},
                "eos_token": "<s>",
                "chat_template": [{"name": "default", "template": "{{ x }}"}],
                "added_tokens_decoder": {"300": {"content": "<s>", "special": True}},
            }
        ),
    )
    keep("sentencepiece", "llama", pieces.model())
    lines = [f"{b64encode(bytes([n])).decode()} {n}" for n in range(256)]
    lines += [f"{b64encode(b'ab').decode()} 256", f"{b64encode(b'abc').decode()} 257"]
    keep("tiktoken", "bytes", "\n".join(lines).encode())
    for name in ("q8_0", "q4_k_m", "hq4_k"):
        shutil.copy(ROOT / "rules" / "recipes" / f"{name}.toml", _room("recipe") / name)
    keep("foreign_rules", "custom-q", rb"0blk\.(3[2-7]|40)\.ffn_down=q6_K,attn_q=iq4_ks")
    keep("foreign_rules", "types", b"1# comment\nblk.*ffn_up=q5_K\nattn_v.weight=Q8_0\n")
    keep("foreign_rules", "thireus", b"2## head\n^blk\\.0\\.attn_k\\.weight$=q8_0\n# end\n")
    keep("listing", "gguf", b"# m\nblk.0.ffn_down.weight\t256x128\tBF16\noutput.weight\t8x8\tF32\n")
    log = b"n_ctx=512\nMean PPL(Q) : 6.5 \xc2\xb1 0.1\nMean KLD: 0.1 \xc2\xb1 0.01\n"
    keep("measured", "log", log)
    saved = b"_logits_" + struct.pack("<3i8i", 8, 6, 1, *range(8)) + b"\x01" * 60
    keep("measured", "saved", saved)


def _room(kind: str) -> Path:
    (CORPUS / kind).mkdir(parents=True, exist_ok=True)
    return CORPUS / kind


if __name__ == "__main__":
    main()
