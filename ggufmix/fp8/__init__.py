"""Block FP8: checkpoints of E4M3 weights with a scale for each block of 128 x 128."""

# SPDX-License-Identifier: MIT
