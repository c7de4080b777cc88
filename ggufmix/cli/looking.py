"""`ggufmix inspect` and `formats`: what there is."""

# SPDX-License-Identifier: MIT

import json
from typing import Annotated

import typer

from .options import Json


def inspect(
    src: Annotated[
        str,
        typer.Argument(
            metavar="FILE.gguf|DIR|URL",
            help="A GGUF file, a checkpoint directory, hf://owner/name, s3:// or https://.",
        ),
    ],
    as_json: Json = False,
    scan: Annotated[
        bool, typer.Option("--scan", help="Read the weights too: what of them is INT4, exactly.")
    ] = False,
) -> None:
    """Say what a file or checkpoint holds: architecture, layers, types, metadata."""
    from .. import inspection, report

    found = inspection.inspect(src, scan=scan)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    out = report.console()
    facts = {
        k.replace("_", " "): str(v) for k, v in found.items() if isinstance(v, str | int | float)
    }
    out.print(report.table(("", ""), facts.items()), "")
    out.print(report.types(found["types"]), "")
    metadata = found["metadata"].items()
    out.print(report.table(("key", "value"), ([k, str(v)] for k, v in metadata)))


def formats(as_json: Json = False) -> None:
    """List the storage types: bits per weight, and which can be encoded."""
    from .. import codecs, report

    rows = [
        {
            "type": f.name,
            "bits_per_weight": f.bits,
            "block": f.values,
            "encodes": f.encodes,
            "importance": f.importance,
            "encoders": [e.name for e in codecs.ENCODERS.values() if e.format is f],
        }
        for f in codecs.formats().values()
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    heads = ("type", "bits/weight", "block", "encoders", "importance")
    report.console().print(
        report.table(heads, map(_format_row, rows), right=("bits/weight", "block"))
    )


def _format_row(row: dict[str, object]) -> list[str]:
    name, bits, block = str(row["type"]), f"{row['bits_per_weight']:.4g}", str(row["block"])
    if not row["encodes"]:
        return [name, bits, block, "decoded only", ""]
    encoders = row["encoders"]
    assert isinstance(encoders, list)
    return [name, bits, block, ", ".join(encoders), str(row["importance"]).lower()]
