"""A server between a client and S3 that answers 503, whose tokens expire, or that takes a PUT and loses it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

_BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
_PASSED_ON = {"etag", "last-modified", "content-type", "content-range", "date"}
Which = Callable[[str, str], bool]
"""Method and path → whether it is hit."""


def _none(_method: str, _path: str) -> bool:
    return False


class FaultyS3:
    """What is to go wrong, and what was asked for: ``PUT /lake/a``."""

    def __init__(self, behind: str) -> None:
        self.behind, self.url = behind, ""
        self.busy: Which = _none
        self.expired: Which = _none
        self.loses: Which = _none
        self.asked: list[str] = []

    def since(self) -> list[str]:
        """Return what was asked for since the last time."""
        asked, self.asked = self.asked, []
        return asked

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        method, path = request.command, request.path
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.asked.append(f"{method} {path}")
        if self.busy(method, path):
            return 503, {"Content-Type": "application/xml"}, _BUSY
        if self.expired(method, path):
            return 403, {"Content-Type": "application/xml"}, _EXPIRED
        if self.loses(method, path):
            return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        with requests.request(method, self.behind + path, data=body, headers=headers, timeout=30) as answer:
            sent = {name: value for name, value in answer.headers.items() if name.lower() in _PASSED_ON}
            if method == "HEAD":
                sent["Content-Length"] = answer.headers.get("Content-Length", "0")
            return answer.status_code, sent, answer.content


@contextmanager
def faulty_s3(behind: str) -> Iterator[FaultyS3]:
    """Run such a server in front of another one."""
    faulty = FaultyS3(behind)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            status, headers, body = faulty.answer(self)
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command != "HEAD" else b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    faulty.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield faulty
    finally:
        server.shutdown()
        server.server_close()
