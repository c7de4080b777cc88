"""A GGUF file whose every word is meant to break out of a page, a card or a shell."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from pathlib import Path

from gguf import GGMLQuantizationType

from ggufmix.container import TensorInfo, Value, aligned, header, text, texts, u32

SCRIPT = (
    "</title></style><script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>"
)
MARKDOWN = "| a | b |\n---\n# head\n```\n[x](https://evil.example) ![y](https://evil.example/y) `z"
CONTROL = "\x1b]0;owned\x07\x00\x9b31m\u202egnp.exe\u2028end"
SHELL = "q8_0'; touch /tmp/owned; echo '"
WORDS = f"{SCRIPT}{MARKDOWN}{CONTROL}"
LONG = "A" * (1 << 20)


def values() -> dict[str, Value]:
    """Key-values, every string of them hostile."""
    made = {
        "general.architecture": text(f"llama{SCRIPT}"),
        "general.type": text("model"),
        "general.name": text(WORDS),
        "general.organization": text(LONG),
        "general.license": text(SCRIPT),
        "general.license.name": text(MARKDOWN),
        "general.license.link": text("javascript:alert(1)"),
        "general.base_model.count": u32(0xFFFFFFFF),
        "general.base_model.0.name": text(MARKDOWN),
        "general.base_model.0.repo_url": text('https://huggingface.co/a/b" onclick="alert(1)'),
        "general.source.repo_url": text("https://huggingface.co/../../evil"),
        "general.tags": texts(["text-generation", SCRIPT, "a: b", "- x", b"\xff\xfe", "#"]),
        "general.languages": texts([MARKDOWN, "en"]),
        "general.quantized_by": text(CONTROL),
        "ggufmix.version": text(SCRIPT),
        "ggufmix.recipe": text(SHELL),
        "ggufmix.options": texts([f"--set {SHELL}", "--out /etc/passwd", LONG]),
        "ggufmix.source.files": texts([f"{MARKDOWN}{i}" for i in range(3)]),
        "ggufmix.source.fingerprints": texts([SCRIPT, CONTROL, ""]),
        "ggufmix.source.revisions": texts([MARKDOWN]),
        "quantize.imatrix.file": text(f"../../{SHELL}/{MARKDOWN}"),
        "quantize.imatrix.dataset": text(SCRIPT),
        "quantize.imatrix.entries_count": text("many"),
    }
    made["ggufmix.source.sizes"] = texts(["not", "numbers"])
    return made


def write(path: Path, more: dict[str, Value] | None = None) -> Path:
    """The file: a few F32 tensors, their names as bad as the rest."""
    names = [f"blk.{i}.{SCRIPT}{MARKDOWN}.weight" for i in (0, 99999999)]
    names += ["blk.1.attn_q.weight", CONTROL, "token_embd.weight", LONG]
    infos, at = [], 0
    for name in names:
        infos.append(TensorInfo(name, (32, 2), GGMLQuantizationType.F32, at))
        at = aligned(at + 256)
    path.write_bytes(header(values() | (more or {}), infos) + bytes(at))
    return path
