"""Options that several commands share, said once."""

# SPDX-License-Identifier: MIT

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from ..pipeline import Options

Source = Annotated[
    str,
    typer.Argument(
        metavar="SRC",
        help="Checkpoint: a directory with config.json and safetensors; a .gguf; or where one "
        "lies: hf://owner/name, s3://, https://.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", "-t", min=1, max=4096, help="Threads; all cores by default."),
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue what a stopped run has left, if there is any."),
]

DEFAULT = "q8_0"
AUTO = "auto"
OUTTYPES = "f32", "f16", "bf16", "q8_0", "tq1_0", "tq2_0", "auto"
_SEVERAL = "convert writes a file for each of several; `plan --versus` compares two"


def default(*, mmproj: bool) -> str:
    """The recipe where none is named."""
    return AUTO if mmproj else DEFAULT


def _choices(
    *,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            "-r",
            metavar="RECIPE",
            help="Recipe name (see `recipes`), or a .toml file; q8_0 by default, of --mmproj auto.",
        ),
    ] = None,
    outtype: Annotated[
        str | None,
        typer.Option(
            "--outtype",
            metavar="f32|f16|bf16|q8_0|auto",
            help="As llama.cpp's converter has it: --recipe with --mirror llama.cpp.",
        ),
    ] = None,
    pure: Annotated[  # noqa: ARG001 - takes_choices looks at it
        bool, typer.Option("--pure", help="The recipe's default type, without its mixture.")
    ] = False,
    gates: Annotated[
        str,
        typer.Option(
            metavar="bf16|f32|recipe", help="What SSM gates keep at least; recipe: no protection."
        ),
    ] = "bf16",
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="llama.cpp|ik", help="What that tool would write: its mixture, no protection."
        ),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(
            metavar="quality|llama.cpp|ik|error",
            help="For rows that do not fit a type; quality: never a larger error than asked.",
        ),
    ] = None,
    edges: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N=TYPE", help="At least TYPE in the first and last N blocks; a custom, no law."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="vulkan", help="Say what that backend runs slowly."),
    ] = None,
    set_roles: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="ROLE=TYPE", help="A type for a role, such as ffn_down_exps=Q6_K."
        ),
    ] = None,
    tensor_types: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor-type", metavar="REGEX=TYPE", help="A type for names; first match wins."
        ),
    ] = None,
    token_embedding_type: Annotated[
        str | None,
        typer.Option("--token-embedding-type", metavar="TYPE", help="--set embeddings=TYPE."),
    ] = None,
    output_tensor_type: Annotated[
        str | None,
        typer.Option(
            "--output-tensor-type",
            metavar="TYPE",
            help="--set head=TYPE: the output matrix, or the embeddings that serve as one.",
        ),
    ] = None,
    leave_output_tensor: Annotated[
        bool,
        typer.Option("--leave-output-tensor", help="--set output=SOURCE: as the source has it."),
    ] = False,
    custom_q: Annotated[
        list[str] | None,
        typer.Option(
            "--custom-q", metavar="REGEX=TYPE,...", help="ik_llama.cpp's rules, read as it does."
        ),
    ] = None,
    tensor_type_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--tensor-type-file", metavar="FILE", help="llama-quantize's rules, read as it does."
        ),
    ] = None,
    thireus: Annotated[
        list[Path] | None,
        typer.Option("--thireus", metavar="FILE", help="Recipe file of Thireus' GGUF-Tool-Suite."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option("--like", metavar="OTHER.gguf", help="The types of another file, by name."),
    ] = None,
    no_mtp: Annotated[
        bool, typer.Option("--no-mtp", help="Leave multi-token-prediction blocks out.")
    ] = False,
    mtp: Annotated[
        bool, typer.Option("--mtp", help="Write the multi-token-prediction blocks alone.")
    ] = False,
    mmproj: Annotated[
        bool, typer.Option("--mmproj", help="Write the vision projector, a file of its own.")
    ] = False,
    fuse_gate_up_exps: Annotated[
        bool,
        typer.Option(
            "--fuse-gate-up-exps", help="Write gate and up of stacked experts as one tensor."
        ),
    ] = False,
    tokenizer_pre: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Pre-tokenizer, where it is not recognised."),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="general.name of the output.")
    ] = None,
    metadata: Annotated[
        Path | None,
        typer.Option("--metadata", metavar="FILE.json", help="general.* keys, over the card's."),
    ] = None,
    override_kv: Annotated[
        list[str] | None,
        typer.Option(
            "--override-kv",
            metavar="KEY=TYPE:VALUE",
            help="Set a key of the output; TYPE is int, float, bool, str or one of GGUF.",
        ),
    ] = None,
    prune_layers: Annotated[
        str | None,
        typer.Option(
            "--prune-layers", metavar="3,7,20-25", help="Leave blocks out and number the rest anew."
        ),
    ] = None,
    scan: Annotated[
        bool, typer.Option("--scan", help="Read the data once before planning; say what won't fit.")
    ] = False,
    on_outlier: Annotated[
        str,
        typer.Option(
            metavar="error|bf16", help="A value no block scale can hold; bf16 implies --scan."
        ),
    ] = "error",
    on_inexact: Annotated[
        str,
        typer.Option(
            metavar="error|nearest|f32",
            help="Packed INT4 with a scale float16 does not hold; f32 implies --scan.",
        ),
    ] = "error",
    imatrix: Annotated[
        list[Path] | None,
        typer.Option("--imatrix", metavar="FILE", help="Importance matrix; several are merged."),
    ] = None,
    include_weights: Annotated[
        list[str] | None,
        typer.Option(
            "--include-weights", metavar="PART", help="Importance for names with PART alone."
        ),
    ] = None,
    exclude_weights: Annotated[
        list[str] | None,
        typer.Option("--exclude-weights", metavar="PART", help="Importance for names without it."),
    ] = None,
    allow_requantize: Annotated[
        bool,
        typer.Option(
            "--allow-requantize", help="Of a GGUF file: quantize again what is quantized already."
        ),
    ] = False,
) -> "Options":
    from ..options import OnOutlier, Options
    from ..rules import FallbackName, Gates, Mirror
    from ..sources import OnInexact

    if mmproj and mtp:
        raise UsageError("--mmproj, --mtp: expected one of them, got both")
    if outtype is not None:
        mirror = "llama.cpp"
    return Options(
        recipe=recipe[0] if recipe else default(mmproj=mmproj),
        gates=one_of("--gates", gates, get_args(Gates)),
        mirror=None if mirror is None else one_of("--mirror", mirror, get_args(Mirror)),
        fallback=None
        if fallback is None
        else one_of("--fallback", fallback, get_args(FallbackName)),
        edges=tuple(edges or ()),
        target=target,
        set_roles=(
            *(set_roles or ()),
            *roles_of(token_embedding_type, output_tensor_type, leave_output=leave_output_tensor),
        ),
        tensor_types=tuple(tensor_types or ()),
        custom_q=tuple(custom_q or ()),
        tensor_type_files=tuple(tensor_type_file or ()),
        thireus=tuple(thireus or ()),
        like=like,
        component="mmproj" if mmproj else "mtp" if mtp else "model",
        mtp=not no_mtp,
        fuse_gate_up_exps=fuse_gate_up_exps,
        tokenizer_pre=tokenizer_pre,
        model_name=model_name,
        metadata=metadata,
        override_kv=tuple(override_kv or ()),
        prune_layers=prune_layers,
        scan=scan,
        on_outlier=one_of("--on-outlier", on_outlier, get_args(OnOutlier)),
        on_inexact=one_of("--on-inexact", on_inexact, get_args(OnInexact)),
        imatrix=tuple(imatrix or ()),
        include_weights=tuple(include_weights or ()),
        exclude_weights=tuple(exclude_weights or ()),
        allow_requantize=allow_requantize,
    )


def takes_choices(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command with a keyword `options: Options` the command-line options that make one. One
    with a keyword `recipes` takes several recipes, in place of that of the options.
    """
    choices = inspect.signature(_choices).parameters
    parameters = inspect.signature(command).parameters.values()
    own = [p for p in parameters if p.name not in {"options", "recipes"}]
    several = len(own) + 2 == len(parameters)

    @wraps(command)
    def run(**given: Any) -> None:
        named = given["recipe"] or [default(mmproj=given["mmproj"])]
        if given["outtype"] is not None:
            named = [_outtype(given["outtype"], given["recipe"], given["mirror"])]
        recipes = given["recipe"] = _pure(named) if given["pure"] else named
        if several:
            given["recipes"] = recipes
        elif len(recipes) > 1:
            raise UsageError(f"--recipe: expected one, got {len(recipes)}", hint=_SEVERAL)
        options = _choices(**{name: given.pop(name) for name in choices})
        command(**given, options=options)

    keyword = inspect.Parameter.KEYWORD_ONLY
    both = [p.replace(kind=keyword) for p in (*own, *choices.values())]
    run.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in both}
    return run


def roles_of(
    token_embeddings: str | None, output: str | None, *, leave_output: bool
) -> tuple[str, ...]:
    """llama-quantize's options for single tensors as ROLE=TYPE, in its order of precedence."""
    found = ["output=SOURCE"] if leave_output else []
    found += [f"embeddings={token_embeddings}"] if token_embeddings is not None else []
    found += [f"head={output}"] if output is not None else []
    return tuple(found)


def _outtype(asked: str, recipes: list[str] | None, mirror: str | None) -> str:
    """The recipe for what llama.cpp's converter calls an outtype. Raises UsageError."""
    if recipes or mirror not in (None, "llama.cpp"):
        raise UsageError(
            "--outtype: is a --recipe with --mirror llama.cpp, leave those out",
            hint="--recipe alone protects what is fragile",
        )
    name: str = one_of("--outtype", asked, OUTTYPES)
    if name.startswith("tq"):
        raise UsageError(f"--outtype {name}: there is no encoder of ternary types here yet")
    return name


def _pure(recipes: list[str]) -> list[str]:
    """The same without their mixtures. Raises UsageError."""
    if files := [name for name in recipes if name.lower().endswith(".toml")]:
        raise UsageError(f"--pure: is for built-in recipes, {files[0]} says itself what it mixes")
    done = ("pure:", AUTO)  # nothing is mixed in these
    return [name if name.lower().startswith(done) else f"pure:{name}" for name in recipes]


def one_of(option: str, given: str, known: tuple[str, ...]) -> Any:
    """What is given, in small letters. Raises UsageError for anything but the known."""
    if given.lower() not in known:
        raise UsageError(f"{option}: expected one of {', '.join(known)}, got {given!r}")
    return given.lower()
