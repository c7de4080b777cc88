"""Shell completion of values: what an option takes is read off its metavar, so that an option says
it once. Commands and options are completed by typer.

A shell waits while this runs: numpy, gguf and torch are not imported.
"""

# SPDX-License-Identifier: MIT

import inspect
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from importlib.resources import files
from itertools import chain
from pathlib import Path

import typer
from typer.models import ParameterInfo

Word = tuple[str, str]
"""What may be typed, and a line of help or ""."""

ASKED = "_GGUFMIX_COMPLETE"
BEFORE = "_GGUFMIX_BEFORE"
"""Environment: typer's question, and ours for what of a word stands before that which bash asks."""

SUFFIXES = {".gguf", ".json", ".toml", ".tsv"}
WORD = re.compile(r"([a-z0-9][\w.+-]*)(\[.*\])?")
DIVIDER = re.compile("[=:]+")  # what bash cuts words at (COMP_WORDBREAKS) that are one to us


def complete_values(app: typer.Typer) -> None:
    """Give every parameter of the app's commands what completes its values, from its metavar:

    RECIPE            a built-in recipe
    TYPE              a storage type or another way to encode
    ROLE=TYPE         a role, behind it a type; of REGEX=TYPE and N=TYPE the type
    bf16|f32|recipe   one of these words; of `cuda[:N]` it is `cuda`
    OTHER.gguf        files that end like this
    IN.gguf TYPE      several words: what each of them takes, TYPE being one of llama-quantize
    anything else     is left to the shell, which completes names of files
    """
    for command in app.registered_commands:
        assert command.callback is not None
        for parameter in inspect.signature(command.callback).parameters.values():
            for info in getattr(parameter.annotation, "__metadata__", ()):
                if isinstance(info, ParameterInfo) and isinstance(info.metavar, str):
                    info.autocompletion = _completer(info.metavar)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        complete_values(group.typer_instance)


def join_words(environ: MutableMapping[str, str]) -> None:
    """Put together again what bash has cut: `--set a=Q4` comes as `--set`, `a`, `=`, `Q4`, and the
    answer stands for `Q4` alone. What is before that in its word goes to BEFORE.
    """
    if environ.get(ASKED) != "complete_bash" or not environ.get("COMP_CWORD", "").isdigit():
        return
    joined = [""]
    divider = False
    for word in environ.get("COMP_WORDS", "").split("\n")[: int(environ["COMP_CWORD"]) + 1]:
        glued, divider = divider, bool(DIVIDER.fullmatch(word))
        if divider and joined[-1].startswith("--"):  # --gates=f32 is --gates f32
            divider = False
            joined.append("")
        elif glued or divider or not joined[-1]:
            joined[-1] += word
        else:
            joined.append(word)
    before = re.match(".*[=:]|", joined[-1])
    assert before is not None
    environ[BEFORE] = before[0]
    joined[-1] = joined[-1][before.end() :]
    environ["COMP_WORDS"] = "\n".join(joined)
    environ["COMP_CWORD"] = str(len(joined) - 1)


def _completer(metavar: str) -> Callable[[str], list[Word]] | None:
    """What typer asks for the values of a parameter, or None where the shell knows them."""
    candidates = _candidates(metavar)
    if candidates is None:
        return None

    def complete(incomplete: str) -> list[Word]:
        before = os.environ.get(BEFORE, "")
        whole = before + incomplete
        return [
            (word[len(before) :], said)
            for word, said in candidates(whole)
            if word.startswith(whole)
        ]

    return complete


def _candidates(metavar: str) -> Callable[[str], Iterable[Word]] | None:
    if " " in metavar:
        parts = [part.strip("[]") for part in metavar.split()]
        asked = [_file_types if part == "TYPE" else _candidates(part) for part in parts]
        each = [ask for ask in asked if ask is not None]
        return lambda typed: dict.fromkeys(word for ask in each for word in ask(typed))
    if metavar == "RECIPE":
        return _recipes
    if metavar == "TYPE":
        return lambda typed: _types(typed, "")
    if metavar.endswith("=TYPE"):
        return lambda typed: _assigned(typed, roles=metavar.startswith("ROLE"))
    suffixes = {Path(part.rstrip(".")).suffix for part in metavar.split("|")} & SUFFIXES
    if suffixes:
        return lambda typed: _files(typed, suffixes)
    words = [found[1] for part in metavar.split("|") if (found := WORD.fullmatch(part))]
    return (lambda _: [(word, "") for word in words]) if words else None


def _recipes(typed: str) -> Iterator[Word]:
    folder = files("ggufmix.rulebook").joinpath("recipes")
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            made = tomllib.loads(file.read_text())
            yield made["name"], re.split("[:;.] ", made["why"], maxsplit=1)[0]
    if typed.startswith("pu"):
        yield from _types(typed.partition(":")[2], "pure:")
    yield from _files(typed, {".toml"})


def _file_types(typed: str) -> Iterator[Word]:
    """Those of llama-quantize that there is a recipe for."""
    from ..dialects import FILE_TYPES, recipe_of

    known = dict(_recipes(""))
    for name in FILE_TYPES:
        if recipe_of(name) in known:
            yield name.lower() if typed.islower() else name, known[recipe_of(name)]


def _assigned(typed: str, *, roles: bool) -> Iterator[Word]:
    left, equals, right = typed.rpartition("=")
    if equals:
        yield from _types(right, f"{left}=")
    elif roles:
        meant = [role for role in _roles(typed) if role.startswith(typed)]
        if len(meant) == 1:  # with a type, so that bash puts no space behind the role
            yield from _types("", f"{meant[0]}=")
        else:
            yield from ((f"{role}=", "") for role in meant)


def _types(typed: str, before: str) -> Iterator[Word]:
    """What can be encoded; in small letters for those who type such."""
    from .. import _core

    names = dict.fromkeys(name for row in _core.table() for name in (row["format"], row["name"]))
    return ((before + (name.lower() if typed.islower() else name), "") for name in names)


def _roles(typed: str) -> Iterable[str]:
    """Those that rules and recipes speak of."""
    texts = chain.from_iterable(
        (file.read_text() for file in files("ggufmix.rulebook").joinpath(name).iterdir())
        for name in ("recipes", "architectures")
    )
    lists = (
        entry.get("roles", ())
        for text in texts
        for entries in tomllib.loads(text).values()
        if isinstance(entries, list)
        for entry in entries
        if isinstance(entry, dict)
    )
    names = sorted({role for found in lists for role in found if role.isupper()})
    return [name.lower() for name in names] if typed.islower() else names


def _files(typed: str, suffixes: set[str]) -> Iterator[Word]:
    """Files that end so, and folders beside them. Where there is no such file the shell goes on by
    itself: it walks through folders better.
    """
    folder, _, _ = typed.rpartition("/")
    start = f"{folder}/" if "/" in typed else ""
    try:
        entries = sorted(Path(start or ".").expanduser().iterdir())
    except OSError:
        return
    names = [e.name for e in entries if e.suffix in suffixes and (start + e.name).startswith(typed)]
    if names:
        names += [f"{e.name}/" for e in entries if e.is_dir() and e.name[0] != "."]
    yield from ((start + name, "") for name in names)
