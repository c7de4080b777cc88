"""`ggufmix quantize`: llama-quantize's own command line."""

# SPDX-License-Identifier: MIT

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from . import plan
from .convert import tell
from .options import Overwrite, Resume, roles_of
from .said import note, resumable, say

_REST = "[OUT.gguf] TYPE [N]"
_FORM = f"IN.gguf {_REST}"


def quantize(
    src: Annotated[
        str, typer.Argument(metavar="IN.gguf", help="A GGUF file; of a split one any part.")
    ],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar=_REST,
            help="What to write, by default ggml-model-TYPE.gguf beside the input; a type of "
            "llama-quantize, such as q4_k_m, 15 or COPY; threads.",
        ),
    ],
    *,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Quantize again what is quantized already.")
    ] = False,
    leave_output_tensor: Annotated[
        bool, typer.Option("--leave-output-tensor", help="output.weight stays as it is.")
    ] = False,
    pure: Annotated[
        bool, typer.Option("--pure", help="One type everywhere, in place of the mixture.")
    ] = False,
    imatrix: Annotated[
        list[Path] | None, typer.Option("--imatrix", metavar="FILE", help="Importance matrix.")
    ] = None,
    include_weights: Annotated[
        list[str] | None,
        typer.Option("--include-weights", metavar="PART", help="Use it for names with PART alone."),
    ] = None,
    exclude_weights: Annotated[
        list[str] | None,
        typer.Option("--exclude-weights", metavar="PART", help="Use it for names without PART."),
    ] = None,
    output_tensor_type: Annotated[
        str | None,
        typer.Option("--output-tensor-type", metavar="TYPE", help="Type of output.weight."),
    ] = None,
    token_embedding_type: Annotated[
        str | None,
        typer.Option("--token-embedding-type", metavar="TYPE", help="Type of the embeddings."),
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor-type", metavar="REGEX=TYPE", help="Type of names; lower-cased, first wins."
        ),
    ] = None,
    tensor_type_file: Annotated[
        list[Path] | None,
        typer.Option("--tensor-type-file", metavar="FILE", help="A file of such rules."),
    ] = None,
    prune_layers: Annotated[
        str | None,
        typer.Option("--prune-layers", metavar="3,7,20-25", help="Leave blocks out."),
    ] = None,
    keep_split: Annotated[
        bool, typer.Option("--keep-split", help="As many parts as the input has.")
    ] = False,
    override_kv: Annotated[
        list[str] | None,
        typer.Option(
            "--override-kv", metavar="KEY=TYPE:VALUE", help="Set a key; int, float, bool or str."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show types and sizes; write nothing.")
    ] = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Quantize a GGUF file as llama-quantize does: its arguments, its mixtures, its bytes. Nothing
    is protected beyond what that tool protects; `convert` is the command that does.
    """
    from .. import pipeline, progress
    from ..pipeline import Options

    out, kind, threads = _positions(src, words)
    options = Options(
        recipe=_recipe(kind, pure=pure, imatrix=bool(imatrix) or dry_run),
        mirror="llama.cpp",
        set_roles=roles_of(
            token_embedding_type, output_tensor_type, leave_output=leave_output_tensor
        ),
        tensor_types=tuple(tensor_type or ()),
        tensor_type_files=tuple(tensor_type_file or ()),
        imatrix=tuple(imatrix or ()),
        include_weights=tuple(include_weights or ()),
        exclude_weights=tuple(exclude_weights or ()),
        override_kv=tuple(override_kv or ()),
        prune_layers=prune_layers,
        allow_requantize=allow_requantize,
    )
    if tensor_type and tensor_type_file:
        note("rules of --tensor-type come before those of files, whichever was typed first")
    if dry_run:
        made = pipeline.plan(src, options=options)
        say([made])
        plan.show(made)
        return
    with resumable(out, lambda: pipeline.unfinished([out])), progress.shown() as bar:
        result = pipeline.convert(
            src,
            str(out).replace("{", "{{").replace("}", "}}"),
            options=options,
            threads=threads,
            overwrite=overwrite,
            resume=resume,
            keep_split=keep_split,
            progress=bar.step,
            planned=lambda plans, _: say(plans),
        )
    tell([result])


def _positions(src: str, rest: list[str]) -> tuple[Path, str, int | None]:
    """Output, file type and threads, by place. Raises UsageError."""
    from ..dialects import file_type

    if not src.lower().endswith(".gguf"):
        raise UsageError(
            f"{src}: expected a .gguf file",
            hint="`ggufmix convert` takes a checkpoint and writes the quantized file at once",
        )
    kind = file_type(rest[0])
    if kind is not None:
        out = Path(src).parent / f"ggml-model-{kind}.gguf" if "://" not in src else None
        more = rest[1:]
    elif len(rest) == 1:
        raise UsageError(
            f"{rest[0]}: no type of llama-quantize; if it is the output, the TYPE behind it is "
            "missing",
            hint=_types(),
        )
    elif not rest[0]:
        raise UsageError(f"expected {_FORM}, got nothing for OUT.gguf")
    else:
        out, kind, more = Path(rest[0]), file_type(rest[1]), rest[2:]
    if kind is None:
        raise UsageError(f"{rest[1]}: no type of llama-quantize", hint=_types())
    if out is None:
        raise UsageError(f"{src}: lies elsewhere: expected OUT.gguf in front of {rest[0]}")
    if len(more) > 1:
        raise UsageError(f"expected {_FORM}, got {' '.join(more[1:])} behind it")
    return out, kind, _threads(more[0]) if more else None


def _threads(word: str) -> int | None:
    """As many as are said; of 0, as there, all cores."""
    if not word.isascii() or not word.isdigit():
        raise UsageError(f"expected {_FORM}, got {word!r} for N, the number of threads")
    return int(word) or None


def _recipe(kind: str, *, pure: bool, imatrix: bool) -> str:
    """The recipe of a file type. Raises UsageError for one that cannot be written."""
    from .. import rules
    from ..dialects import recipe_of

    name = recipe_of(kind)
    if name not in rules.recipes() and name != rules.COPY:
        raise UsageError(f"{kind}: llama-quantize writes it, ggufmix cannot yet", hint=_types())
    if kind == "Q2_K_S" and not imatrix:
        raise UsageError(
            f"{kind}: as in llama-quantize it needs an --imatrix: without one it is garbage"
        )
    return f"pure:{name}" if pure and name != rules.COPY else name


def _types() -> str:
    from .. import rules
    from ..dialects import FILE_TYPES, recipe_of

    known = {*rules.recipes(), rules.COPY}
    return f"types are {', '.join(n for n in FILE_TYPES if recipe_of(n) in known)}"
