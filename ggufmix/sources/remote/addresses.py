"""What an address names: a repository of the hub, a folder of a web server, a folder of a store."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from ...errors import UsageError
from ..storage import shown

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_COLLAPSED = re.compile(r"(hf|s3|https?):/[^/]")
_FILES = (".gguf", ".safetensors", ".tsv", ".bin", ".pt", ".pth", ".ckpt")
_INDEX = ".safetensors.index.json"
_HUBS = ("huggingface.co", "www.huggingface.co", "hf.co")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONG_REVISION = re.compile(r"(refs/(?:pr/\d+|convert/[^/]+))(?:/(.*))?")


@dataclass(frozen=True, slots=True)
class Address:
    """A folder that is not on this machine, and the file in it that is meant.

    kind      "hub", "web" or "store"
    root      web, store: URL of the folder, without query; hub: "owner/name"
    name      the file in it, or None for all of it
    below     hub: folder inside the repository, "" for its top
    revision  hub: branch, tag or commit, None for the main branch
    query     web: what follows "?", sent with every file of the folder
    """

    kind: Literal["hub", "web", "store"]
    root: str
    name: str | None = None
    below: str = ""
    revision: str | None = None
    query: str = ""


def is_remote(src: str | os.PathLike[str]) -> bool:
    """Whether a source is an address such as hf://owner/name, not a path. Raises UsageError for an
    address that was made into a Path, which takes a slash away.
    """
    given = os.fspath(src)
    if _COLLAPSED.match(given) and not isinstance(src, str):
        raise UsageError(
            f"{shown(label(given))}: expected an address as text, got a path made of it",
            hint="pass it as a str",
        )
    return _SCHEME.match(given) is not None


def check_local(src: str | os.PathLike[str], command: str) -> None:
    """Raise UsageError where a source is an address, for a command that takes none."""
    given = os.fspath(src)
    if _SCHEME.match(given) or _COLLAPSED.match(given):
        whole = re.sub(r"^([^:/]+):/+", r"\1://", given)
        raise UsageError(
            f"{shown(label(whole))}: `{command}` takes a folder of this machine, not an address",
            hint="download it first: hf download OWNER/NAME --local-dir DIR",
        )


def suffix(src: str | os.PathLike[str]) -> str:
    """The suffix of the file that is meant, such as ".gguf"; "" for a folder without one."""
    given = os.fspath(src)
    if is_remote(src):
        given = urlsplit(given).path
    return os.path.splitext(given)[1]


def label(url: str) -> str:
    """An address as it may stand in a message: without user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme == "hf" and "@" in parts.netloc:  # hf://name@revision
        host = parts.netloc
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def parse(src: str) -> Address:
    """What an address means. Raises UsageError for one that means nothing.

    hf://owner/name[@revision][/folder or file], or the page of it on huggingface.co; http(s):// a
    folder, an index or a file; any other scheme is a store that fsspec may know.
    """
    parts = urlsplit(src)
    scheme = parts.scheme.lower()
    if scheme == "file":
        raise UsageError(f"{shown(label(src))}: files of this machine are given as a path")
    if scheme == "hf":
        return _hub(parts.netloc + parts.path, src)
    if scheme in ("http", "https"):
        if not parts.hostname:
            raise UsageError(f"{shown(label(src))}: expected a host after {scheme}://")
        if parts.hostname.lower() in _HUBS:
            return _page(parts.path, src)
        root, name = _split(urlunsplit((scheme, parts.netloc, parts.path, "", "")))
        name = unquote(name) if name is not None else None
        return Address("web", root, name, query=parts.query)
    root, name = _split(src)
    return Address("store", root, name)


def _split(url: str) -> tuple[str, str | None]:
    """Folder and file. An index stands for its folder."""
    folder, _, last = url.rpartition("/")
    if last.endswith(_INDEX):
        return folder, None
    if last.endswith(_FILES):
        return folder, last
    return url.rstrip("/"), None


def _hub(path: str, src: str) -> Address:
    parts = path.strip("/").split("/")
    repository, at, revision = "/".join(parts[:2]).partition("@")
    below = "/".join(parts[2:])
    if at and revision == "refs":  # refs/pr/7
        long = _LONG_REVISION.fullmatch(f"refs/{below}")
        if long is not None:
            revision, below = long[1], long[2] or ""
    return _in_hub(repository, unquote(revision) if at else None, below, src)


def _page(path: str, src: str) -> Address:
    """Of a page: owner/name, owner/name/tree/REVISION/..., .../blob/... or .../resolve/..."""
    parts = unquote(path).strip("/").split("/")
    revision, below = None, ""
    if len(parts) > 2:
        if parts[2] not in ("tree", "blob", "resolve") or len(parts) == 3:
            raise UsageError(f"{shown(label(src))}: expected the page of a model on the hub")
        revision, _, below = "/".join(parts[3:]).partition("/")
        long = _LONG_REVISION.fullmatch("/".join(parts[3:]))
        if long is not None:
            revision, below = long[1], long[2] or ""
    return _in_hub("/".join(parts[:2]), revision, below, src)


def _in_hub(repository: str, revision: str | None, below: str, src: str) -> Address:
    owner, _, name = repository.partition("/")
    if not _REPOSITORY.fullmatch(owner) or not _REPOSITORY.fullmatch(name) or revision == "":
        raise UsageError(
            f"{shown(label(src))}: expected hf://owner/name or hf://owner/name@revision",
            hint="names of models on the hub have an owner, as in hf://Qwen/Qwen3-0.6B",
        )
    if owner in ("datasets", "spaces", "buckets"):
        raise UsageError(f"{shown(label(src))}: expected a model, got one of the {owner}")
    if ".." in below.split("/"):
        raise UsageError(f"{shown(label(src))}: expected a folder of the repository")
    folder, file = _split("/" + below) if below else ("", None)
    return Address("hub", repository, file, folder.strip("/"), revision)
