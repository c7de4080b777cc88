"""What each type can do: relative RMSE on bell-shaped weights, on heavy tails, with and without
importance, and with outliers as bad as they get. `ggufmix verify` judges by these bands.

    python benchmarks/bands.py                prints rules/bands.toml
    python benchmarks/bands.py --markdown     prints the table of docs/verify.md

GOOD ends 5 % above the worst of `ORDINARY`, WARN 5 % above the worst of `EXTREME`, both rounded up
to two digits; beyond, no weights make the type do that. Types that are not encoded here are encoded
by llama.cpp. BF16, F16 and F32 hold single values; their bands follow from the length of their
mantissas.
"""

# SPDX-License-Identifier: MIT

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ggufmix import codecs
from ggufmix.measures import Measures, measure

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import oracle

ROWS, COLS, SPREAD, MARGIN, SEED = 64, 4096, 0.02, 1.05, 7
MANTISSAS = {"F32": 24, "F16": 11, "BF16": 8}
FOREIGN = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
    *("TQ1_0", "TQ2_0"),
)
NEEDS_IMPORTANCE = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"}
FOREIGN_ROWS = 8
"""llama.cpp takes seconds for a megaweight of these."""

RULES = Path(__file__).parents[1] / "rules" / "bands.toml"

Floats = NDArray[np.float32]
Kinds = dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]]


def gaussian(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Bell-shaped."""
    return rng.standard_normal(shape)


def student(nu: float) -> Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]:
    """Heavy tails: the fewer degrees of freedom, the heavier."""
    return lambda rng, shape: rng.standard_t(nu, shape)


def outliers(
    every: int, size: float
) -> Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]:
    """Bell-shaped, one column of `every` that many times as large."""

    def made(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
        x = rng.standard_normal(shape)
        x[:, rng.permutation(shape[1])[::every]] *= size
        return x

    return made


def flat(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """All magnitudes alike often."""
    return rng.uniform(-1, 1, shape)


def small(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Bell-shaped, a fifth as large: the scales of NVFP4 have few steps there."""
    return rng.standard_normal(shape) / 5


def importance(sigma: float, *, peaks: bool = False) -> Callable[[np.random.Generator], Floats]:
    """Mean squares of activations, log-normal over the columns; peaks: one column of 200 has a
    thousand times as much.
    """

    def made(rng: np.random.Generator) -> Floats:
        found = np.exp(sigma * rng.standard_normal(COLS))
        if peaks:
            found[rng.permutation(COLS)[::200]] *= 1000
        return found.astype(np.float32)

    return made


ORDINARY: Kinds = {"Gaussian": gaussian, "Student-t, 4": student(4)}
EXTREME: Kinds = {
    **ORDINARY,
    "Student-t, 2.5": student(2.5),
    "uniform": flat,
    "small": small,
    **{
        f"1 of {every} columns x {size}": outliers(every, size)
        for every in (256, 128, 64, 32, 16)
        for size in (8, 32, 128)
    },
}
MILD = {"log-normal, 1": importance(1)}
WILD = {**MILD, "log-normal, 2": importance(2), "peaks": importance(1, peaks=True)}


def weights(
    kind: Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]], rows: int
) -> Floats:
    """Weights of one kind, valued in bfloat16."""
    x = SPREAD * kind(np.random.default_rng(SEED), (rows, COLS))
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def coded(x: Floats, name: str, column_weights: Floats | None) -> Measures:
    """What an encoder makes of weights."""
    if name in codecs.ENCODERS:
        blocks = codecs.encode(x, name, column_weights)
        return measure(x, codecs.decode(blocks, codecs.ENCODERS[name].format))
    return measure(x, codecs.decode(oracle.encode(x, name, column_weights), name))


def results(
    name: str, kinds: Kinds, columns: dict[str, Callable[[np.random.Generator], Floats]]
) -> Iterator[tuple[str, str, Measures]]:
    """Kind of weights, kind of importance, and what came out, for all that the encoder takes."""
    known = codecs.ENCODERS.get(name)
    uses = known.importance if known is not None else "OPTIONAL"
    if name in NEEDS_IMPORTANCE:
        uses = "REQUIRED"
    given: dict[str, Floats | None] = {} if uses == "REQUIRED" else {"": None}
    if uses != "NONE":
        given |= {k: made(np.random.default_rng(SEED + 1)) for k, made in columns.items()}
    for kind, made in kinds.items():
        x = weights(made, ROWS if known is not None else FOREIGN_ROWS)
        for how, column_weights in given.items():
            yield kind, how, coded(x, name, column_weights)


def band(names: list[str]) -> tuple[float, float]:
    """Where GOOD and WARN end, of a type that these encoders write."""
    ends = []
    for kinds, columns in ((ORDINARY, MILD), (EXTREME, WILD)):
        worst = max(m.rrmse for name in names for _, _, m in results(name, kinds, columns))
        ends.append(rounded_up(worst * MARGIN))
    return ends[0], ends[1]


def rounded_up(x: float) -> float:
    """To two digits."""
    digits = 1 - math.floor(math.log10(x))
    return round(math.ceil(x * 10**digits - 1e-9) / 10**digits, digits)


def types() -> dict[str, list[str]]:
    """Types with blocks, each with the encoders that write it."""
    made = {name: [name] for name in FOREIGN}
    for encoder in codecs.ENCODERS.values():
        if encoder.format.name not in MANTISSAS:
            made.setdefault(encoder.format.name, []).append(encoder.name)
    return dict(sorted(made.items(), key=lambda t: -codecs.FORMATS[t[0]].bits))


def toml() -> None:
    """The rule file, its head as it is."""
    head, band_line, _ = RULES.read_text().partition("[band]\n")
    print(head + band_line, end="")
    for name, bits in MANTISSAS.items():
        print(f"{name} = {{ good = {2.0**-bits:.1e}, warn = {2.0 ** (2 - bits):.1e} }}")
    for name, names in types().items():
        good, warn = band(names)
        print(f"{name} = {{ good = {good:g}, warn = {warn:g} }}")


def markdown() -> None:
    """The table of the docs, one line an encoder."""
    plain = {**ORDINARY, "1 of 64 columns x 32": outliers(64, 32)}
    heads = ["encoder", "cosine, Gaussian", *plain, *(f"{k}, importance" for k in ORDINARY)]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for names in types().values():
        for name in names:
            found = {(k, how): m for k, how, m in results(name, plain, MILD)}
            bell = found.get(("Gaussian", ""))
            cells = [name, "" if bell is None else f"{bell.cosine:.5f}"]
            keys = [(k, "") for k in plain] + [(k, "log-normal, 1") for k in ORDINARY]
            cells += [f"{100 * found[k].rrmse:.2f} %" if k in found else "" for k in keys]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    markdown() if "--markdown" in sys.argv else toml()
