"""Mending a file without moving it: its key-values shown, set and taken away."""

# SPDX-License-Identifier: MIT

from ..container import Value
from .editing import FIXED, Change, Edit, apply, first_part, prepare, read, restore
from .values import parse, type_name

__all__ = [
    "FIXED",
    "Change",
    "Edit",
    "Value",
    "apply",
    "first_part",
    "parse",
    "prepare",
    "read",
    "restore",
    "type_name",
]
