"""Checkpoints as they come: names and shapes of the weights, and rows on demand."""

# SPDX-License-Identifier: MIT

from .checkpoint import Checkpoint, SourceFile, open_checkpoint
from .gguf_file import GgufFile, GgufTensor, open_gguf
from .listing import SUFFIX as LISTING_SUFFIX
from .listing import ListedTensor, Listing, read_gguf, read_listing
from .packed import Packed, Presented, presented
from .packed.parts import OnInexact
from .remote import check_local, is_remote, suffix
from .safetensors import StoredTensor, UnreadTensor

__all__ = [
    "LISTING_SUFFIX",
    "Checkpoint",
    "GgufFile",
    "GgufTensor",
    "ListedTensor",
    "Listing",
    "OnInexact",
    "Packed",
    "Presented",
    "SourceFile",
    "StoredTensor",
    "UnreadTensor",
    "check_local",
    "is_remote",
    "open_checkpoint",
    "open_gguf",
    "presented",
    "read_gguf",
    "read_listing",
    "suffix",
]
