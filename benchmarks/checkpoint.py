"""Make a Qwen3.5-MoE checkpoint of a given size, for timing: bf16-valued random weights, the
example's tokenizer or a full-size one.

python benchmarks/checkpoint.py OUT_DIR [--layers 8] [--vocabulary 248320]
"""

# SPDX-License-Identifier: MIT

import argparse
import json
import shutil
import struct
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import ml_dtypes
import numpy as np

EXAMPLE = Path(__file__).parents[1] / "examples" / "tiny-qwen35moe"
HIDDEN, EXPERTS, FFN, HEADS, KV_HEADS, HEAD_DIM = 1024, 32, 512, 8, 2, 128
K_HEADS, V_HEADS, LINEAR_DIM, KERNEL = 8, 16, 128, 4
SHARD_BYTES = 500_000_000
LAYERS, ROWS = 8, 32768


def config(layers: int, rows: int) -> dict[str, object]:
    """A config.json that fits the tensors below."""
    made: dict[str, object] = json.loads((EXAMPLE / "config.json").read_text())
    kinds = ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(layers)]
    made |= {
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "layer_types": kinds,
        "vocab_size": rows,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "linear_num_key_heads": K_HEADS,
        "linear_num_value_heads": V_HEADS,
        "linear_key_head_dim": LINEAR_DIM,
        "linear_value_head_dim": LINEAR_DIM,
        "linear_conv_kernel_dim": KERNEL,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": FFN,
        "shared_expert_intermediate_size": FFN,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "partial_rotary_factor": 0.25,
            "mrope_interleaved": True,
            "mrope_section": [6, 5, 5],
        },
    }
    return made


def shapes(layers: int, rows: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of the checkpoint, experts fused as transformers 5 saves them."""
    yield "model.embed_tokens.weight", (rows, HIDDEN)
    yield "lm_head.weight", (rows, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    keys, values = K_HEADS * LINEAR_DIM, V_HEADS * LINEAR_DIM
    for i in range(layers):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", (HIDDEN,)
        yield at + "post_attention_layernorm.weight", (HIDDEN,)
        if i % 4 == 3:
            yield at + "self_attn.q_proj.weight", (2 * HEADS * HEAD_DIM, HIDDEN)
            yield at + "self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
            yield at + "self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
            yield at + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
            yield at + "self_attn.q_norm.weight", (HEAD_DIM,)
            yield at + "self_attn.k_norm.weight", (HEAD_DIM,)
        else:
            yield at + "linear_attn.in_proj_qkv.weight", (2 * keys + values, HIDDEN)
            yield at + "linear_attn.in_proj_z.weight", (values, HIDDEN)
            yield at + "linear_attn.in_proj_a.weight", (V_HEADS, HIDDEN)
            yield at + "linear_attn.in_proj_b.weight", (V_HEADS, HIDDEN)
            yield at + "linear_attn.conv1d.weight", (2 * keys + values, 1, KERNEL)
            yield at + "linear_attn.A_log", (V_HEADS,)
            yield at + "linear_attn.dt_bias", (V_HEADS,)
            yield at + "linear_attn.norm.weight", (LINEAR_DIM,)
            yield at + "linear_attn.out_proj.weight", (HIDDEN, values)
        yield at + "mlp.gate.weight", (EXPERTS, HIDDEN)
        yield at + "mlp.experts.gate_up_proj", (EXPERTS, 2 * FFN, HIDDEN)
        yield at + "mlp.experts.down_proj", (EXPERTS, HIDDEN, FFN)
        yield at + "mlp.shared_expert.gate_proj.weight", (FFN, HIDDEN)
        yield at + "mlp.shared_expert.up_proj.weight", (FFN, HIDDEN)
        yield at + "mlp.shared_expert.down_proj.weight", (HIDDEN, FFN)
        yield at + "mlp.shared_expert_gate.weight", (1, HIDDEN)


def make(
    folder: Path, layers: int = LAYERS, rows: int = ROWS, vocabulary: int | None = None
) -> int:
    """Write the checkpoint and return its number of weights. `vocabulary` makes a tokenizer of that
    many tokens too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = vocabulary or rows
    (folder / "config.json").write_text(json.dumps(config(layers, rows), indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(EXAMPLE / name, folder / name)
    if vocabulary:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer(vocabulary)))
    noise = np.random.default_rng(1).standard_normal(8 << 20, np.float32)
    pool = (noise * np.float32(0.02)).astype(ml_dtypes.bfloat16)
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    held = 0
    for name, shape in shapes(layers, rows):
        size = 2 * int(np.prod(shape))
        if held + size > SHARD_BYTES and shards[-1]:
            shards.append([])
            held = 0
        shards[-1].append((name, shape))
        held += size
    index: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        index |= {name: file for name, _ in shard}
        total += _save(folder / file, shard, pool)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 2 * total}, "weight_map": index})
    )
    return total


def _save(path: Path, shard: list[tuple[str, tuple[int, ...]]], pool: np.ndarray) -> int:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shard:
        end = at + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for number, (_, shape) in enumerate(shard):
            left = int(np.prod(shape))
            start = 7919 * number
            while left:
                piece = pool[start : start + left]
                file.write(piece.tobytes())
                left -= len(piece)
                start = 0
    return at // 2


def tokenizer(size: int) -> dict[str, object]:
    """The example's tokenizer grown to `size` tokens: every pair of its longer tokens, in order, as
    a merge.
    """
    made = json.loads((EXAMPLE / "tokenizer.json").read_text())
    specials = made["added_tokens"]
    vocabulary = {t: i for t, i in made["model"]["vocab"].items() if i < specials[0]["id"]}
    merges = list(made["model"]["merges"])
    words = list(vocabulary)
    pairs = ((a, b) for a, b in product(words, words) if a + b not in vocabulary)
    for a, b in islice(pairs, 2 * size):
        if len(vocabulary) == size - len(specials):
            break
        if a + b not in vocabulary:
            vocabulary[a + b] = len(vocabulary)
            merges.append([a, b])
    for number, token in enumerate(specials):
        token["id"] = len(vocabulary)
        vocabulary[token["content"]] = size - len(specials) + number
    made["model"] |= {"vocab": vocabulary, "merges": merges}
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--vocabulary", type=int)
    given = parser.parse_args()
    print(f"{make(given.folder, given.layers, vocabulary=given.vocabulary) / 1e9:.3f} B weights")
