"""A publisher's day on the trained model, with the commands that a publisher types."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np

from ggufmix.runtime import Llama, log_softmax

RECIPES = ["q8_0", "q6_k", "q5_k_m", "q4_k_m", "hq4_k", "q4_x"]
STEM = "tiny-qwen35moe-4x2.9M"
CTX = 128


def ggufmix(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that has to end well."""
    done = subprocess.run(
        [sys.executable, "-m", "ggufmix", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def data_of(path: Path) -> str:
    """SHA-256 of all tensor data of a file, as the gguf package finds them."""
    digest = hashlib.sha256()
    for tensor in gguf.GGUFReader(path).tensors:
        digest.update(tensor.data.tobytes())
    return digest.hexdigest()


def speaks(path: Path, text: str) -> float:
    """Mean log probability of the next token in a text, by llama.cpp."""
    with Llama(path) as model:
        tokens = model.tokenize(text, special=False)[:CTX]
        scores = log_softmax(model.logits(tokens))
    return float(np.mean([scores[i, token] for i, token in enumerate(tokens[1:])]))


def test_the_whole_day(example: Path, heldout: str, tmp_path: Path) -> None:
    """Importance, six recipes of one reading, parts, checksums, KL divergence, a mended template,
    the report, a change of mind: every file loads, speaks, and is what it says it is.
    """
    text = tmp_path / "text.txt"
    text.write_text(heldout[:6000])
    ggufmix("calibrate", example, "-o", "imatrix.gguf", "-f", text, "-c", CTX, cwd=tmp_path)

    chosen = [word for recipe in RECIPES for word in ("--recipe", recipe)]
    options = ("--imatrix", "imatrix.gguf", "--sha256sums")
    made = ggufmix("convert", example, *chosen, *options, "-o", "out/", cwd=tmp_path).stdout
    files = [Path(line.split(": ")[0]) for line in made.splitlines()]
    out = tmp_path / "out"
    assert sorted(out.glob("*.gguf")) == sorted(tmp_path / name for name in files)
    assert files[3].name == f"{STEM}-SSM_BF16-Q4_K_M.gguf"
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=out, check=True
    )

    ggufmix("convert", example, "-r", "bf16", "-o", "base.gguf", cwd=tmp_path)
    parts = ggufmix(
        "convert", example, "-r", "q4_k_m", *options, "-o", "parts/", "--split-max-size", "1M",
        cwd=tmp_path,
    )  # fmt: skip
    first = tmp_path / parts.stdout.split(" and ")[0]
    assert first.parent == tmp_path / "parts" / "SSM_BF16-Q4_K_M"
    ggufmix("merge", first, "-o", "merged.gguf", cwd=tmp_path)
    assert (tmp_path / "merged.gguf").read_bytes() == (tmp_path / files[3]).read_bytes()

    whole = speaks(tmp_path / "base.gguf", heldout[:2000])
    for path in (*files, first):
        ggufmix("verify", path, "--against", example, "--imatrix", "imatrix.gguf", cwd=tmp_path)
        assert abs(speaks(tmp_path / path, heldout[:2000]) - whole) < 0.1

    said = ggufmix(
        "eval", *files, "--text", text, "--base", "base.gguf", "-c", CTX, "--chunks", 4, "--json",
        cwd=tmp_path,
    )  # fmt: skip
    (tmp_path / "eval.json").write_text(said.stdout)
    kld = {Path(row["file"]).name: row["kld"] for row in json.loads(said.stdout)}
    q8, q4 = (kld[files[i].name] for i in (0, 3))
    assert 0 < q8 < q4 < 1

    before = data_of(tmp_path / files[0])
    (tmp_path / "template.jinja").write_text("{{ messages[0]['content'] }}")
    ggufmix("meta", files[0], "--chat-template-file", "template.jinja", cwd=tmp_path)
    assert data_of(tmp_path / files[0]) == before
    ggufmix("verify", files[0], cwd=tmp_path)
    assert abs(speaks(tmp_path / files[0], heldout[:2000]) - whole) < 0.1

    ggufmix("report", *files, first, "--eval", "eval.json", "-o", "report", cwd=tmp_path)
    card, page = ((tmp_path / "report" / n).read_text() for n in ("README.md", "index.html"))
    for path in (*files, first):
        assert path.name in card
        assert path.name in page
    assert f"{kld[files[3].name]:.6f}" in card
    for line in (out / "SHA256SUMS").read_text().splitlines():
        mended = line.endswith(files[0].name)  # written when the template was another
        assert (line.split()[0] in card) != mended

    changed = ("--set", "ffn_down_exps=Q8_0", "--imatrix", "imatrix.gguf")
    again = ggufmix(
        "convert", example, "-r", "q4_k_m", *changed, "--reuse", files[3], "-o", "changed.gguf",
        cwd=tmp_path,
    )  # fmt: skip
    ggufmix("convert", example, "-r", "q4_k_m", *changed, "-o", "fresh.gguf", cwd=tmp_path)
    assert (tmp_path / "changed.gguf").read_bytes() == (tmp_path / "fresh.gguf").read_bytes()
    n_tensors = len(gguf.GGUFReader(tmp_path / "fresh.gguf").tensors)
    assert f"{n_tensors - 2} of {n_tensors} tensors copied" in again.stderr  # two were Q8_0 already
    assert abs(speaks(tmp_path / "changed.gguf", heldout[:2000]) - whole) < 0.1
