"""Figures from a log of llama-perplexity, for the same table as our own.

The lines it prints at its end: "Final estimate: PPL = 6.1 +/- 0.04", and with a base "Mean PPL(Q) :
6.1 ± 0.04", "Mean KLD: 0.01 ± 0.001", "99.9% KLD: 0.4", "Same top p: 93.1 ± 0.2 %", "RMS Δp: 2.1 ±
0.1 %". Source: llama.cpp, tools/perplexity/perplexity.cpp.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import SourceError

_NUMBER = r"(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
_LINES: tuple[tuple[str, str, str | None, float], ...] = (
    (rf"Final estimate: PPL = {_NUMBER} \+/- {_NUMBER}", "ppl", "ppl_spread", 1),
    (rf"Mean PPL\(Q\)\s*:\s*{_NUMBER} ± +{_NUMBER}", "ppl", "ppl_spread", 1),
    (rf"Mean PPL\(base\)\s*:\s*{_NUMBER}", "base_ppl", None, 1),
    (rf"Mean +KLD:\s*{_NUMBER} ± +{_NUMBER}", "kld", "kld_spread", 1),
    (rf"99\.9% +KLD:\s*{_NUMBER}", "kld_999", None, 1),
    (rf"Maximum KLD:\s*{_NUMBER}", "kld_max", None, 1),
    (rf"RMS Δp\s*:\s*{_NUMBER}", "p_change_rms", None, 0.01),
    (rf"Same top p:\s*{_NUMBER} ± +{_NUMBER}", "same_top", "same_top_spread", 0.01),
    (r"n_ctx=(\d+)", "ctx", None, 1),
    (r"over (\d+) chunks", "windows", None, 1),
)
"""Pattern, names of its first and second number, and what they are multiplied with."""


def read(path: Path) -> dict[str, Any]:
    """What a log says, under the names of `Scores.summary`. Raises SourceError for one without."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    made: dict[str, Any] = {}
    for pattern, value, spread, unit in _LINES:
        found = re.search(pattern, text)
        if found:
            whole = value in ("ctx", "windows")
            made[value] = int(found[1]) if whole else float(found[1]) * unit
            if spread is not None:
                made[spread] = float(found[2]) * unit
    if "ppl" not in made:
        raise SourceError(
            f"{path}: expected a log of llama-perplexity, found no perplexity in it",
            hint="give the whole output, its last lines have the figures",
        )
    return made
