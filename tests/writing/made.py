"""Small plans, and how they are written in one part or several."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ggufmix import writing
from ggufmix.codecs import encoder
from ggufmix.planning import Plan, lay_out
from ggufmix.tensor import Placed, Tensor, held
from ggufmix.writing import Extent
from ggufmix.writing.encoding import Counts, Each, Encoding, Target, encodings


def values(n: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    made = {
        f"t{i}": rng.standard_normal((120 + i, 96)).astype(ml_dtypes.bfloat16) for i in range(n)
    }
    made["t1"][3] = 1e-9  # a block that is flushed: counted, and still counted after a break
    return made


def plan(tensors: dict[str, Any], kind: str = "Q8_0") -> Plan:
    placed = [
        Placed(name, "FFN_UP", 0, x if isinstance(x, Tensor) else held(name, x))
        for name, x in tensors.items()
    ]
    return Plan("q8_0", "qwen35", {}, lay_out((p, encoder(kind), "test", None) for p in placed))


def write(
    made: Plan,
    path: Path,
    *,
    resume: bool = False,
    bound: dict[str, str] | None = None,
    threads: int = 3,
    split: int = 1,
    **more: Any,
) -> writing.Written[Each[Counts]]:
    """Write a plan, as `split` parts of as many tensors."""
    plans, paths = [made], [path]
    if split > 1:
        each = len(made.tensors) // split
        groups = [made.tensors[i * each : (i + 1) * each] for i in range(split)]
        plans = [plan({t.name: t.placed.tensor for t in group}) for group in groups]
        paths = [path.with_name(f"{path.name}.{i}") for i in range(split)]
    pairs = list(zip(plans, paths, strict=True))
    return writing.write(
        [writing.Part(at, one.header, one.total_bytes) for one, at in pairs],
        jobs_of(*plans),
        threads=threads,
        resumable=writing.Resumable(Each[Counts], bound or {"source": "a"}, resume),
        **more,
    )


def jobs_of(*plans: Plan) -> list[Encoding]:
    """The jobs that write plans, each into a part of its own."""
    return encodings(
        Target(t, Extent(len(one.header) + t.offset, t.n_bytes, number))
        for number, one in enumerate(plans)
        for t in one.tensors
    )
