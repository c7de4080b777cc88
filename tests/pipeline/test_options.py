"""What a file records of the options it was made with."""

# SPDX-License-Identifier: MIT

import dataclasses

import pytest
import typer

from ggufmix.cli import app
from ggufmix.options import RECORDED, Options, Recorded, fields_of, recorded

ELSEWHERE = {"recipe", "imatrix"}
"""Fields that have keys of their own."""
NOTHING_WRITTEN = {"config", "arch", "target", "scan"}
"""Fields for listings, for notes, and for when the data are read."""


def value_of(of: Recorded) -> object:
    """Something that the option may have been given."""
    if of.stands is not None:
        return of.stands
    plain = {field.name: field.default for field in dataclasses.fields(Options)}[of.field]
    return ("a=b c", "d") if plain == () else "x y"


def test_every_option_that_changes_the_file_is_recorded() -> None:
    """One that is forgotten makes two different files say that they were made alike: `verify` would
    call one of them damaged, and a report would show a command that makes the other.
    """
    every = {field.name for field in dataclasses.fields(Options)}
    assert {of.field for of in RECORDED} == every - ELSEWHERE - NOTHING_WRITTEN


@pytest.mark.parametrize("of", RECORDED, ids=lambda of: of.option)
def test_what_is_recorded_says_it(of: Recorded) -> None:
    """`verify` reads from the file the options that wrote it; of files it has only names."""
    asked = dataclasses.replace(Options(), **{of.field: value_of(of)})
    said = recorded(asked)
    assert said
    assert all(words.partition(" ")[0] == of.option for words in said)
    made, rest = fields_of(said)
    if of.file:
        assert (made, rest) == ({}, said)
    else:
        assert (Options(**made), rest) == (asked, [])


@pytest.mark.parametrize("of", RECORDED, ids=lambda of: of.option)
def test_convert_takes_what_is_recorded(of: Recorded) -> None:
    """The command that a report shows has these words: convert must know each, with a value or
    without one.
    """
    parameters = typer.main.get_command(app).commands["convert"].params
    [found] = [p for p in parameters if of.option in p.opts]
    assert found.is_flag == (of.stands is not None)
