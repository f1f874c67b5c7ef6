"""What customers send to `python -m serving.http` is in no log of it and in no file; a planted log is found."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest

from serving.keys import add
from tests.customers import Customers
from tests.planted import Planted
from tests.searching import Searcher
from tests.tiny.http import ended, ready, started
from tests.tiny.raising import write_raising_bundle

pytestmark = pytest.mark.slow


def test_a_process_without_ray_writes_down_nothing_that_was_sent(site_folder: Path, tmp_path: Path):
    began, planted = time.time() - 1, Planted(seed=1)
    write_raising_bundle(tmp_path / "raises")
    key = add(tmp_path / "keys.json", "shop")
    services = [*(str(site_folder / each) for each in ("intent", "writer", "reply")), str(tmp_path / "raises")]
    popen = started(*services, "--keys", str(tmp_path / "keys.json"), "--max-body-bytes", "8192")
    try:
        url = ready(popen, len(services)).url
        customers = Customers(url, planted, {"X-API-Key": key})
        customers.ask("intent", 20)
        customers.ask_wrongly("intent")
        customers.have_written("writer")
        customers.ask_what_raises("raises")
        customers.ask_as_kserve("intent")
        customers.go_away("writer", [{"inputs": [planted.word()], "stream": True} for _ in range(4)])
        customers.send("/v1/reply", {"inputs": [planted.word()], "fields": {planted.word(): planted.word()}})
        strangers = Customers(url, planted)
        strangers.ask_wrongly("intent")
        assert {200, 400, 401, 404, 413, 422, 500} <= customers.came.keys() | strangers.came.keys()
        popen.terminate()
        out, err = popen.communicate(timeout=60)
    finally:
        ended(popen)
    assert "failed with" in err and len(planted.texts) >= 200  # what the model raised was logged
    searcher = Searcher([*planted.texts, key])
    assert not searcher.in_bytes((out + err).encode(), "log")
    assert not searcher.in_folders([Path(tempfile.gettempdir()), site_folder], since=began)
    assert Searcher(["failed with"]).in_bytes(err.encode(), "log")  # which is found if it is there
