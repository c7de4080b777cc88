"""KL divergence over the position in the context, as a picture."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import UsageError, WriteError
from .scores import Scores

ENDINGS = (".svg", ".png", ".pdf")


def check(out: Path) -> None:
    """Raise UsageError unless a picture can be drawn to `out`."""
    if out.suffix.lower() not in ENDINGS:
        raise UsageError(f"{out}: expected a name that ends in {', '.join(ENDINGS)}")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as missing:
        raise UsageError(
            "matplotlib is not installed here", hint="pip install 'ggufmix[eval]'"
        ) from missing


def draw(scores: Mapping[str, Scores], out: Path) -> None:
    """One line for each label; positions on a logarithmic axis, as contexts grow by doubling.

    Raises WriteError where the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, found in scores.items():
        positions = found.by_position()
        places, means = [p + 1 for p, _ in positions], [k for _, k in positions]
        axes.plot(places, means, marker=".", label=label)
    axes.set(xlabel="position in the context, tokens", ylabel="mean KL divergence, nats")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_yscale("log")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    try:
        figure.savefig(out)
    except OSError as error:
        raise WriteError(f"{out}: {error.strerror}") from error
