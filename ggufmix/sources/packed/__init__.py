"""Weights that a checkpoint has in packed form, presented as one Tensor each under their own names.

One module per packing. Which packing a weight is in follows from the names beside it, never from
the config's list of what was left alone: that is written for other programs and often wrong.
"""

# SPDX-License-Identifier: MIT

from .parts import Packed
from .presenting import Presented, presented

__all__ = ["Packed", "Presented", "presented"]
