"""A server on this machine that gives every request the same answer, or none."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Answering(NamedTuple):
    """Its address, and the paths that it was asked for."""

    address: str
    asked: list[str]


@contextmanager
def answering(status: int | None, body: str = "", headers: Mapping[str, str] | None = None) -> Iterator[Answering]:
    """With a `status` of None a request waits until the block ends."""
    asked, over = list[str](), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.path)
            if status is None:
                over.wait()
                return
            content = body.encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_HEAD = answer

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Answering(f"http://127.0.0.1:{server.server_address[1]}", asked)
        finally:
            over.set()
            server.shutdown()
