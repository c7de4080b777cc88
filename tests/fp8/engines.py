"""Which layers engines take for FP8, restated from their sources.

vLLM 0.33.0     layers/quantization/fp8.py, Fp8Config.from_config and get_quant_method;
                quantization/utils/quant_utils.py, is_layer_skipped, match_mode "exact";
                models/qwen3_vl.py, hf_to_vllm_mapper; packed_modules_mapping of the models
SGLang 0.5.23   layers/quantization/fp8.py, Fp8Config.from_config; quantization/utils.py,
                _module_path_match, is_layer_skipped; models/qwen3_5.py, packed_modules_mapping
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

FUSED = {
    "qkv_proj": ["q_proj", "k_proj", "v_proj"],
    "gate_up_proj": ["gate_proj", "up_proj"],
    "in_proj_qkvz": ["in_proj_qkv", "in_proj_z"],
    "in_proj_ba": ["in_proj_b", "in_proj_a"],
    "fused_qkv_a_proj": ["q_a_proj", "kv_a_proj_with_mqa"],
}


class SplitError(Exception):
    """Some but not all parts of a fused layer are named: the engine does not start."""


def vllm_name(name: str, *, wrapped: bool) -> str:
    """How vLLM calls a module of the checkpoint, which it does to the list as well."""
    if not wrapped:
        return name
    for theirs, ours in (
        ("model.visual.", "visual."),
        ("lm_head.", "language_model.lm_head."),
        ("model.language_model.", "language_model.model."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def vllm_skips(layer: str, listed: Iterable[str]) -> bool:
    """Whether vLLM loads a layer, named as vLLM names it, in BF16. A name of what is fused is taken
    before those of its parts.
    """
    names = list(listed)
    last = layer.rpartition(".")[2]
    if last in FUSED and layer not in names:
        return _together(layer, [layer.replace(last, part) in names for part in FUSED[last]])
    if "experts" in layer:
        return any("experts" in name and layer in name for name in names)
    return layer in names


def sglang_skips(
    layer: str, listed: Iterable[str], fused: Mapping[str, Sequence[str]] = FUSED
) -> bool:
    """Whether SGLang loads a layer, named as in the checkpoint, in BF16."""
    base = [name.removeprefix("model.") for name in listed]
    names = [*base, *(f"model.{name}" for name in base)]

    def named(path: str) -> bool:
        return any(f".{name}." in f".{path}." for name in names)

    last = layer.rpartition(".")[2]
    if last in fused:
        return _together(layer, [named(layer.replace(last, part)) for part in fused[last]])
    if "experts" in layer:
        return named(layer) or any("experts" in name and layer in name for name in names)
    return named(layer)


def _together(layer: str, parts: list[bool]) -> bool:
    if len(set(parts)) > 1:
        raise SplitError(layer)
    return parts[0]


def layers(modules: Iterable[str]) -> dict[str, list[str]]:
    """The layers that engines build of the modules of a checkpoint, each with its modules: fused
    ones and stacks of experts as one, embeddings and heads left out, which they build otherwise.
    """
    modules = set(modules)
    made: dict[str, list[str]] = {}
    for module in sorted(modules):
        parent, _, last = module.rpartition(".")
        if ".experts." in module:
            made.setdefault(module.partition(".experts.")[0] + ".experts", []).append(module)
            continue
        if last in ("embed_tokens", "lm_head", "head", "conv1d"):
            continue
        for fused, parts in FUSED.items():
            if last in parts and all(f"{parent}.{part}" in modules for part in parts):
                made.setdefault(f"{parent}.{fused}", []).append(module)
                break
        else:
            made[module] = [module]
    return made
