"""Put what the program really prints into README and docs: outputs of commands, generated tables.

    python docs/refresh.py [PAGE...]           rewrite README.md and docs/**/*.md, or some of them
    python docs/refresh.py --check [PAGE...]   exit 1 where it would change

A `console` block is a list of `$ COMMAND` lines, each followed by its output: bash runs them one
after another in a temporary folder with the examples beside them; `ggufmix` and `python` are those
of the Python that runs this. A `python` block is run in the same place. Figures that depend on the
machine stand below <!-- measured -->: of those only the words are held against what is printed.
Generated parts stand between markers such as <!-- formats -->. The figures of benchmarks are pasted
by hand.
"""

# SPDX-License-Identifier: MIT

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from generated import PARTS

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"(<!-- measured -->\n)?```(console|python)\n(.*?)\n```", re.DOTALL)
SHELL = """set -eu
ggufmix() { "$PYTHON" -m ggufmix "$@"; }
python() { "$PYTHON" "$@"; }
"""


def run(command: str, folder: Path) -> list[str]:
    """What a command prints on stdout. It has to succeed."""
    done = subprocess.run(
        ["bash", "-c", SHELL + command],  # noqa: S607
        cwd=folder,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"$ {command}\n{done.stdout}{done.stderr}exit code {done.returncode}")
    return [line.rstrip() for line in done.stdout.splitlines()]


def console(text: str, folder: Path, *, measured: bool = False) -> str:
    """A block of commands with their outputs as they are now."""
    lines: list[str] = []
    for part in re.split(r"^(?=\$ )", text, flags=re.MULTILINE)[1:]:
        command, *shown = part.rstrip("\n").splitlines()
        printed = run(command.removeprefix("$ "), folder)
        alike = measured and [words(line) for line in printed] == [words(line) for line in shown]
        lines += [command, *(shown if alike else printed)]
    return "\n".join(lines)


def words(line: str) -> str:
    """A line without its figures, and without the columns that they make wide."""
    return " ".join(re.sub(r"\d+(\.\d+)?", "#", line).split())


def refreshed(text: str) -> str:
    """A page with outputs and generated parts as they are now."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "examples").symlink_to(ROOT / "examples")

        def block(match: re.Match[str]) -> str:
            measured, kind, inside = match[1] or "", match[2], match[3]
            if kind == "python":
                run(f"python -c {shlex.quote(inside)}", folder)
                return match[0]
            made = console(inside, folder, measured=bool(measured))
            return f"{measured}```console\n{made}\n```"

        text = BLOCK.sub(block, text)
    for part, make in PARTS.items():
        start, end = f"<!-- {part} -->", f"<!-- /{part} -->"
        if start in text:
            before, _, rest = text.partition(start)
            text = f"{before}{start}\n{make()}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    stale = False
    chosen = [Path(name) for name in sys.argv[1:] if name != "--check"]
    for page in chosen or PAGES:
        was = page.read_text()
        now = refreshed(was)
        stale |= now != was
        if "--check" not in sys.argv:
            page.write_text(now)
    sys.exit(stale and "--check" in sys.argv)
