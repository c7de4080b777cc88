"""Checkpoints as they come: names and shapes of the weights, and rows on demand."""

# SPDX-License-Identifier: MIT

from .checkpoint import Checkpoint, SourceFile, open_checkpoint
from .safetensors import StoredTensor, UnreadTensor

__all__ = ["Checkpoint", "SourceFile", "StoredTensor", "UnreadTensor", "open_checkpoint"]
