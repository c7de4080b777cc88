"""Templates of this package."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2


def environment(finalize: Callable[[Any], Any] | None = None) -> jinja2.Environment:
    """Where templates are found. What they are given is escaped for HTML, or by `finalize`; a name
    that they are not given is an error.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader("ggufmix.publishing"),
        autoescape=finalize is None,  # noqa: S701  # else that does it
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
