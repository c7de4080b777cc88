"""Does a file still speak like its base? Perplexity and KL divergence, through llama.cpp's own
library, as llama-perplexity defines them, and where in the context they grow.
"""

# SPDX-License-Identifier: MIT

from .logs import read as read_log
from .running import by_file, evaluate
from .scores import Scores

__all__ = ["Scores", "by_file", "evaluate", "read_log"]
