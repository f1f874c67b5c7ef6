"""A proxy in front of an HTTP server that loses, refuses or holds the requests it is told to."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["drop", "lose", "500", "hang"]  # lose: the server does what is asked, its answer is lost


class Proxy:
    """`fault(request)` decides on each request, a line like "POST /api/2.0/..."; None lets it pass."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.url = ""
        self.fault: Callable[[str], Fault | None] = lambda request: None
        self.release = threading.Event()  # ends a hang
        self._seen: list[str] = []
        self._news = threading.Condition()

    def break_first(self, count: int, part: str, fault: Fault) -> None:
        """Do `fault` to the first `count` requests from now on with `part` in them."""
        left: list[Fault] = [fault] * count
        self.fault = lambda request: left.pop() if part in request and left else None

    def count(self, part: str) -> int:
        """Requests so far with `part` in them."""
        return sum(part in each for each in self._seen)

    def wait_for(self, count: int, part: str) -> None:
        """Return when `count` requests with `part` in them have come."""
        with self._news:
            assert self._news.wait_for(lambda: self.count(part) >= count, timeout=60)

    def saw(self, request: str) -> Fault | None:
        """Note a request; what to do to it."""
        with self._news:
            self._seen.append(request)
            self._news.notify_all()
        return self.fault(request)


@contextmanager
def in_front_of(upstream: str) -> Iterator[Proxy]:
    """A proxy on a free port of loopback."""
    proxy = Proxy(upstream)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    host = urlsplit(proxy.upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.saw(f"{self.command} {self.path}")
            if fault == "hang":
                proxy.release.wait()
            if fault in ("hang", "drop"):
                return
            if fault == "500":
                self._answer(500, b'{"error_code": "INTERNAL_ERROR", "message": "database is locked"}', {})
                return
            upstream = http.client.HTTPConnection(host)
            upstream.request(self.command, self.path, body, {**self.headers, "Host": host})
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            if fault != "lose":
                self._answer(answer.status, content, {"Content-Type": answer.headers.get("Content-Type", "")})

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base's name
            pass

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    return Handler
