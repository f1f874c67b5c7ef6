"""Two thousand bodies that no client should send, over HTTP: no 5xx, no restart, one line, and nothing repeated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.tiny.hostile import MARKER, bodies
from tests.tiny.http import Process, ended
from tests.tiny.site import SERVICES, answering

pytestmark = pytest.mark.slow
CHAT = "/v1/talk/chat/completions"
ROUTES = [*(f"/v1/{each}" for each in SERVICES), "/v1/writer/completions", CHAT, "/v1/completions"]
OF_EACH = 210
OPENAI = "completions"
REPLY = "/v1/reply"  # the values of its placeholders stand in its texts


@pytest.fixture(scope="module")
def process(site_folder: Path) -> Iterator[Process]:
    """One of its own, whose log is read at the end."""
    with answering(site_folder, *SERVICES) as answers:
        yield answers


def test_hostile_bodies_are_refused_in_one_line_that_repeats_nothing(process: Process):
    assert OF_EACH * len(ROUTES) >= 2000
    published = process.get("/openapi.json").json()["paths"]
    came: Counter[int] = Counter()
    with requests.Session() as session:
        for number, path in enumerate(ROUTES):
            valid = published[path]["post"]["requestBody"]["content"]["application/json"]["example"]
            for body in bodies(valid, OF_EACH, seed=number):
                said = session.post(process.url + path, data=body, timeout=60)
                came[said.status_code] += 1
                check(path, body, said)
    assert came[200] and came[400] and came[413] and came[422]  # each kind of answer was among them
    assert process.get("/healthz").json() == {"status": "ok"}
    assert process.popen.poll() is None
    process.popen.terminate()
    _, log = process.popen.communicate(timeout=60)
    assert MARKER not in log and "Traceback" not in log and ended(process.popen) == 0


def check(path: str, body: bytes, said: requests.Response) -> None:
    assert said.status_code < 500, (path, body, said.text)
    assert MARKER not in str(said.headers), (path, body)
    assert MARKER not in said.text or path == REPLY, (path, body, said.text)
    if said.status_code == 200:
        return
    assert said.status_code in (400, 404, 413, 422) and MARKER not in said.text, (path, body, said.text)
    kind = "application/json" if path.endswith(OPENAI) else "application/problem+json"
    assert said.headers["content-type"] == kind, (path, body)
    told = json.loads(said.text)
    line = told["error"]["message"] if path.endswith(OPENAI) else told["detail"]
    assert isinstance(line, str) and line and len(line.splitlines()) == 1, (path, body, line)
