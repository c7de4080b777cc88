"""Time reading a tokenizer of the size of Qwen3.5's: 248,320 rows, as many merges.

    python benchmarks/vocabulary.py [--runs 5]

The vocabulary is made, from a formula. Medians in milliseconds of: the whole `tokenizer.load`, its
parts, packing the header, and what the hash would cost if the tokenizers library read all of it.
"""

# SPDX-License-Identifier: MIT

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from ggufmix.container import header
from ggufmix.tokenizer import load, pre, source, vocab
from ggufmix.tokenizer.table import table

ROWS, ADDED, PADDED = 248_320, 26, 250


def tokenizer(*, pairs: bool) -> dict[str, Any]:
    """A tokenizer.json with random merges; `pairs`: merges as newer files write them."""
    draw = random.Random(0)  # noqa: S311
    tokens = {letter: n for n, letter in enumerate(vocab.byte_alphabet())}
    pool, merges = list(tokens), []
    while len(tokens) < ROWS - ADDED - PADDED:
        first, second = draw.choice(pool), draw.choice(pool)
        if len(first + second) <= 14 and first + second not in tokens:
            tokens[first + second] = len(tokens)
            pool.append(first + second)
            merges.append([first, second] if pairs else f"{first} {second}")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    steps = next(chain.steps for chain in table().chain if chain.pre == "qwen35")
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    return {
        "added_tokens": [
            {"id": len(tokens) + n, "content": f"<|s{n}|>", "special": True, **flags}
            for n in range(ADDED)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                *({**split, "pattern": {"Regex": regex}} for regex in steps),
                {**plain, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {**plain, "use_regex": False},
        "model": {"type": "BPE", "vocab": tokens, "merges": merges},
    }


def timed(work: Callable[[], Any], runs: int) -> float:
    """Median milliseconds."""
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found) * 1e3


def main() -> None:
    """Make the files, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    for pairs in (True, False):
        with tempfile.TemporaryDirectory() as scratch:
            print(f"merges as {'pairs' if pairs else 'strings'}")
            for name, work in works(Path(scratch), pairs=pairs).items():
                print(f"{name:20} {timed(work, runs):6.0f} ms")


def works(directory: Path, *, pairs: bool) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    made = json.dumps(tokenizer(pairs=pairs), ensure_ascii=False, indent=2)
    (directory / "tokenizer.json").write_text(made)
    config = {"eos_token_id": 0}
    files = source.read(directory)
    joined = vocab.merges(files).joined
    added = vocab.added_tokens(files, ROWS, [])
    values = load(directory, config, rows=ROWS, arch="qwen35").values
    return {
        "load": lambda: load(directory, config, rows=ROWS, arch="qwen35"),
        "  parse": lambda: source.read(directory),
        "  merges": lambda: vocab.merges(files),
        "  tokens": lambda: vocab.tokens(files, added, ROWS),
        "  hash": lambda: pre.fingerprint(files, joined),
        "pack": lambda: header(values, []),
        "hash by the library": lambda: Library.from_buffer(files.raw).encode(table().text).ids,
    }


if __name__ == "__main__":
    main()
