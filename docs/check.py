"""Look through the built site as a browser would, without the network.

    python docs/check.py docs/build

Every link of a page leads to a file of the site and to a place that is there, or out of it; what a
page loads by itself (scripts, styles, fonts, images) is in the folder. Exit 1 where not.
"""

# SPDX-License-Identifier: MIT

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """What a page links to and loads, and the places that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember what matters of it."""
        given = {name: value for name, value in attrs if value is not None}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        if (attribute := LOADED.get(tag)) in given and given.get("rel") not in {"prev", "next"}:
            self.loads.add(given[attribute])


def faults(site: Path) -> list[str]:
    """What is wrong, a line each."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = [] if pages else [f"{site}: no pages"]
    for path, page in pages.items():
        found += [f"{path}: loads {url}" for url in sorted(page.loads) if _elsewhere(url)]
        if path.name == "404.html":  # served for any address: its links are from the root
            continue
        for url in sorted(page.links | page.loads):
            if urlsplit(url).scheme or _elsewhere(url):
                continue
            parts = urlsplit(urljoin(f"/{path.relative_to(site)}", url))
            file = site / unquote(parts.path).lstrip("/")
            places = pages[file].places if file in pages else {parts.fragment}
            if not file.is_file():
                found.append(f"{path}: {url}: there is no such file")
            elif parts.fragment and unquote(parts.fragment) not in places:
                found.append(f"{path}: {url}: there is no such place")
    for path in site.rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", path.read_text())
        found += [f"{path}: loads {url}" for url in urls if _elsewhere(url)]
    return found


def _elsewhere(url: str) -> bool:
    return urlsplit(url).scheme in {"http", "https"} or url.startswith("//")


if __name__ == "__main__":
    problems = faults(Path(sys.argv[1]))
    print("\n".join(problems), end="\n" if problems else "", file=sys.stderr)
    sys.exit(bool(problems))
