"""A checkpoint as a model and a tokenizer of transformers."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, SourceError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {
    "auto": "auto",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "f16": "float16",
    "float16": "float16",
    "f32": "float32",
    "float32": "float32",
}
"""What --dtype takes, and what torch calls it; "auto" is what the checkpoint has."""

_EXTRA = "pip install 'ggufmix[calibrate]'"
_SHOWN = 3


def dtype_of(name: str) -> str:
    """The name of a dtype in torch, or "auto". Raises UsageError for one that is not known."""
    if name.lower() not in DTYPES:
        raise UsageError(f"--dtype: expected one of {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name.lower()]


def check_installed() -> None:
    """Raise UsageError, naming the extra, where torch or transformers are not there."""
    for package in ("torch", "transformers"):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            raise UsageError(f"{package} is not installed here", hint=_EXTRA) from error


def check_plain(where: str, config: Mapping[str, Any]) -> None:
    """Raise SourceError for a checkpoint whose weights are quantized: it would be another model's
    inputs that are measured.
    """
    inner = config.get("text_config")
    for stated in (config, inner if isinstance(inner, Mapping) else {}):
        about = stated.get("quantization_config") or stated.get("compression_config")
        if about:
            method = about.get("quant_method", "unknown") if isinstance(about, Mapping) else about
            raise SourceError(
                f"{where}: expected weights in BF16, F16 or F32, config.json says that they are "
                f"quantized ({method})",
                hint="calibrate the checkpoint that it was quantized from",
            )


def load(
    directory: Path, dtype: str, device_map: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load both, the model ready to compute.

    dtype       as `dtype_of` takes it
    device_map  of from_pretrained; "auto" is the CPU where there is no accelerator
    Raises UsageError for a device that is not there, SourceError where transformers refuses the
    checkpoint, ModelError where it would leave weights at random.
    """
    import torch

    transformers: Any = importlib.import_module("transformers")  # hardly typed
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(directory)
        known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
        loader = (
            transformers.AutoModelForCausalLM
            if type(config) in known
            else transformers.AutoModelForImageTextToText
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise SourceError(f"{directory}: transformers cannot load it: {error}") from error
    placed: dict[str, Any] = {}
    if device_map != "cpu" and (device_map != "auto" or torch.accelerator.is_available()):
        _check_device(device_map)
        placed["device_map"] = device_map
    try:
        model, said = loader.from_pretrained(
            directory, config=config, dtype=dtype_of(dtype), output_loading_info=True, **placed
        )
    except torch.OutOfMemoryError as error:
        raise SourceError(
            f"{directory}: the model does not fit into the memory of the device",
            hint="--device-map cpu takes the main memory, auto both",
        ) from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise SourceError(f"{directory}: transformers cannot load it: {error}") from error
    if missing := sorted(said["missing_keys"]):
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ModelError(
            f"{directory}: transformers finds no weights for {', '.join(missing[:_SHOWN])}{more}, "
            "and would run with random ones",
            hint="the checkpoint is incomplete, or its config.json is of another model",
        )
    return model.eval(), tokenizer


def _check_device(device_map: str) -> None:
    import torch

    if importlib.util.find_spec("accelerate") is None:
        raise UsageError(f"--device-map {device_map} needs accelerate", hint=_EXTRA)
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        return
    try:
        torch.empty(0, device=device_map)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device-map {device_map}: {reason}") from error
