"""Files of a web server, read by range requests."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import version
from urllib.parse import quote, urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from ...errors import SourceError, UsageError
from ..layout import INDEX, SINGLE
from ..storage import shown
from .addresses import Address, label
from .folder import HEAD_BYTES, RemoteFile, Store
from .patience import TransientError

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
"""Without a byte, and the request is given up."""

SLOWEST = 16 << 10
"""Bytes per second of a request that goes on longer than STALL_SECONDS."""

PIECE_BYTES = 256 << 10
MAX_REDIRECTS = 10
CONNECTIONS = 64

_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_DENIED = (401, 403)
_GONE = (404, 410)
_REDIRECTS = (301, 302, 303, 307, 308)
_TIMEOUTS = (TimeoutError, urllib3.exceptions.TimeoutError, requests.exceptions.Timeout)
_NO_RANGES = "download the files first: reading them whole for a header would cost as much"


class Client:
    """A session that follows redirects itself: to http(s) alone, never from https to http, and
    with `secrets` for one origin alone.

    secrets  headers by the origin that they are for, such as the token of the hub
    Proxies, certificates and .netrc are found as requests finds them.
    """

    def __init__(self, secrets: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self._secrets = secrets or {}
        self._answered = False
        self._live: set[requests.Response] = set()
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers["User-Agent"] = f"ggufmix/{version('ggufmix')}"
        self._session.headers["Accept-Encoding"] = "identity"
        for scheme in ("http://", "https://"):
            adapter = HTTPAdapter(pool_connections=16, pool_maxsize=CONNECTIONS)
            self._session.mount(scheme, adapter)

    @contextmanager
    def get(
        self, url: str, where: str, offset: int, n: int
    ) -> Iterator[tuple[requests.Response, str]]:
        """The answer to a request of a range, redirects followed, and the URL that gave it. Raises
        TransientError or SourceError.
        """
        headers = {"Range": f"bytes={offset}-{offset + n - 1}"}
        for _ in range(MAX_REDIRECTS):
            with _told(where, new=not self._answered):
                answer = self._one(url, headers)
            self._answered = True
            if answer.status_code not in _REDIRECTS:
                break
            to = urljoin(url, answer.headers.get("Location", ""))
            answer.close()
            old, new = urlsplit(url), urlsplit(to)
            if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
                raise SourceError(
                    f"{where}: the server redirects from {old.scheme} to "
                    f"{shown(new.scheme or 'nowhere')}, which is not followed"
                )
            url = to
        else:
            raise SourceError(f"{where}: more than {MAX_REDIRECTS} redirects")
        with answer:
            self._live.add(answer)
            try:
                yield answer, url
            finally:
                self._live.discard(answer)

    def close(self) -> None:
        """Close connections, those in use too: who reads from one gets an error."""
        for answer in list(self._live):
            with suppress(ValueError, RuntimeError, OSError):  # it may have ended meanwhile
                answer.raw.shutdown()
        self._session.close()

    def _one(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        parts = urlsplit(url)
        secret = self._secrets.get(f"{parts.scheme}://{parts.netloc}", {})
        return self._session.get(
            url,
            headers={**headers, **secret},
            auth=_as_it_is if secret else None,  # else a .netrc would take its place
            stream=True,
            allow_redirects=False,
            timeout=(CONNECT_SECONDS, STALL_SECONDS),
        )


class WebFile(RemoteFile):
    """A file behind a URL.

    pinned  the URL itself names the state, so an ETag of whoever serves it means nothing
    """

    def __init__(self, client: Client, url: str, name: str, size: int, *, pinned: bool) -> None:
        self.size = size
        self._client = client
        self._url = url
        self._name = name
        self._pinned = pinned
        self._stamp: tuple[str, str] = ("", "")
        self._target: str | None = None  # where redirects led; a signed URL that ends some day

    def fetch(self, offset: int, view: memoryview) -> None:
        """One attempt at a range."""
        target = self._target
        if target is not None:
            with self._client.get(target, self._name, offset, len(view)) as (answer, _):
                if answer.status_code not in (*_DENIED, *_GONE):
                    self._read(answer, offset, view)
                    return
        with self._client.get(self._url, self._name, offset, len(view)) as (answer, final):
            self._read(answer, offset, view)
            self._target = final if final != self._url else None

    def _read(self, answer: requests.Response, offset: int, view: memoryview) -> None:
        start, size = self._range(answer, offset, len(view))
        if size not in (None, self.size):
            raise self._changed(f"it had {self.size} bytes, now {size}")
        if not self._pinned:
            for before, now in zip(self._stamp, _stamp(answer), strict=True):
                if before and now and before != now:
                    raise self._changed(f"{shown(before)} became {shown(now)}")
        if start != offset:
            raise TransientError(f"asked for bytes from {offset}, got some from {start}")
        _read_body(answer, view)

    def _range(self, answer: requests.Response, offset: int, n: int) -> tuple[int, int | None]:
        """Where the bytes of an answer begin, and the size of the file. Raises what there is to say
        of answers without them.
        """
        code = answer.status_code
        _check(answer, self._name)
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if code == 206:
            if found is None or found[1] is None:
                raise TransientError("got a part of the file without its Content-Range")
            return int(found[1]), None if found[3] == "*" else int(found[3])
        if code == 200:
            if _length(answer) == n and not offset:
                return 0, n
            raise _no_ranges(self._name)
        if code == 416:
            raise self._changed(f"it had {self.size} bytes, and now ends before {offset + n}")
        raise SourceError(f"{self._name}: {_answered(answer)}")

    def _changed(self, how: str) -> SourceError:
        return SourceError(
            f"{self._name}: changed while it was being read: {how}",
            hint="start again, so that all of it is of one state",
        )

    @classmethod
    def opened(cls, client: Client, url: str, name: str) -> WebFile | None:
        """Ask a server for the first bytes of a file, and so for its size and state."""
        with client.get(url, name, 0, HEAD_BYTES) as (answer, final):
            if answer.status_code in _GONE:
                return None
            found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            size = int(found[3]) if found is not None and found[3].isdigit() else None
            if answer.status_code == 416 and size == 0:
                return cls(client, url, name, 0, pinned=False)
            _check(answer, name)
            if answer.status_code == 200:
                size = _length(answer)
                if size is None:
                    raise _no_ranges(name)
            elif answer.status_code != 206:
                raise SourceError(f"{name}: {_answered(answer)}")
            if size is None:
                raise SourceError(f"{name}: the server does not say how long the file is")
            file = cls(client, url, name, size, pinned=False)
            file._stamp = _stamp(answer)
            file.revision = next((shown(s) for s in file._stamp if s), None)
            file._target = final if final != url else None
            head = bytearray(min(size, HEAD_BYTES))
            got = len(head)
            try:
                file._read(answer, 0, memoryview(head))
            except TransientError as trouble:  # its state is known: the rest is asked for apart
                got = trouble.got
            file.head = bytes(head[:got])
            return file


class WebFolder(Store):
    """A folder of a web server. It cannot be listed: files are asked for by the names that
    checkpoints have.
    """

    def __init__(self, address: Address) -> None:
        self.where = shown(label(address.root))
        self._client = Client()
        self._root = address.root
        self._query = f"?{address.query}" if address.query else ""
        self._known: dict[str, WebFile] = {}

    def everything(self) -> None:
        """A web server does not say."""

    def names(self) -> list[str]:
        """Of the index and the file that a checkpoint without one has, those that are there."""
        for name in (SINGLE, INDEX):
            file = self.open(name)
            if file is not None:
                self._known[name] = file
        found = list(self._known)
        if not found:
            raise SourceError(
                f"{self.where}: expected {INDEX} or {SINGLE}, the server has neither",
                hint="give the address of an index, a .safetensors or a .gguf file: a folder of a "
                "web server cannot be listed",
            )
        return found

    def open(self, name: str) -> WebFile | None:
        """Ask for a file."""
        if name in self._known:
            return self._known.pop(name)
        return WebFile.opened(self._client, f"{self._root}/{quote(name)}{self._query}", shown(name))

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()


def _check(answer: requests.Response, name: str) -> None:
    code = answer.status_code
    if code in _PASSING:
        raise TransientError(_answered(answer), wait=_ordered(answer))
    if code in _DENIED:
        raise SourceError(
            f"{name}: access denied: {_answered(answer)}",
            hint="of the hub: accept the terms on the model's page, then `hf auth login` or set "
            "HF_TOKEN; elsewhere the address, or a .netrc, has to have what the server asks for",
        )
    if code in _GONE:
        raise SourceError(f"{name}: is there no longer: {_answered(answer)}")
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise SourceError(f"{name}: expected the bytes of the file, got {shown(encoding)}")


def _read_body(answer: requests.Response, view: memoryview) -> None:
    """Read a body into a buffer that it has to fill."""
    got, began = 0, time.monotonic()
    try:
        while got < len(view):
            piece = answer.raw.read1(min(len(view) - got, PIECE_BYTES))
            if not piece:
                break
            view[got : got + len(piece)] = piece
            got += len(piece)
            late = time.monotonic() - began > STALL_SECONDS + got / SLOWEST
            if late and got < len(view):
                raise TransientError(f"slower than {SLOWEST >> 10} KiB/s", got=got)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise TransientError(_reason(error), got=got) from None
    if got < len(view):
        raise TransientError(f"the answer ended {len(view) - got} bytes early", got=got)


@contextmanager
def _told(where: str, *, new: bool) -> Iterator[None]:
    """What requests raises, as ours. Its messages have the URL, which may have a password. `new`:
    nobody has answered yet, so that a name may be misspelled.
    """
    try:
        yield
    except requests.exceptions.RequestException as error:
        causes = list(_causes(error))
        if any(isinstance(c, ssl.SSLCertVerificationError) for c in causes):
            raise SourceError(
                f"{where}: the certificate of the server is not valid here",
                hint="REQUESTS_CA_BUNDLE names a file of certificates to trust",
            ) from None
        if any(isinstance(c, urllib3.exceptions.NameResolutionError) for c in causes):
            unknown = "the name of the server is not known here"
            raise (SourceError(f"{where}: {unknown}") if new else TransientError(unknown)) from None
        if isinstance(error, ValueError):  # InvalidURL and its like
            raise UsageError(
                f"{where}: no address that can be asked: {type(error).__name__}"
            ) from None
        raise TransientError(_reason(error)) from None


def _causes(error: BaseException) -> Iterator[BaseException]:
    for _ in range(10):
        yield error
        inner = next((a for a in error.args if isinstance(a, BaseException)), None)
        found = inner or getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(found, BaseException):
            return
        error = found


def _reason(error: BaseException) -> str:
    """What went wrong, in words of ours."""
    causes = list(_causes(error))
    if any(isinstance(cause, ConnectionResetError) for cause in causes):
        return "the connection was reset"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "the connection was refused"
    if any(isinstance(cause, _TIMEOUTS) for cause in causes):
        return f"no byte for {STALL_SECONDS:g} s"
    return f"the connection broke ({type(error).__name__})"


def _answered(answer: requests.Response) -> str:
    return f"the server answered {answer.status_code} {shown(answer.reason or '-')}"


def _ordered(answer: requests.Response) -> float | None:
    """Seconds of a Retry-After; dates are rare and left to our own waits."""
    asked = answer.headers.get("Retry-After", "").strip()
    return float(asked) if asked.isdecimal() and len(asked) < 10 else None


def _length(answer: requests.Response) -> int | None:
    stated = answer.headers.get("Content-Length", "")
    return int(stated) if stated.isdecimal() else None


def _stamp(answer: requests.Response) -> tuple[str, str]:
    """ETag, without quotes, and Last-Modified; "" for one that is not stated."""
    tag = answer.headers.get("ETag", "").removeprefix("W/").strip('"')
    return tag, answer.headers.get("Last-Modified", "")


def _no_ranges(name: str) -> SourceError:
    return SourceError(f"{name}: the server does not send parts of files", hint=_NO_RANGES)


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
