"""A package index on this machine that counts what it hands out."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socketserver
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

_JSON = "application/vnd.pypi.simple.v1+json"


class LocalIndex:
    """Serves the wheels and sdists of a folder, also those added later.

    `downloads` counts the plain GETs of each archive, `ranges` those that asked for a part of one, and `requests`
    everything, by method and path. With `latency`, every archive is that many seconds late.
    """

    def __init__(self, folder: Path, *, latency: float = 0.0, port: int = 0) -> None:
        """:param port: where to serve; by default, where nobody else does."""
        self.folder = folder
        self.latency = latency
        self.downloads: Counter[str] = Counter()
        self.ranges: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._read = lru_cache(maxsize=None)(_read)
        folder.mkdir(parents=True, exist_ok=True)
        self._servers = [_Server(self, port)]
        threading.Thread(target=self._servers[0].serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where the simple pages begin."""
        return f"http://127.0.0.1:{self.port}/simple/"

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._servers[0].server_address[1]
        return port

    def serve_also(self, enter: Callable[[], object]) -> None:
        """Serve at the same URL in another network.

        :param enter: lets the thread that calls it enter that network.
        """
        ready = threading.Event()

        def serve() -> None:
            enter()
            self._servers.append(_Server(self, self.port))
            ready.set()
            self._servers[-1].serve_forever(0.05)

        threading.Thread(target=serve, daemon=True).start()
        assert ready.wait(60), "no index there"

    def reset(self) -> None:
        """Count from zero again."""
        with self._counting:
            for counter in (self.downloads, self.ranges, self.requests):
                counter.clear()

    def count(self, counter: Counter[str], key: str) -> None:
        """Count one more, from any thread."""
        with self._counting:
            counter[key] += 1

    def archives(self, project: str) -> list[_Archive]:
        """What the folder holds of a project."""
        found = (item for item in os.scandir(self.folder) if _project_of(item.name) == project)
        return [self._read(item.path, item.stat().st_mtime_ns) for item in sorted(found, key=lambda item: item.name)]

    def archive(self, filename: str) -> _Archive | None:
        """One archive by its file name."""
        return next((item for item in self.archives(_project_of(filename) or "") if item.name == filename), None)

    def close(self) -> None:
        """Stop serving."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> LocalIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Archive(NamedTuple):
    name: str
    content: bytes
    digest: str
    # Of a wheel: with it, uv needs neither ranges nor the whole wheel to resolve.
    metadata: bytes | None
    metadata_digest: str

    def page_entry(self) -> dict[str, object]:
        entry: dict[str, object] = {
            "filename": self.name,
            "url": f"/files/{self.name}",
            "hashes": {"sha256": self.digest},
        }
        if self.metadata is not None:
            # As PyPI has it: pip 22.3 to 23.0 fails on a table named dist-info-metadata.
            entry["core-metadata"] = entry["data-dist-info-metadata"] = {"sha256": self.metadata_digest}
        return entry

    def page_link(self) -> str:
        attribute = ""
        if self.metadata is not None:
            value = f'"sha256={self.metadata_digest}"'
            attribute = f" data-core-metadata={value} data-dist-info-metadata={value}"
        return f'<a href="/files/{self.name}#sha256={self.digest}"{attribute}>{self.name}</a><br>\n'


class _Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True

    def __init__(self, index: LocalIndex, port: int) -> None:
        self.index = index
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own asks the name service who 127.0.0.1 is

    def handle_error(self, *_: object) -> None:
        """Clients are killed in these tests: a broken connection is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: 40 ms apart otherwise

    def do_GET(self) -> None:
        index = self.server.index
        path = unquote(urlsplit(self.path).path)
        index.count(index.requests, f"{self.command} {path}")
        room, _, name = path.lstrip("/").partition("/")
        if room == "simple":
            self._page(name.rstrip("/"))
        elif room == "files":
            self._file(name)
        else:
            self._send(None)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Silence."""

    def _page(self, project: str) -> None:
        archives = self.server.index.archives(project)
        if not archives:
            self._send(None)
        elif _JSON in self.headers.get("Accept", ""):
            files = [item.page_entry() for item in archives]
            page = {"meta": {"api-version": "1.0"}, "name": project, "files": files}
            self._send(json.dumps(page).encode(), _JSON)
        else:
            links = "".join(item.page_link() for item in archives)
            self._send(f"<!DOCTYPE html><html><body>\n{links}</body></html>\n".encode(), "text/html")

    def _file(self, name: str) -> None:
        index = self.server.index
        archive = index.archive(name.removesuffix(".metadata"))
        if archive is None:
            self._send(None)
        elif name.endswith(".metadata"):
            self._send(archive.metadata)
        else:
            if self.command == "GET":
                index.count(index.ranges if "Range" in self.headers else index.downloads, name)
                time.sleep(index.latency)
            self._send(archive.content)

    def _send(self, body: bytes | None, kind: str = "application/octet-stream") -> None:
        """Answer with the body, or say that there is none."""
        self.send_response(HTTPStatus.NOT_FOUND if body is None else HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body or b"")))
        if kind == "application/octet-stream" and body is not None:
            # As real indexes say. Without it, uv would fetch an archive again that it has in its cache.
            self.send_header("Cache-Control", "max-age=365000000, immutable, public")
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)


def _project_of(filename: str) -> str | None:
    """The normalized project of an archive's file name."""
    if filename.startswith(".") or not filename.endswith((".whl", ".tar.gz")):
        return None
    stem = filename.partition("-")[0] if filename.endswith(".whl") else filename.rpartition("-")[0]
    return re.sub(r"[-_.]+", "-", stem).lower()


def _read(path: str, mtime_ns: int) -> _Archive:  # noqa: ARG001 - part of the cache's key: a file replaced is read again
    file = Path(path)
    content = file.read_bytes()
    metadata = None
    if file.suffix == ".whl":
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            metadata = wheel.read(next(item for item in wheel.namelist() if item.endswith(".dist-info/METADATA")))
    digests = (hashlib.sha256(data or b"").hexdigest() for data in (content, metadata))
    return _Archive(file.name, content, next(digests), metadata, next(digests))
