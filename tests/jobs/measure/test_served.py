from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from jobs.measure.served import CALLS, P50, P95, served, words
from serving.bundle import Bundle
from tests.tiny.bundles import write_tiny_bundle

TEXT = "where is my order"


class Service(http.server.BaseHTTPRequestHandler):
    """Answers as it is told; ends the connection after each answer but the first few."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the second part of each answer waits 40 ms for the receipt of the first
    status = 200
    bodies: list[Any]

    def do_POST(self) -> None:
        """Note what is asked."""
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(self.status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        self.close_connection = len(self.bodies) % 100 == 0  # without a word, as a server that is reloaded

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the standard library
        """Nothing."""


@pytest.fixture
def service() -> Iterator[tuple[str, type[Service]]]:
    """(endpoint, its handler)."""
    handler = type("Own", (Service,), {"bodies": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/tiny", handler
        server.shutdown()


def tokens(folder: Path, bundle: Bundle, text: str, pair: str | None) -> int:
    tokenizer = Tokenizer.from_file(str(folder / bundle.tokenizer))
    tokenizer.no_truncation()
    return len(tokenizer.encode(text, pair))


@pytest.mark.parametrize("pairs", [False, True])
def test_a_service_is_asked_one_input_of_the_budgets_length_at_a_time(
    tmp_path: Path, service: tuple[str, type[Service]], pairs: bool
):
    endpoint, handler = service
    bundle = write_tiny_bundle(tmp_path, pairs=pairs)
    found = served(endpoint, tmp_path, bundle, TEXT)
    assert 0 < found[P50] <= found[P95]
    assert len(handler.bodies) >= CALLS
    (asked,) = {json.dumps(body["inputs"]) for body in handler.bodies}
    (given,) = json.loads(asked)
    texts = (given["text"], given["text_pair"]) if pairs else (given, None)
    assert tokens(tmp_path, bundle, *texts) == min(32, bundle.max_length)


def test_a_service_that_refuses_is_not_measured(
    tmp_path: Path, service: tuple[str, type[Service]], caplog: pytest.LogCaptureFixture
):
    endpoint, handler = service
    handler.status = 503
    assert served(endpoint, tmp_path, write_tiny_bundle(tmp_path), TEXT) == {}
    assert f"{endpoint}: how fast it answers was not measured: HTTP 503" in caplog.text


def test_a_version_says_what_a_client_saw():
    assert words({P50: 2.0461, P95: 3.0, "metric": 1.0}) == {
        "slimcart.served_p50_ms": "2.05",
        "slimcart.served_p95_ms": "3",
    }
