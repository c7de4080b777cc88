"""`ggufmix lint` and `advise`: what to know before a file is run."""

# SPDX-License-Identifier: MIT

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .options import Json
from .said import warn

Target = Annotated[
    str | None,
    typer.Option("--target", metavar="llama.cpp|ik|vulkan", help="Where the file is to run."),
]


def lint(
    src: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.gguf|PLAN.json", help="A .gguf file, or a plan saved by plan --json."
        ),
    ],
    *,
    target: Target = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on any finding, not on errors alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look for what is likely not meant, or runs badly. Exit 1 where there is an error."""
    from .. import report, review
    from ..review.lint import TARGETS, failed

    wanted = None if target is None else next((t for t in TARGETS if t == target.lower()), None)
    if target is not None and wanted is None:
        raise UsageError(f"--target: expected one of {', '.join(TARGETS)}, got {target!r}")
    found = review.check(src, wanted)
    if as_json:
        print(json.dumps([f.as_dict() for f in found], indent=1))
    else:
        for finding in found:
            print(f"{finding.severity}: {finding.lint}: {finding.sentence}")
            if finding.hint:
                print(f"    hint: {finding.hint}")
        print(report.findings([f.severity for f in found], src.name))
    if failed(found, strict=strict):
        raise typer.Exit(1)


def advise(
    src: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.gguf|PLAN.json", help="A .gguf file, or a plan saved by plan --json."
        ),
    ],
    *,
    ctx: Annotated[int, typer.Option("--ctx", "-c", min=1, metavar="N", help="Tokens of context.")],
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="128GiB", help="RAM, or memory of the GPU.")
    ] = None,
    gtt: Annotated[
        str | None,
        typer.Option("--gtt", metavar="96GiB", help="What of the RAM an APU's GPU may use."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what running a file takes: layout, cache by type, where it fits, what is known."""
    from .. import report, review
    from ..review.advice import size

    found = review.advise(
        src,
        ctx,
        memory=size(memory) if memory is not None else None,
        gtt=size(gtt) if gtt is not None else None,
    )
    for sentence in found["warnings"]:
        warn(sentence)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    out = report.console()
    _layout(found)
    out.print("", report.caches(found), "")
    print(f"q8_0: {found['cache']['q8_0']['arithmetic']}")
    print(f"q4_0: {found['cache']['q4_0']['arithmetic']}")
    print(f"q8_0 takes {report.size(found['q8_0_over_q4_0'])} more than q4_0")
    if found["recurrent_arithmetic"]:
        print(f"recurrent state: {found['recurrent_arithmetic']}")
    print()
    for line in report.fits(found["fits"]):
        print(line)
    print()
    for sentence in found["notes"]:
        print(f"- {sentence}")
    print(f"\nrun with: {found['run']}")


def _layout(found: dict[str, Any]) -> None:
    from ..inspection import ranges

    layout = found["layout"]
    kind = "hybrid: " if layout["hybrid"] else ""
    attention, recurrent = layout["attention_layers"], layout["recurrent_layers"]
    print(
        f"{found['title']}, {found['architecture']}, {kind}"
        f"{len(attention)} attention layer{'s' * (len(attention) != 1)} ({ranges(attention)}), "
        f"{len(recurrent)} recurrent ({ranges(recurrent)})"
    )
