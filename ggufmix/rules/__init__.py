"""Rules and recipes: what a tensor must be, what protects it, and what a recipe would like it to
be.

`decide` weighs them for one tensor after another: `must` beats the user's override, that beats
`protect`, and that beats the recipe; a type that does not fit the row is replaced by the fallback
table. Every decision carries its reason. The data lies in TOML files of the package
`ggufmix.rulebook`.
"""

# SPDX-License-Identifier: MIT

from .deciding import (
    GATES,
    Choices,
    Decision,
    FallbackName,
    Gates,
    decide,
    rules_for,
)
from .facts import Facts, facts, facts_from_shapes
from .files import MirrorName as Mirror
from .files import Recipe, RecipeEntry
from .overrides import Edge, Override, edge, override_by_pattern, override_by_role
from .places import layer_set
from .recipes import AUTO, COPY, as_stored, checked, recipe, recipes, tag, texts_of
from .remarks import forgone, remarks, targets
from .stored import carry
from .types import foreign_formats, is_foreign, type_named
from .words import described, first_sentence

__all__ = [
    "AUTO",
    "COPY",
    "GATES",
    "Choices",
    "Decision",
    "Edge",
    "Facts",
    "FallbackName",
    "Gates",
    "Mirror",
    "Override",
    "Recipe",
    "RecipeEntry",
    "as_stored",
    "carry",
    "checked",
    "decide",
    "described",
    "edge",
    "facts",
    "facts_from_shapes",
    "first_sentence",
    "foreign_formats",
    "forgone",
    "is_foreign",
    "layer_set",
    "override_by_pattern",
    "override_by_role",
    "recipe",
    "recipes",
    "remarks",
    "rules_for",
    "tag",
    "targets",
    "texts_of",
    "type_named",
]
