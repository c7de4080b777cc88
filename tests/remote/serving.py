"""Servers on this machine for tests of sources that are elsewhere: a web server with ranges and
faults on order, the routes of the hub that its library uses, and those of S3.
"""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Asked:
    """One request: path without query, the range, and what it came to."""

    path: str
    query: str
    start: int
    stop: int | None
    headers: dict[str, str]
    number: int = 0  # of those to the same end of the same path, from 0
    status: int = 0
    sent: int = 0


@dataclass
class Server:
    """A web server of a folder.

    fault      says what goes wrong with a request, by the name of a method of the handler, or None
    latency    seconds before each answer
    bandwidth  bytes per second of all answers together
    """

    root: Path
    fault: Callable[[Asked], str | None] = lambda _: None
    latency: float = 0.0
    bandwidth: float | None = None
    ranges: bool = True
    etag: Callable[[Path], str] = lambda path: f"{path.name}-{path.stat().st_size:x}"
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    free_at: float = 0.0
    stopping: threading.Event = field(default_factory=threading.Event)
    # of the hub: what its API says instead
    refuses: int | None = None
    commit: str = COMMIT
    cdn: str = ""

    def sent(self, suffix: str = "") -> int:
        """Bytes of bodies that were sent for files that end so."""
        return sum(asked.sent for asked in self.asked if asked.path.endswith(suffix))

    def of(self, suffix: str) -> list[Asked]:
        """Requests for files that end so."""
        return [asked for asked in self.asked if asked.path.endswith(suffix)]

    def note(self, asked: Asked) -> None:
        """Count a request."""
        with self.lock:
            same = [a for a in self.asked if (a.path, a.stop) == (asked.path, asked.stop)]
            asked.number = len(same)
            self.asked.append(asked)

    def pay(self, n: int) -> None:
        """Wait until the line has carried n more bytes."""
        if self.bandwidth is None:
            return
        with self.lock:
            self.free_at = max(self.free_at, time.monotonic()) + n / self.bandwidth
            until = self.free_at
        time.sleep(max(0.0, until - time.monotonic()))


class Handler(BaseHTTPRequestHandler):
    """Files below the server's root, by ranges."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    @property
    def our(self) -> Server:
        """The server's state."""
        found: Server = self.server.our
        return found

    def do_GET(self) -> None:
        """Answer."""
        parts = urlsplit(self.path)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        stop = int(found[2]) + 1 if found and found[2] else None
        asked = Asked(
            unquote(parts.path),
            parts.query,
            start,
            stop,
            {k.title(): v for k, v in self.headers.items()},
        )
        self.our.note(asked)
        self.asked = asked
        time.sleep(self.our.latency)
        fault = self.our.fault(asked)
        if fault is None:
            self.route()
        elif fault.isdigit():
            self.plain(int(fault))
        else:
            name, _, argument = fault.partition(" ")
            getattr(self, f"fault_{name}")(*([argument] if argument else []))

    do_HEAD = do_GET  # noqa: N815

    def route(self) -> None:
        """Of a plain web server: the file."""
        self.file(self.our.root / self.asked.path.lstrip("/"))

    def plain(self, status: int, body: bytes = b"no", **headers: str) -> None:
        """An answer without a file."""
        self.asked.status = status
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(
        self,
        path: Path,
        *,
        upto: Callable[[int], int] = lambda n: n,
        stated: Callable[[int], int] = lambda n: n,
        shift: int = 0,
        etag: str | None = None,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """A file or a range of it.

        upto    of the bytes that are to come, how many are sent
        stated  what Content-Length says
        shift   how far another range is sent, and said to be
        then    what is done at the end
        """
        if not path.is_file():
            self.plain(404)
            return
        size = path.stat().st_size
        whole = not self.our.ranges or "Range" not in self.headers
        start = 0 if whole else self.asked.start
        stop = size if whole else min(self.asked.stop or size, size)
        if start >= size:
            self.plain(416, Content_Range=f"bytes */{size}")
            return
        with path.open("rb") as stream:
            stream.seek(start + shift)
            body = stream.read(stop - start) if self.command != "HEAD" else b""
        self.asked.status = 200 if whole else 206
        self.send_response(self.asked.status)
        n = stated(stop - start)
        self.send_header("Content-Length", str(n))
        self.send_header("ETag", f'"{etag or self.our.etag(path)}"')
        if not whole:
            last = start + n - 1 + shift
            self.send_header("Content-Range", f"bytes {start + shift}-{last}/{size}")
        self.end_headers()
        body = body[: upto(len(body))]
        self.our.pay(len(body))
        self.asked.sent = len(body)
        self.wfile.write(body)
        then()

    @property
    def here(self) -> Path:
        """The file of this request."""
        return self.our.root / self.asked.path.lstrip("/")

    def fault_reset(self) -> None:
        """Half of it, then RST."""
        self.file(self.here, upto=lambda n: n // 2, then=self.reset)

    def fault_close(self) -> None:
        """A third of it, then an end."""
        self.file(self.here, upto=lambda n: n // 3, then=self.end)

    def fault_short(self) -> None:
        """Half of what was asked for, as a sound answer."""
        self.file(self.here, upto=lambda n: n // 2, stated=lambda n: n // 2)

    def fault_stall(self) -> None:
        """Half of it, then nothing."""
        self.file(self.here, upto=lambda n: n // 2, then=self.hang)

    def fault_silence(self) -> None:
        """Nothing at all."""
        self.hang()

    def fault_shifted(self) -> None:
        """Another range than the one that was asked for."""
        self.file(self.here, shift=-8 if self.asked.start >= 8 else 8)

    def fault_trickle(self) -> None:
        """A byte now and then."""
        self.file(self.here, upto=lambda _: 0, then=self.drip)

    def fault_changed(self) -> None:
        """Another state of the file."""
        self.file(self.here, etag="another")

    def fault_later(self, seconds: str) -> None:
        """429 with a Retry-After."""
        self.plain(429, Retry_After=seconds)

    def fault_redirect(self, to: str) -> None:
        """302 to an address."""
        self.plain(302, Location=to)

    def reset(self) -> None:
        """End the connection at once, with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.end()

    def end(self) -> None:
        """End the connection."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_WR) if not self._lingers() else self.connection.close()

    def _lingers(self) -> bool:
        option = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        return struct.unpack("ii", option) == (1, 0)

    def hang(self) -> None:
        """Keep the connection, say nothing."""
        self.wfile.flush()
        self.our.stopping.wait(20)
        self.close_connection = True

    def drip(self) -> None:
        """A byte every 20 ms."""
        self.close_connection = True
        while not self.our.stopping.wait(0.02):
            self.wfile.write(b"x")
            self.wfile.flush()


class HubHandler(Handler):
    """The hub: what a revision holds, and files at a commit, which lie on another host."""

    def route(self) -> None:
        """One of the two routes."""
        our, path = self.our, self.asked.path
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        if our.refuses is not None and info:
            name = {401: "RepoNotFound", 403: "GatedRepo", 404: "RevisionNotFound"}
            headers = {"X-Error-Code": name.get(our.refuses, "")}
            self.plain(404 if our.refuses == 401 else our.refuses, **headers)
        elif info:
            files = sorted(p for p in our.root.rglob("*") if p.is_file())
            listed = [
                {"rfilename": str(p.relative_to(our.root)), "size": p.stat().st_size} for p in files
            ]
            found = {"id": info[1], "sha": our.commit, "siblings": listed, "private": False}
            self.plain(200, json.dumps(found).encode(), Content_Type="application/json")
        elif at := re.fullmatch(rf"/[^/]+/[^/]+/resolve/{our.commit}/(.+)", path):
            self.plain(302, Location=f"{our.cdn}/{at[1]}?signature=SECRET")
        else:
            self.plain(404)


class S3Handler(Handler):
    """S3: one bucket, `models`, listed and read."""

    def route(self) -> None:
        """ListObjectsV2, HeadObject, GetObject."""
        our = self.our
        query = parse_qs(self.asked.query, keep_blank_values=True)
        if self.asked.path.strip("/") == "models" and "list-type" in query:
            self.listing(query.get("prefix", [""])[0], query.get("delimiter", [""])[0])
            return
        path = our.root / self.asked.path.removeprefix("/models/")
        wanted = self.headers.get("If-Match")
        if path.is_file() and wanted is not None and wanted != f'"{our.etag(path)}"':
            body = (
                b"<Error><Code>PreconditionFailed</Code><Message>At least one of the "
                b"pre-conditions you specified did not hold</Message></Error>"
            )
            self.plain(412, body, Content_Type="application/xml")
            return
        self.file(path)

    def listing(self, prefix: str, delimiter: str) -> None:
        """Keys below a prefix."""
        our = self.our
        keys, folders = [], set()
        for path in sorted(p for p in our.root.rglob("*") if p.is_file()):
            key = str(path.relative_to(our.root))
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                continue
            tag, size = our.etag(path), path.stat().st_size
            keys.append(
                f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>&quot;{tag}&quot;"
                "</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in folders
        )
        body = (
            '<?xml version="1.0"?><ListBucketResult '
            'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>models</Name>'
            f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(keys) + len(folders)}</KeyCount>"
            f"<IsTruncated>false</IsTruncated>{''.join(keys)}{common}</ListBucketResult>"
        )
        self.plain(200, body.encode(), Content_Type="application/xml")


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is no error here."""


@contextmanager
def serving(root: Path, handler: type[Handler] = Handler, **options: Any) -> Iterator[Server]:
    """A server of a folder, on a free port of this machine."""
    our = Server(root, **options)
    server = _Threads(("127.0.0.1", 0), handler)
    server.our = our  # type: ignore[attr-defined]
    our.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield our
    finally:
        our.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
