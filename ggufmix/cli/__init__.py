"""The command line: arguments in, text out. Results go to stdout, all else to stderr; exit codes
are those of ggufmix.errors. One file a command, or a few that belong together; heavy imports wait
for the command that needs them.
"""

# SPDX-License-Identifier: MIT

import sys
from typing import Annotated

import typer

from ..errors import GgufmixError
from . import convert, imatrix, looking, plan, recipes, running

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Model checkpoints to quantized GGUF, in one pass, with rules that know the architecture.",
)
COMMANDS = (
    convert.convert,
    plan.plan,
    imatrix.imatrix,
    running.lint,
    running.advise,
    looking.inspect,
    looking.formats,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(recipes.app, name="recipes")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        print(version_of("ggufmix"))
        raise typer.Exit


def main() -> None:
    """Entry point of the `ggufmix` command."""
    try:
        app()
    except GgufmixError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
