"""`ggufmix recipes`: what there is, and what one of them does."""

# SPDX-License-Identifier: MIT

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, help="List the built-in recipes, or show one.")


@app.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    """List the built-in recipes; `recipes show NAME` says what one does."""
    if context.invoked_subcommand is not None:
        return
    from .. import report, rules

    rows = (
        [made.name, made.default, rules.first_sentence(made.why)]
        for made in rules.recipes().values()
    )
    report.console().print(report.table(("recipe", "default", "for"), rows))


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A built-in recipe, pure:TYPE, or a .toml file.")
    ],
) -> None:
    """Say in words what a recipe does, then print its TOML."""
    from .. import report, rules

    made = rules.recipe(name)
    out = report.console()
    print(f"{made.name}, in file names {rules.tag(made)}: {made.why}")
    if made.source:
        print(f"known from: {made.source}")
    print("\nThe first line that fits a tensor decides, behind what rules hold or protect:\n")
    out.print(report.table(("type", "tensors", "why"), map(list, rules.described(made))))
    if made.ik:
        print(f"\nUnder --mirror ik, {len(made.ik)} lines of its own decide: [[ik]] below.")
    for where, text in rules.texts_of(name):
        print(f"\n# {where}\n{text.rstrip()}")
