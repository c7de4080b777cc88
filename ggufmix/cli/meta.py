"""`ggufmix meta`."""

# SPDX-License-Identifier: MIT

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SourceError, UsageError, WriteError
from .options import Json
from .said import note

if TYPE_CHECKING:
    from ..mending import Value

SHOWN_ITEMS, SHOWN_CHARACTERS = 8, 100


def meta(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE.gguf", help="The file; of a split one any part."),
    ],
    *,
    set_kv: Annotated[
        list[str] | None,
        typer.Option(
            "--set-kv",
            metavar="KEY=TYPE:VALUE",
            help="Set a key; TYPE is one of GGUF, such as int32 or str; TYPE[]:JSON an array.",
        ),
    ] = None,
    remove_kv: Annotated[
        list[str] | None, typer.Option("--remove-kv", metavar="KEY", help="Take a key away.")
    ] = None,
    chat_template_file: Annotated[
        Path | None,
        typer.Option("--chat-template-file", metavar="FILE", help="Set the chat template."),
    ] = None,
    tokenizer_pre: Annotated[
        str | None,
        typer.Option("--tokenizer-pre", metavar="NAME", help="Set tokenizer.ggml.pre."),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option("--model-name", metavar="NAME", help="Set general.name.")
    ] = None,
    get: Annotated[
        str | None,
        typer.Option("--get", metavar="KEY", help="Print one value, whole and bare."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Undo an edit that was interrupted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the key-values of a file, or edit them without moving its tensors."""
    from .. import mending

    first = mending.first_part(file)
    if first.name != file.resolve().name:
        note(f"{first.name} has the key-values of all parts")
    if restore:
        mending.restore(first)
        note(f"{first}: has the header again that it had before the edit")
        return
    edit = mending.Edit(
        _settings(set_kv or (), chat_template_file, tokenizer_pre, model_name),
        tuple(remove_kv or ()),
    )
    if edit.set or edit.remove:
        _edit(first, edit, dry_run=dry_run)
        return
    if dry_run:
        raise UsageError("--dry-run: expected something to change, such as --set-kv")
    values = mending.read(first)[0].values
    if get is not None:
        _print_one(first, values, get, as_json=as_json)
    elif as_json:
        shown = {
            k: {"type": mending.type_name(v), "value": _plain(v.data)} for k, v in values.items()
        }
        print(json.dumps(shown, indent=1))
    else:
        _print(values)


def _settings(
    typed: tuple[str, ...] | list[str],
    chat_template_file: Path | None,
    tokenizer_pre: str | None,
    model_name: str | None,
) -> "dict[str, Value]":
    from .. import mending

    asked = [*typed]
    if chat_template_file is not None:
        try:
            template = chat_template_file.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{chat_template_file}: cannot be read as text: {error}") from error
        asked.append(f"tokenizer.chat_template=str:{template}")
    if tokenizer_pre is not None:
        asked.append(f"tokenizer.ggml.pre=str:{tokenizer_pre}")
    if model_name is not None:
        asked.append(f"general.name=str:{model_name}")
    made = {}
    for setting in asked:
        key, value = mending.parse(setting)
        if key in made:
            raise UsageError(f"{key} is set twice")
        made[key] = value
    return made


def _edit(path: Path, edit: Any, *, dry_run: bool) -> None:
    from .. import mending, progress, sumfile

    change = mending.prepare(path, edit)
    for key in (*edit.set, *edit.remove):
        before, after = change.before.get(key), change.after.get(key)
        print(f"{key}: {_said(before)} -> {_said(after)}")
        if before is not None and after is not None:
            kinds = mending.type_name(before), mending.type_name(after)
            if kinds[0] != kinds[1]:
                note(f"{key} was {kinds[0]}, now it is {kinds[1]}")
    how = "in place" if change.in_place else "into a new file, its header takes more room"
    if dry_run:
        note(f"{path}: would be written {how}")
        return
    summed = None
    with suppress(WriteError):
        summed = sumfile.stated(path)
    with progress.shown() as bar:
        mending.apply(change, progress=bar.step)
    note(f"{path}: written {how}")
    if summed is not None:
        note(
            f"{sumfile.NAME} has the digest of {path.name} from before this edit: "
            "ggufmix report --sha256sums writes it anew"
        )


def _print_one(path: Path, values: "Mapping[str, Value]", key: str, *, as_json: bool) -> None:
    if key not in values:
        raise UsageError(f"{path}: has no key {key}")
    data = _plain(values[key].data)
    if as_json or not isinstance(data, str):
        print(json.dumps(data))
    else:
        sys.stdout.write(data)


def _print(values: "Mapping[str, Value]") -> None:
    from .. import mending, report

    rows = ([key, mending.type_name(value), _said(value)] for key, value in values.items())
    report.console().print(report.table(("key", "type", "value"), rows))


def _said(value: "Value | None") -> str:
    if value is None:
        return "(none)"
    if value.item is None:
        return _short(value.data)
    items = [_short(item) for item in value.data[:SHOWN_ITEMS]]
    more = f", ... {len(value.data)} items" if len(value.data) > SHOWN_ITEMS else ""
    return f"[{', '.join(items)}{more}]"


def _short(data: Any) -> str:
    said = json.dumps(_plain(data), ensure_ascii=False) if not isinstance(data, str) else data
    said = said.replace("\n", "\\n")
    if len(said) > SHOWN_CHARACTERS:
        return f"{said[:SHOWN_CHARACTERS]}... {len(said)} characters"
    return said


def _plain(data: Any) -> Any:
    if isinstance(data, bytes):
        return data.decode(errors="replace")
    return [_plain(item) for item in data] if isinstance(data, list) else data
