"""Put what the program really prints into README and docs: outputs of commands, generated tables.

    python docs/refresh.py           rewrite README.md and docs/*.md
    python docs/refresh.py --check   exit 1 where it would change

A `console` block is a list of `$ ggufmix ...` lines, each followed by its output; commands run one
after another in one temporary folder with the examples beside them. Tables stand between markers
such as <!-- formats -->. The figures of benchmarks are pasted by hand: they belong to a machine.
"""

# SPDX-License-Identifier: MIT

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def console(commands: list[str], folder: Path) -> str:
    """Each command with what it prints on stdout."""
    lines = []
    for command in commands:
        arguments = shlex.split(command.removeprefix("$ "))
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        lines += [command, *(line.rstrip() for line in done.stdout.splitlines())]
    return "\n".join(lines)


def formats_table() -> str:
    """The storage types as Markdown."""
    from ggufmix import codecs

    lines = [
        "| type | bits per weight | block | encoders | importance matrix |",
        "|---|---|---|---|---|",
    ]
    for kind in codecs.formats().values():
        if kind.encodes:
            names = ", ".join(e.name for e in codecs.ENCODERS.values() if e.format is kind)
            use = {"NONE": "not used", "OPTIONAL": "optional", "REQUIRED": "required"}
            lines.append(
                f"| {kind.name} | {kind.bits:.4g} | {kind.values} | {names} "
                f"| {use[kind.importance]} |"
            )
    decoded = [kind.name for kind in codecs.formats().values() if not kind.encodes]
    return "\n".join(lines) + "\n\nDecoded only: " + ", ".join(decoded) + "."


def refreshed(text: str) -> str:
    """A page with outputs and tables as they are now."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "examples").symlink_to(ROOT / "examples")

        def block(match: re.Match[str]) -> str:
            commands = [line for line in match[1].splitlines() if line.startswith("$ ")]
            return f"```console\n{console(commands, folder)}\n```"

        text = re.sub(r"```console\n(.*?)\n```", block, text, flags=re.DOTALL)
    return re.sub(
        r"<!-- formats -->.*?<!-- /formats -->",
        lambda _: f"<!-- formats -->\n{formats_table()}\n<!-- /formats -->",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    stale = False
    for page in PAGES:
        was = page.read_text()
        now = refreshed(was)
        stale |= now != was
        if "--check" not in sys.argv:
            page.write_text(now)
    sys.exit(stale and "--check" in sys.argv)
