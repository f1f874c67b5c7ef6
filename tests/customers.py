"""Customers who send planted texts in every way that a request has: rightly, wrongly, and in a hurry."""

from __future__ import annotations

import contextlib
import json
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from tests.planted import Planted
from tests.tiny.raising import RAISES

JSON = {"Content-Type": "application/json"}


class Customers:
    """Asks the services at an address; `came` counts the answers by status."""

    def __init__(self, url: str, planted: Planted, headers: Mapping[str, str] | None = None) -> None:
        self.url, self.planted, self.came = url, planted, Counter[int]()
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update({**JSON, **(headers or {})})

    def send(self, path: str, body: Any, method: str = "POST", headers: Mapping[str, str | bytes] | None = None) -> int:
        """The status of the answer; `body` is bytes, or an object to be sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with self._session.request(
            method, self.url + path, data=data, headers=headers, timeout=60, stream=True
        ) as answer:
            self.came[answer.status_code] += 1
            with contextlib.suppress(requests.RequestException):  # a stream that ends early
                _ = answer.content
            return answer.status_code

    def ask(self, service: str, number: int) -> None:
        """So many inputs, one a request, each of which is answered."""
        for text in self.planted.words(number):
            assert self.send(f"/v1/{service}", {"inputs": [text], "details": True}) == 200

    def ask_wrongly(self, service: str) -> None:
        """Bodies, paths, queries and headers that are refused, or not read."""
        path, word = f"/v1/{service}", self.planted.word
        for body in (
            f'{{"inputs": ["{word()}'.encode(),  # no JSON
            f'{{"inputs": ["{word()}"], "inputs": ["{word()}"]}}'.encode(),  # a key twice
            f'{{"inputs": ["{word()}"], "scores": NaN}}'.encode(),
            word().encode("utf-16"),
            {word(): ["a"]},  # a field of this name
            {"inputs": ["a"], word(): word()},
            {"inputs": word()},
            {"inputs": [{word(): word()}]},
            {"inputs": [{"text": word(), "text_pair": [word()]}]},
            {"inputs": [[word(), word(), word()]]},
            {"inputs": [f"{word()} \ud800"]},  # half a character
            {"inputs": ["a"], "scores": word(), "details": word()},
            {"inputs": [f"{word()} {RAISES}"], "max_tokens": word()},
            {"inputs": [" ".join([word(), *["where"] * 100_000])]},  # too long a body
            {"inputs": [word()] * 500},  # too many
        ):
            assert self.send(path, body) >= 400, body
        for above in (path, "", "/v1", "/v2"):
            assert self.send(f"{above}/{quote(word())}", {"inputs": [word()]}) >= 400
        self.send(f"{path}?{quote(word())}={quote(word())}", {"inputs": ["a"]})
        for method in ("GET", "PUT", "DELETE"):
            assert self.send(f"{path}/{quote(word())}", {"inputs": [word()]}, method) >= 400
        for name in ("X-Request-ID", "User-Agent", "Referer", "Cookie", "X-Customer", "traceparent"):
            self.send(path, {"inputs": ["a"]}, headers={name: f"{word(ascii_only=True)} {word()}".encode()})
            self.send(path, b"{", headers={name: f"{word(ascii_only=True)} {word()}".encode()})
        for name in ("Authorization", "X-API-Key"):  # a wrong key is a secret all the same
            key = f"sc_{'0' * 12}_{word(ascii_only=True)}"
            self.send(path, {"inputs": ["a"]}, headers={name: f"Bearer {key}" if name == "Authorization" else key})

    def ask_what_raises(self, service: str, number: int = 4) -> None:
        """Inputs at which the model raises."""
        for text in self.planted.words(number):
            assert self.send(f"/v1/{service}", {"inputs": [f"{text} {RAISES}"]}) == 500

    def have_written(self, service: str, number: int = 4) -> None:
        """Texts of a decoder: at once, as streams, by OpenAI's routes, and refused."""
        path, word = f"/v1/{service}", self.planted.word
        for stream in (False, True):
            for _ in range(number):
                self.send(path, {"inputs": [word()], "max_tokens": 4, "stream": stream})
                self.send(f"{path}/completions", {"model": service, "prompt": word(), "stream": stream})
                self.send("/v1/completions", {"model": service, "prompt": word(), "max_tokens": 3, "stream": stream})
        for body in (
            {"model": word(), "prompt": "a"},
            {"model": service, "prompt": word(), "user": word()},
            {"model": service, "prompt": word(), word(): 1},
            {"model": service, "prompt": "a", "stop": [word()] * 9},
            {"model": service, "messages": [{"role": word(), "content": word()}]},
            f'{{"model": "{word()}'.encode(),
        ):
            for route in ("completions", "chat/completions"):
                assert self.send(f"/v1/{route}", body) >= 400
                assert self.send(f"{path}/{route}", body) >= 400
        for body in ({"inputs": ["a"], "style": word()}, {"inputs": [f"{word()} " * 400]}):
            assert self.send(path, body) >= 400

    def ask_as_kserve(self, service: str) -> None:
        """The Open Inference Protocol, rightly and wrongly."""
        path, word = f"/v2/models/{service}/infer", self.planted.word
        tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [word()]}
        self.send(path, {"inputs": [tensor]})
        for wrong in ({"name": word()}, {"datatype": word()}, {"shape": [2], "data": [word()]}, {word(): word()}):
            assert self.send(path, {"inputs": [{**tensor, **wrong}]}) >= 400
        assert self.send(f"/v2/models/{quote(word())}/infer", {"inputs": [tensor]}) >= 400

    def go_away(self, service: str, bodies: Sequence[Any]) -> None:
        """Requests whose client does not wait, in the middle of the body and behind it."""
        place = urlsplit(self.url)
        for body in bodies:
            whole = json.dumps(body).encode()
            head = f"POST /v1/{service} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(whole)}\r\n\r\n".encode()
            for sent in (whole[:-3], whole):
                with socket.create_connection((str(place.hostname), place.port), timeout=15) as client:
                    client.sendall(head + sent)
        with socket.create_connection((str(place.hostname), place.port), timeout=15) as client:
            client.sendall(f"{self.planted.word()} no HTTP {self.planted.word()}\r\n\r\n".encode())
            client.recv(1000)
