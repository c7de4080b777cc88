"""The table of tokenizers that llama.cpp knows: `tokenizers.toml` of the rule book, checked."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from functools import cache
from importlib.resources import files

import msgspec

from ..errors import RuleError

FILE = "tokenizers.toml"


class Hash(msgspec.Struct, forbid_unknown_fields=True):
    """A vocabulary known by the hash of what it makes of the test string."""

    pre: str
    sha256: str
    source: str


class Chain(msgspec.Struct, forbid_unknown_fields=True):
    """A pre-tokenizer known by its steps."""

    pre: str
    steps: list[str]
    source: str
    also: list[str] = []
    arch: dict[str, str] = {}
    ignore_merges: bool | None = None


class Special(msgspec.Struct, forbid_unknown_fields=True):
    """Special ids that come from the text of tokens, and add_bos, for some architectures."""

    arch: list[str]
    source: str
    pre: list[str] = []
    rows: int | None = None
    ids: dict[str, str] = {}
    add_bos: bool | None = None
    behind: bool = False

    def fits(self, arch: str, pre: str, rows: int) -> bool:
        """Whether the entry is meant for a model of this architecture, pre-tokenizer and number of
        tokens.
        """
        return arch in self.arch and (not self.pre or pre in self.pre) and self.rows in (None, rows)


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    schema: int
    names: list[str]
    text: str
    space_prefix: list[str]
    named_eos: list[str]
    hash: list[Hash]
    chain: list[Chain]
    special: list[Special]


def parse(raw: bytes, where: str = FILE) -> Table:
    """The table of a TOML file. Raises RuleError for unknown fields and for names that llama.cpp
    does not load.
    """
    try:
        made = msgspec.toml.decode(raw, type=Table)
    except msgspec.DecodeError as error:
        raise RuleError(f"{where}: {error}") from None
    if made.schema != 1:
        raise RuleError(f"{where}: expected schema 1, got {made.schema}")
    for chain in made.chain:
        for name in (chain.pre, *chain.also, *chain.arch.values()):
            if name not in made.names:
                raise RuleError(f"{where}: chain {chain.pre}: {name!r} is not among the names")
    return made


@cache
def table() -> Table:
    """The table that ships with the package."""
    return parse((files("ggufmix.rulebook") / FILE).read_bytes())
