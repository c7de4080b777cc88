"""A whole GGUF file in plain values, to compare with another one."""

# SPDX-License-Identifier: MIT

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf

LONG = 64
"""Items of an array that are kept; of longer ones a hash is."""


def described(path: Path) -> dict[str, Any]:
    """Every key with its value; every tensor's type, shape (GGUF order) and SHA-256 of its data."""
    reader = gguf.GGUFReader(path)
    values = {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        value = field.contents()
        if isinstance(value, list) and len(value) > LONG:
            value = hashlib.sha256(json.dumps(value).encode()).hexdigest()
        values[key] = [*(kind.name for kind in field.types), value]
    tensors = {
        t.name: [
            t.tensor_type.name,
            [int(n) for n in t.shape],
            hashlib.sha256(t.data.tobytes()).hexdigest(),
        ]
        for t in reader.tensors
    }
    return {"values": values, "tensors": tensors}
