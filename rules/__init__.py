"""Rule and recipe files (TOML). This package holds data only; `ggufmix.rules` reads it."""
