"""Where the columns of a GGUF tensor come from, found by placing numbers."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import numpy as np
import pytest
from checkpoints import CASES

from ggufmix import models, tracing
from ggufmix.sources import ListedTensor
from ggufmix.tensor import held

VECTORS = ".ssm_a", ".ssm_d", ".ssm_norm.weight"
"""What has two dimensions in GGUF and one, or other values, in a checkpoint."""


def traced(name: str) -> dict[str, tuple[tracing.Origin, ...]]:
    case = CASES[name]
    listed = {k: ListedTensor(k, v.shape, "BF16") for k, v in case.arrays().items()}
    return tracing.trace(case.raw_config(), listed)


@pytest.mark.parametrize("name", CASES)
def test_every_row_is_found_where_its_origin_says(name: str) -> None:
    """Taken from the tensor, matrix and columns of its origin, the first and the last row of every
    placed matrix is there, but for a multiplier; no weight is read to know that.
    """
    case, origins = CASES[name], traced(name)
    arrays = case.arrays()
    placed = models.place(case.raw_config(), {k: held(k, v) for k, v in arrays.items()})
    for p in placed.tensors:
        if len(p.tensor.shape) < 2 or p.name.endswith(VECTORS):
            assert p.name not in origins
            continue
        each = p.tensor.matrix_rows
        assert len(origins[p.name]) == p.tensor.n_rows // each
        for m, origin in enumerate(origins[p.name]):
            source = arrays[origin.weight].astype(np.float32)
            matrix = source.reshape(-1, *source.shape[-2:])[origin.matrix]
            if source.ndim == 3 and source.shape[1] == 1:  # the taps of a convolution
                matrix = source[:, 0]
            rows = (matrix if origin.axis == -1 else matrix.T)[:, origin.index]
            for row in (m * each, (m + 1) * each - 1):
                got = p.tensor.rows(row, row + 1)[0].astype(np.float32)
                assert _among(rows, got), (p.name, m, row)


def _among(rows: np.ndarray, row: np.ndarray) -> bool:
    peak = int(np.abs(row).argmax())
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = row[peak] / rows[:, peak]
        return bool(
            (np.abs(rows * factors[:, None] - row) <= 1e-6 * np.abs(row[peak])).all(1).any()
        )


def test_columns_of_value_heads_move() -> None:
    """Qwen3.5 with two value heads of 32 for each of two key heads: head (k, j) stands at j * 2 + k
    in GGUF. So columns of out_proj are found in the order 0, 2, 1, 3 of heads, all others in place.
    """
    origins = traced("dense-tied")
    heads = np.concatenate([h * 32 + np.arange(32) for h in (0, 2, 1, 3)])
    for name, [origin] in origins.items():
        if name.endswith("ssm_out.weight"):
            assert (origin.index == heads).all()
        else:
            assert (origin.index == np.arange(len(origin.index))).all(), name


def test_experts_are_told_apart() -> None:
    """Each matrix of stacked experts comes from its own tensor, or its own part of a fused one."""
    for name, weight, matrix in (
        ("moe-one-by-one", "model.layers.2.mlp.experts.3.up_proj.weight", 0),
        ("moe-fused", "model.layers.2.mlp.experts.gate_up_proj", 3),
    ):
        origin = traced(name)["blk.2.ffn_up_exps.weight"][3]
        assert (origin.weight, origin.matrix, origin.axis) == (weight, matrix, -1)


def test_what_is_stored_transposed_is_known() -> None:
    """Of gpt-oss's experts in BF16 rows are inputs; so are, of MLA, those of the half of kv_b_proj
    that becomes attn_k_b.
    """
    assert traced("gpt-oss-plain")["blk.0.ffn_down_exps.weight"][0].axis == -2
    mla = traced("deepseek-v3")
    assert mla["blk.0.attn_k_b.weight"][0].axis == -2
    assert mla["blk.0.attn_v_b.weight"][0].axis == -1
