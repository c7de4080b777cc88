"""`python -m ggufmix` is the `ggufmix` command."""

# SPDX-License-Identifier: MIT

from .cli import main

main()
