"""Advice for running a file: its layout, what a context costs, and where it fits.

Arithmetic from shapes, shown with its numbers; what is known of cache types comes with its source.
Advice, not refusal: the type of the cache is a flag of the runtime and stands in no file. Sources:
llama.cpp src/llama-kv-cache.cpp, llama-context.cpp, llama-hparams.cpp (August 2026); ik_llama.cpp
PR 1548.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError, UsageError
from ..outline import Entry, Outline

PAD = 256
"""llama.cpp rounds a context up to a multiple of this."""

CACHES: dict[str, tuple[int, int, str]] = {
    "f32": (1, 4, "both"),
    "f16": (1, 2, "both"),
    "bf16": (1, 2, "both"),
    "q8_0": (32, 34, "both"),
    "q6_0": (32, 26, "ik"),
    "q5_1": (32, 24, "llama.cpp"),
    "q5_0": (32, 22, "llama.cpp"),
    "q4_1": (32, 20, "both"),
    "q4_0": (32, 18, "both"),
    "iq4_nl": (32, 18, "both"),
}
"""Cache type -> values per block, bytes per block, and which runtime's CPU runs it with flash
attention.
"""

_RECURRENT = ("SSM_", "SHORTCONV_", "TIME_MIX_")
_GIB = 2**30
_PAGE = 4096
_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": _GIB, "TIB": 2**40}
_UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "K": 2**10, "M": 2**20, "G": _GIB}


@dataclass(frozen=True, slots=True)
class Width:
    """Values that one token adds to the cache of one layer."""

    layer: int
    keys: int
    values: int


def advise(
    outline: Outline, context: int, *, memory: int | None = None, gtt: int | None = None
) -> dict[str, Any]:
    """What running a file with `context` tokens takes, in plain values.

    memory  bytes of RAM (or of the GPU's own memory)
    gtt     bytes of RAM that an APU's GPU may use, where it is known
    Keys: layout, context (asked and as llama.cpp rounds it), cache (type -> bytes, per_token,
    arithmetic, runs_on), recurrent_bytes, weights_bytes, total (type -> bytes), fits, notes,
    warnings, run.
    Raises ModelError where shapes do not say how wide the cache is.
    """
    if context < 1:
        raise UsageError(f"--ctx: expected at least 1, got {context}")
    widths = _widths(outline)
    recurrent = sorted(_recurrent(outline))
    padded = -(-context // PAD) * PAD
    cache = {kind: _cache(widths, kind, padded) for kind in CACHES}
    state, state_text = _state(outline, recurrent)
    weights = outline.file_bytes if outline.file_bytes is not None else outline.data_bytes
    total = {kind: weights + c["bytes"] + state for kind, c in cache.items()}
    hybrid = bool(recurrent and widths)
    return {
        "title": outline.title,
        "architecture": outline.architecture,
        "layout": {
            "hybrid": hybrid,
            "attention_layers": [w.layer for w in widths],
            "recurrent_layers": recurrent,
            "mtp_layers": sorted(outline.mtp_layers),
        },
        "context": context,
        "context_padded": padded,
        "cache": cache,
        "recurrent_bytes": state,
        "recurrent_arithmetic": state_text,
        "weights_bytes": weights,
        "total": total,
        "q8_0_over_q4_0": cache["q8_0"]["bytes"] - cache["q4_0"]["bytes"],
        "fits": _fits(total, memory, gtt),
        "notes": _notes(outline, hybrid, context),
        "warnings": list(outline.damage),
        "run": _run(outline, context),
    }


def size(text: str) -> int:
    """Bytes from "128GiB", "96 GB", "64G". Raises UsageError."""
    number = text.strip()
    unit = ""
    while number and not (number[-1].isdigit() or number[-1] == "."):
        number, unit = number[:-1], number[-1] + unit
    try:
        return round(float(number) * _UNITS[unit.strip().upper()])
    except (ValueError, KeyError, OverflowError):
        raise UsageError(f"expected a size such as 128GiB or 96GB, got {text!r}") from None


def _widths(outline: Outline) -> list[Width]:
    """Of every layer with a cache: rows of its key and value matrices. With a latent (MLA) the
    cache holds what attn_kv_a_mqa gives, once. Blocks of multi-token prediction do not count beside
    others.
    """
    by_layer: dict[int, dict[str, Entry]] = {}
    passed_over = outline.passed_over
    for t in outline.tensors:
        if t.layer is not None and t.layer not in passed_over and t.name.endswith("weight"):
            by_layer.setdefault(t.layer, {})[t.role] = t
    recurrent = _recurrent(outline)
    widths = []
    for layer, parts in sorted(by_layer.items()):
        if "ATTN_KV_A_MQA" in parts:
            widths.append(Width(layer, parts["ATTN_KV_A_MQA"].shape[1], 0))
        elif "ATTN_K" in parts:
            keys = parts["ATTN_K"].shape[1]
            value = parts.get("ATTN_V")
            widths.append(Width(layer, keys, value.shape[1] if value is not None else keys))
        elif "ATTN_QKV" in parts and layer not in recurrent:
            widths.append(_fused(layer, parts["ATTN_QKV"], outline))
    return widths


def _fused(layer: int, qkv: Entry, outline: Outline) -> Width:
    heads = _number(outline.keys, "attention.head_count", layer)
    kv_heads = _number(outline.keys, "attention.head_count_kv", layer) or heads
    if not heads or not kv_heads:
        raise ModelError(
            f"{qkv.name}: expected attention.head_count in the header, to tell keys and values "
            "from queries, got none",
            hint="shapes alone do not say it where the three are one matrix",
        )
    head = qkv.shape[1] // (heads + 2 * kv_heads)
    return Width(layer, kv_heads * head, kv_heads * head)


def _recurrent(outline: Outline) -> frozenset[int]:
    return frozenset(
        t.layer for t in outline.tensors if t.layer is not None and t.role.startswith(_RECURRENT)
    )


def _cache(widths: list[Width], kind: str, tokens: int) -> dict[str, Any]:
    values, n_bytes, runs = CACHES[kind]
    whole = all(not w.keys % values and not w.values % values for w in widths)
    per_token = sum((w.keys + w.values) * n_bytes for w in widths) / values
    sums: dict[int, int] = {}
    for w in widths:
        sums[w.keys + w.values] = sums.get(w.keys + w.values, 0) + 1
    terms = (
        " + ".join(f"{n} layer{'s' * (n > 1)} x {width} values" for width, n in sums.items())
        or "no layer"
    )
    found = tokens * per_token
    return {
        "bytes": round(found),
        "per_token": per_token,
        "arithmetic": (
            f"{tokens} tokens x ({terms}) x {n_bytes}/{values} bytes = {round(found)} bytes "
            f"= {found / 2**20:.4g} MiB"
        ),
        "cpu": runs,
        "whole_blocks": whole,
    }


def _state(outline: Outline, layers: list[int]) -> tuple[int, str]:
    """Bytes of recurrent state of one sequence, always F32: for convolutions (kernel - 1) x
    channels, for the memory state_size x inner_size.
    """
    by_layer = {layer: {t.role: t for t in outline.tensors if t.layer == layer} for layer in layers}
    n_conv = n_state = 0
    for parts in by_layer.values():
        conv = parts.get("SSM_CONV1D") or parts.get("SHORTCONV_CONV")
        if conv is not None and conv.dims > 1:
            n_conv += (conv.shape[0] - 1) * conv.shape[1]
        out, norm = parts.get("SSM_OUT"), parts.get("SSM_NORM")
        inner = _count(outline.keys.get("ssm.inner_size")) or (out.shape[0] if out else 0)
        state = _count(outline.keys.get("ssm.state_size")) or (norm.shape[0] if norm else 0)
        n_state += inner * state
    found = 4 * (n_conv + n_state)
    if not found:
        return 0, ""
    return found, (
        f"{len(layers)} layers, F32: ({n_conv} values of convolutions + {n_state} of memory) x 4 "
        f"bytes = {found} bytes = {found / 2**20:.4g} MiB for each sequence, whatever the context"
    )


def _fits(total: Mapping[str, int], memory: int | None, gtt: int | None) -> dict[str, Any]:
    needed = total["q8_0"]
    found: dict[str, Any] = {"needed_bytes": needed, "memory_bytes": memory, "gtt_bytes": gtt}
    if memory is not None:
        found["in_memory"] = {kind: n <= memory for kind, n in total.items()}
        limit = gtt if gtt is not None else memory // 2
        found["gtt_assumed_bytes"] = limit
        found["in_gtt"] = {kind: n <= limit for kind, n in total.items()}
    elif gtt is not None:
        found["in_gtt"] = {kind: n <= gtt for kind, n in total.items()}
    pages = (-(-needed // _GIB) + 2) * _GIB // _PAGE  # two GiB for compute buffers
    found["ttm_pages_limit"] = pages
    found["raise_gtt"] = (
        f"an APU's GPU sees its own carve-out and the GTT, by default half of the RAM: "
        "`cat /sys/class/drm/card*/device/mem_info_gtt_total` says how much; kernel parameters "
        f"ttm.pages_limit={pages} ttm.page_pool_size={pages} raise it to "
        f"{pages * _PAGE / _GIB:.0f} GiB (pages of 4 KiB; amdgpu.gttsize is the older way)"
    )
    return found


def _notes(outline: Outline, hybrid: bool, context: int) -> list[str]:
    notes = []
    if hybrid:
        notes += [
            (
                "only attention layers have a cache; the recurrent state is F32 in every runtime, "
                "whatever -ctk and -ctv say"
            ),
            (
                "q8_0 is the safe choice for the cache of a hybrid: in ik_llama.cpp on a CPU q4_0 "
                "gave NaN and stopped at once where q8_0 and f16 ran (PR 1548). The build lacked "
                "the flash-attention kernels for it (GGML_IQK_FA_ALL_QUANTS); with them, the "
                "default since, the same user saw no crash: quantized below q8_0 it is untested at "
                "length, not refused"
            ),
        ]
    notes += [
        (
            "a quantized value cache (-ctv) needs flash attention; ik_llama.cpp on CPUs has no "
            "kernels for q5_0 and q5_1, llama.cpp none of q6_0"
        ),
        (
            "compute buffers come on top: they depend on the runtime, batch size and backend, and "
            "are not counted here"
        ),
    ]
    if outline.is_draft:
        notes.append(
            "a draft head (MTP) alone: it runs beside its model, whose weights and cache are not "
            "counted here"
        )
    elif outline.mtp_layers:
        notes.append(
            f"{len(outline.mtp_layers)} block of multi-token prediction is not counted: it keeps a "
            "cache of its own when it drafts"
        )
    window = outline.keys.get("attention.sliding_window")
    if window:
        notes.append(
            "sliding-window layers keep less than the whole context: the figures are upper bounds"
        )
    trained = outline.keys.get("context_length")
    if isinstance(trained, int) and context > trained:
        notes.append(f"the model was trained for {trained} tokens: {context} is more than that")
    return notes


def _run(outline: Outline, context: int) -> str:
    file, cache = _file(outline.title), f"-c {context} -fa on -ctk q8_0 -ctv q8_0"
    if outline.is_draft:
        return f"llama-server -m MODEL.gguf -md {file} --spec-type draft-mtp {cache}"
    return f"llama-server -m {file} {cache}"


def _file(title: str) -> str:
    return shlex.quote(title) if title.endswith(".gguf") else "OUT.gguf"


def _number(keys: Mapping[str, Any], key: str, layer: int) -> int:
    value = keys.get(key)
    if isinstance(value, list | tuple):
        value = value[layer] if layer < len(value) else None
    return _count(value)


def _count(value: object) -> int:
    """A number that counts something, 0 for whatever else a header may hold."""
    return value if isinstance(value, int) and value > 0 else 0
