"""One GGUF file as several, and several as one.

Names, keys and the placing of tensors are those of llama.cpp's gguf-split (tools/gguf-split):
`NAME-00001-of-00003.gguf`; the first part has all key-values, each part has `split.no` (UINT16,
from 0), `split.count` (UINT16) and `split.tensors.count` (INT32, of all parts). A part is full when
the next tensor, padded to 32 bytes, would bring its tensor data over the limit; headers do not
count. A tensor larger than the limit has a part of its own, also where it is the first, with which
gguf-split gives up.

Nothing is encoded: `split` and `merge` move bytes, and hold them against the checksums of the file
while they pass.
"""

# SPDX-License-Identifier: MIT

from .dividing import Limits, part_path
from .moving import merge, split
from .planned import Layout, Output, laid_out

__all__ = ["Layout", "Limits", "Output", "laid_out", "merge", "part_path", "split"]
