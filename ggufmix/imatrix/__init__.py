"""Importance matrices: how much each column of a weight matters, measured on text by llama-imatrix.

`read` opens files of llama.cpp (GGUF) and of llama.cpp before 2025 and ik_llama.cpp (legacy
`.dat`), several merged into one. Only names, counts and places are kept in memory: the values are
read when they are asked for, for one expert at a time. `assign` gives them to the tensors of a
plan, by name, and says what is missing; `save` and `write` write llama-imatrix's GGUF.

The values are those that llama-quantize computes, bit for bit.
"""

# SPDX-License-Identifier: MIT

from .coverage import Assigned, Health, alternatives, assign, described, examine
from .entries import Entry, Imatrix, read
from .saving import Measured, save, write

__all__ = [
    "Assigned",
    "Entry",
    "Health",
    "Imatrix",
    "Measured",
    "alternatives",
    "assign",
    "described",
    "examine",
    "read",
    "save",
    "write",
]
