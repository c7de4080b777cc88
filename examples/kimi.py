"""List the tensors of Kimi-K2-Thinking, from the sizes in its config.json: a model of a trillion
weights to plan with, and no download.

    python examples/kimi.py > demo/kimi.tsv

Names are those of GGUF, shapes have the length of a row first.
"""

# SPDX-License-Identifier: MIT

BLOCKS, DENSE, EXPERTS = 61, 1, 384
HIDDEN, FFN, EXPERT_FFN, VOCABULARY = 7168, 18432, 2048, 163840
HEADS, NOPE, ROPE, VALUE = 64, 128, 64, 128
Q_RANK, KV_RANK = 1536, 512

ATTENTION = {
    "attn_norm.weight": (HIDDEN,),
    "attn_q_a.weight": (HIDDEN, Q_RANK),
    "attn_q_a_norm.weight": (Q_RANK,),
    "attn_q_b.weight": (Q_RANK, HEADS * (NOPE + ROPE)),
    "attn_kv_a_mqa.weight": (HIDDEN, KV_RANK + ROPE),
    "attn_kv_a_norm.weight": (KV_RANK,),
    "attn_k_b.weight": (NOPE, KV_RANK, HEADS),
    "attn_v_b.weight": (KV_RANK, VALUE, HEADS),
    "attn_output.weight": (HEADS * VALUE, HIDDEN),
    "ffn_norm.weight": (HIDDEN,),
}
MIXTURE = {
    "ffn_gate_inp.weight": (HIDDEN, EXPERTS),
    "exp_probs_b.bias": (EXPERTS,),
    "ffn_gate_exps.weight": (HIDDEN, EXPERT_FFN, EXPERTS),
    "ffn_up_exps.weight": (HIDDEN, EXPERT_FFN, EXPERTS),
    "ffn_down_exps.weight": (EXPERT_FFN, HIDDEN, EXPERTS),
    "ffn_gate_shexp.weight": (HIDDEN, EXPERT_FFN),
    "ffn_up_shexp.weight": (HIDDEN, EXPERT_FFN),
    "ffn_down_shexp.weight": (EXPERT_FFN, HIDDEN),
}
MLP = {
    "ffn_gate.weight": (HIDDEN, FFN),
    "ffn_up.weight": (HIDDEN, FFN),
    "ffn_down.weight": (FFN, HIDDEN),
}


def tensors() -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by name."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (HIDDEN, VOCABULARY)}
    for block in range(BLOCKS):
        parts = ATTENTION | (MLP if block < DENSE else MIXTURE)
        found |= {f"blk.{block}.{name}": shape for name, shape in parts.items()}
    return found | {"output_norm.weight": (HIDDEN,), "output.weight": (HIDDEN, VOCABULARY)}


if __name__ == "__main__":
    print("name", "shape", "dtype", sep="\t")
    for name, shape in tensors().items():
        kind = "F32" if len(shape) == 1 or "ffn_gate_inp" in name else "BF16"
        print(name, "x".join(map(str, shape)), kind, sep="\t")
