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
