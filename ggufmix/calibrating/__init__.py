"""Calibration: a checkpoint runs in transformers over some text, and what flows into its weights is
measured: for each input channel the sum of squares, the largest magnitude, and of how many tokens;
of routed experts for each expert by itself. What comes out is an importance matrix of llama.cpp's
kind, with the maxima beside, for GGUF and for FP8.

Needs the extra [calibrate]: torch and transformers.
"""

# SPDX-License-Identifier: MIT

from .collecting import Calibrated, Options, calibrate

__all__ = ["Calibrated", "Options", "calibrate"]
