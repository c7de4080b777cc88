"""Coverage-guided fuzzing of what reads files, with atheris.

python tests/fuzz/run.py TARGET [libFuzzer options, such as -max_total_time=60]

Starts from the corpus beside this file; what it finds on the way stays in a folder of its own
unless one is given. Limits: 2 s and 512 MiB more than the program takes at rest for one input of at
most 64 KiB. Needs atheris, which has wheels for Linux.
"""

# SPDX-License-Identifier: MIT

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ggufmix"]):
    from targets import CORPUS, TARGETS, prepare, tried

SECONDS, MEGABYTES, LONGEST = 2, 1024, 1 << 16


def main() -> None:
    """Fuzz one target until libFuzzer ends it."""
    name, *options = sys.argv[1:] or [""]
    if name not in TARGETS:
        sys.exit(f"expected a target: {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory(dir=_memory()) as place:
        folder = Path(place)
        prepare(folder)
        grown = folder / "grown"
        grown.mkdir()
        arguments = [
            sys.argv[0],
            f"-timeout={SECONDS}",
            f"-rss_limit_mb={MEGABYTES}",
            f"-max_len={LONGEST}",
            *options,
            str(grown),
            str(CORPUS / name),
        ]
        atheris.Setup(arguments, lambda data: tried(name, data, folder))
        atheris.Fuzz()


def _memory() -> str | None:
    """Somewhere that is no disk, where there is such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    main()
