"""Object stores and whatever else fsspec has: s3, gs, abfs, ..."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import fsspec

from ...errors import SourceError, UsageError
from ..storage import shown
from .addresses import Address, label
from .folder import TEMPLATES, RemoteFile, Store
from .patience import TransientError

_LASTING = (PermissionError, NotImplementedError, IsADirectoryError, NotADirectoryError)
_STAMPS = ("ETag", "etag", "e_tag", "generation", "version_id", "mtime", "LastModified", "created")
"""What file systems say of a file that changes with it, the best first."""


class StoredFile(RemoteFile):
    """A file of a store.

    Where the file system can read ranges of what it opened (of S3 with the condition that the ETag
    is the same) that is used; else ranges of whatever lies there, and the state is asked for each
    time.
    """

    def __init__(self, system: Any, path: str, name: str) -> None:
        about = system.info(path)
        self.size = int(about["size"])
        self._stamp = _stamp(about)
        self.revision = shown(self._stamp) if self._stamp else None
        self._system = system
        self._path = path
        self._name = name
        opened = system.open(path, "rb", cache_type="none") if self.size else None
        own: Callable[[int, int], bytes] | None = getattr(opened, "_fetch_range", None)
        self._own = own

    def fetch(self, offset: int, view: memoryview) -> None:
        """One attempt at a range."""
        stop = offset + len(view)
        try:
            if self._own is None:
                self._check_state()
                data = self._system.cat_file(self._path, start=offset, end=stop)
            else:
                data = self._own(offset, stop)
        except SourceError:
            raise
        except Exception as error:
            if type(error).__name__ == "FileExpired":  # of s3fs, where an ETag was another
                raise self._changed() from None
            raise _said(error, self._name) from None
        n = min(len(data), len(view))
        view[:n] = data[:n]
        if n < len(view):
            raise TransientError(f"the answer ended {len(view) - n} bytes early", got=n)

    def _check_state(self) -> None:
        self._system.invalidate_cache()
        now = self._system.info(self._path)
        if (now["size"], _stamp(now)) != (self.size, self._stamp):
            raise self._changed()

    def _changed(self) -> SourceError:
        return SourceError(
            f"{self._name}: changed while it was being read",
            hint="start again, so that all of it is of one state",
        )


class StoreFolder(Store):
    """A folder, or a prefix, of a store. Credentials, endpoint and region are found as its file
    system finds them: for S3 in AWS_* and in ~/.aws.
    """

    def __init__(self, address: Address) -> None:
        self.where = shown(label(address.root))
        scheme = urlsplit(address.root).scheme
        try:
            self._system, self._root = fsspec.core.url_to_fs(address.root, skip_instance_cache=True)
        except ImportError:
            module = "s3fs" if scheme == "s3" else f"its file system for {scheme}://"
            raise UsageError(
                f"{self.where}: to read from there fsspec needs {module}",
                hint='pip install "ggufmix[hub]" brings s3fs; others are listed in the '
                "documentation of fsspec",
            ) from None
        except ValueError:
            raise UsageError(f"{self.where}: no address that can be read from") from None
        self._names: list[str] | None = None

    def names(self) -> list[str]:
        """Names of the files right in the folder."""
        return sorted(self._files())

    def open(self, name: str) -> RemoteFile | None:
        """A file of the folder; of a folder below it too."""
        folder, _, last = name.rpartition("/")
        if last not in (self._list(folder) if folder else self._files()):
            return None
        try:
            return StoredFile(self._system, f"{self._root}/{name}", shown(name))
        except Exception as error:
            raise _said(error, shown(name)) from None

    def templates(self) -> list[str]:
        """Names of further chat templates."""
        return [name for name in self._list(TEMPLATES) if name.endswith(".jinja")]

    def everything(self) -> list[str]:
        """Names of the files right in the folder, and of further chat templates."""
        return [*self.names(), *(f"{TEMPLATES}/{name}" for name in self.templates())]

    def _files(self) -> list[str]:
        if self._names is None:
            self._names = self._list("")
        return self._names

    def _list(self, below: str) -> list[str]:
        try:
            found = self._system.ls(f"{self._root}/{below}".rstrip("/"), detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise _said(error, self.where) from None
        return [f["name"].rpartition("/")[2] for f in found if f["type"] == "file"]


def _stamp(about: Mapping[str, Any]) -> str:
    found = next((str(about[key]) for key in _STAMPS if about.get(key)), "")
    return found.strip('"')


def _said(error: Exception, where: str) -> TransientError | SourceError:
    """What a file system raised, as ours; its messages may have credentials."""
    if isinstance(error, FileNotFoundError):
        return SourceError(f"{where}: is there no longer")
    if type(error).__name__ == "NoCredentialsError" or isinstance(error, PermissionError):
        return SourceError(
            f"{where}: access denied",
            hint="of S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if isinstance(error, _LASTING):
        return SourceError(f"{where}: cannot be read: {type(error).__name__}")
    return TransientError(f"the store failed ({type(error).__name__})")
