from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

class Row(TypedDict):
    name: str
    format: str
    id: int
    values: int
    bytes: int
    importance: Literal["NONE", "OPTIONAL", "REQUIRED"]
    wipe: float

class Measured(TypedDict):
    ee: float
    xx: float
    yy: float
    xy: float
    most: float
    at: int
    broken: int

def table() -> list[Row]: ...
def tiers() -> list[str]: ...
def encode(
    x: Bytes,
    xtype: int,
    encoder: int,
    importance: Bytes | None,
    out: Bytes,
    n_per_row: int,
    n_rows: int,
    tier: int,
) -> tuple[int, int, int, int, int]: ...
def decode(
    blocks: Bytes, format: int, out: Bytes, n_per_row: int, n_rows: int, tier: int
) -> None: ...
def repack_int4(
    packed: Bytes,
    stype: int,
    scales: Bytes,
    out: Bytes,
    inexact: NDArray[np.int32],
    n_per_row: int,
    group: int,
    tier: int,
) -> tuple[int, int, int]: ...
def repack_mxfp4(packed: Bytes, scales: Bytes, out: Bytes, tier: int) -> None: ...
def widen_q4_0(blocks: Bytes, out: Bytes, tier: int) -> None: ...
def widen_mxfp4(blocks: Bytes, out: Bytes, tier: int) -> tuple[int, int, int]: ...
def recover_lattice(x: Bytes, xtype: int, blocks: Bytes | None, tier: int) -> int: ...
def quantize_fp8(
    x: Bytes,
    xtype: int,
    weights: Bytes | None,
    codes: Bytes,
    scales: NDArray[np.float32],
    n_per_row: int,
    n_rows: int,
    mode: int,
    stored: int,
    factor: float,
    percentile: float,
    grid: int,
    tier: int,
) -> tuple[int, int, int, int, int, dict[str, float]]: ...
def compare_fp8(
    x: Bytes,
    xtype: int,
    codes: Bytes,
    scales: NDArray[np.float32],
    n_per_row: int,
    n_rows: int,
    tier: int,
) -> tuple[int, int, int, int, int, dict[str, float]]: ...
def dequantize_fp8(
    codes: Bytes,
    scales: NDArray[np.float32],
    out: NDArray[np.float32],
    n_per_row: int,
    n_rows: int,
    tier: int,
) -> None: ...
def measure(x: Bytes, xtype: int, y: Bytes, tier: int) -> Measured: ...
