"""Whether an FP8 checkpoint is what its source was, as far as FP8 goes: one verdict a tensor.

The verdict hangs on the relative error, which does not depend on the scale of a model's weights.
E4M3 with a scale for each block costs a bell-shaped weight 2.64 %, whatever the search; up to 2.8 %
nothing is wrong. Engines that round the scales a second time, to powers of two, come to 3.7 %,
which has cost a Qwen3.5-35B-A3B twelve points of GSM8K (vLLM, pull request 38083): so from 3.5 %
on a tensor has failed.

The three measures of QuixiAI's toolkit stand beside it with the bands of its README, for those who
know them, and decide nothing: its mean and largest error are absolute, so that they judge the size
of the weights, and its cosine of 0.9997 is beyond E4M3, whose floor is 0.99965.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .coding import Search
from .losses import Lost

Verdict = Literal["GOOD", "WARN", "FAIL"]

RRMSE_GOOD, RRMSE_WARN = 0.028, 0.035
FLUSHED_GOOD = 0.01
"""Of a bell-shaped weight less than 1 in 100,000 goes to zero. Many do where single values dwarf
their blocks, or where a model has channels that are all but dead: worth a look, no failure.
"""
SATURATED_SHOWN = 1e-5

_FLOOR = "2.64 %"
_FACTOR = re.compile(r"rms\(k=([^)]+)\)")


def _seeds(value: float, good: float, warn: float, *, least: bool = False) -> Verdict:
    if least:
        return "GOOD" if value >= good else "WARN" if value >= warn else "FAIL"
    return "GOOD" if value <= good else "WARN" if value <= warn else "FAIL"


SEED_BANDS: dict[str, tuple[float, float]] = {
    "cosine": (0.9997, 0.9995),
    "mae": (0.0008, 0.001),
    "maxae": (0.01, 0.02),
}
"""GOOD and WARN of QuixiAI's README. The code of that toolkit has others."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One FP8 weight. `problem`: what is wrong beside its values, None if nothing is."""

    name: str
    shape: tuple[int, ...]
    lost: Lost
    problem: str | None = None

    @property
    def verdict(self) -> Verdict:
        """GOOD, WARN or FAIL."""
        if self.problem is not None or not self.lost.rrmse <= RRMSE_WARN:
            return "FAIL"
        good = self.lost.rrmse <= RRMSE_GOOD and self.lost.flushed_share <= FLUSHED_GOOD
        return "GOOD" if good else "WARN"

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "verdict": self.verdict,
            "problem": self.problem,
            "rrmse": self.lost.rrmse,
            "cosine": self.lost.cosine,
            "mae": self.lost.mae,
            "maxae": self.lost.maxae,
            "saturated": self.lost.saturated,
            "saturated_share": self.lost.saturated_share,
            "flushed": self.lost.flushed,
            "flushed_share": self.lost.flushed_share,
        }


@dataclass(frozen=True, slots=True)
class Review:
    """A whole checkpoint.

    calibration  mode and what it was given, such as "rms(k=5.0)"; None where only files are known
    shards       files of weights
    weights      FP8 weights that were measured, in stored order
    passed       tensors that were copied
    compared     of those: read back and found equal to the source, byte by byte
    read_back    FP8 weights that were read back from the file and measured once more
    problems     sentences on anything else that is wrong; each one fails the checkpoint
    judged       False where the user wants no verdict
    """

    calibration: str | None
    shards: int
    weights: tuple[Reviewed, ...]
    passed: int
    compared: int
    read_back: int
    problems: tuple[str, ...] = ()
    judged: bool = True

    @property
    def verdict(self) -> Verdict:
        """The worst there is."""
        found = {w.verdict for w in self.weights}
        if self.problems or "FAIL" in found:
            return "FAIL"
        return "WARN" if "WARN" in found else "GOOD"

    @property
    def counts(self) -> dict[str, int]:
        """FP8 weights by verdict."""
        found = [w.verdict for w in self.weights]
        return {verdict: found.count(verdict) for verdict in ("GOOD", "WARN", "FAIL")}

    @property
    def whole(self) -> Lost:
        """Of all FP8 weights as one."""
        return sum((w.lost for w in self.weights), Lost())

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        whole = self.whole
        return {
            "verdict": self.verdict if self.judged else None,
            "calibration": self.calibration,
            "shards": self.shards,
            "fp8_weights": len(self.weights),
            "verdicts": self.counts,
            "passthrough": self.passed,
            "compared": self.compared,
            "read_back": self.read_back,
            "rrmse": whole.rrmse,
            "cosine": whole.cosine,
            "saturated_share": whole.saturated_share,
            "flushed_share": whole.flushed_share,
            "seed": {
                name: {"value": value, "band": band} for name, value, band in seed_metrics(self)
            },
            "problems": list(self.problems),
            "recommendations": list(recommendations(self)),
            "tensors": [w.as_dict() for w in self.weights],
        }


def seed_metrics(review: Review) -> Iterator[tuple[str, float, Verdict]]:
    """The measures of QuixiAI's summary, with its bands: means over tensors, and the worst."""
    lost = [w.lost for w in review.weights if w.lost.sums.count]
    if not lost:
        return
    cosine, mae, largest = SEED_BANDS["cosine"], SEED_BANDS["mae"], SEED_BANDS["maxae"]
    mean = sum(x.cosine for x in lost) / len(lost)
    yield "cosine sim", mean, _seeds(mean, *cosine, least=True)
    mean = sum(x.mae for x in lost) / len(lost)
    yield "mean abs err", mean, _seeds(mean, *mae)
    worst = max(x.mae for x in lost)
    yield "worst MAE", worst, _seeds(worst, *mae)
    worst = max(x.maxae for x in lost)
    yield "worst MaxAE", worst, _seeds(worst, *largest)


def recommendations(review: Review) -> Iterator[str]:
    """What to do about tensors that are not GOOD, and what not to mind."""
    off = [w for w in review.weights if w.verdict != "GOOD" and w.problem is None]
    saturated = [w for w in off if w.lost.saturated_share > SATURATED_SHOWN]
    flushed = [w for w in off if w.lost.flushed_share > FLUSHED_GOOD]
    others = [w for w in off if w not in saturated and w not in flushed]
    if saturated:
        worst = max(saturated, key=lambda w: w.lost.rrmse)
        yield (
            f"{len(saturated)} weights lose more than {_FLOOR} to saturation, worst {worst.name} "
            f"({100 * worst.lost.rrmse:.2f} %, {100 * worst.lost.saturated_share:.3f} % of it "
            f"beyond its scales): {_wider(review.calibration)}"
        )
    if flushed:
        worst = max(flushed, key=lambda w: w.lost.flushed_share)
        yield (
            f"in {len(flushed)} weights many values became zero, worst {worst.name} "
            f"({100 * worst.lost.flushed_share:.2f} %): "
            + (
                _narrower(review.calibration)
                or "single values dwarf their blocks, or its channels are all but dead; --keep "
                f"{_module(worst.name)} leaves it as it is"
            )
        )
    if others:
        worst = max(others, key=lambda w: w.lost.rrmse)
        yield (
            f"{len(others)} weights lose more than {_FLOOR}, worst {worst.name} "
            f"({100 * worst.lost.rrmse:.2f} %), and not to saturation: --mode mse finds the best "
            f"scales there are, --keep {_module(worst.name)} leaves it as it is"
        )
    if any(w.verdict == "FAIL" for w in off):
        yield "a weight that failed in mode mse too is better kept: --keep with its name"
    absolute = [(n, v) for n, v, band in seed_metrics(review) if band == "FAIL" and "sim" not in n]
    if absolute and review.verdict == "GOOD":
        named = " and ".join(f"{name} {value:.6f}" for name, value in absolute)
        yield (
            f"{named}: beyond the limits of QuixiAI's toolkit, which grow with the size of the "
            "weights; the relative error is what it has to be, so there is nothing to do"
        )


def _wider(calibration: str | None) -> str:
    mode = (calibration or "").partition("(")[0]
    if mode == "rms":
        return "a larger --rms-factor, or --mode mse"
    if mode == "percentile":
        return "a larger --percentile, or --mode mse"
    return "--mode mse or max, in which next to nothing saturates"


def _narrower(calibration: str | None) -> str | None:
    """What to do about values that become zero, where the factor of rms explains that alone: codes
    begin at half of 2^-9 scales, below which a bell shape has sqrt(2 / pi) * K / (448 * 2^10).
    """
    stated = _FACTOR.match(calibration or "")
    share = math.sqrt(2 / math.pi) * float(stated[1]) / (448 * 1024) if stated else 0.0
    if stated is None or share <= FLUSHED_GOOD:
        return None
    lost = f"{100 * share:.0f} %" if share < 0.5 else "most"
    return (
        f"with a factor of {stated[1]} that is {lost} of any bell shape; a smaller --rms-factor "
        f"({Search().factor:g} by default), or --mode mse"
    )


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def summary(review: Review) -> Iterator[tuple[str, Sequence[Sequence[str]]]]:
    """The health report: tables with a title each, as rows of text."""
    counts = review.counts
    rows = [] if review.calibration is None else [["calibration", review.calibration]]
    verdicts = f" ({', '.join(f'{n} {v}' for v, n in counts.items())})" if review.judged else ""
    rows += [
        ["shards", str(review.shards)],
        ["FP8 weights", f"{len(review.weights)}{verdicts}"],
        ["read back", f"{review.read_back} of them"],
        ["passthrough tensors", f"{review.passed} ({review.compared} compared byte by byte)"],
    ]
    yield "", rows
    if not any(w.lost.sums.count for w in review.weights):
        return
    whole = review.whole
    worst = max(review.weights, key=lambda w: w.lost.rrmse)
    limits = f"GOOD to {100 * RRMSE_GOOD:.1f} %, FAIL from {100 * RRMSE_WARN:.1f} %"
    yield (
        "relative to the weights",
        [
            ["rel. RMSE", f"{100 * whole.rrmse:.3f} %", f"floor of bell shapes {_FLOOR}"],
            ["worst", f"{100 * worst.lost.rrmse:.3f} %", f"{worst.name}; {limits}"],
            ["cosine", f"{whole.cosine:.6f}", ""],
            ["saturated", f"{100 * whole.saturated_share:.4f} %", ""],
            ["flushed", f"{100 * whole.flushed_share:.4f} %", ""],
        ],
    )
    yield (
        "as QuixiAI's toolkit has it (absolute, decides nothing)",
        [[name, f"{value:.6f}", band, _limit(name)] for name, value, band in seed_metrics(review)],
    )


def _limit(name: str) -> str:
    key = {"cosine sim": "cosine", "worst MaxAE": "maxae"}.get(name, "mae")
    sign = ">=" if key == "cosine" else "<="
    return f"hard limit {sign} {SEED_BANDS[key][1]}"


def closing(review: Review) -> str:
    """The last line."""
    if not review.judged:
        return "not verified, as asked."
    counts: Mapping[str, int] = review.counts
    n = len(review.problems)
    return {
        "GOOD": "GOOD: every weight is as close as FP8 allows. Ready for inference.",
        "WARN": f"WARN: usable; {counts['WARN']} weights are less close than FP8 allows.",
        "FAIL": f"FAIL: {counts['FAIL']} weights"
        + (f" and {n} other problem{'s' * (n != 1)}" if n else "")
        + ". Do not deploy.",
    }[review.verdict]
