"""The parts of the documents that are written by the code itself: Markdown, by the name of the
marker that they stand between. `refresh.py` puts them there.
"""

# SPDX-License-Identifier: MIT

import dataclasses
import inspect
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gguf
import typer

import ggufmix
from ggufmix import codecs, errors, models, pipeline, planning, rules
from ggufmix.cli import app
from ggufmix.rules import files

ROOT = Path(__file__).parents[1]
TYPES = (pipeline.How, pipeline.Result, planning.Plan, planning.Planned, codecs.Format)
"""Those in signatures that a caller looks into."""


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown; the bars in cells are text."""
    lines = [[*heads], *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(" | ".join(["", *line, ""]).strip() for line in lines)


def formats_table() -> str:
    """The storage types."""
    use = {"NONE": "not used", "OPTIONAL": "optional", "REQUIRED": "required"}
    rows = [
        [
            kind.name,
            f"{kind.bits:.4g}",
            str(kind.values),
            ", ".join(e.name for e in codecs.ENCODERS.values() if e.format is kind),
            use[kind.importance],
        ]
        for kind in codecs.formats().values()
        if kind.encodes
    ]
    heads = ("type", "bits per weight", "block", "encoders", "importance matrix")
    decoded = [kind.name for kind in codecs.formats().values() if not kind.encodes]
    return f"{table(heads, rows)}\n\nDecoded only: {', '.join(decoded)}."


def commands() -> str:
    """Each command with its arguments and options."""
    return "\n\n".join(_commands(typer.main.get_command(app), "ggufmix"))


def _commands(group: Any, before: str) -> Iterator[str]:
    for name, command in group.commands.items():
        shown = f"{before} {name}"
        options = [p for p in command.params if p.name != "help"]
        arguments = [p for p in options if p.param_type_name == "argument"]
        needed = [p for p in options if p.required and p not in arguments]
        usage = [shown, *(p.metavar if p.required else f"[{p.metavar}]" for p in arguments)]
        usage += [f"{p.opts[0]} {p.metavar}" for p in needed]
        more = hasattr(command, "commands")
        usage += ["[COMMAND]"] if more else ["[OPTIONS]"] if len(options) > len(usage) - 1 else []
        said = inspect.cleandoc(command.help or "")
        text = f"## {shown}\n\n{said}\n\n```sh\n{' '.join(usage)}\n```"
        if options:
            text += "\n\n" + table(("", ""), map(_option, options))
        yield text
        if more:
            yield from _commands(command, shown)


def _option(option: Any) -> list[str]:
    """Its spellings and what it takes; what it does."""
    if option.param_type_name == "argument":
        return [_metavar(option.metavar), option.help or ""]
    takes = "" if option.is_flag else f" {_metavar(option.metavar or 'N')}"
    said = [option.help or ""]
    if option.required:
        said.append("Has to be given.")
    elif option.default not in {None, False, "", ()} and not callable(option.default):
        said.append(f"Default: `{option.default}`.")
    if option.multiple and "epeatable" not in said[0]:
        said.append("Repeatable.")
    names = [*option.opts, *option.secondary_opts]
    return [", ".join(f"`{name}`" for name in names) + takes, " ".join(said)]


def _metavar(text: str) -> str:
    """As code. A bar in code is no bar in Markdown's tables."""
    words = text.split("|")
    plain = not any(mark in text for mark in "([")
    return " | ".join(f"`{word}`" for word in words) if plain else f"`{' or '.join(words)}`"


def recipes() -> str:
    """Every built-in recipe: what for, and what decides."""
    return "\n\n".join(_recipe(made) for made in rules.recipes().values())


def _recipe(made: files.Recipe) -> str:
    known = f" Known from: {made.source}." if made.source else ""
    ik = f" Under `--mirror ik` {len(made.ik)} lines of its own decide." if made.ik else ""
    rows = [
        [f"`{kind}`", tensors.replace("|", "or"), why]
        for kind, tensors, why in rules.described(made)
    ]
    said = f"{made.why}. In file names: `{rules.tag(made)}`.{known}{ik}"
    return f"## {made.name}\n\n{said}\n\n{table(('type', 'tensors', 'why'), rows)}"


def architectures() -> str:
    """Model classes that can be converted from a checkpoint."""
    names = {name: gguf.MODEL_ARCH_NAMES[arch] for name, (arch, *_) in models.CLASSES.items()}
    rows = [
        [f"`{arch}`", ", ".join(f"`{name}`" for name, its in names.items() if its == arch)]
        for arch in sorted(set(names.values()))
    ]
    rows.append(
        ["`clip`, with `--mmproj`", ", ".join(f"`{name}`" for name in models.VISION_CLASSES)]
    )
    return table(("`general.architecture`", "classes of `config.json`"), rows)


def architecture_rules() -> str:
    """What is held and protected, by file of rules."""
    parts = []
    for book in files.shipped().books.values():
        about = "Every architecture" if "*" in book.architectures else ", ".join(book.architectures)
        held = (("is", book.must), ("is at least", book.protect))
        lines = [_rule(verb, rule) for verb, rules in held for rule in rules]
        if lines:
            parts.append(f"### {about}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _rule(verb: str, rule: Any) -> str:
    """A line of a list: what it holds, of which tensors, why, and how that is known."""
    asked = [_coded(rule.roles)] if rule.roles else []
    if dims := getattr(rule, "dims", ()):
        asked.append(f"{' or '.join(map(str, dims))} dimensions")
    if endings := getattr(rule, "endings", ()):
        asked.append(f"names that end in {_coded(endings)}")
    if but := getattr(rule, "but_endings", ()):
        asked.append(f"names that do not end in {_coded(but)}")
    kinds = {"": f"what {getattr(rule, 'like', '')} is", "SOURCE": "as the checkpoint has it"}
    kind = kinds.get(rule.type, f"`{rule.type}`")
    if also := getattr(rule, "also", ()):
        kind += f" (where it is asked for, {_coded(also)})"
    return f"- **{rule.name}** {verb} {kind}: {'; '.join(asked)}. {_reason(rule.why, rule.source)}"


def _coded(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _reason(why: str, source: str) -> str:
    return re.sub(r"([_*])", r"\\\1", f"Why: {why}. Known from: {source}.")


def fp8_rules() -> str:
    """Which modules become FP8, in both presets and in each."""
    parts = []
    for name in ("modules", "conservative", "official"):
        book = tomllib.loads((ROOT / "rules" / "fp8" / f"{name}.toml").read_text())
        lines = []
        for kind in ("keep", "quantize"):
            for entry in book.get(kind, ()):
                becomes = "becomes FP8" if kind == "quantize" else "stays as it is"
                always = ", always" if entry.get("must") else ""
                reason = _reason(entry["why"], entry["source"])
                modules = _coded(entry["modules"])
                lines.append(f"- **{entry['name']}** {becomes}{always}: {modules}. {reason}")
        title = "Every preset" if name == "modules" else f"--preset {name}"
        parts.append(f"### {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def error_classes() -> str:
    """The exceptions, and what a process ends with."""
    rows = [
        [f"`{name}`", str(kind.exit_code), " ".join(inspect.cleandoc(kind.__doc__ or "").split())]
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.GgufmixError)
    ]
    return table(("exception", "exit code", ""), rows)


def python() -> str:
    """What `import ggufmix` gives."""
    parts = [_documented(name, getattr(ggufmix, name)) for name in ggufmix.__all__]
    parts.append("## What they take and give")
    parts += [f"### {kind.__name__}\n\n{_prose(inspect.getdoc(kind) or '')}" for kind in TYPES]
    return "\n\n".join(parts)


def _documented(name: str, what: Any) -> str:
    plain = inspect.isclass(what) and not dataclasses.is_dataclass(what)
    head = f"class {name}(Exception)"
    if not plain:
        signature = inspect.signature(what)
        head = f"{name}{signature}"
        head = _bare(head if len(head) <= 80 else _folded(name, signature))
    return f"## {name}\n\n```py\n{head}\n```\n\n{_prose(inspect.getdoc(what) or '')}"


def _folded(name: str, signature: inspect.Signature) -> str:
    """One parameter a line."""
    lines, star = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            lines, star = [*lines, "*"], True
        lines.append(str(parameter))
    end = (
        ""
        if signature.return_annotation in {inspect.Parameter.empty, None}
        else (f" -> {signature.return_annotation}")
    )
    return f"{name}(\n" + "".join(f"    {line},\n" for line in lines) + f"){end}"


def _bare(signature: str) -> str:
    """Annotations without the quotes that `from __future__ import annotations` gives them."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature)


def _prose(docstring: str) -> str:
    """Columns of names and sentences become lists, all else stays."""
    out: list[str] = []
    listed = False
    for line in docstring.splitlines():
        entry = re.fullmatch(r"(\w[\w.]*(?:, \w+)*) {2,}(\S.*)", line)
        if entry:
            out += [] if listed else [""]
            out.append(f"- `{entry[1]}`: {entry[2]}")
            listed = True
        elif listed and line.startswith("  "):
            out[-1] += f" {line.strip()}"
        else:
            out += [""] if listed else []
            listed = False
            out.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


PARTS: dict[str, Callable[[], str]] = {
    "formats": formats_table,
    "commands": commands,
    "recipes": recipes,
    "architectures": architectures,
    "rules": architecture_rules,
    "fp8": fp8_rules,
    "errors": error_classes,
    "python": python,
}
