"""What is fed with files that nobody made on purpose: one function for each kind of file.

Each puts the bytes where such a file lies, reads it to the end, and lets through what the program
may raise. Whatever else comes out is a find.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from ggufmix import dialects, imatrix, mending, models, rules, sources, tokenizer
from ggufmix.errors import GgufmixError
from ggufmix.evaluating import base, logs

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-qwen35moe"
CORPUS = Path(__file__).parent / "corpus"
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def _tensors(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """A safetensors file of zeros."""
    at, entries = 0, {}
    for name, shape in shapes.items():
        n = 2
        for side in shape:
            n *= side
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    head = json.dumps(entries).encode()
    return struct.pack("<Q", len(head)) + head + bytes(at)


def prepare(folder: Path) -> None:
    """What lies beside a fuzzed file."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    sharded = folder / "sharded"
    sharded.mkdir()
    shutil.copy(folder / "config.json", sharded)
    for i in (1, 2):
        name = f"model-{i:05}-of-00002.safetensors"
        (sharded / name).write_bytes(_tensors({f"t{i}": (2, 4)}))
    whole = folder / "whole"
    whole.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (whole / name).symlink_to(EXAMPLE / name)
    words = folder / "words"
    words.mkdir()
    (words / "tokenizer_config.json").write_text("{}")


def _checkpoint(folder: Path) -> None:
    with sources.open_checkpoint(folder) as found:
        shown = sources.presented(found.tensors, found.config, "nearest")
        for tensor in found.tensors.values():
            if tensor.n_rows:
                tensor.raw(0, 1)
        models.place(found.config, shown.tensors)


def safetensors(data: bytes, folder: Path) -> None:
    """A file of weights."""
    (folder / "model.safetensors").write_bytes(data)
    _checkpoint(folder)


def index(data: bytes, folder: Path) -> None:
    """The index of a sharded checkpoint."""
    (folder / "sharded" / "model.safetensors.index.json").write_bytes(data)
    _checkpoint(folder / "sharded")


def config(data: bytes, folder: Path) -> None:
    """config.json of a whole model."""
    (folder / "whole" / "config.json").write_bytes(data)
    _checkpoint(folder / "whole")


def gguf(data: bytes, folder: Path) -> None:
    """A GGUF file: as a source, as a listing, and to be mended."""
    path = folder / "m.gguf"
    path.write_bytes(data)
    with sources.open_gguf(path) as found:
        for tensor in found.tensors.values():
            if tensor.n_rows:
                tensor.rows(0, 1)
    sources.read_gguf(path)
    mending.prepare(path, mending.Edit(dict([mending.parse("general.name=str:another")])))


def importance(data: bytes, folder: Path) -> None:
    """An imatrix, GGUF or legacy: which one, its first bytes say."""
    path = folder / "imatrix.bin"
    path.write_bytes(data)
    made = imatrix.read([path])
    imatrix.described(made)
    for entry in made.entries.values():
        imatrix.examine(entry)


def tokenizer_json(data: bytes, folder: Path) -> None:
    """tokenizer.json."""
    (folder / "words" / "tokenizer.json").write_bytes(data)
    _words(folder)
    (folder / "words" / "tokenizer.json").unlink()


def tokenizer_config(data: bytes, folder: Path) -> None:
    """tokenizer_config.json."""
    (folder / "words" / "tokenizer_config.json").write_bytes(data)
    small = CORPUS / "tokenizer_json" / "small"
    shutil.copy(small, folder / "words" / "tokenizer.json")
    try:
        _words(folder)
    finally:
        (folder / "words" / "tokenizer_config.json").write_text("{}")
        (folder / "words" / "tokenizer.json").unlink()


def sentencepiece(data: bytes, folder: Path) -> None:
    """tokenizer.model."""
    (folder / "words" / "tokenizer.model").write_bytes(data)
    try:
        _words(folder)
    finally:
        (folder / "words" / "tokenizer.model").unlink()


def tiktoken(data: bytes, folder: Path) -> None:
    """tiktoken.model."""
    (folder / "words" / "tiktoken.model").write_bytes(data)
    try:
        _words(folder)
    finally:
        (folder / "words" / "tiktoken.model").unlink()


def _words(folder: Path) -> None:
    tokenizer.load(folder / "words", CONFIG, rows=512, arch="llama")


def recipe(data: bytes, folder: Path) -> None:
    """A recipe of the user's own."""
    path = folder / "own.toml"
    path.write_bytes(data)
    rules.recipe(str(path))


def foreign_rules(data: bytes, folder: Path) -> None:
    """Rules of other tools: the first byte says whose."""
    path = folder / "rules.txt"
    path.write_bytes(data[1:])
    kind = data[0] % 3 if data else 0
    if kind == 0:
        dialects.custom_q(data[1:].decode(errors="replace"))
    elif kind == 1:
        dialects.tensor_type_file(path)
    else:
        dialects.thireus(path)


def listing(data: bytes, folder: Path) -> None:
    """A listing of names and shapes."""
    path = folder / "listing.tsv"
    path.write_bytes(data)
    sources.read_listing(path)


def measured(data: bytes, folder: Path) -> None:
    """What llama-perplexity saved, and what it printed."""
    path = folder / "measured"
    path.write_bytes(data)
    if base.is_saved(path):
        found = base.read(path)
        found.window(0)
    else:
        logs.read(path)


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    f.__name__: f
    for f in (
        safetensors,
        index,
        config,
        gguf,
        importance,
        tokenizer_json,
        tokenizer_config,
        sentencepiece,
        tiktoken,
        recipe,
        foreign_rules,
        listing,
        measured,
    )
}


def tried(name: str, data: bytes, folder: Path) -> None:
    """Run one target; errors of the program's own family are what a bad file should give."""
    try:
        TARGETS[name](data, folder)
    except GgufmixError as error:
        text = f"{error} {error.hint}"
        assert len(text) < 20_000, f"a message of {len(text)} characters"
