"""The compact listings of tests/golden/shapes as the listings that `ggufmix plan` reads."""

# SPDX-License-Identifier: MIT

from pathlib import Path

from listings import SHAPES, rows


def unfold(model: str, folder: Path) -> Path:
    """Write `model`.gguf.tsv into a folder, one line a tensor, the credit in front."""
    source = SHAPES / f"{model}.tsv"
    comments = [line for line in source.read_text().splitlines() if line.startswith("#")]
    lines = [*comments, "name\tshape\tdtype", *("\t".join(row) for row in rows(source))]
    path = folder / f"{model}.gguf.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path
